"""Advise another detector for a source in which much moved and little was found.

The network looks at parts that changed. If nearly all of these looks find no object, the detector
probably misses what moves there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from framegate.pipeline.telemetry.counters import (
    EMPTY_LOOKS,
    LOOK_REASONS_OF_CHANGE,
    looks_of,
    objects_of,
)
from framegate.pipeline.telemetry.detector_choice import COSTS

# Chosen on the clips that choose settings (benchmarks/truth/clips.py), at all frames and at 2 a
# second. With the default detector, at most 73 % of the looks at changes are empty: bottles move
# there, which are no default class. With an input of 96 pixels, at least 89 % are empty in the four
# scenes for which that is too small. Frames with changes: none in an empty room, at least 35 % in
# the other clips.
LEAST_EMPTY: Final = 0.8
LEAST_CHANGED: Final = 0.1
LEAST_LOOKS: Final = 20  # fewer decide nothing

LARGE_PIXELS: Final = 1280 * 720  # a larger picture has small objects, which need a large input


@dataclass(frozen=True)
class Alternative:
    """A shipped detector to try.

    name     for --detector
    network  beginning of its model's name in results
    """

    name: str
    network: str


# Each pair by its use; the second has a larger input.
PAIRS: Final[Mapping[str, tuple[Alternative, Alternative]]] = {
    "people and vehicles": (
        Alternative("surveillance", "surveillance-448"),
        Alternative("surveillance-large", "surveillance-large-864"),
    ),
    "all classes": (
        Alternative("light", "nanodet-plus-416"),
        Alternative("nanodet-plus-640", "nanodet-plus-640"),
    ),
}


@dataclass(frozen=True)
class Findings:
    """The changes of a source, and the objects that were found.

    frames   published frames
    changed  frames in which something changed
    looks    looks at a change
    empty    looks at a change that found no object
    objects  tracks
    """

    frames: int
    changed: int
    looks: int
    empty: int
    objects: int

    @property
    def are_few(self) -> bool:
        """Return True if much moved and little was found."""
        if self.looks < LEAST_LOOKS or self.changed < LEAST_CHANGED * self.frames:
            return False
        return self.empty >= LEAST_EMPTY * self.looks


def findings_of(counters: Mapping[str, int]) -> Findings:
    """Return the findings of a source by its counters.

    A moving camera and a gate that is off show no changes.
    """
    frames: Counter[str] = Counter()
    for reasons in looks_of(counters).values():
        frames.update(reasons)
    looks = sum(frames[reason] for reason in LOOK_REASONS_OF_CHANGE)
    changed = looks + frames["waiting"]
    objects = sum(objects_of(counters).values())
    return Findings(frames.total(), changed, looks, counters.get(EMPTY_LOOKS, 0), objects)


def advice_of(
    counters: Mapping[str, int], models: Sequence[str], size: tuple[int, int]
) -> str | None:
    """Return what to try if much moved and little was found; else None.

    models  models that made the last result
    size    (width, height) of its picture
    """
    findings = findings_of(counters)
    if not findings.are_few:
        return None
    changed = findings.changed / findings.frames
    empty = findings.empty / findings.looks
    found = f"{findings.objects} objects"
    if findings.objects == 1:
        found = "1 object"
    options = _options(models, is_large=size[0] * size[1] > LARGE_PIXELS)
    return (
        f"changes in {changed:.0%} of {findings.frames} frames, but {empty:.0%} of the looks at "
        f"them found nothing ({found} in total); try {', '.join(options)}, or --classes all if "
        "other things move: docs/models.md"
    )


def _options(models: Sequence[str], is_large: bool) -> list[str]:
    """Return the detectors to try, with their costs."""
    options = []
    unit = " the CPU time of the default"
    for use, pair in PAIRS.items():
        alternative = _next(pair, models, is_large)
        if alternative is not None:
            cost = f"{COSTS[alternative.name]:g} times{unit}"
            options.append(f"--detector {alternative.name} ({use}, {cost})")
            unit = ""
    return options


def _next(
    pair: tuple[Alternative, Alternative], models: Sequence[str], is_large: bool
) -> Alternative | None:
    """Return the detector of a pair to try; None if the larger one is used."""
    small, large = pair
    if _is_used(large, models):
        return None
    if is_large or _is_used(small, models):
        return large
    return small


def _is_used(alternative: Alternative, models: Sequence[str]) -> bool:
    return any(model.startswith(f"{alternative.network}-") for model in models)
