"""The judgement whether a model may serve a camera, on later footage than it learned from.

Pictures that are close in time show the same things. So the bootstrap resamples blocks of ten
neighbours, not pictures. Two models are compared on the same resamples, so that the difficulty of
a block cancels out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from framegate.models import matching
from framegate.models.boxes import Boxes, IndexArray
from framegate.models.learning.thresholds import is_covered
from framegate.models.matching import Figures, Interval, MatchCounts, interval

LEAST_BOXES: Final = 100  # of the teacher, in the judging pictures
LEAST_FRAMES: Final = 50
LOWEST: Final = -0.05  # allowed lower end of the interval of the difference in F1
BLOCK: Final = 10  # neighbouring pictures
DRAWS: Final = 2000

ClassCounts = npt.NDArray[np.int64]


def counted(
    ours: Sequence[Boxes], sure: Sequence[Boxes], unsure: Sequence[Boxes], n_classes: int
) -> ClassCounts:
    """Count boxes, as int64 (pictures, classes, 3): pairs at IoU 0.5, our boxes, boxes of the
    teacher.

    One of our boxes without a pair is not counted if half of it or more lies in an unsure box.
    """
    counts = np.zeros((len(ours), n_classes, 3), np.int64)
    for row, (own, there, doubtful) in enumerate(zip(ours, sure, unsure, strict=True)):
        rows, _ = matching.optimal(matching.overlaps(own, there))
        kept = ~is_covered(own, doubtful)
        kept[rows] = True
        for column, ids in enumerate((own.class_ids[rows], own.class_ids[kept], there.class_ids)):
            counts[row, :, column] = np.bincount(ids, minlength=n_classes)
    return counts


def blocks_of(sources: Sequence[str]) -> IndexArray:
    """Return the block of each picture, counted from 0: ten neighbours of a source, in order."""
    n_seen = dict.fromkeys(sources, 0)
    blocks = []
    numbers: dict[tuple[str, int], int] = {}
    for source in sources:
        part = source, n_seen[source] // BLOCK
        blocks.append(numbers.setdefault(part, len(numbers)))
        n_seen[source] += 1
    return np.array(blocks, np.intp)


def _by_block(counts: ClassCounts, blocks: IndexArray) -> MatchCounts:
    """Sum the counts of all classes by block, int64 (blocks, 3)."""
    sums = np.zeros((int(blocks.max()) + 1, 3), np.int64)
    np.add.at(sums, blocks, counts.sum(axis=1))
    return sums


def f1_of(counts: ClassCounts, sources: Sequence[str]) -> Interval:
    """Return F1 of all classes together with its 95 % interval. ValueError without pictures."""
    if not len(counts):
        raise ValueError("no pictures to judge by")
    sums = _by_block(counts, blocks_of(sources))
    return interval(lambda times: matching.f1(sums, times), len(sums), DRAWS)


def difference_of(ours: ClassCounts, theirs: ClassCounts, sources: Sequence[str]) -> Interval:
    """Return our F1 minus their F1 on the same pictures; as `f1_of`."""
    if not len(ours):
        raise ValueError("no pictures to judge by")
    blocks = blocks_of(sources)
    own = _by_block(ours, blocks)
    other = _by_block(theirs, blocks)

    def statistic(times: npt.NDArray[np.int64]) -> Figures:
        difference: Figures = matching.f1(own, times) - matching.f1(other, times)
        return difference

    return interval(statistic, len(own), DRAWS)


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """A class in the judging pictures: objects of the teacher, and F1 of both models, 0..1."""

    label: str
    there: int
    f1: float
    general: float


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """The comparison of a model with the general one on later footage.

    frames, boxes  judging pictures, and objects of the teacher in them
    f1, general    F1 of both models with 95 % intervals
    difference     F1 of the model minus that of the general one, paired
    classes        of the teacher and of both models, most objects first
    refused        why the model may not serve; "" if it may
    """

    frames: int
    boxes: int
    f1: Interval
    general: Interval
    difference: Interval
    classes: tuple[ClassFigures, ...]
    refused: str

    @property
    def allowed(self) -> bool:
        """True if the model may serve."""
        return not self.refused

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures for the metrics of a manifest."""
        metrics: dict[str, Any] = {"judged_frames": self.frames, "judged_boxes": self.boxes}
        intervals = {"f1": self.f1, "general": self.general, "difference": self.difference}
        for name, interval_ in intervals.items():
            metrics[name] = round(interval_.middle, 4)
            metrics[f"{name}_low"] = round(interval_.low, 4)
            metrics[f"{name}_high"] = round(interval_.high, 4)
        return metrics


def judge(
    ours: ClassCounts, general: ClassCounts, sources: Sequence[str], labels: Sequence[str]
) -> ModelVerdict:
    """Judge `ours` in comparison with the general model, both `counted` on the same pictures.

    sources  source of each picture; the pictures are in order of time
    labels   by class id

    ValueError without pictures.
    """
    frames = len(ours)
    boxes = int(ours[..., 2].sum())
    difference = difference_of(ours, general, sources)
    refused = _refused(frames, boxes, difference.low)
    return ModelVerdict(
        frames,
        boxes,
        f1_of(ours, sources),
        f1_of(general, sources),
        difference,
        _by_class(ours, general, labels),
        refused,
    )


def _refused(frames: int, boxes: int, low: float) -> str:
    """Return why a model may not serve; "" if it may. low: of the difference in F1."""
    if boxes < LEAST_BOXES:
        return f"the teacher has {boxes} objects in the judging pictures; {LEAST_BOXES} are needed"
    if frames < LEAST_FRAMES:
        return f"{frames} pictures judge; {LEAST_FRAMES} are needed"
    if low < LOWEST:
        return f"F1 may be {-low:.3f} below the general model's; allowed is {-LOWEST:.2f}"
    return ""


NOT_JUDGED: Final = "it was not judged on later footage than it learned from"


def refusal_of(metrics: Mapping[str, Any]) -> str:
    """Return why a model with these `ModelVerdict.metrics` may not serve; "" if it may."""
    try:
        frames = int(metrics["judged_frames"])
        boxes = int(metrics["judged_boxes"])
        return _refused(frames, boxes, float(metrics["difference_low"]))
    except (KeyError, TypeError, ValueError):
        return NOT_JUDGED


def _by_class(
    ours: ClassCounts, general: ClassCounts, labels: Sequence[str]
) -> tuple[ClassFigures, ...]:
    rows = []
    for label, own, other in zip(labels, ours.sum(axis=0), general.sum(axis=0), strict=True):
        if own.any() or other.any():
            f1 = float(matching.f1(own[None]))
            rows.append(ClassFigures(label, int(own[2]), f1, float(matching.f1(other[None]))))
    return tuple(sorted(rows, key=lambda row: (-row.there, row.label)))
