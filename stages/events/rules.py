"""The rules of a source, ready to be asked: whether each holds of whom, in a frame.

Pure: tracks and a result in, what holds out. How long it has to hold is of `episodes`.
"""

from __future__ import annotations

import functools
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
from framegate.pipeline.contracts.results import Object
from framegate.stages.events.state import SIXTEENTHS, EventsState, LastHeard, Now, PixelBox, Track
from framegate.stages.events.tracks import STILL_MS, TracksSeen, anchor, is_sighting

_FOOT: Final = (0.5, 1.0)
_CENTER: Final = (0.5, 0.5)
_APART: Final = 1.5  # heights of a person that are away from a thing, where nothing is said
_SPEED_S: Final = 0.1  # over which a speed is taken to the ground
_AHEAD: Final = 45.0  # degrees to either side of a heading
_GOES: Final = 0.1  # heights a second; who is slower goes nowhere
HEARD_MS: Final = 1500  # for which it sounds as it did: three of the usual windows


@dataclass(frozen=True)
class Rule:
    """A rule of a source.

    at     which point of a box stands for its object, 0..1 from the upper left corner
    place  number of its area or line among those of the scene; -1: none
    """

    name: str
    version: str
    said: RuleConfig
    at: tuple[float, float]
    place: int
    clip: Clip | None
    gap_ms: int
    key: str = field(init=False)
    """Name and version, under which the state has it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.name}@{self.version}")

    def is_about(self, label: str) -> bool:
        """Whether objects of this class are meant."""
        return not self.said.labels or label in self.said.labels


class Fact(msgspec.Struct, frozen=True):
    """Something of which a rule holds in a frame.

    subject   see Stretch
    sighting  a network saw it in this frame
    track     whose box shows it, the first of two
    value     what the rule measures
    sound     what is heard
    model     that heard it
    """

    subject: tuple[int, ...]
    sighting: bool
    track: Track | None = None
    value: float | None = None
    sound: str | None = None
    model: str = ""


class Holding(msgspec.Struct, frozen=True):
    """What is known of a rule in a frame.

    facts    of what it holds
    maybe    of what nobody knows whether it holds; () stands for a rule about many, or the source
    is_over  of all else it does not hold; else only of tracks that are in the frame
    """

    facts: Sequence[Fact] = ()
    maybe: Sequence[tuple[int, ...]] = ()
    is_over: bool = False


class Scene:
    """Areas and lines in pixels of a picture of one size.

    line_of  of each rule about a line its line: the lines of its group, and its number there
    """

    def __init__(
        self,
        areas: Sequence[AreaConfig],
        lines: Sequence[LineConfig],
        wires: Sequence[tuple[tuple[float, float], int]],
        size: Points,
    ):
        """wires: of each rule about a line which point of a box it looks at, and the number of its
        line; size: the picture's width and height, as a point.
        """
        corners = [_in_pixels(area, size[0]) for area in areas]
        self.areas = Areas(corners)
        drawn = [_in_pixels(line, size[0]) for line in lines]
        ats = dict.fromkeys(at for at, _ in wires)
        groups = {at: [j for j, (own, _) in enumerate(wires) if own == at] for at in ats}
        self._groups = [
            (at, columns, Lines([drawn[wires[j][1]] for j in columns]))
            for at, columns in groups.items()
        ]
        self.line_of = {
            j: (lines, number)
            for _, columns, lines in self._groups
            for number, j in enumerate(columns)
        }
        self.is_straight = all(all(lines.is_straight) for _, _, lines in self._groups)
        self.grounds = [
            Ground(inside, area.metres) if area.metres else None
            for area, inside in zip(areas, corners, strict=True)
        ]

    def sides(self, box: PixelBox) -> tuple[int, ...]:
        """On which side of each rule's line a box is: see Lines.sides."""
        if len(self._groups) == 1:
            at, _, lines = self._groups[0]
            return lines.sides(*anchor(box, at))
        found = [0] * len(self.line_of)
        for at, columns, lines in self._groups:
            for j, side in zip(columns, lines.sides(*anchor(box, at)), strict=True):
                found[j] = side
        return tuple(found)


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
        self._zone = zoneinfo.ZoneInfo(config.timezone) if config.timezone else None
        said = config.of_source(source)
        self._areas = list(dict.fromkeys(one.area for one in said.values() if one.area))
        self._lines = list(dict.fromkeys(one.line for one in said.values() if one.line))
        self._places = [config.areas[name] for name in self._areas]
        self._drawn = [config.lines[name] for name in self._lines]
        self.rules = [self._rule(config, name, said[name]) for name in _in_order(said)]
        self.by_key = {rule.key: rule for rule in self.rules}
        self.wires = [rule for rule in self.rules if rule.said.when == "crosses"]
        self.timed = [rule for rule in self.rules if rule.said.when != "crosses"]
        self.lines = tuple(rule.key for rule in self.wires)
        about_source = [rule for rule in self.timed if rule.said.when == "state"]
        self.sounds = {label for rule in about_source for label in rule.said.labels}
        self.gap_ms = max((rule.gap_ms for rule in self.rules), default=0)
        asked = {one.after.rule for one in said.values() if one.after}
        self.asked = {rule.name: rule.key for rule in self.rules if rule.name in asked}
        self.scene = functools.lru_cache(4)(self._scene)

    def _rule(self, config: EventsConfig, name: str, said: RuleConfig) -> Rule:
        at = {"foot": _FOOT, "center": _CENTER}[said.at] if isinstance(said.at, str) else said.at
        place = -1
        if said.line:
            place = self._lines.index(said.line)
        elif said.area:
            place = self._areas.index(said.area)
        wanted = ClipConfig() if said.clip is True else said.clip
        clip = Clip(wanted.before_s, wanted.after_s) if wanted else None
        return Rule(name, config.digest(name), said, at, place, clip, round(said.gap_s * 1000))

    def _scene(self, width: int, height: int) -> Scene:
        wires = [(rule.at, rule.place) for rule in self.wires]
        return Scene(self._places, self._drawn, wires, [(width, height)])

    def is_due(self, rule: Rule, captured: float) -> bool:
        """Whether its schedule lets it hold at a time, UNIX seconds."""
        return not rule.said.schedule or is_due(rule.said.schedule, captured, self._zone)

    def holdings(self, state: EventsState, seen: TracksSeen, now: Now) -> list[Holding]:
        """What is known of each rule that takes time, in the order of `timed`."""
        if not self.timed:
            return []
        view = FrameView(self, state, seen, now)
        return [
            _JUDGES[rule.said.when](view, rule)
            if self.is_due(rule, now.at.captured)
            else Holding(is_over=True)
            for rule in self.timed
        ]


def _in_order(rules: Mapping[str, RuleConfig]) -> list[str]:
    """Names, each after the one that it comes after."""
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
    """What rules ask of a frame; the areas are looked up once for all of them."""

    def __init__(self, book: Rulebook, state: EventsState, seen: TracksSeen, now: Now) -> None:
        self.book, self.state, self.seen, self.now = book, state, seen, now
        self.present = seen.tracks[: len(seen.objects)]
        self.absent = seen.tracks[len(seen.objects) :]
        self.scene = book.scene(now.result.width, now.result.height)
        self._sighted = [is_sighting(one) for one in seen.objects]
        self._inside: dict[tuple[float, float], list[tuple[bool, ...]]] = {}  # by area, by track

    def inside(self, rule: Rule) -> Sequence[bool]:
        """Which of all tracks are in the rule's area; without one all are."""
        if rule.place < 0 or not self.seen.tracks:
            return [True] * len(self.seen.tracks)
        if rule.at not in self._inside:
            inside = self.scene.areas.inside
            rows = [inside(*anchor(track.smooth, rule.at)) for track in self.seen.tracks]
            self._inside[rule.at] = list(zip(*rows, strict=True))
        return self._inside[rule.at][rule.place]

    def matching(self, rule: Rule) -> list[int]:
        """Numbers, from 0, of this frame's tracks that are in the area, and of a class that is
        meant or was when it began.
        """
        inside = self.inside(rule)
        there = [i for i in range(len(self.present)) if inside[i]]
        if not (rule.said.labels and there):
            return there
        own = {stretch.subject for stretch in self.state.stretches.get(rule.key, ())}
        return [
            i
            for i in there
            if rule.is_about(self.present[i].label) or (self.present[i].number,) in own
        ]

    def is_sighting(self, rule: Rule, i: int) -> bool:
        """Whether a network saw this frame's track i, with the score that the rule wants."""
        return self._sighted[i] and self.seen.objects[i].score >= rule.said.min_score

    def apart(self, rule: Rule, one: Track, other: Track) -> float:
        """How far two feet are from each other: in metres, or in heights of the smaller one."""
        if rule.said.closer_m is not None:
            ground = self.scene.grounds[rule.place]
            assert ground is not None  # checked with the configuration
            points = ground.metres(_feet(one, other))
            return _length(points[0] - points[1])
        return _feet_apart(one, other) / max(min(_height(one), _height(other)), 1e-6)

    def is_still(self, track: Track) -> bool:
        """Whether it stood still for a while."""
        return self.now.ms - track.still_ms >= STILL_MS

    def heads(self, track: Track, heading: float) -> bool:
        """Whether it goes that way in the picture, degrees from up over right."""
        across, down = track.speed
        if math.hypot(across, down) / SIXTEENTHS < _GOES * _height(track):
            return False
        off = math.degrees(math.atan2(across, -down)) - heading
        return abs((off + 180) % 360 - 180) <= _AHEAD

    def meets_in(self, rule: Rule, one: Track, other: Track) -> float:
        """Seconds until two meet: how far they are apart by how fast that shrinks; inf: never. On
        the ground where the rule's area has metres, else in the picture.
        """
        ground = self.scene.grounds[rule.place] if rule.place >= 0 else None
        feet = _feet(one, other)
        steps = np.array([one.speed, other.speed], np.float64) / SIXTEENTHS * _SPEED_S
        soon = feet + steps
        if ground is not None:
            feet, soon = ground.metres(feet), ground.metres(soon)
        now, then = _length(feet[0] - feet[1]), _length(soon[0] - soon[1])
        return now * _SPEED_S / (now - then) if then < now else math.inf

    def speed(self, rule: Rule, track: Track) -> float:
        """Metres a second on the ground of the rule's area."""
        ground = self.scene.grounds[rule.place]
        assert ground is not None  # checked with the configuration
        foot = _feet(track)
        step = np.array(track.speed, np.float64) / SIXTEENTHS * _SPEED_S
        before, after = ground.metres(np.vstack([foot, foot + step]))
        return _length(after - before) / _SPEED_S


def _length(step: Coordinates) -> float:
    return float(np.hypot(step[0], step[1]))


def _feet(*tracks: Track) -> Coordinates:
    """Where tracks stand, float64 (P, 2) in pixels."""
    return np.array([anchor(track.raw, _FOOT) for track in tracks], np.float64)


def _height(track: Track) -> float:
    return (track.raw[3] - track.raw[1]) / SIXTEENTHS


def _feet_apart(one: Track, other: Track) -> float:
    """How far two feet are from each other, in pixels."""
    a, b = one.raw, other.raw
    across = (a[0] + a[2] - b[0] - b[2]) / 2
    return math.hypot(across, a[3] - b[3]) / SIXTEENTHS


# -- What holds of whom.


def _inside(view: FrameView, rule: Rule) -> Holding:
    facts = []
    for i in view.matching(rule):
        track, value = view.present[i], None
        if rule.said.still and not view.is_still(track):
            continue
        if rule.said.heading is not None and not view.heads(track, rule.said.heading):
            continue
        if rule.said.faster_m_s is not None:
            value = round(view.speed(rule, track), 2)
            if value < rule.said.faster_m_s:
                continue
        facts.append(Fact((track.number,), view.is_sighting(rule, i), track, value))
    return Holding(facts)


def _count(view: FrameView, rule: Rule) -> Holding:
    """Who is there for sure, and who may be: not seen of late, or once only."""
    said, result = rule.said, view.now.result
    sure = unsure = 0
    saw = False
    for i in view.matching(rule):
        if view.present[i].sightings >= said.min_sightings:
            sure += 1
            saw = saw or view.is_sighting(rule, i)
        else:
            unsure += 1
    inside = view.inside(rule)[len(view.present) :]
    for track, was_there in zip(view.absent, inside, strict=True):
        gone_ms = view.now.known_ms - track.known_ms
        if was_there and rule.is_about(track.label) and gone_ms <= rule.gap_ms:
            unsure += track.sightings >= said.min_sightings
    alone, may = _without_track(view, rule)
    sure, unsure = sure + alone, unsure + may
    least, most = said.at_least or 0, said.at_most
    if sure + unsure < least or (most is not None and sure > most):
        return Holding(is_over=True)
    stale = most is not None and result.age_s > said.fresh_s
    if sure < least or (most is not None and sure + unsure > most) or stale:
        return Holding(maybe=[()])
    looked = saw if least else result.looked != "no"
    return Holding([Fact((), looked, None, float(sure))])


def _without_track(view: FrameView, rule: Rule) -> tuple[int, int]:
    """Objects in the area that have no track: those that the heavy pass saw, and new ones."""
    loose = [
        one
        for one in view.now.result.objects
        if one.track is None and rule.is_about(one.label) and one.score >= rule.said.min_score
    ]
    if not loose:
        return 0, 0
    there = [
        one
        for one in loose
        if rule.place < 0 or view.scene.areas.inside(*anchor(_sixteenths(one), rule.at))[rule.place]
    ]
    sure = sum(one.untracked == "heavy" for one in there)
    return sure, len(there) - sure


def _sixteenths(one: Object) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(edge * SIXTEENTHS) for edge in one.box)
    return x1, y1, x2, y2


def _near(view: FrameView, rule: Rule) -> Holding:
    said = rule.said
    closest = said.closer_m if said.closer_m is not None else said.closer
    others = said.others or said.labels
    inside = view.inside(rule)
    there = [i for i in range(len(view.present)) if inside[i]]
    facts = []
    for a, i in enumerate(there):
        for j in there[a + 1 :]:
            one, other = view.present[i], view.present[j]
            if not _is_pair(rule, others, one.label, other.label):
                continue
            value = away = view.apart(rule, one, other)
            if closest is not None and away >= closest:
                continue
            if said.ttc_s is not None:
                value = view.meets_in(rule, one, other)
                if value > said.ttc_s:
                    continue
            saw = view.is_sighting(rule, i) and view.is_sighting(rule, j)
            facts.append(Fact((one.number, other.number), saw, one, round(value, 2)))
    return Holding(facts)


def _is_pair(rule: Rule, others: tuple[str, ...], one: str, other: str) -> bool:
    return (rule.is_about(one) and (not others or other in others)) or (
        rule.is_about(other) and (not others or one in others)
    )


def _left(view: FrameView, rule: Rule) -> Holding:
    """A thing that came, stands still, and has nobody at it."""
    said = rule.said
    apart = said.closer_m if said.closer_m is not None else said.closer or _APART
    people = [track for track in view.seen.tracks if track.label in (said.others or ("person",))]
    facts = []
    for i in view.matching(rule):
        track = view.present[i]
        if track.first_ms <= rule.gap_ms or not view.is_still(track):
            continue  # what was there from the beginning was not left
        if any(_to_person(view, rule, track, one) < apart for one in people):
            continue
        facts.append(Fact((track.number,), view.is_sighting(rule, i), track))
    return Holding(facts)


def _to_person(view: FrameView, rule: Rule, thing: Track, person: Track) -> float:
    if rule.said.closer_m is not None:
        return view.apart(rule, thing, person)
    return _feet_apart(thing, person) / max(_height(person), 1e-6)


def source_holding(rule: Rule, now: Now, state: EventsState) -> Holding:
    """Of a rule about the source itself, which holds also where nothing else is known."""
    if rule.said.state == "heard":
        return _heard(rule, now, state.heard)
    result = now.result
    held = {
        "failed": result.outcome == "failed",
        "moving": result.reason == "moving",
        "moved": state.view is not None and state.view.is_moved,
        "degraded": result.escalation == "degraded",
        "lost": False,
    }
    assert rule.said.state is not None  # checked with the configuration
    return Holding([Fact((), True)]) if held[rule.said.state] else Holding(is_over=True)


def _heard(rule: Rule, now: Now, heard: LastHeard | None) -> Holding:
    """A sound holds until the next window; where none came for long nobody knows."""
    if heard is None or now.ms - heard.ms > HEARD_MS:
        return Holding(maybe=[()])
    scores = heard.scores
    best = max(rule.said.labels, key=lambda label: scores.get(label, 0.0))
    if best not in scores or scores[best] < rule.said.min_score:
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


# -- When.


_PART: Final = re.compile(r"(?:(\w{3})(?:-(\w{3}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)")


def is_due(schedule: Sequence[str], captured: float, zone: tzinfo | None) -> bool:
    """Whether a time, UNIX seconds, is in any part of a schedule; zone: None for this machine's.

    A part over midnight belongs to the day on which it begins.
    """
    local = datetime.fromtimestamp(captured, zone)
    minute = local.hour * 60 + local.minute
    return any(_is_in(part, local.weekday(), minute) for part in schedule)


def _is_in(part: str, day: int, minute: int) -> bool:
    match = _PART.fullmatch(part)
    assert match is not None  # checked with the configuration
    first, last = match[1] or DAYS[0], match[2] or match[1] or DAYS[-1]
    days = _days(DAYS.index(first), DAYS.index(last))
    begin, end = int(match[3]) * 60 + int(match[4]), int(match[5]) * 60 + int(match[6])
    if begin < end:
        return day in days and begin <= minute < end
    return (day in days and minute >= begin) or ((day - 1) % 7 in days and minute < end)


def _days(first: int, last: int) -> set[int]:
    return {(first + n) % 7 for n in range((last - first) % 7 + 1)}
