"""Evaluate the conditions of rules on the tracks of a frame. Pure functions.

`episodes` decides for how long a condition must be true.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Final

import msgspec
import numpy as np

from framegate.models.geometry import Coordinates
from framegate.pipeline.contracts.results import Object, Sounds
from framegate.pipeline.contracts.source import CameraEvent
from framegate.pipeline.contracts.visits import STILL_MS
from framegate.stages.events.rulebook import Rule, Rulebook
from framegate.stages.events.state import SIXTEENTHS, EventsState, LastHeard, Now, Track
from framegate.stages.events.tracks import FOOT, TracksSeen, anchor, is_sighting

_APART: Final = 1.5  # default distance of a person from a left object, in heights of the person
_SPEED_S: Final = 0.1  # time step for converting a speed to the ground
_AHEAD: Final = 45.0  # degrees to either side of a heading
_MIN_SPEED: Final = 0.1  # heights per second; a slower track has no heading
HEARD_MS: Final = 1500  # time for which a sound window is valid: three windows of the usual length


class Fact(msgspec.Struct, frozen=True):
    """A subject for which a rule is true in a frame.

    subject   numbers of the tracks, see Stretch
    sighting  a network detected it in this frame
    track     track whose box is shown, the first of two
    value     value that the rule measures
    label     label of a sound, or kind of an event of the camera
    model     model that detected the sound
    """

    subject: tuple[int, ...]
    sighting: bool
    track: Track | None = None
    value: float | None = None
    label: str | None = None
    model: str = ""


class Holding(msgspec.Struct, frozen=True):
    """The result of a rule in a frame.

    facts    subjects for which it is true
    maybe    subjects for which it is unknown; () is a rule about a count or the source
    is_over  it is false for all other subjects; False: only for tracks in the frame
    """

    facts: Sequence[Fact] = ()
    maybe: Sequence[tuple[int, ...]] = ()
    is_over: bool = False


class FrameView:
    """A frame as rules see it. Which tracks are in which areas is computed once for all rules."""

    def __init__(self, book: Rulebook, state: EventsState, seen: TracksSeen, now: Now) -> None:
        self.book = book
        self.state = state
        self.seen = seen
        self.now = now
        self.present = seen.tracks[: len(seen.objects)]
        self.absent = seen.tracks[len(seen.objects) :]
        self.scene = book.scene(now.result.width, now.result.height)
        self._sighted = [is_sighting(each) for each in seen.objects]
        self._inside: dict[tuple[float, float], list[tuple[bool, ...]]] = {}  # [area][track]

    def inside(self, rule: Rule) -> Sequence[bool]:
        """Return for each track whether it is in the rule's area; without an area all are."""
        if rule.place < 0 or not self.seen.tracks:
            return [True] * len(self.seen.tracks)
        if rule.at not in self._inside:
            inside = self.scene.areas.inside
            rows = [inside(*anchor(track.smooth, rule.at)) for track in self.seen.tracks]
            self._inside[rule.at] = list(zip(*rows, strict=True))
        return self._inside[rule.at][rule.place]

    def matching(self, rule: Rule) -> list[int]:
        """Return the indices of this frame's tracks in the area and of a class of the rule.

        A track that began a period keeps it after its class has changed.
        """
        inside = self.inside(rule)
        indices = [i for i in range(len(self.present)) if inside[i]]
        if not (rule.config.labels and indices):
            return indices
        own = {stretch.subject for stretch in self.state.stretches.get(rule.key, ())}
        matching = []
        for i in indices:
            track = self.present[i]
            if rule.is_about(track.label) or (track.number,) in own:
                matching.append(i)
        return matching

    def is_sighting(self, rule: Rule, i: int) -> bool:
        """Return whether a network detected track `i` of this frame with the rule's score."""
        return self._sighted[i] and self.seen.objects[i].score >= rule.config.min_score

    def is_scored(self, rule: Rule, track: Track) -> bool:
        """Return whether the mean score of a track reaches that of the rule. The mean is steady:
        with the score of each frame, a count would flicker. A track of an older state has no score.
        """
        return not 0 < track.score < round(rule.config.min_score * 10_000)

    def apart(self, rule: Rule, track: Track, other: Track) -> float:
        """Return the distance of two feet, in metres or in heights of the smaller track."""
        if rule.config.closer_m is not None:
            ground = self.scene.grounds[rule.place]
            assert ground is not None  # checked with the configuration
            points = ground.metres(_feet(track, other))
            return _length(points[0] - points[1])
        return _feet_apart(track, other) / max(min(_height(track), _height(other)), 1e-6)

    def is_still(self, track: Track) -> bool:
        """Return whether the track stands still since STILL_MS."""
        return self.now.ms - track.still_ms >= STILL_MS

    def heads(self, track: Track, heading: float) -> bool:
        """Return whether the track moves in a direction (degrees: 0 is up, 90 is right)."""
        speed_x, speed_y = track.speed
        if math.hypot(speed_x, speed_y) / SIXTEENTHS < _MIN_SPEED * _height(track):
            return False
        deviation = math.degrees(math.atan2(speed_x, -speed_y)) - heading
        return abs((deviation + 180) % 360 - 180) <= _AHEAD

    def meets_in(self, rule: Rule, track: Track, other: Track) -> float:
        """Return the seconds until two tracks meet, or infinity.

        This is their distance divided by its decrease per second, on the ground if the rule's area
        has metres, else in the picture.
        """
        ground = None
        if rule.place >= 0:
            ground = self.scene.grounds[rule.place]
        feet = _feet(track, other)
        steps = np.array([track.speed, other.speed], np.float64) / SIXTEENTHS * _SPEED_S
        next_feet = feet + steps
        if ground is not None:
            feet = ground.metres(feet)
            next_feet = ground.metres(next_feet)
        distance = _length(feet[0] - feet[1])
        next_distance = _length(next_feet[0] - next_feet[1])
        if next_distance >= distance:
            return math.inf
        return distance * _SPEED_S / (distance - next_distance)

    def speed(self, rule: Rule, track: Track) -> float:
        """Return the speed in metres per second on the ground of the rule's area."""
        ground = self.scene.grounds[rule.place]
        assert ground is not None  # checked with the configuration
        foot = _feet(track)
        step = np.array(track.speed, np.float64) / SIXTEENTHS * _SPEED_S
        before, after = ground.metres(np.vstack([foot, foot + step]))
        return _length(after - before) / _SPEED_S


def _length(step: Coordinates) -> float:
    return float(np.hypot(step[0], step[1]))


def _feet(*tracks: Track) -> Coordinates:
    """Return the feet of tracks, float64 (P, 2) in pixels."""
    return np.array([anchor(track.raw, FOOT) for track in tracks], np.float64)


def _height(track: Track) -> float:
    return (track.raw[3] - track.raw[1]) / SIXTEENTHS


def _feet_apart(track: Track, other: Track) -> float:
    """Return the distance of two feet in pixels."""
    a = track.raw
    b = other.raw
    across = (a[0] + a[2] - b[0] - b[2]) / 2
    return math.hypot(across, a[3] - b[3]) / SIXTEENTHS


# -- One function for each kind of rule.


def _inside(view: FrameView, rule: Rule) -> Holding:
    facts = []
    for i in view.matching(rule):
        track = view.present[i]
        value = None
        if rule.config.still and not view.is_still(track):
            continue
        if rule.config.heading is not None and not view.heads(track, rule.config.heading):
            continue
        if rule.config.faster_m_s is not None:
            value = round(view.speed(rule, track), 2)
            if value < rule.config.faster_m_s:
                continue
        facts.append(Fact((track.number,), view.is_sighting(rule, i), track, value))
    return Holding(facts)


def _count(view: FrameView, rule: Rule) -> Holding:
    """Compare the certain and the possible number of objects with the limits of the rule.

    Objects that were not detected recently, or only once, are possible but not certain.
    """
    config = rule.config
    result = view.now.result
    certain = 0
    possible = 0
    is_detected = False
    for i in view.matching(rule):
        if not view.is_scored(rule, view.present[i]):
            continue
        if view.present[i].sightings >= config.min_sightings:
            certain += 1
            is_detected = is_detected or view.is_sighting(rule, i)
        else:
            possible += 1
    inside = view.inside(rule)[len(view.present) :]
    for track, was_inside in zip(view.absent, inside, strict=True):
        gone_ms = view.now.known_ms - track.known_ms
        is_counted = was_inside and rule.is_about(track.label) and view.is_scored(rule, track)
        if is_counted and gone_ms <= rule.gap_ms:
            possible += track.sightings >= config.min_sightings
    certain_untracked, possible_untracked = _without_track(view, rule)
    certain += certain_untracked
    most_possible = certain + possible + possible_untracked
    at_least = config.at_least or 0
    at_most = config.at_most
    has_limit = at_most is not None
    if at_most is None:
        at_most = most_possible
    if most_possible < at_least or certain > at_most:
        return Holding(is_over=True)
    is_stale = has_limit and result.age_s > config.fresh_s
    if certain < at_least or most_possible > at_most or is_stale:
        return Holding(maybe=[()])
    if not at_least:
        is_detected = result.looked != "no"
    return Holding([Fact((), is_detected, None, float(certain))])


def _without_track(view: FrameView, rule: Rule) -> tuple[int, int]:
    """Return the numbers of untracked objects in the area: from the heavy pass, and new ones."""
    certain = 0
    possible = 0
    for each in view.now.result.objects:
        if each.track is not None or each.score < rule.config.min_score:
            continue
        if not rule.is_about(each.label) or not _is_inside(view, rule, each):
            continue
        if each.untracked == "heavy":
            certain += 1
        else:
            possible += 1
    return certain, possible


def _is_inside(view: FrameView, rule: Rule, detected: Object) -> bool:
    if rule.place < 0:
        return True
    x1, y1, x2, y2 = [round(edge * SIXTEENTHS) for edge in detected.box]
    return view.scene.areas.inside(*anchor((x1, y1, x2, y2), rule.at))[rule.place]


def _near(view: FrameView, rule: Rule) -> Holding:
    config = rule.config
    closest = config.closer
    if config.closer_m is not None:
        closest = config.closer_m
    others = config.others or config.labels
    inside = view.inside(rule)
    indices = [i for i in range(len(view.present)) if inside[i]]
    facts = []
    for i, j in itertools.combinations(indices, 2):
        track = view.present[i]
        other = view.present[j]
        if not _is_pair(rule, others, track.label, other.label):
            continue
        value = view.apart(rule, track, other)
        if closest is not None and value >= closest:
            continue
        if config.ttc_s is not None:
            value = view.meets_in(rule, track, other)
            if value > config.ttc_s:
                continue
        is_detected = view.is_sighting(rule, i) and view.is_sighting(rule, j)
        facts.append(Fact((track.number, other.number), is_detected, track, round(value, 2)))
    return Holding(facts)


def _is_pair(rule: Rule, others: tuple[str, ...], label: str, other: str) -> bool:
    is_forward = rule.is_about(label) and (not others or other in others)
    is_backward = rule.is_about(other) and (not others or label in others)
    return is_forward or is_backward


def _left(view: FrameView, rule: Rule) -> Holding:
    """Find objects that appeared, stand still, and have no person near them."""
    config = rule.config
    apart = config.closer or _APART
    if config.closer_m is not None:
        apart = config.closer_m
    owners = config.others or ("person",)
    people = [track for track in view.seen.tracks if track.label in owners]
    facts = []
    for i in view.matching(rule):
        track = view.present[i]
        since_break_ms = track.fresh_ms
        if since_break_ms < 0:
            since_break_ms = track.first_ms
        if since_break_ms <= rule.gap_ms or not view.is_still(track):
            continue  # an object that was present from the begin, or after a break, was not left
        if any(_to_person(view, rule, track, person) < apart for person in people):
            continue
        facts.append(Fact((track.number,), view.is_sighting(rule, i), track))
    return Holding(facts)


def _to_person(view: FrameView, rule: Rule, item: Track, person: Track) -> float:
    if rule.config.closer_m is not None:
        return view.apart(rule, item, person)
    return _feet_apart(item, person) / max(_height(person), 1e-6)


def source_holding(rule: Rule, now: Now, state: EventsState) -> Holding:
    """Return the result of a rule about the source, which is known even for a failed frame."""
    if rule.config.state == "heard":
        return _heard(rule, now, state.heard)
    if rule.config.state == "reported":
        return _reported(rule, now.result.camera_events)
    result = now.result
    is_true = {
        "failed": result.outcome == "failed",
        "moving": result.reason == "moving",
        "moved": state.view is not None and state.view.is_moved,
        "degraded": result.escalation == "degraded",
        "lost": False,
    }
    assert rule.config.state is not None  # checked with the configuration
    if is_true[rule.config.state]:
        return Holding([Fact((), True)])
    return Holding(is_over=True)


def last_heard(sounds: Sounds, asked: Collection[str], now: Now) -> LastHeard | None:
    """Return the sounds in the windows that end with a frame, or None if they are unknown.

    Windows that were lost are missing. Windows that ended long before the frame before this one do
    not count: the rest of a sound track that ends before the pictures arrives with the last frame.
    Windows of the time since the frame before count, because a frame brings those of dropped ones.
    """
    pts = now.result.pts
    windows = sounds.windows
    if pts is not None:
        limit_ms = now.frame_ms + HEARD_MS
        windows = tuple(each for each in windows if (pts - each.ends_s) * 1000 <= limit_ms)
    if not windows:
        return None
    scores: dict[str, float] = {}
    for window in windows:
        for sound in window.labels:
            if sound.label in asked:
                scores[sound.label] = max(sound.score, scores.get(sound.label, 0.0))
    is_new = any(window.outcome == "heard" for window in windows)
    return LastHeard(now.ms, scores, is_new, sounds.model)


def _heard(rule: Rule, now: Now, heard: LastHeard | None) -> Holding:
    """Return the result for the last sound window, which is valid for HEARD_MS."""
    if heard is None or now.ms - heard.ms > HEARD_MS:
        return Holding(maybe=[()])
    scores = heard.scores
    best = max(rule.config.labels, key=lambda label: scores.get(label, 0.0))
    if best not in scores or scores[best] < rule.config.min_score:
        return Holding(is_over=True)
    is_new = heard.is_new and heard.ms == now.ms
    return Holding([Fact((), is_new, None, scores[best], best, heard.model)])


def _reported(rule: Rule, events: Collection[CameraEvent] | None) -> Holding:
    """Return the result for the events that the camera reports with a frame; None: unknown."""
    if events is None:
        return Holding(maybe=[()])
    reported = [label for label in rule.config.labels if label in events]
    if not reported:
        return Holding(is_over=True)
    return Holding([Fact((), True, label=reported[0])])


def _state(view: FrameView, rule: Rule) -> Holding:
    return source_holding(rule, view.now, view.state)


_JUDGES: Final = {
    "inside": _inside,
    "count": _count,
    "near": _near,
    "left": _left,
    "state": _state,
}


def holdings_of(book: Rulebook, state: EventsState, seen: TracksSeen, now: Now) -> list[Holding]:
    """Return the result of each rule in `timed`."""
    if not book.timed:
        return []
    view = FrameView(book, state, seen, now)
    results = []
    for rule in book.timed:
        if book.is_due(rule, now.at.captured):
            results.append(_JUDGES[rule.config.when](view, rule))
        else:
            results.append(Holding(is_over=True))
    return results
