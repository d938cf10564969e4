"""The rules of a source, with their areas and lines in pixels and their schedules."""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Final

from framegate.models.geometry import Areas, Ground, Lines, Points
from framegate.pipeline.config.events import (
    DAYS,
    AreaConfig,
    ClipConfig,
    EventsConfig,
    LineConfig,
    RuleConfig,
)
from framegate.pipeline.config.snooze import Snooze
from framegate.pipeline.contracts.episodes import Clip
from framegate.pipeline.contracts.likeness import Likeness
from framegate.stages.events.state import PixelBox
from framegate.stages.events.tracks import FOOT, anchor

_CENTER: Final = (0.5, 0.5)


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
        self._profile = config.profile
        self._profiles = config.profiles
        self._in_profiles: set[str] = set()
        for profile in config.profiles.values():
            self._in_profiles.update(profile.rules)
        self._zone = None
        if config.timezone:
            self._zone = zoneinfo.ZoneInfo(config.timezone)
        configs = config.of_source(source)
        of_all = (config.snoozed, config.snoozed_sources.get(source, ""))
        self._snoozes = {
            name: [Snooze.read(text) for text in (*of_all, each.snoozed) if text]
            for name, each in configs.items()
        }
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
            if rule.config.state == "heard":
                self.sounds.update(rule.config.labels)
        reported = (rule.name for rule in self.timed if rule.config.state == "reported")
        self.reported = tuple(sorted(reported))
        """Names of the rules about events of the camera."""
        self.gap_ms = max((rule.gap_ms for rule in self.rules), default=0)
        referred = {each.after.rule for each in configs.values() if each.after}
        self.referred = {rule.name: rule.key for rule in self.rules if rule.name in referred}
        """Key of each rule that the `after` of another rule refers to, by name."""
        self.scene = functools.lru_cache(4)(self._scene)

    def _rule(self, events: EventsConfig, name: str, config: RuleConfig) -> Rule:
        if isinstance(config.at, str):
            at = {"foot": FOOT, "center": _CENTER}[config.at]
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
        """Return whether the rule, its schedule and its profile are active, and no snooze of it.

        captured  time of the frame, UNIX seconds, so that a replay gives the same
        """
        config = rule.config
        if not config.enabled:
            return False
        if config.schedule and not is_due(config.schedule, captured, self._zone):
            return False
        if any(snooze.has(captured) for snooze in self._snoozes[rule.name]):
            return False
        if rule.name not in self._in_profiles:
            return True
        profile = self.profile_at(captured)
        return not profile or rule.name in self._profiles[profile].rules

    def profile_at(self, captured: float) -> str:
        """Return the profile that is active at a time in UNIX seconds; "": none."""
        if self._profile:
            return self._profile
        for name, profile in self._profiles.items():
            if not profile.schedule or is_due(profile.schedule, captured, self._zone):
                return name
        return ""


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
