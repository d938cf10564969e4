"""Whether a model may serve a camera: judged on footage later than what it learned from.

Pictures that are near in time show the same things, so what is drawn anew for an interval are
blocks of ten neighbours, not pictures; and two models are compared on the same draws, so that what
makes a block hard cancels out.
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
from framegate.models.matching import MatchCounts
from framegate.models.quantisation.agreement import Figures, Interval, interval

LEAST_BOXES: Final = 100  # of the teacher, in what judges
LEAST_FRAMES: Final = 50
LOWEST: Final = -0.05  # of the lower end of the difference in F1
BLOCK: Final = 10  # neighbouring pictures
DRAWS: Final = 2000

ClassCounts = npt.NDArray[np.int64]


def counted(
    ours: Sequence[Boxes], sure: Sequence[Boxes], unsure: Sequence[Boxes], n_classes: int
) -> ClassCounts:
    """int64 (pictures, classes, 3): pairs at IoU .5, boxes of ours, boxes of the teacher.

    A box of ours without a pair that lies by half or more in something unsure is not counted.
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
    """The block (N,) of each picture, counted from 0: ten neighbours of one source, in order."""
    numbers, blocks = dict.fromkeys(sources, 0), []
    names: dict[tuple[str, int], int] = {}
    for source in sources:
        part = source, numbers[source] // BLOCK
        blocks.append(names.setdefault(part, len(names)))
        numbers[source] += 1
    return np.array(blocks, np.intp)


def _by_block(counts: ClassCounts, blocks: IndexArray) -> MatchCounts:
    """int64 (blocks, 3), of all classes."""
    sums = np.zeros((int(blocks.max()) + 1, 3), np.int64)
    np.add.at(sums, blocks, counts.sum(axis=1))
    return sums


def f1_of(counts: ClassCounts, sources: Sequence[str]) -> Interval:
    """F1 of all classes together with its 95 % interval. ValueError without pictures."""
    if not len(counts):
        raise ValueError("no pictures to judge by")
    sums = _by_block(counts, blocks_of(sources))
    return interval(lambda times: matching.f1(sums, times), len(sums), DRAWS)


def difference_of(ours: ClassCounts, theirs: ClassCounts, sources: Sequence[str]) -> Interval:
    """By how much F1 of ours is above theirs, on the same pictures; as `f1_of`."""
    if not len(ours):
        raise ValueError("no pictures to judge by")
    blocks = blocks_of(sources)
    own, other = _by_block(ours, blocks), _by_block(theirs, blocks)

    def statistic(times: npt.NDArray[np.int64]) -> Figures:
        apart: Figures = matching.f1(own, times) - matching.f1(other, times)
        return apart

    return interval(statistic, len(own), DRAWS)


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """A class in what judged: F1 of both models, 0..1, and how many objects the teacher has."""

    label: str
    there: int
    f1: float
    general: float


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """What later footage says of a model beside the general one.

    frames, boxes  that judged: pictures, and objects of the teacher in them
    f1, general    of the two, with 95 % intervals
    difference     of the first to the second, paired
    classes        those that either shows or the teacher has, most objects first
    refused        why it may not serve; "" where it may
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
        """Whether it may serve."""
        return not self.refused

    @property
    def metrics(self) -> dict[str, Any]:
        """As a manifest keeps it."""
        found: dict[str, Any] = {"judged_frames": self.frames, "judged_boxes": self.boxes}
        for name in ("f1", "general", "difference"):
            said: Interval = getattr(self, name)
            found[name] = round(said.middle, 4)
            found[f"{name}_low"], found[f"{name}_high"] = round(said.low, 4), round(said.high, 4)
        return found


def judge(
    ours: ClassCounts, general: ClassCounts, sources: Sequence[str], labels: Sequence[str]
) -> ModelVerdict:
    """The verdict on `ours` beside the general model, both `counted` on the same pictures.

    sources  of each picture, which are in order of time
    labels   by class

    ValueError without pictures.
    """
    frames, boxes = len(ours), int(ours[..., 2].sum())
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
    """Why a model may not serve; "" where it may. low: the least that F1 may differ by."""
    if boxes < LEAST_BOXES:
        return f"the teacher has {boxes} objects in what judges; {LEAST_BOXES} are needed"
    if frames < LEAST_FRAMES:
        return f"{frames} pictures judge; {LEAST_FRAMES} are needed"
    if low < LOWEST:
        return f"F1 may be {-low:.3f} below the general model's; allowed is {-LOWEST:.2f}"
    return ""


NOT_JUDGED: Final = "it was not judged on later footage than it learned from"


def refusal_of(metrics: Mapping[str, Any]) -> str:
    """Why a model with these `ModelVerdict.metrics` may not serve; "" where it may."""
    try:
        judged = [metrics[key] for key in ("judged_frames", "judged_boxes", "difference_low")]
        return _refused(int(judged[0]), int(judged[1]), float(judged[2]))
    except (KeyError, TypeError, ValueError):
        return NOT_JUDGED


def _by_class(
    ours: ClassCounts, general: ClassCounts, labels: Sequence[str]
) -> tuple[ClassFigures, ...]:
    own, other = ours.sum(axis=0), general.sum(axis=0)
    rows = [
        ClassFigures(
            label,
            int(own[i, 2]),
            float(matching.f1(own[i : i + 1])),
            float(matching.f1(other[i : i + 1])),
        )
        for i, label in enumerate(labels)
        if own[i].any() or other[i].any()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.there, row.label)))
