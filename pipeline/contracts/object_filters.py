"""Filters: which objects a run drops before it tracks them, and which episodes it mutes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

import msgspec

from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.traits import WEIGHTS

_SHARE: Final = {"least": 0.0, "most": 1.0}
_RATIO: Final = {"least": 0.01, "most": 100.0}
_RANGES: Final = ("height", "width", "aspect")


def _box_fault(box: Any) -> str | None:
    """Return the fault of a box in shares of the picture; None if there is none."""
    if not box:
        return None
    is_inside = len(box) == 4 and all(math.isfinite(edge) and 0 <= edge <= 1 for edge in box)
    if is_inside and box[0] < box[2] and box[1] < box[3]:
        return None
    return "must be [left, top, right, bottom], 0 to 1 of the picture, with left < right and so on"


def _weights_fault(weights: Any) -> str | None:
    """Return the fault of the weights of a filter; None if there is none."""
    if not weights or (len(weights) == WEIGHTS and all(math.isfinite(each) for each in weights)):
        return None
    return (
        f"must be {WEIGHTS} numbers, as `framegate filters learn` prints them, got {len(weights)}"
    )


@dataclass(frozen=True)
class ObjectFilter:
    """`[filters.NAME]`: objects that are dropped after detection and before tracking.

    A filter looks at the objects of its sources, labels and area. It drops those that exceed one of
    its limits, and without limits all of them. The picture and recordings stay as they are.

    A filter with a rule drops no object. It mutes episodes of the rule that look like those that
    were judged false.

    sources     names of the sources. Default: every source
    labels      classes of the objects. Default: every class
    area        corners [x, y] of an area in order, 0 to 1 of the picture's width and height.
                Default: the whole picture
    at          point of the box that must be in the area: foot, the middle of the lower edge, or
                center
    min_score   lowest score, 0 to 1
    min_height  lowest height of the box, 0 to 1 of the picture's height
    max_height  greatest height of the box, 0 to 1 of the picture's height
    min_width   lowest width of the box, 0 to 1 of the picture's width
    max_width   greatest width of the box, 0 to 1 of the picture's width
    min_aspect  lowest height of the box divided by its width, in pixels
    max_aspect  greatest height of the box divided by its width, in pixels
    box         place of an object that stands still: left, top, right, bottom, 0 to 1 of the
                picture. The filter then looks only at objects there, and not at those that came
                there from elsewhere less than 5 s ago
    min_iou     lowest overlap with `box` of an object there, as intersection over union
    rule        rule whose episodes it mutes. It has `weights`, one source, and no other key than
                `rule_version`
    weights     ten numbers that `framegate filters learn` computes from verdicts
    rule_version  version of the rule that the verdicts were about, eight hex digits. Episodes of
                another version are not muted. Default: every version
    """

    sources: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    area: tuple[tuple[float, float], ...] = ()
    at: Literal["foot", "center"] = "foot"
    min_score: float | None = field(default=None, metadata=_SHARE)
    min_height: float | None = field(default=None, metadata=_SHARE)
    max_height: float | None = field(default=None, metadata=_SHARE)
    min_width: float | None = field(default=None, metadata=_SHARE)
    max_width: float | None = field(default=None, metadata=_SHARE)
    min_aspect: float | None = field(default=None, metadata=_RATIO)
    max_aspect: float | None = field(default=None, metadata=_RATIO)
    box: tuple[float, ...] = field(default=(), metadata={"check": _box_fault})
    min_iou: float = field(default=0.8, metadata={"least": 0.5, "most": 1.0})
    rule: str = ""
    weights: tuple[float, ...] = field(default=(), metadata={"check": _weights_fault})
    rule_version: str = ""

    def is_learned_for(self, version: str) -> bool:
        """Return whether it mutes episodes of this version of its rule."""
        return self.rule_version in ("", version)

    @property
    def has_limits(self) -> bool:
        """Return whether it drops only the objects that exceed a limit."""
        limits = [self.min_score, self.min_height, self.max_height, self.min_width]
        limits += [self.max_width, self.min_aspect, self.max_aspect]
        return any(limit is not None for limit in limits)

    def is_for(self, source: str) -> bool:
        """Return whether it looks at objects of this source."""
        return not self.sources or source in self.sources

    def faults(self) -> list[str]:
        """Return the faults of the values together."""
        faults = [
            f"sources: {name!r}: not the name of a source; a name is {NAME_RULE}"
            for name in self.sources
            if not is_name(name)
        ]
        if self.area:
            faults += [f"area: {fault}" for fault in _area_faults(self.area)]
        for name in _RANGES:
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least is not None and most is not None and least > most:
                faults.append(
                    f"min_{name} = {least:g}: must not be above max_{name} = {most:g}; otherwise "
                    "every object would be dropped"
                )
        if self.rule or self.weights or self.rule_version:
            faults += self._learned_faults()
        elif not (self.labels or self.area or self.box or self.has_limits):
            faults.append(
                "labels: missing, as are area, box and every limit, so the filter would drop all "
                "objects; set one of them"
            )
        return faults

    def _learned_faults(self) -> list[str]:
        faults = []
        if not (self.rule and self.weights and len(self.sources) == 1):
            faults.append(
                "rule, weights, sources: a filter that mutes episodes must have a rule, its "
                "weights and exactly one source"
            )
        if self.labels or self.area or self.box or self.has_limits:
            faults.append(
                f"rule = {self.rule!r}: a filter that mutes episodes must have no labels, area, "
                "box or limits; add another filter for them"
            )
        return faults


def dropping(filters: Mapping[str, ObjectFilter]) -> dict[str, ObjectFilter]:
    """Return the filters that drop objects, by name."""
    return {name: each for name, each in filters.items() if not each.rule}


def muting(filters: Mapping[str, ObjectFilter]) -> dict[str, tuple[str, ObjectFilter]]:
    """Return the filters that mute episodes, by rule, each with `NAME/DIGEST`.

    The digest is eight hex digits of its weights. Of several filters of a rule, the last counts.
    """
    learned = {}
    for name, each in filters.items():
        if each.rule:
            learned[each.rule] = (f"{name}/{digest_of(each.weights)}", each)
    return learned


def digest_of(weights: Sequence[float]) -> str:
    """Return eight hex digits of the digest of the weights of a filter."""
    return hashlib.sha256(msgspec.json.encode(tuple(weights))).hexdigest()[:8]


FilterOrigin = Literal["config", "add", "verdict"]


@dataclass(frozen=True, kw_only=True)
class NamedFilter(ObjectFilter):
    """An object filter of a run.

    name     its name, unique in the run; empty: the run chooses one
    by       origin: the configuration, a command of a user, or a verdict about an episode
    episode  id of the episode whose object it hides, if a verdict made it
    """

    name: str = ""
    by: FilterOrigin = "add"
    episode: str = ""

    def plain(self) -> ObjectFilter:
        """Return the filter without its name and origin."""
        return ObjectFilter(
            **{each.name: getattr(self, each.name) for each in fields(ObjectFilter)}
        )


def _area_faults(area: Sequence[tuple[float, float]]) -> list[str]:
    if len(area) < 3:
        return [f"must be three or more points [x, y], got {len(area)}"]
    outside = [point for point in area if not all(0 <= value <= 1 for value in point)]
    return [
        f"[{x:g}, {y:g}] is outside the picture; must be 0 to 1 of its width and height"
        for x, y in outside
    ]


# -- Requests to the supervisor about filters. The reply is a FilterList.


class GetFilters(msgspec.Struct, frozen=True, tag=True):
    """Ask for the object filters of the run."""


class AddFilter(msgspec.Struct, frozen=True, tag=True):
    """Add an object filter to the run.

    replaces  name of the added filter that is removed for it, in one step; "": none
    """

    filter: NamedFilter
    replaces: str = ""


class RemoveFilter(msgspec.Struct, frozen=True, tag=True):
    """Remove an object filter that was added to the run."""

    name: str


class FilterList(msgspec.Struct, frozen=True, tag=True):
    """The object filters of the run: those of its configuration, then the added ones."""

    filters: list[NamedFilter]


FilterRequest = GetFilters | AddFilter | RemoveFilter
