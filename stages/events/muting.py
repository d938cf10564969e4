"""Judge the object of an episode by the filters that were learned from verdicts. Pure functions.

A start is judged once, in the frame in which it is published; the period keeps the answer, so all
changes of an episode agree, also if the filter is removed before the episode ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from framegate.pipeline.contracts.object_filters import ObjectFilter, muting
from framegate.pipeline.contracts.traits import Traits, log_odds
from framegate.stages.events.rulebook import Rule
from framegate.stages.events.state import SIXTEENTHS, Now, Stretch, Track

_DIGITS: Final = 4  # of a trait, so that the last digits of a machine's arithmetic do not count


class Assessment(NamedTuple):
    """The traits of an episode's object (None: it has none), and the filter that mutes it."""

    traits: Traits | None
    muted: str | None


class Mutes:
    """The filters of a source that mute episodes. One thread."""

    def __init__(self) -> None:
        self._filters: Mapping[str, ObjectFilter] = {}
        self._of_rule: dict[str, tuple[str, ObjectFilter]] = {}

    def use(self, filters: Mapping[str, ObjectFilter]) -> None:
        """Use these filters of the source from now on; others than of rules do not matter."""
        if filters is not self._filters:
            self._filters = filters
            self._of_rule = muting(filters)

    def assess(
        self, rule: Rule, stretch: Stretch, tracks: Mapping[int, Track], now: Now
    ) -> Assessment:
        """Return the traits of a period's object, and the filter of the rule that mutes it.

        A filter that was learned for another version of the rule mutes nothing.

        tracks  the known tracks by number
        """
        track = None
        if stretch.subject:
            track = tracks.get(stretch.subject[0])
        if track is None:
            return Assessment(None, None)
        traits = traits_of(track, stretch, now)
        muted = None
        if rule.name in self._of_rule:
            name, learned = self._of_rule[rule.name]
            looks_false = log_odds(learned.weights, traits) < 0
            if looks_false and learned.is_learned_for(rule.version):
                muted = name
        return Assessment(traits, muted)


def traits_of(track: Track, stretch: Stretch, now: Now) -> Traits:
    """Return the traits of a period's object in a frame."""
    x1, y1, x2, y2 = (edge / SIXTEENTHS for edge in track.raw)
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    speed_x, speed_y = track.speed
    values = (
        track.score / 10_000,
        height / max(now.result.height, 1),
        height / width,
        (x1 + x2) / 2 / max(now.result.width, 1),
        y2 / max(now.result.height, 1),
        math.hypot(speed_x, speed_y) / SIXTEENTHS / height,
        (now.ms - track.first_ms) / 1000,
        (now.ms - track.still_ms) / 1000,
        stretch.held / max(stretch.held + stretch.sightings, 1),
    )
    return Traits(*(round(value, _DIGITS) for value in values))
