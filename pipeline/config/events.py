"""`[events]` of pipeline.toml: areas, lines and rules; all that is wrong with them is told at once.

What a rule means is in docs/events.md; what judges it is `stages/events`, which gets these records.
"""

from __future__ import annotations

import hashlib
import math
import re
import zoneinfo
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from framegate.pipeline.config.options import read_named, read_options
from framegate.pipeline.contracts.episodes import Severity, When
from framegate.pipeline.contracts.errors import did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name

Point: TypeAlias = tuple[float, float]
SourceState: TypeAlias = Literal["lost", "failed", "moving", "moved", "degraded", "heard"]
"""What a source can be: away, not looked at for a fault, panned, looking elsewhere than its areas
and lines were drawn for, not judged by the heavy pass that was to be asked, heard to make a sound.
Each is told in RuleConfig.
"""

_SECONDS: Final = {"least": 0.0, "most": 86400.0}
_TIME: Final = re.compile(
    r"(?:((?:mon|tue|wed|thu|fri|sat|sun)(?:-(?:mon|tue|wed|thu|fri|sat|sun))?) )?"
    r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)"
)
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class AreaConfig:
    """`[events.areas.NAME]`: an area of the picture.

    points  corners [x, y] in order, 0 to 1 of the width and height of the picture
    source  source to which the area belongs. Default: every source
    pixels  true: the points are in pixels
    metres  positions [x, y] of the four corners on the ground in metres, in the same order. Speeds
            and distances in metres need it. The area must have four corners
    """

    points: tuple[Point, ...]
    source: str = ""
    pixels: bool = False
    metres: tuple[Point, ...] = ()


@dataclass(frozen=True)
class LineConfig:
    """`[events.lines.NAME]`: a line across the picture. Seen along the line, the direction `in`
    is from left to right.

    points  two or more points [x, y] in order, 0 to 1 of the width and height of the picture
    source  source to which the line belongs. Default: every source
    pixels  true: the points are in pixels
    """

    points: tuple[Point, ...]
    source: str = ""
    pixels: bool = False


@dataclass(frozen=True)
class AfterConfig:
    """`[events.rules.NAME.after]`: the rule can start only after an episode of another rule.

    rule      name of the other rule
    within_s  seconds after the start of that episode in which this rule can start. It can also
              start while that episode lasts
    """

    rule: str
    within_s: float = field(default=10.0, metadata=_SECONDS)


@dataclass(frozen=True)
class ClipConfig:
    """`[events.rules.NAME.clip]`: the part of a recording that is kept with an episode.

    `clip = true` keeps it with these defaults.

    before_s  seconds before the start of the episode
    after_s   seconds after the end of the episode
    """

    before_s: float = field(default=5.0, metadata={"least": 0.0, "most": 600.0})
    after_s: float = field(default=5.0, metadata={"least": 0.0, "most": 600.0})


@dataclass(frozen=True)
class RuleConfig:
    """`[events.rules.NAME]`: a condition that creates episodes.

    when           inside: an object is in an area. crosses: an object crosses a line. count: the
                   number of objects in an area. near: two objects are close to each other. left: a
                   still object has no person near it. state: the state of the source
    area           name of the area. For near and left, the area that contains the objects. Default:
                   the whole picture
    line           name of the line (crosses)
    source         source that the rule checks. Default: the source of the area or line, otherwise
                   every source
    labels         classes of the objects. Default: all classes that are detected. With state =
                   "heard": the sounds
    at             point of the box that represents the object: foot, the middle of the lower edge;
                   center; or [x, y], 0 to 1 of the box from its upper left corner
    direction      direction across the line (crosses). in, out: as the line is drawn. both: either
    at_least       the condition is true with this number of objects or more (count)
    at_most        the condition is true with this number of objects or fewer (count). With
                   at_least: between the two numbers
    still          the object must stand still (inside)
    faster_m_s     the object must be faster than this, in metres per second (inside). The area
                   needs metres
    heading        the object must move in this direction, within 45 degrees (inside). 0 is up in
                   the picture, 90 is right
    others         classes of the other object (near), or of the objects that may be beside it
                   (left)
    closer         greatest distance, in heights of the smaller object (near), or distance within
                   which no person is (left)
    closer_m       the same distance in metres. The area needs metres
    ttc_s          the objects would meet within this number of seconds at their present speeds
                   (near)
    state          state of the source. lost: the camera is disconnected. failed: its frames cannot
                   be analysed. moving: the camera turns. moved: the camera shows another view than
                   the one for which the areas and lines were drawn. degraded: the heavy model did
                   not answer. heard: one of the sounds in labels
    for_s          seconds for which the condition must be true before the episode is reported. The
                   episode starts when the condition became true
    until_s        seconds for which the condition must be false before the episode ends. The end is
                   the last time at which the condition was true
    gap_s          seconds without a look at the picture, or without a sight of the object, that are
                   ignored
    update_s       seconds between two updates of an open episode; 0: no updates
    fresh_s        seconds for which a look at the picture is valid (count with at_most). After that
                   the number of objects is unknown
    min_score      lowest score of a box or a sound that counts, 0 to 1
    min_sightings  frames in which a network must have seen the object before the episode is
                   reported
    schedule       times at which the rule is active, such as "22:00-06:00" or "mon-fri
                   07:30-18:00". Default: always
    after          a table: the rule starts only after an episode of another rule
    severity       level of the episodes: detection or alert. Sinks can select by it
    clip           keep the part of the recording that belongs to the episode: true, or a table with
                   before_s and after_s
    """

    when: When
    area: str = ""
    line: str = ""
    source: str = ""
    labels: tuple[str, ...] = ()
    at: Literal["foot", "center"] | tuple[float, float] = "foot"
    direction: Literal["in", "out", "both"] = "both"
    at_least: int | None = field(default=None, metadata={"least": 0, "most": 10000})
    at_most: int | None = field(default=None, metadata={"least": 0, "most": 10000})
    still: bool = False
    faster_m_s: float | None = field(default=None, metadata={"least": 0.0, "most": 100.0})
    heading: float | None = field(default=None, metadata={"least": 0.0, "most": 360.0})
    others: tuple[str, ...] = ()
    closer: float | None = field(default=None, metadata={"least": 0.0, "most": 100.0})
    closer_m: float | None = field(default=None, metadata={"least": 0.0, "most": 1000.0})
    ttc_s: float | None = field(default=None, metadata={"least": 0.0, "most": 3600.0})
    state: SourceState | None = None
    for_s: float = field(default=0.0, metadata=_SECONDS)
    until_s: float = field(default=1.0, metadata=_SECONDS)
    gap_s: float = field(default=3.0, metadata={"least": 0.0, "most": 3600.0})
    update_s: float = field(default=60.0, metadata=_SECONDS)
    fresh_s: float = field(default=12.0, metadata={"least": 0.05, "most": 3600.0})
    min_score: float = field(default=0.0, metadata={"least": 0.0, "most": 1.0})
    min_sightings: int = field(default=2, metadata={"least": 1, "most": 1000})
    schedule: tuple[str, ...] = ()
    after: AfterConfig | None = None
    severity: Severity = "detection"
    clip: bool | ClipConfig = False


@dataclass(frozen=True)
class EventsConfig:
    """`[events]`: rules that turn results into episodes. Without rules nothing runs.

    reconnect_s  seconds for which an episode stays open while its camera is disconnected
    handover     true: a new track that starts where another track was lost continues the episodes
                 of that track
    view         any text. Change it after you move a camera and adapt its areas and lines, so that
                 the new view is the reference
    timezone     time zone of schedules, such as "Europe/Berlin". Default: the time zone of this
                 machine
    areas        areas by name: [events.areas.NAME]
    lines        lines by name: [events.lines.NAME]
    rules        rules by name: [events.rules.NAME]
    """

    reconnect_s: float = field(default=30.0, metadata={"least": 0.0, "most": 3600.0})
    handover: bool = True
    view: str = ""
    timezone: str = ""
    areas: dict[str, AreaConfig] = field(default_factory=dict, metadata={"each": AreaConfig})
    lines: dict[str, LineConfig] = field(default_factory=dict, metadata={"each": LineConfig})
    rules: dict[str, RuleConfig] = field(default_factory=dict, metadata={"each": RuleConfig})

    def digest(self, name: str) -> str:
        """Eight hex digits: of a rule with its area and line, and of those that it comes after.

        Two rules with the same tell the same of the same results.
        """
        told: list[Any] = [self.reconnect_s, self.handover]
        while name:
            rule = self.rules[name]
            # What is not said is left out: a key that a later version adds changes no rule.
            said = {key: value for key, value in asdict(rule).items() if value != _USUAL.get(key)}
            told += [name, said, self.areas.get(rule.area), self.lines.get(rule.line)]
            told += [self.timezone] if rule.schedule else []
            name = rule.after.rule if rule.after else ""
        data = msgspec.json.encode(told, order="sorted")
        return hashlib.blake2b(data, digest_size=4).hexdigest()

    @property
    def asks_where(self) -> bool:
        """Whether a rule asks where something is in a picture, or whether a camera was moved."""
        rules = self.rules.values()
        return any(one.area or one.line or one.state == "moved" for one in rules)

    def view_of(self, source: str) -> str:
        """Eight hex digits, of the areas and lines that its rules have, and of `view`."""
        rules = self.of_source(source).values()
        places = {one.area: self.areas.get(one.area) for one in rules if one.area}
        lines = {one.line: self.lines.get(one.line) for one in rules if one.line}
        data = msgspec.json.encode((places, lines, self.view), order="sorted")
        return hashlib.blake2b(data, digest_size=4).hexdigest()

    def of_source(self, source: str) -> dict[str, RuleConfig]:
        """The rules that judge a source, by name."""
        return {
            name: rule for name, rule in self.rules.items() if self.source_of(rule) in ("", source)
        }

    def source_of(self, rule: RuleConfig) -> str:
        """Name of the only source that a rule judges; "": every one."""
        places = (self.areas.get(rule.area), self.lines.get(rule.line))
        return rule.source or next((one.source for one in places if one and one.source), "")


_USUAL: Final = {one.name: one.default for one in fields(RuleConfig)}
_NEEDS: Final[Mapping[When, str]] = {"inside": "area", "crosses": "line", "count": "area"}
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
    "area": ("inside", "count", "near", "left"),
    "labels": ("inside", "crosses", "count", "near", "left", "state"),
}


def read_events(table: Mapping[str, Any], faults: list[str]) -> EventsConfig | None:
    """What the table `[events]` says; what is wrong is appended to `faults`, then it is None."""
    before = len(faults)
    places = {key: table[key] for key in _EACH if key in table}
    rest = {key: value for key, value in table.items() if key not in _EACH}
    common = read_options(EventsConfig, rest, "events.", faults)
    read = {key: _read_each(key, places.get(key, {}), faults) for key in _EACH}
    if common is None or len(faults) > before:
        return None
    config = EventsConfig(common.reconnect_s, common.handover, common.view, common.timezone, **read)
    faults += _zone_fault(config.timezone)
    for name, area in config.areas.items():
        faults += [f"events.areas.{name}.{fault}" for fault in _area_faults(area)]
    for name, line in config.lines.items():
        faults += [f"events.lines.{name}.{fault}" for fault in _line_faults(line)]
    for name, rule in config.rules.items():
        said = table["rules"][name]
        faults += [f"events.rules.{name}{fault}" for fault in _rule_faults(config, rule, said)]
        faults += [f"events.rules.{name}{fault}" for fault in _circle_fault(config, name)]
    # As those get it who read it from a spec: 0 and 0.0 have one digest.
    return (
        msgspec.convert(msgspec.to_builtins(config), EventsConfig)
        if len(faults) == before
        else None
    )


_EACH: Final = {
    one.name: one.metadata["each"] for one in fields(EventsConfig) if "each" in one.metadata
}


def _read_each(key: str, entries: Any, faults: list[str]) -> dict[str, Any]:
    if not isinstance(entries, dict):
        faults.append(f"events.{key} = {entries!r}: must hold tables, [events.{key}.NAME]")
        return {}
    return read_named(_EACH[key], entries, f"events.{key}", "a table", faults)


def _zone_fault(zone: str) -> list[str]:
    if not zone:
        return []
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = did_you_mean(zone, zoneinfo.available_timezones())
        return [
            f"events.timezone = {zone!r}: no such time zone; allowed is Europe/Berlin, say{near}"
        ]
    return []


# -- Where.


def _area_faults(area: AreaConfig) -> list[str]:
    faults = _points_faults(area, 3)
    if not faults and crosses_itself(area.points, closed=True):
        faults.append(
            "points: two edges of the area cross; say its corners in order, round the area"
        )
    if not faults and abs(_surface(area.points)) <= 1e-9:
        faults.append("points: the area is empty: its corners lie on a line")
    if area.metres and (len(area.metres) != 4 or len(area.points) != 4):
        faults.append(
            f"metres: {len(area.metres)} places for {len(area.points)} corners; allowed are four "
            "corners in points and the same four here"
        )
    elif area.metres and (_is_flat(area.points) or _is_flat(area.metres)):
        faults.append("metres: three of the four lie on a line, so they say no ground")
    return faults


def _line_faults(line: LineConfig) -> list[str]:
    faults = _points_faults(line, 2)
    if not faults and any(a == b for a, b in zip(line.points, line.points[1:], strict=False)):
        faults.append("points: two points that follow each other are the same")
    if not faults and crosses_itself(line.points, closed=False):
        faults.append("points: the line crosses itself, so it has no left and right")
    return faults


def _points_faults(place: AreaConfig | LineConfig, least: int) -> list[str]:
    faults = [] if not place.source or is_name(place.source) else [_no_name(place.source)]
    if len(place.points) < least:
        faults.append(f"points: {len(place.points)} of them; allowed are {least} or more")
    for x, y in place.points:
        if not (math.isfinite(x) and math.isfinite(y)):
            faults.append(f"points: [{x}, {y}]: allowed are finite numbers")
        elif place.pixels and not (0 <= x <= 65536 and 0 <= y <= 65536):
            faults.append(f"points: [{x}, {y}] is outside the picture; allowed are its pixels")
        elif not place.pixels and not (0 <= x <= 1 and 0 <= y <= 1):
            instead = "; if these are pixels, say pixels = true" if max(x, y) > 1 else ""
            faults.append(
                f"points: [{x}, {y}] is outside the picture; allowed is 0 to 1 of its width and "
                f"height{instead}"
            )
    return faults


def _no_name(source: str) -> str:
    return f"source = {source!r}: it cannot name a source; a name is {NAME_RULE}"


def _surface(points: Iterable[Point]) -> float:
    corners = list(points)
    ends = [*corners[1:], corners[0]]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, ends, strict=True)) / 2


def _is_flat(points: Collection[Point]) -> bool:
    corners = list(points)
    return any(abs(_surface(corners[:i] + corners[i + 1 :])) <= 1e-12 for i in range(len(corners)))


def crosses_itself(points: Iterable[Point], closed: bool) -> bool:
    """Whether a polygon, or an open line, meets itself but where two edges follow each other."""
    corners = list(points)
    edges = list(zip(corners, [*corners[1:], *(corners[:1] if closed else ())], strict=False))
    for i, one in enumerate(edges):
        for j in range(i + 2, len(edges)):
            follows = closed and i == 0 and j == len(edges) - 1
            if not follows and _touch(*one, *edges[j]):
                return True
    return False


def _touch(a: Point, b: Point, c: Point, d: Point) -> bool:
    if any(max(a[k], b[k]) < min(c[k], d[k]) or max(c[k], d[k]) < min(a[k], b[k]) for k in (0, 1)):
        return False
    return _turn(a, b, c) * _turn(a, b, d) <= 0 and _turn(c, d, a) * _turn(c, d, b) <= 0


def _turn(p: Point, q: Point, r: Point) -> float:
    return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])


# -- What.


def _rule_faults(config: EventsConfig, rule: RuleConfig, said: Mapping[str, Any]) -> list[str]:
    """Faults of a rule that was read; each begins with the key, or with ": "."""
    faults = []
    needs = _NEEDS.get(rule.when)
    if needs and not said.get(needs):
        known = config.lines if needs == "line" else config.areas
        faults.append(f".{needs}: missing; when = {rule.when!r} needs one of {_listed(known)}")
    for key in said:
        if rule.when not in _ONLY.get(key, (rule.when,)):
            faults.append(f".{key}: it is a key of when = {' or '.join(map(repr, _ONLY[key]))}")
    for key, known in (("area", config.areas), ("line", config.lines)):
        name = getattr(rule, key)
        if name and name not in known:
            faults.append(
                f".{key} = {name!r}: there is no [events.{key}s.{name}]; allowed are "
                f"{_listed(known)}{did_you_mean(name, known)}"
            )
    faults += _source_faults(config, rule) + _measure_faults(config, rule)
    for key in ("for_s", "until_s"):
        if rule.when == "crosses" and key in said:
            faults.append(f".{key}: a crossing takes no time; remove it")
    for text in rule.schedule:
        if not _TIME.fullmatch(text):
            faults.append(
                f'.schedule: {text!r}; allowed are "22:00-06:00" and "mon-fri 07:30-18:00"'
            )
    if isinstance(rule.at, tuple) and not all(0 <= share <= 1 for share in rule.at):
        faults.append(f".at = {list(rule.at)}: allowed is 0 to 1 of the box's width and height")
    return faults


def _source_faults(config: EventsConfig, rule: RuleConfig) -> list[str]:
    if rule.source and not is_name(rule.source):
        return [f".{_no_name(rule.source)}"]
    place = config.areas.get(rule.area) or config.lines.get(rule.line)
    if rule.source and place and place.source not in ("", rule.source):
        return [f".source = {rule.source!r}: its area or line is of source {place.source!r}"]
    if rule.after is None:
        return []
    other = config.rules.get(rule.after.rule)
    if other is None:
        near = did_you_mean(rule.after.rule, config.rules)
        return [f".after.rule = {rule.after.rule!r}: there is no such rule{near}"]
    ours, theirs = config.source_of(rule), config.source_of(other)
    if theirs and ours != theirs:
        return [
            f".after.rule = {rule.after.rule!r}: it judges source {theirs!r}, and this rule "
            f"{repr(ours) if ours else 'every source'}; allowed is a rule of the same source"
        ]
    return []


def _circle_fault(config: EventsConfig, name: str) -> list[str]:
    seen, at = [name], config.rules[name].after
    while at is not None and at.rule in config.rules:
        if at.rule in seen:
            return [f".after: it comes after itself: {' after '.join([*seen, at.rule])}"]
        seen.append(at.rule)
        at = config.rules[at.rule].after
    return []


def _measure_faults(config: EventsConfig, rule: RuleConfig) -> list[str]:
    """Faults of what a rule measures: how many, how close, how fast, how the source is."""
    faults = []
    area = config.areas.get(rule.area)
    if rule.when == "count":
        if rule.at_least is None and rule.at_most is None:
            faults.append(": missing at_least or at_most; at_most = 0 is: the area is empty")
        elif rule.at_least is not None and rule.at_most is not None:
            if rule.at_least > rule.at_most:
                faults.append(f".at_least = {rule.at_least}: more than at_most")
        elif rule.at_least == 0:
            faults.append(".at_least = 0: that is always so; allowed is 1 or more")
    if rule.when in ("near", "left") and rule.closer is not None and rule.closer_m is not None:
        faults.append(".closer_m: closer is there, too; remove one of them")
    if rule.when == "near" and (rule.closer, rule.closer_m, rule.ttc_s) == (None, None, None):
        faults.append(
            ": missing closer (in heights of the smaller one), closer_m (in metres) or ttc_s "
            "(seconds until they meet)"
        )
    metric = "closer_m" if rule.closer_m is not None else "faster_m_s"
    if getattr(rule, metric) is not None and area is not None and not area.metres:
        faults.append(
            f".{metric}: [events.areas.{rule.area}] says no metres; add there where its four "
            "corners are on the ground"
        )
    elif getattr(rule, metric) is not None and area is None:
        faults.append(f".{metric}: it needs an area with metres")
    if rule.when == "left" and not rule.labels:
        faults.append('.labels: missing; what may be left, as ["backpack", "suitcase"]')
    if rule.when == "state" and rule.state is None:
        faults.append(f".state: missing; allowed are {', '.join(get_args(SourceState))}")
    if rule.state == "heard" and not rule.labels:
        faults.append('.labels: missing; which sounds, as ["Glass", "Fire alarm"]: docs/sound.md')
    if rule.when == "state" and rule.state != "heard" and rule.labels:
        faults.append('.labels: of state they are sounds; say state = "heard", or remove them')
    return faults


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none that is there"


def sounds_asked(config: EventsConfig) -> dict[str, tuple[str, ...]]:
    """Which sounds rules ask for, by the name of the rule."""
    return {name: rule.labels for name, rule in config.rules.items() if rule.state == "heard"}


def label_faults(config: EventsConfig, known: Collection[str]) -> list[str]:
    """Labels of rules that no model of the run can give. known: those that one can."""
    faults = []
    for name, rule in config.rules.items():
        if rule.state == "heard":
            continue
        for key in ("labels", "others"):
            for label in getattr(rule, key):
                if label not in known:
                    near = did_you_mean(label, known)
                    faults.append(
                        f"events.rules.{name}.{key}: {label!r} is not looked for; "
                        f"[stages.detect] classes says what is{near}"
                    )
    return faults
