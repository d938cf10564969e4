"""Find the tracks that crossed a line. Pure functions.

Each track has a side of each line, which is that of its smoothed foot. When the smoothed foot is on
the other side, the change is accepted if the foot is far enough beyond the line, or there for long
enough, or if the track ends there. The track crossed the line if its path meets the line an odd
number of times; a track that walks around the end of the line does not cross it.

The path is that of the smoothed foot, because a jittering foot may jump around the end of a line.
For a track that ends, the path is that of the raw foot, because the smoothed one lags behind. Such
a track needs two detections on the other side; one is enough if frames are too rare for two and the
track would soon be far enough beyond the line at its speed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from framegate.models.geometry import Lines
from framegate.pipeline.contracts.results import Object
from framegate.stages.events.episodes import moment_before
from framegate.stages.events.rulebook import Rule, Rulebook
from framegate.stages.events.state import (
    SIXTEENTHS,
    EventsState,
    Now,
    Passing,
    Track,
    share_of,
)
from framegate.stages.events.tracks import TracksSeen, anchor, is_sighting, with_sides

_replace = msgspec.structs.replace

_BAND: Final = 0.05  # distance beyond a line that is enough, relative to the height of the box
_MIN_BAND_PX: Final = 1.5
_LONG_MS: Final = 400  # time beyond a line that is enough
_SIGHTINGS: Final = 2  # with at least this number of detections


class Crossing(NamedTuple):
    """A track that crossed the line of a rule; is_in: from its left to its right."""

    rule: Rule
    passing: Passing
    track: Track
    is_in: bool


class Crossed(NamedTuple):
    """The tracks of a frame with their sides, those that may be crossing, and the crossings."""

    tracks: tuple[Track, ...]
    passings: tuple[Passing, ...]
    crossings: list[Crossing]


def cross(
    book: Rulebook, state: EventsState, seen: TracksSeen, gone: tuple[Track, ...], now: Now
) -> Crossed:
    """Return the crossings of a frame.

    gone  tracks that end with this frame
    """
    known = {(each.key, seen.handed.get(each.track, each.track)): each for each in state.passings}
    crossings = _of_ended(book, known, gone, now)
    present = seen.tracks[: len(seen.objects)]
    rest = seen.tracks[len(present) :]
    absent = {track.number for track in rest}
    passings = [passing for (_, number), passing in known.items() if number in absent]
    if not known and all(map(_has_not_moved, present, seen.before)):
        return Crossed(seen.tracks, (), crossings)
    waiting = {number for _, number in known}
    scene = book.scene(now.result.width, now.result.height)
    ranks: dict[str, int] = {}
    tracks: list[Track] = []
    for i, track in enumerate(present):
        smooth_sides = scene.sides(track.smooth)
        raw_sides = scene.sides(track.raw)
        is_waiting = track.number in waiting
        # Most tracks in most frames: nothing changed for any line.
        is_same = smooth_sides == raw_sides == track.sides
        if is_same and not is_waiting and scene.is_straight:
            tracks.append(track)
            continue
        sides = list(track.sides)
        for j, side in enumerate(track.sides):
            if side == 0:
                sides[j] = smooth_sides[j]
                continue
            rule = book.wires[j]
            passing = known.get((rule.key, track.number))
            foot = _FootOnLine(
                rule, *scene.line_of[j], side, smooth_sides[j], raw_sides[j], track, seen.before[i]
            )
            passing = _passing_after(passing, foot, seen.objects[i], ranks, now)
            if passing is None or (foot.smooth == side and foot.raw == side):
                continue
            if foot.is_accepted(passing) and track.sightings >= rule.config.min_sightings:
                sides[j] = foot.smooth
                if passing.smooth_meets % 2 and _counts(book, rule, track, foot.smooth, now):
                    crossings.append(Crossing(rule, passing, track, foot.smooth > 0))
                continue
            passings.append(passing)
        tracks.append(with_sides(track, tuple(sides)))
    return Crossed((*tracks, *rest), tuple(passings), crossings)


def _has_not_moved(track: Track, before: Track | None) -> bool:
    """Return whether a track is where it was, with a known side of each line."""
    return (
        before is not None
        and track.raw == before.raw
        and track.smooth == before.smooth
        and 0 not in track.sides
    )


class _FootOnLine(NamedTuple):
    """A track at the line of a rule.

    lines, number  group of lines and number of the line in it
    side           accepted side of the track
    smooth, raw    side of its smoothed and of its raw foot
    before         the track in the frame before; None: its path begins
    """

    rule: Rule
    lines: Lines
    number: int
    side: int
    smooth: int
    raw: int
    track: Track
    before: Track | None

    def meetings(self) -> tuple[int, float, int]:
        """Return the intersections of the last step with the line.

        The number for the raw foot; the position on the step, 0..1, of its last one (that of the
        smoothed foot if only that met the line); the number for the smoothed foot.
        """
        if self.before is None:
            return 0, 0.0, 0
        at = self.rule.at
        meets, share = self.lines.meets(
            self.number, anchor(self.before.raw, at), anchor(self.track.raw, at)
        )
        smooth_meets, smooth_share = self.lines.meets(
            self.number, anchor(self.before.smooth, at), anchor(self.track.smooth, at)
        )
        if not meets:
            share = smooth_share
        return meets, share, smooth_meets

    def is_accepted(self, passing: Passing) -> bool:
        """Return whether the track is on the other side: far enough, or for long enough."""
        if self.smooth == self.side or self.raw != self.smooth or not passing.sightings:
            return False
        distance = self.lines.distances(*anchor(self.track.smooth, self.rule.at))[self.number]
        if abs(distance) >= _band(self.track):
            return True
        is_long = self.track.last_ms - passing.since_ms >= _LONG_MS
        return is_long and passing.sightings >= _SIGHTINGS

    def is_soon_beyond(self) -> bool:
        """Return whether the track would soon be far enough beyond the line at its speed."""
        x, y = anchor(self.track.raw, self.rule.at)
        speed_x, speed_y = self.track.speed
        soon_s = _LONG_MS / 1000 / SIXTEENTHS
        distances = self.lines.distances(x + speed_x * soon_s, y + speed_y * soon_s)
        return distances[self.number] * self.raw >= _band(self.track)


def _passing_after(
    passing: Passing | None, foot: _FootOnLine, seen: Object, ranks: dict[str, int], now: Now
) -> Passing | None:
    """Return the passing after a step of the track, or None if the track does not reach the line.

    ranks  number of the tracks that reached the line of each rule in this frame; with the frame,
           a rank is the identity of an episode
    """
    is_on_side = foot.smooth == foot.side and foot.raw == foot.side
    if passing is None and is_on_side and foot.lines.is_straight[foot.number]:
        return None
    meets, share, smooth_meets = foot.meetings()
    if passing is None and foot.smooth == foot.side and not meets:
        return None
    key = foot.rule.key
    track = foot.track
    rank = ranks.get(key, 0)
    if passing is None:
        ranks[key] = rank + 1
        passing = Passing(key, track.number, rank, now.at, 0, False, -1, 0, (0, 0, 0, 0), ())
    is_met = meets or (smooth_meets and not passing.meets)
    if is_met and foot.before is not None:
        ranks[key] = rank + 1
        passed_ms = now.ms - foot.before.last_ms
        passing = _replace(
            passing,
            rank=rank,
            met=moment_before(now, (1 - share) * passed_ms),
            meets=passing.meets + meets,
            bridged=passed_ms > now.frame_ms,
            box=share_of(track.raw, now.result.width, now.result.height),
            models=now.result.models,
        )
    sightings = 0
    if foot.raw != foot.side:
        is_detected = is_sighting(seen) and seen.score >= foot.rule.config.min_score
        sightings = passing.sightings + is_detected
    since_ms = -1
    if foot.smooth != foot.side:
        since_ms = passing.since_ms
        if since_ms < 0:
            since_ms = now.ms
    goes_on = passing.goes_on
    if foot.raw != foot.side and now.frame_ms * _SIGHTINGS > _LONG_MS:
        goes_on = foot.is_soon_beyond()
    return _replace(
        passing,
        track=track.number,
        since_ms=since_ms,
        sightings=sightings,
        smooth_meets=passing.smooth_meets + smooth_meets,
        goes_on=goes_on,
    )


def _counts(book: Rulebook, rule: Rule, track: Track, side: int, now: Now) -> bool:
    directions = ("both", "out")
    if side > 0:
        directions = ("both", "in")
    return (
        rule.is_about(track.label)
        and rule.config.direction in directions
        and book.is_due(rule, now.at.captured)
    )


def _of_ended(
    book: Rulebook, known: dict[tuple[str, int], Passing], gone: tuple[Track, ...], now: Now
) -> list[Crossing]:
    """Return the crossings of tracks that ended on the other side of a line."""
    ended = {track.number: track for track in gone}
    crossings = []
    for (key, number), passing in known.items():
        rule = book.by_key.get(key)
        track = ended.get(number)
        if rule is None or track is None:
            continue
        if track.sightings < rule.config.min_sightings:
            continue
        side = -track.sides[book.lines.index(key)]
        is_detected = passing.sightings >= _SIGHTINGS or (passing.sightings and passing.goes_on)
        if is_detected and passing.meets % 2 and _counts(book, rule, track, side, now):
            crossings.append(Crossing(rule, passing, track, side > 0))
    return crossings


def _band(track: Track) -> float:
    return max(_BAND * (track.raw[3] - track.raw[1]) / SIXTEENTHS, _MIN_BAND_PX)
