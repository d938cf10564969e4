"""Choose a detector for each source, and state what another one finds more, by labels.

`found_by_labels.toml` has what whole runs found in the labelled clips of `benchmarks/truth`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

FOUND: Final = Path(__file__).parent / "found_by_labels.toml"
DEFAULT: Final = "light"
# CPU time of a look, in looks of the default detector: one thread, INT8, 1920x1080, AMD EPYC.
# `framegate init` and `framegate check` measure it on the machine at hand.
COSTS: Final[Mapping[str, float]] = {
    "light": 1.0,
    "nanodet-plus-640": 2.1,
    "nanodet-plus-960": 4.0,
    "nanodet-plus-1280": 7.1,
    "surveillance": 0.9,
    "surveillance-large": 2.4,
}
# In no labelled clip did the network get more than 73 % of the frames.
LOOKED: Final = 0.75
# Longer side of a picture, from which these larger inputs are candidates. On the clips that choose
# settings, an input larger than the picture finds more on one clip of four and less on two.
_LARGER: Final[tuple[tuple[int, tuple[str, ...]], ...]] = (
    (1281, ("nanodet-plus-640", "nanodet-plus-960", "nanodet-plus-1280")),
    (640, ("nanodet-plus-640",)),
)
SURVEILLANCE: Final = ("surveillance", "surveillance-large")
# Networks of results whose detector has another name.
_NAMES: Final[Mapping[str, str]] = {
    "nanodet-plus-416": DEFAULT,
    "surveillance-448": "surveillance",
    "surveillance-large-864": "surveillance-large",
}
_NETWORK: Final = re.compile(r"([a-z-]+-[0-9]+)-")
# Labels of results, by the group in which the labelled clips count them.
GROUPS: Final[Mapping[str, frozenset[str]]] = {
    "person": frozenset({"person"}),
    "vehicle": frozenset({"car", "bus", "truck"}),
    "cycle": frozenset({"bicycle", "motorcycle"}),
}
_NOUNS: Final = {"person": "people", "vehicle": "vehicles", "cycle": "bicycles"}
_WORTH: Final = 1.05  # a detector finds more if it finds at least this many times as many objects
_LEAST_LABELS: Final = 20  # fewer labelled objects decide nothing
_SAME_F1: Final = 0.03  # a smaller difference in one clip is noise: one of about 40 objects


@dataclass(frozen=True)
class LabelledRun:
    """The objects of one group of classes that a run of a labelled clip found.

    side       longer side of the picture, pixels
    labels     labelled objects
    precision  right objects / published objects; None if it published none
    recall     found objects / labelled objects
    """

    clip: str
    side: int
    detector: str
    group: str
    labels: int
    recall: float
    precision: float | None = None

    @property
    def found(self) -> float:
        """Return the number of found objects."""
        return self.recall * self.labels

    @property
    def f1(self) -> float:
        """Return the F1; 0 if it found nothing."""
        if not self.precision:
            return 0.0
        return 2 * self.precision * self.recall / (self.precision + self.recall)


@dataclass(frozen=True)
class GroupGain:
    """How many times as many objects of a group a detector finds as another one.

    times  by all labelled clips whose pictures have about this size
    clips  these clips
    """

    group: str
    times: float
    clips: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.times:.1f} times as many {_NOUNS[self.group]}"


@dataclass(frozen=True)
class Demand:
    """A source that needs a detector.

    looks_per_s  expected looks while much moves
    frame_ms     candidate -> CPU milliseconds of a frame with a look; contains the default detector
    """

    source: str
    width: int
    height: int
    looks_per_s: float
    frame_ms: Mapping[str, float]

    @property
    def side(self) -> int:
        """Return the longer side of the picture, pixels."""
        return max(self.width, self.height)

    def larger_inputs(self, than: str) -> tuple[str, ...]:
        """Return the candidates with a larger input than that of `than`, the cheapest first."""
        return tuple(name for name in larger_inputs(self.side, than) if name in self.frame_ms)

    def more_ms(self, detector: str, than: str = DEFAULT) -> float:
        """Return the additional CPU milliseconds of a look."""
        return self.frame_ms[detector] - self.frame_ms[than]


@dataclass(frozen=True)
class Better:
    """A detector that finds more than the one in use, by labels.

    gains  against the one in use; at least one
    """

    detector: str
    gains: tuple[GroupGain, ...]

    def __str__(self) -> str:
        return f"{self.detector} finds {' and '.join(map(str, self.gains))}"


@dataclass(frozen=True)
class DetectorChoice:
    """The detector for a source.

    reason  why it is not the default one; None for the default one
    next    a larger one that finds more, but does not fit; None: there is none
    """

    detector: str
    reason: Better | None
    next: Better | None


@cache
def labelled_runs() -> tuple[LabelledRun, ...]:
    """Return the kept runs of the labelled clips."""
    tables: list[dict[str, Any]] = tomllib.loads(FOUND.read_text(encoding="utf-8"))["run"]
    return tuple(LabelledRun(**table) for table in tables)


def detector_of(models: Sequence[str]) -> str | None:
    """Return the shipped detector that made a result; None for another one, or several networks.

    models  as results name them, such as `nanodet-plus-640-int8@0123abcd`
    """
    if len(models) != 1:
        return None
    network = _NETWORK.match(models[0])
    if network is None:
        return None
    name = _NAMES.get(network[1], network[1])
    if name not in COSTS:
        return None
    return name


def groups_of(labels: Collection[str] | None) -> tuple[str, ...]:
    """Return the groups that labels belong to; None: all labels."""
    if labels is None:
        return tuple(GROUPS)
    return tuple(group for group, members in GROUPS.items() if members & set(labels))


def larger_inputs(side: int, than: str = DEFAULT) -> tuple[str, ...]:
    """Return the detectors with a larger input than that of `than`, each cheaper than the next.

    side  longer side of the picture, pixels; no input is larger
    than  a shipped detector of COSTS
    """
    for least, detectors in _LARGER:
        if side >= least:
            return tuple(name for name in detectors if COSTS[name] > COSTS[than])
    return ()


def better_than(
    detector: str,
    candidates: Sequence[str],
    side: int,
    groups: Collection[str],
    runs: Sequence[LabelledRun],
) -> Better | None:
    """Return the first candidate that finds more than a detector, by labels.

    side    longer side of the picture, pixels
    groups  groups of the classes that are wanted
    runs    what detectors found by labels
    """
    for candidate in candidates:
        gains = gains_of(candidate, detector, side, groups, runs)
        if gains:
            return Better(candidate, gains)
    return None


def best_of(
    detector: str,
    candidates: Sequence[str],
    side: int,
    groups: Collection[str],
    runs: Sequence[LabelledRun],
) -> Better | None:
    """Return the candidate that finds most more than a detector; arguments as in `better_than`."""
    best = None
    most = 0.0
    for candidate in candidates:
        better = better_than(detector, [candidate], side, groups, runs)
        if better is None:
            continue
        times = max(gain.times for gain in better.gains)
        if times > most:
            best = better
            most = times
    return best


def gains_of(
    detector: str,
    than: str,
    side: int,
    groups: Collection[str],
    runs: Sequence[LabelledRun],
) -> tuple[GroupGain, ...]:
    """Return the groups of which a detector finds more than another.

    Labelled clips with pictures of about this size count, all together. Empty if it finds no more,
    or if its F1 of a wanted group is lower in one of them.
    """
    gains = []
    for group in groups:
        ours = _by_clip(runs, detector, side, group)
        theirs = _by_clip(runs, than, side, group)
        clips = tuple(clip for clip in ours if clip in theirs)
        labels = sum(ours[clip].labels for clip in clips)
        if labels < _LEAST_LABELS:
            continue
        if any(_loses(ours[clip], theirs[clip]) for clip in clips):
            return ()
        found = sum(ours[clip].found for clip in clips)
        found_before = sum(theirs[clip].found for clip in clips)
        times = found / max(found_before, 1.0)
        if times >= _WORTH:
            gains.append(GroupGain(group, times, clips))
    return tuple(gains)


def _by_clip(
    runs: Sequence[LabelledRun], detector: str, side: int, group: str
) -> dict[str, LabelledRun]:
    """Return the runs of a detector by clip, of pictures of about this size."""
    return {
        run.clip: run
        for run in runs
        if (run.detector, run.group) == (detector, group) and _band(run.side) == _band(side)
    }


def _band(side: int) -> int:
    """Return the number of a picture's size: larger pictures have a smaller number."""
    return sum(side < least for least, _ in _LARGER)


def _loses(ours: LabelledRun, theirs: LabelledRun) -> bool:
    """Return True if enough labels show a lower F1."""
    return ours.labels >= _LEAST_LABELS and ours.f1 < theirs.f1 - _SAME_F1


def choose(
    demands: Sequence[Demand],
    groups: Collection[str],
    room_ms: float,
    runs: Sequence[LabelledRun],
) -> dict[str, DetectorChoice]:
    """Return the detector for each source. A pure function.

    groups   groups of the classes that are wanted
    room_ms  CPU milliseconds per second that looks may take
    runs     what detectors found by labels

    A source gets a larger input that finds more objects if the machine can then process all sources
    while much moves in all of them. All sources get a step before one gets the next.
    """
    chosen = {demand.source: DEFAULT for demand in demands}
    room_ms -= sum(demand.looks_per_s * demand.frame_ms[DEFAULT] for demand in demands)
    steps = max((len(larger_inputs(demand.side)) for demand in demands), default=0)
    for _ in range(steps):
        for demand in demands:
            detector = chosen[demand.source]
            larger = demand.larger_inputs(detector)
            better = better_than(detector, larger, demand.side, groups, runs)
            if better is None:
                continue
            cost_ms = demand.looks_per_s * demand.more_ms(better.detector, detector)
            if cost_ms <= room_ms:
                chosen[demand.source] = better.detector
                room_ms -= cost_ms
    return {
        demand.source: _explained(demand, chosen[demand.source], groups, runs) for demand in demands
    }


def _explained(
    demand: Demand, detector: str, groups: Collection[str], runs: Sequence[LabelledRun]
) -> DetectorChoice:
    larger = demand.larger_inputs(detector)
    reason = None
    if detector != DEFAULT:
        reason = Better(detector, gains_of(detector, DEFAULT, demand.side, groups, runs))
    return DetectorChoice(
        detector, reason, better_than(detector, larger, demand.side, groups, runs)
    )


def line_of(models: Sequence[str], width: int, height: int) -> str | None:
    """Return what is in use for a source, and what would find more; None if there is no result.

    models  that made its last result
    """
    if not models:
        return None
    in_use = f"{width}x{height}, {' and '.join(models)}"
    detector = detector_of(models)
    if detector is None:
        return in_use
    side = max(width, height)
    better = better_than(
        detector, larger_inputs(side, detector), side, tuple(GROUPS), labelled_runs()
    )
    if better is None:
        return in_use
    ratio = COSTS[better.detector] / COSTS[detector]
    cost = f"costs {ratio:.1f} times the CPU time a look"
    return f"{in_use}; {better}, {cost}; {setting(better.detector)}"


def setting(detector: str) -> str:
    """Return the line of `[stages.detect]` that selects a detector."""
    return f'detector = "{detector}"'
