"""Read `[events]` of pipeline.toml and report all faults of areas, lines and rules at once."""

from __future__ import annotations

import math
import re
import zoneinfo
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, Final, get_args

import msgspec

from framegate.pipeline.config.events import (
    AreaConfig,
    EventsConfig,
    LineConfig,
    Point,
    RuleConfig,
    SourceState,
)
from framegate.pipeline.config.read_options import read_named, read_options
from framegate.pipeline.contracts.episodes import When
from framegate.pipeline.contracts.errors import did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.likeness import Likeness, LikenessInvalid
from framegate.pipeline.contracts.source import CameraEvent

_TIME: Final = re.compile(
    r"(?:((?:mon|tue|wed|thu|fri|sat|sun)(?:-(?:mon|tue|wed|thu|fri|sat|sun))?) )?"
    r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)"
)
LABELLED: Final = ("heard", "reported")  # states whose labels are no classes of objects
_ONLY: Final[Mapping[str, tuple[When, ...]]] = {
    "line": ("crosses",),
    "direction": ("crosses",),
    "at_least": ("count",),
    "at_most": ("count",),
    "fresh_s": ("count",),
    "still": ("inside",),
    "faster_m_s": ("inside",),
    "heading": ("inside",),
    "others": ("near", "left"),
    "closer": ("near", "left"),
    "closer_m": ("near", "left"),
    "ttc_s": ("near",),
    "state": ("state",),
    "like": ("like",),
    "area": ("inside", "count", "near", "left"),
    "labels": ("inside", "crosses", "count", "near", "left", "state", "like"),
}


def read_events(table: Mapping[str, Any], faults: list[str]) -> EventsConfig | None:
    """Return the table `[events]`. If there are faults, append them and return None."""
    before = len(faults)
    places = {key: table[key] for key in _EACH if key in table}
    rest = {key: value for key, value in table.items() if key not in _EACH}
    common = read_options(EventsConfig, rest, "events.", faults)
    read = {key: _read_each(key, places.get(key, {}), faults) for key in _EACH}
    if common is None or len(faults) > before:
        return None
    given: dict[str, Any] = {**vars(common), **read}
    config = EventsConfig(**given)
    faults += _zone_fault(config.timezone) + _profile_faults(config)
    for name, area in config.areas.items():
        faults += [f"events.areas.{name}.{fault}" for fault in _area_faults(area)]
    for name, line in config.lines.items():
        faults += [f"events.lines.{name}.{fault}" for fault in _line_faults(line)]
    for name, rule in config.rules.items():
        given = table["rules"][name]
        faults += [f"events.rules.{name}{fault}" for fault in _rule_faults(config, rule, given)]
        faults += [f"events.rules.{name}{fault}" for fault in _circle_fault(config, name)]
    if len(faults) > before:
        return None
    # The stage gets this record through msgspec, too, so that 0 and 0.0 have the same digest.
    return msgspec.convert(msgspec.to_builtins(config), EventsConfig)


_EACH: Final = {
    field.name: field.metadata["each"] for field in fields(EventsConfig) if "each" in field.metadata
}


def _read_each(key: str, entries: Any, faults: list[str]) -> dict[str, Any]:
    if not isinstance(entries, dict):
        faults.append(f"events.{key} = {entries!r}: must contain tables, [events.{key}.NAME]")
        return {}
    return read_named(_EACH[key], entries, f"events.{key}", "a table", faults)


def _zone_fault(zone: str) -> list[str]:
    if not zone:
        return []
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = did_you_mean(zone, zoneinfo.available_timezones())
        return [f"events.timezone = {zone!r}: must be a time zone such as Europe/Berlin{near}"]
    return []


# -- Areas and lines.


def _area_faults(area: AreaConfig) -> list[str]:
    faults = _points_faults(area, 3)
    if not faults and crosses_itself(area.points, closed=True):
        faults.append(
            "points: two edges of the area cross; give the corners in order around the area"
        )
    if not faults and abs(surface(area.points)) <= 1e-9:
        faults.append("points: the area is empty, because its corners are on one line")
    if area.metres and (len(area.metres) != 4 or len(area.points) != 4):
        faults.append(
            f"metres: {len(area.metres)} positions for {len(area.points)} corners; points must "
            "have four corners, and metres the same four"
        )
    elif area.metres and (_is_flat(area.points) or _is_flat(area.metres)):
        faults.append(
            "metres: three of the four corners are on one line, so they define no ground plane"
        )
    return faults


def _line_faults(line: LineConfig) -> list[str]:
    faults = _points_faults(line, 2)
    if not faults and any(a == b for a, b in zip(line.points, line.points[1:], strict=False)):
        faults.append("points: two consecutive points are equal")
    if not faults and crosses_itself(line.points, closed=False):
        faults.append("points: the line crosses itself, so it has no left and right")
    return faults


def _points_faults(place: AreaConfig | LineConfig, least: int) -> list[str]:
    faults = []
    if place.source and not is_name(place.source):
        faults.append(_no_name(place.source))
    if len(place.points) < least:
        faults.append(f"points: must be {least} or more points, got {len(place.points)}")
    for x, y in place.points:
        if not (math.isfinite(x) and math.isfinite(y)):
            faults.append(f"points: [{x}, {y}]: must be finite numbers")
        elif place.pixels and not (0 <= x <= 65536 and 0 <= y <= 65536):
            faults.append(
                f"points: [{x}, {y}] is outside the picture; must be pixels of the picture"
            )
        elif not place.pixels and not (0 <= x <= 1 and 0 <= y <= 1):
            remedy = ""
            if max(x, y) > 1:
                remedy = "; for pixels set pixels = true"
            faults.append(
                f"points: [{x}, {y}] is outside the picture; must be 0 to 1 of its width and "
                f"height{remedy}"
            )
    return faults


def _no_name(source: str) -> str:
    return f"source = {source!r}: not the name of a source; a name is {NAME_RULE}"


def surface(points: Iterable[Point]) -> float:
    """Return the area of a polygon whose edges do not cross; negative: clockwise, with y up."""
    corners = list(points)
    ends = [*corners[1:], corners[0]]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, ends, strict=True)) / 2


def _is_flat(points: Collection[Point]) -> bool:
    corners = list(points)
    return any(abs(surface(corners[:i] + corners[i + 1 :])) <= 1e-12 for i in range(len(corners)))


def crosses_itself(points: Iterable[Point], closed: bool) -> bool:
    """Return whether two edges of a polygon or an open line meet that are not neighbours."""
    corners = list(points)
    ends = corners[1:]
    if closed:
        ends = [*ends, corners[0]]
    edges = list(zip(corners, ends, strict=False))
    for i, edge in enumerate(edges):
        for j in range(i + 2, len(edges)):
            follows = closed and i == 0 and j == len(edges) - 1
            if not follows and _touch(*edge, *edges[j]):
                return True
    return False


def _touch(a: Point, b: Point, c: Point, d: Point) -> bool:
    if any(max(a[k], b[k]) < min(c[k], d[k]) or max(c[k], d[k]) < min(a[k], b[k]) for k in (0, 1)):
        return False
    return _turn(a, b, c) * _turn(a, b, d) <= 0 and _turn(c, d, a) * _turn(c, d, b) <= 0


def _turn(p: Point, q: Point, r: Point) -> float:
    return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])


# -- Rules.


def _rule_faults(config: EventsConfig, rule: RuleConfig, given: Mapping[str, Any]) -> list[str]:
    """Return the faults of a rule. Each begins with the key, or with ": ".

    given  the keys of the rule in the file
    """
    faults = []
    if rule.when == "crosses" and not rule.line:
        among = "a table [events.lines.NAME], and there is none"
        if config.lines:
            among = f"one of {_listed(config.lines)}"
        faults.append(f".line: missing; when = 'crosses' needs {among}")
    for key in given:
        if rule.when not in _ONLY.get(key, (rule.when,)):
            faults.append(f".{key}: it is a key of when = {' or '.join(map(repr, _ONLY[key]))}")
    for key, known in (("area", config.areas), ("line", config.lines)):
        name = getattr(rule, key)
        if name and name not in known:
            faults.append(
                f".{key} = {name!r}: there is no [events.{key}s.{name}]; known are "
                f"{_listed(known)}{did_you_mean(name, known)}"
            )
    faults += _source_faults(config, rule) + _measure_faults(config, rule) + _like_faults(rule)
    for key in ("for_s", "until_s"):
        if rule.when == "crosses" and key in given:
            faults.append(f".{key}: a crossing has no duration; remove this key")
        if rule.when == "like" and key in given:
            faults.append(f".{key}: a visit is judged once, when it has ended; remove this key")
    faults += _schedule_faults(rule.schedule)
    if isinstance(rule.at, tuple) and not all(0 <= share <= 1 for share in rule.at):
        faults.append(f".at = {list(rule.at)}: must be 0 to 1 of the width and height of the box")
    return faults


def _schedule_faults(schedule: Iterable[str]) -> list[str]:
    return [
        f'.schedule: {text!r}: must be like "22:00-06:00" or "mon-fri 07:30-18:00"'
        for text in schedule
        if not _TIME.fullmatch(text)
    ]


def _profile_faults(config: EventsConfig) -> list[str]:
    faults = []
    for name, profile in config.profiles.items():
        place = f"events.profiles.{name}"
        faults += [f"{place}{fault}" for fault in _schedule_faults(profile.schedule)]
        for rule in profile.rules:
            if rule not in config.rules:
                near = did_you_mean(rule, config.rules)
                faults.append(
                    f"{place}.rules: {rule!r}: there is no such rule; known are "
                    f"{_listed(config.rules)}{near}"
                )
    if config.profile and config.profile not in config.profiles:
        near = did_you_mean(config.profile, config.profiles)
        faults.append(
            f"events.profile = {config.profile!r}: there is no [events.profiles.{config.profile}]; "
            f"known are {_listed(config.profiles)}{near}"
        )
    return faults


def _like_faults(rule: RuleConfig) -> list[str]:
    if rule.when != "like":
        return []
    if not rule.like:
        return [".like: missing; framegate visits rule NAME writes it from the marked visits"]
    try:
        Likeness.read(rule.like)
    except LikenessInvalid as error:
        return [f".like: {error}"]
    return []


def _source_faults(config: EventsConfig, rule: RuleConfig) -> list[str]:
    if rule.source and not is_name(rule.source):
        return [f".{_no_name(rule.source)}"]
    place = config.areas.get(rule.area) or config.lines.get(rule.line)
    if rule.source and place and place.source not in ("", rule.source):
        return [f".source = {rule.source!r}: its area or line belongs to source {place.source!r}"]
    if rule.after is None:
        return []
    other = config.rules.get(rule.after.rule)
    if other is None:
        near = did_you_mean(rule.after.rule, config.rules)
        return [f".after.rule = {rule.after.rule!r}: there is no such rule{near}"]
    ours, theirs = config.source_of(rule), config.source_of(other)
    if theirs and ours != theirs:
        subject = "every source"
        if ours:
            subject = repr(ours)
        return [
            f".after.rule = {rule.after.rule!r}: that rule is about source {theirs!r}, this one "
            f"about {subject}; both must be about the same source"
        ]
    return []


def _circle_fault(config: EventsConfig, name: str) -> list[str]:
    seen = [name]
    at = config.rules[name].after
    while at is not None and at.rule in config.rules:
        if at.rule in seen:
            return [f".after: the rule comes after itself: {' after '.join([*seen, at.rule])}"]
        seen.append(at.rule)
        at = config.rules[at.rule].after
    return []


def _measure_faults(config: EventsConfig, rule: RuleConfig) -> list[str]:
    """Return the faults of the limits of a rule: number, distance, speed, state of the source."""
    faults = []
    area = config.areas.get(rule.area)
    if rule.when == "count":
        if rule.at_least is None and rule.at_most is None:
            faults.append(": missing at_least or at_most; at_most = 0: the area is empty")
        elif rule.at_least is not None and rule.at_most is not None:
            if rule.at_least > rule.at_most:
                faults.append(f".at_least = {rule.at_least}: above at_most ({rule.at_most})")
        elif rule.at_least == 0:
            faults.append(".at_least = 0: always true; must be 1 or more")
    if rule.when in ("near", "left") and rule.closer is not None and rule.closer_m is not None:
        faults.append(".closer_m: the rule also has closer; remove one of them")
    if rule.when == "near" and (rule.closer, rule.closer_m, rule.ttc_s) == (None, None, None):
        faults.append(
            ": missing closer (in heights of the smaller one), closer_m (in metres) or ttc_s "
            "(seconds until they meet)"
        )
    metric = "faster_m_s"
    if rule.closer_m is not None:
        metric = "closer_m"
    if getattr(rule, metric) is not None and area is not None and not area.metres:
        faults.append(
            f".{metric}: [events.areas.{rule.area}] has no metres; add the positions of its four "
            "corners on the ground"
        )
    elif getattr(rule, metric) is not None and area is None:
        faults.append(f".{metric}: the rule needs an area with metres")
    if rule.when == "left" and not rule.labels:
        faults.append('.labels: missing; name the things, such as ["backpack", "suitcase"]')
    if rule.when == "state" and rule.state is None:
        faults.append(f".state: missing; must be one of {', '.join(get_args(SourceState))}")
    if rule.state == "heard" and not rule.labels:
        faults.append('.labels: missing; name sounds, such as ["Fire alarm"]: docs/sound.md')
    if rule.state == "reported":
        faults += _reported_faults(rule)
    if rule.when == "state" and rule.state not in LABELLED and rule.labels:
        faults.append(
            '.labels: these are for sounds (state = "heard") and for events of the camera '
            '(state = "reported"); set one of them, or remove labels'
        )
    return faults


def _reported_faults(rule: RuleConfig) -> list[str]:
    kinds = get_args(CameraEvent)
    if not rule.labels:
        return [f".labels: missing; name events of the camera: {', '.join(kinds)}"]
    return [
        f".labels: {label!r} is no event of a camera; allowed: {', '.join(kinds)}"
        f"{did_you_mean(label, kinds)}"
        for label in rule.labels
        if label not in kinds
    ]


def eventless_faults(config: EventsConfig, sources: Mapping[str, str | None]) -> list[str]:
    """Return the faults of rules about the events of a camera that has none.

    sources  `events` of each configured source, by its name
    """
    return [
        f"events.rules.{name}.state: the source {source} does not follow the events of its camera; "
        f'add events = "onvif" to [sources.{source}]'
        for name, rule in config.rules.items()
        if rule.state == "reported"
        and (source := config.source_of(rule)) in sources
        and sources[source] is None
    ]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def label_faults(config: EventsConfig, known: Collection[str]) -> list[str]:
    """Return the faults of labels that no model of the run reports.

    known  labels that a model reports
    """
    faults = []
    for name, rule in config.rules.items():
        if rule.state in LABELLED:
            continue
        for key in ("labels", "others"):
            for label in getattr(rule, key):
                if label not in known:
                    near = did_you_mean(label, known)
                    faults.append(
                        f"events.rules.{name}.{key}: {label!r} is not detected; add it to "
                        f"[stages.detect] classes{near}"
                    )
    return faults
