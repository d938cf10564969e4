"""Evaluate the conditions of rules on the tracks of a frame. Pure functions.

`episodes` decides for how long a condition must be true.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Final

import msgspec
import numpy as np

from framegate.models.geometry import Areas, Coordinates, Ground, Lines, Points
from framegate.pipeline.config.events import (
    DAYS,
    AreaConfig,
    ClipConfig,
    EventsConfig,
    LineConfig,
    RuleConfig,
)
from framegate.pipeline.contracts.episodes import Clip
from framegate.pipeline.contracts.likeness import Likeness
from framegate.pipeline.contracts.results import Object
from framegate.stages.events.state import SIXTEENTHS, EventsState, LastHeard, Now, PixelBox, Track
from framegate.stages.events.tracks import STILL_MS, TracksSeen, anchor, is_sighting

_FOOT: Final = (0.5, 1.0)
_CENTER: Final = (0.5, 0.5)
_APART: Final = 1.5  # default distance of a person from a left object, in heights of the person
_SPEED_S: Final = 0.1  # time step for converting a speed to the ground
_AHEAD: Final = 45.0  # degrees to either side of a heading
_MIN_SPEED: Final = 0.1  # heights per second; a slower track has no heading
HEARD_MS: Final = 1500  # time for which a sound window is valid: three windows of the usual length


@dataclass(frozen=True)
class Rule:
    """A rule of a source.

    version  digest of its configuration
    at       reference point of a box, 0..1 from its upper left corner
    place    number of its area or line in the scene; -1: none
    clip     video clip that its episodes get; None: none
    """

    name: str
    version: str
    config: RuleConfig
    at: tuple[float, float]
    place: int
    clip: Clip | None
    gap_ms: int
    key: str = field(init=False)
    """Name and version: the key of the rule in the state."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.name}@{self.version}")

    def is_about(self, label: str) -> bool:
        """Return whether the rule applies to objects of this class."""
        return not self.config.labels or label in self.config.labels


class Fact(msgspec.Struct, frozen=True):
    """A subject for which a rule is true in a frame.

    subject   numbers of the tracks, see Stretch
    sighting  a network detected it in this frame
    track     track whose box is shown, the first of two
    value     value that the rule measures
    sound     label of a sound
    model     model that detected the sound
    """

    subject: tuple[int, ...]
    sighting: bool
    track: Track | None = None
    value: float | None = None
    sound: str | None = None
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


class Scene:
    """Areas and lines in pixels of a picture of one size.

    Rules about lines with the same reference point form a group, so that the sides of a track are
    computed once per group.

    line_of  for each rule about a line: the lines of its group, and the number of its line there
    """

    def __init__(
        self,
        areas: Sequence[AreaConfig],
        lines: Sequence[LineConfig],
        wires: Sequence[tuple[tuple[float, float], int]],
        size: tuple[float, float],
    ):
        """Convert areas and lines to pixels.

        wires  for each rule about a line: its reference point and the number of its line
        size   width and height of the picture
        """
        corners = [_in_pixels(area, size) for area in areas]
        self.areas = Areas(corners)
        self.grounds: list[Ground | None] = []
        for area, pixels in zip(areas, corners, strict=True):
            ground = None
            if area.metres:
                ground = Ground(pixels, area.metres)
            self.grounds.append(ground)
        drawn = [_in_pixels(line, size) for line in lines]
        groups: dict[tuple[float, float], list[int]] = {}
        for wire, (at, _) in enumerate(wires):
            groups.setdefault(at, []).append(wire)
        self._groups: list[tuple[tuple[float, float], list[int], Lines]] = []
        self.line_of: dict[int, tuple[Lines, int]] = {}
        for at, group in groups.items():
            lines_of_group = Lines([drawn[wires[wire][1]] for wire in group])
            self._groups.append((at, group, lines_of_group))
            for number, wire in enumerate(group):
                self.line_of[wire] = (lines_of_group, number)
        self.is_straight = all(all(group.is_straight) for _, _, group in self._groups)

    def sides(self, box: PixelBox) -> tuple[int, ...]:
        """Return the side of each rule's line that a box is on; see Lines.sides."""
        if len(self._groups) == 1:
            at, _, lines = self._groups[0]
            return lines.sides(*anchor(box, at))
        sides = [0] * len(self.line_of)
        for at, group, lines in self._groups:
            for wire, side in zip(group, lines.sides(*anchor(box, at)), strict=True):
                sides[wire] = side
        return tuple(sides)


def _in_pixels(place: AreaConfig | LineConfig, size: tuple[float, float]) -> Points:
    if place.pixels:
        return place.points
    return [(x * size[0], y * size[1]) for x, y in place.points]


class Rulebook:
    """All rules of a source. One thread."""

    def __init__(self, config: EventsConfig, source: str) -> None:
        self.reconnect_ms = round(config.reconnect_s * 1000)
        self.handover = config.handover
        self.view = config.view_of(source)
        self._zone = None
        if config.timezone:
            self._zone = zoneinfo.ZoneInfo(config.timezone)
        configs = config.of_source(source)
        self._areas = list(dict.fromkeys(each.area for each in configs.values() if each.area))
        self._lines = list(dict.fromkeys(each.line for each in configs.values() if each.line))
        self._places = [config.areas[name] for name in self._areas]
        self._drawn = [config.lines[name] for name in self._lines]
        self.rules = [self._rule(config, name, configs[name]) for name in _in_order(configs)]
        self.by_key = {rule.key: rule for rule in self.rules}
        self.wires = [rule for rule in self.rules if rule.config.when == "crosses"]
        self.alike = [
            (rule, Likeness.read(rule.config.like))
            for rule in self.rules
            if rule.config.when == "like"
        ]
        """The rules about visits, each with its likeness."""
        self.timed = [rule for rule in self.rules if rule.config.when not in ("crosses", "like")]
        self.lines = tuple(rule.key for rule in self.wires)
        self.sounds: set[str] = set()
        for rule in self.timed:
            if rule.config.when == "state":
                self.sounds.update(rule.config.labels)
        self.gap_ms = max((rule.gap_ms for rule in self.rules), default=0)
        referred = {each.after.rule for each in configs.values() if each.after}
        self.referred = {rule.name: rule.key for rule in self.rules if rule.name in referred}
        """Key of each rule that the `after` of another rule refers to, by name."""
        self.scene = functools.lru_cache(4)(self._scene)

    def _rule(self, events: EventsConfig, name: str, config: RuleConfig) -> Rule:
        if isinstance(config.at, str):
            at = {"foot": _FOOT, "center": _CENTER}[config.at]
        else:
            at = config.at
        place = -1
        if config.line:
            place = self._lines.index(config.line)
        elif config.area:
            place = self._areas.index(config.area)
        clip_config = config.clip
        if clip_config is True:
            clip_config = ClipConfig()
        clip = None
        if clip_config:
            clip = Clip(clip_config.before_s, clip_config.after_s)
        gap_ms = round(config.gap_s * 1000)
        return Rule(name, events.digest(name), config, at, place, clip, gap_ms)

    def _scene(self, width: int, height: int) -> Scene:
        wires = [(rule.at, rule.place) for rule in self.wires]
        return Scene(self._places, self._drawn, wires, (width, height))

    def is_due(self, rule: Rule, captured: float) -> bool:
        """Return whether the rule's schedule includes a time in UNIX seconds."""
        return not rule.config.schedule or is_due(rule.config.schedule, captured, self._zone)

    def holdings(self, state: EventsState, seen: TracksSeen, now: Now) -> list[Holding]:
        """Return the result of each rule in `timed`."""
        if not self.timed:
            return []
        view = FrameView(self, state, seen, now)
        holdings = []
        for rule in self.timed:
            if self.is_due(rule, now.at.captured):
                holdings.append(_JUDGES[rule.config.when](view, rule))
            else:
                holdings.append(Holding(is_over=True))
        return holdings


def _in_order(rules: Mapping[str, RuleConfig]) -> list[str]:
    """Return the names of the rules, each after the rule that its `after` refers to."""
    ordered: list[str] = []

    def add(name: str) -> None:
        other = rules[name].after
        if other is not None and other.rule in rules and other.rule not in ordered:
            add(other.rule)
        if name not in ordered:
            ordered.append(name)

    for name in rules:
        add(name)
    return ordered


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
    return np.array([anchor(track.raw, _FOOT) for track in tracks], np.float64)


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
        if view.present[i].sightings >= config.min_sightings:
            certain += 1
            is_detected = is_detected or view.is_sighting(rule, i)
        else:
            possible += 1
    inside = view.inside(rule)[len(view.present) :]
    for track, was_inside in zip(view.absent, inside, strict=True):
        gone_ms = view.now.known_ms - track.known_ms
        if was_inside and rule.is_about(track.label) and gone_ms <= rule.gap_ms:
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
        if track.first_ms <= rule.gap_ms or not view.is_still(track):
            continue  # an object that was present from the beginning was not left
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


def _state(view: FrameView, rule: Rule) -> Holding:
    return source_holding(rule, view.now, view.state)


_JUDGES: Final = {
    "inside": _inside,
    "count": _count,
    "near": _near,
    "left": _left,
    "state": _state,
}


# -- Schedules.


_PART: Final = re.compile(r"(?:(\w{3})(?:-(\w{3}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)")


def is_due(schedule: Sequence[str], captured: float, zone: tzinfo | None) -> bool:
    """Return whether a schedule includes a time in UNIX seconds.

    zone  time zone of the schedule; None: that of this machine

    A part that spans midnight belongs to the day on which it begins.
    """
    local = datetime.fromtimestamp(captured, zone)
    minute = local.hour * 60 + local.minute
    return any(_is_in(part, local.weekday(), minute) for part in schedule)


def _is_in(part: str, day: int, minute: int) -> bool:
    match = _PART.fullmatch(part)
    assert match is not None  # checked with the configuration
    first_day = match[1] or DAYS[0]
    last_day = match[2] or match[1] or DAYS[-1]
    days = _days(DAYS.index(first_day), DAYS.index(last_day))
    begin = int(match[3]) * 60 + int(match[4])
    end = int(match[5]) * 60 + int(match[6])
    if begin < end:
        return day in days and begin <= minute < end
    return (day in days and minute >= begin) or ((day - 1) % 7 in days and minute < end)


def _days(first: int, last: int) -> set[int]:
    return {(first + n) % 7 for n in range((last - first) % 7 + 1)}
