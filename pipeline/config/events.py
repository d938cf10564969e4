"""`[events]` of pipeline.toml: areas, lines and rules.

docs/events.md describes the meaning of a rule. `stages/events` gets these records and applies them.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias

import msgspec

from framegate.pipeline.config.snooze import snooze_fault, snoozes_fault
from framegate.pipeline.contracts.episodes import Severity, When

Point: TypeAlias = tuple[float, float]
SourceState: TypeAlias = Literal[
    "lost", "failed", "moving", "moved", "degraded", "heard", "reported"
]
"""States of a source that a rule can name; RuleConfig explains each."""

_SECONDS: Final = {"least": 0.0, "most": 86400.0}
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

    when           inside: an object is in an area, or in the picture. crosses: an object crosses a
                   line. count: the number of objects in an area, or in the picture. near: two
                   objects are close to each other. left: a still object has no person near it.
                   state: the state of the source. like: a visit has ended that is like the marked
                   ones
    area           name of the area that contains the objects. Default: the whole picture
    line           name of the line (crosses)
    source         source that the rule checks. Default: the source of the area or line, otherwise
                   every source
    labels         classes of the objects. Default: all classes that are detected. With state =
                   "heard": the sounds. With state = "reported": the events of the camera, out of
                   motion, person, vehicle, animal, line, area, tamper and other
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
                   not answer. heard: one of the sounds in labels. reported: the camera itself
                   reports one of the events in labels; its source needs events
    like           the marked visits, as `framegate visits rule` writes them (like)
    for_s          seconds for which the condition must be true before the episode is reported. The
                   episode starts when the condition became true
    until_s        seconds for which the condition must be false before the episode ends. The end is
                   the last time at which the condition was true
    gap_s          seconds without a look at the picture, or without a sight of the object, that are
                   ignored
    update_s       seconds between two updates of an open episode; 0: no updates
    fresh_s        seconds for which a look at the picture is valid (count with at_most). After that
                   the number of objects is unknown
    min_score      lowest score of a box or a sound that counts, 0 to 1. With when = "like": lowest
                   likeness; 0 stands for 0.5
    min_sightings  frames in which a network must have seen the object before the episode is
                   reported
    schedule       times at which the rule is active, such as "22:00-06:00" or "mon-fri
                   07:30-18:00". Default: always
    snoozed        period in which the rule is not active: two times with their zone and "/" between
                   them, which `framegate rules snooze` writes
    after          a table: the rule starts only after an episode of another rule
    enabled        false: the rule is off. Its open episodes end
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
    like: str = ""
    for_s: float = field(default=0.0, metadata=_SECONDS)
    until_s: float = field(default=1.0, metadata=_SECONDS)
    gap_s: float = field(default=3.0, metadata={"least": 0.0, "most": 3600.0})
    update_s: float = field(default=60.0, metadata=_SECONDS)
    fresh_s: float = field(default=12.0, metadata={"least": 0.05, "most": 3600.0})
    min_score: float = field(default=0.0, metadata={"least": 0.0, "most": 1.0})
    min_sightings: int = field(default=2, metadata={"least": 1, "most": 1000})
    schedule: tuple[str, ...] = ()
    snoozed: str = field(default="", metadata={"check": snooze_fault})
    after: AfterConfig | None = None
    enabled: bool = True
    severity: Severity = "detection"
    clip: bool | ClipConfig = False


@dataclass(frozen=True)
class ProfileConfig:
    """`[events.profiles.NAME]`: rules that are active together, such as at night.

    rules     names of the rules that are active in this profile. A rule that no profile names is
              active in each of them
    schedule  times of the profile, as in a rule, if [events] profile is empty. Default: always
    """

    rules: tuple[str, ...] = ()
    schedule: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventsConfig:
    """`[events]`: rules that turn results into episodes. Without rules there are only visits.

    reconnect_s  seconds for which an episode stays open while its camera is disconnected
    handover     true: a new track that starts where another track was lost continues the episodes
                 of that track
    view         any text. Change it after you move a camera and adapt its areas and lines, so that
                 the new view is the reference
    timezone     time zone of schedules, such as "Europe/Berlin". Default: the time zone of this
                 machine
    profile      name of the active profile. Default: the first profile in the file whose schedule
                 includes the time of the frame; if there is none, all rules are active
    snoozed      period in which no rule is active, as in a rule
    snoozed_sources  such a period of all rules with a source, by the name of the source
    areas        areas by name: [events.areas.NAME]
    lines        lines by name: [events.lines.NAME]
    rules        rules by name: [events.rules.NAME]
    profiles     profiles by name: [events.profiles.NAME]
    """

    reconnect_s: float = field(default=30.0, metadata={"least": 0.0, "most": 3600.0})
    handover: bool = True
    view: str = ""
    timezone: str = ""
    profile: str = ""
    snoozed: str = field(default="", metadata={"check": snooze_fault})
    snoozed_sources: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "check": snoozes_fault,
            "schema": {"additionalProperties": {"type": "string"}},
        },
    )
    areas: dict[str, AreaConfig] = field(default_factory=dict, metadata={"each": AreaConfig})
    lines: dict[str, LineConfig] = field(default_factory=dict, metadata={"each": LineConfig})
    rules: dict[str, RuleConfig] = field(default_factory=dict, metadata={"each": RuleConfig})
    profiles: dict[str, ProfileConfig] = field(
        default_factory=dict, metadata={"each": ProfileConfig}
    )

    def digest(self, name: str) -> str:
        """Return eight hex digits that name a rule with its area, its line and the rules before it.

        Two rules with the same digest give the same episodes for the same results, except while one
        of them is snoozed or outside its profile.
        """
        parts: list[Any] = [self.reconnect_s, self.handover]
        while name:
            rule = self.rules[name]
            places = [self.areas.get(rule.area), self.lines.get(rule.line)]
            parts += [name, values_of(rule), *places]
            if rule.schedule:
                parts.append(self.timezone)
            name = ""
            if rule.after is not None:
                name = rule.after.rule
        data = msgspec.json.encode(parts, order="sorted")
        return hashlib.blake2b(data, digest_size=4).hexdigest()

    @property
    def asks_where(self) -> bool:
        """Return whether a rule depends on positions in the picture or on a moved camera."""
        rules = self.rules.values()
        return any(rule.area or rule.line or rule.state == "moved" for rule in rules)

    def view_of(self, source: str) -> str:
        """Return eight hex digits that name the areas and lines of a source and `view`."""
        rules = self.of_source(source).values()
        areas = {rule.area: self.areas.get(rule.area) for rule in rules if rule.area}
        lines = {rule.line: self.lines.get(rule.line) for rule in rules if rule.line}
        data = msgspec.json.encode((areas, lines, self.view), order="sorted")
        return hashlib.blake2b(data, digest_size=4).hexdigest()

    def of_source(self, source: str) -> dict[str, RuleConfig]:
        """Return the rules about a source, by name."""
        return {
            name: rule for name, rule in self.rules.items() if self.source_of(rule) in ("", source)
        }

    def source_of(self, rule: RuleConfig) -> str:
        """Return the name of the only source that a rule is about; "": every source."""
        if rule.source:
            return rule.source
        for place in (self.areas.get(rule.area), self.lines.get(rule.line)):
            if place is not None and place.source:
                return place.source
        return ""


def values_of(rule: RuleConfig) -> dict[str, Any]:
    """Return the values of a rule that are not the defaults, by key, without its snooze.

    A key that a later version adds does not change them, so digests stay. Neither does a snooze, so
    an open episode ends as at the end of a schedule.
    """
    return {
        key: value
        for key, value in asdict(rule).items()
        if key != "snoozed" and value != _USUAL.get(key)
    }


_USUAL: Final = {field.name: field.default for field in fields(RuleConfig)}


def sounds_asked(config: EventsConfig) -> dict[str, tuple[str, ...]]:
    """Return the sounds that rules use, by the name of the rule."""
    return {name: rule.labels for name, rule in config.rules.items() if rule.state == "heard"}


def rules_to_mute(config: EventsConfig) -> dict[str, str]:
    """Return the versions of the rules whose episodes a filter can judge, by the rule's name."""
    return {
        name: config.digest(name)
        for name, rule in config.rules.items()
        if rule.when not in ("count", "state", "like")
    }
