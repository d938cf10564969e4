"""The least score of each class that fits a teacher best, and which classes are better off.

F1 of all classes together is one ratio, 2 * right / (shown + there), of sums over classes, so the
best threshold of a class depends on the others only through the ratio itself: for a given ratio r
each class, on its own, takes the one that is worth most, 2 * right - r * shown; that gives a better
ratio, and so on until it grows no more (Dinkelbach, On Nonlinear Fractional Programming, 1967). It
is the best of all combinations, after some five rounds. Off is a threshold like the others: nothing
is shown, nothing is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models import matching
from framegate.models.boxes import (
    BoolArray,
    Boxes,
    DoubleArray,
    FloatArray,
    IntArray,
    area,
    read_only,
    suppress,
)

# As people write them. Below .05 nothing is looked at: the rest of a network's answer is noise.
GRID: Final[DoubleArray] = np.arange(5, 96) / 100
# Of what a class is worth. Chosen on the first 60 % of six clips, tuned on the first part of that
# and judged on its last: F1 .868 in the mean, .864 without.
SLACK: Final = 0.02
COVERED: Final = 0.5  # share of a box inside something unsure from which on it is not wrong


@dataclass(frozen=True, slots=True, eq=False)
class MatchedBoxes:
    """All boxes of a model in some pictures, but for those that are neither right nor wrong.

    scores     float32 (N,)  0..1
    class_ids  int32   (N,)
    right      bool    (N,)  whether the teacher has it, under the same class
    there      objects of the teacher

    Raises ArrayMismatch.
    """

    scores: FloatArray
    class_ids: IntArray
    right: BoolArray
    there: int

    def __post_init__(self) -> None:
        n = len(self.scores)
        for name, kind in (("scores", np.float32), ("class_ids", np.int32), ("right", np.bool_)):
            object.__setattr__(self, name, read_only(name, getattr(self, name), kind, (n,)))


def found(ours: Sequence[Boxes], sure: Sequence[Boxes], unsure: Sequence[Boxes]) -> MatchedBoxes:
    """Which boxes of a model are right; all three of the same pictures, in the same order.

    The surest box takes an object first, so a box is right or not whatever the threshold is.
    """
    scores, class_ids, rights = [], [], []
    for own, there, doubtful in zip(ours, sure, unsure, strict=True):
        rows, _ = matching.by_score(matching.overlaps(own, there), own.scores)
        right = np.zeros(len(own), np.bool_)
        right[rows] = True
        kept = right | ~is_covered(own, doubtful)
        scores.append(own.scores[kept])
        class_ids.append(own.class_ids[kept])
        rights.append(right[kept])
    return MatchedBoxes(
        np.concatenate([np.empty(0, np.float32), *scores]),
        np.concatenate([np.empty(0, np.int32), *class_ids]),
        np.concatenate([np.empty(0, np.bool_), *rights]),
        sum(map(len, sure)),
    )


def is_covered(boxes: Boxes, unsure: Boxes) -> BoolArray:
    """Which boxes (N,) lie by half or more in one that the teacher is unsure of, of any class."""
    if not len(unsure) or not len(boxes):
        return np.zeros(len(boxes), np.bool_)
    left_top = np.maximum(boxes.xyxy[:, None, :2], unsure.xyxy[None, :, :2])
    right_bottom = np.minimum(boxes.xyxy[:, None, 2:], unsure.xyxy[None, :, 2:])
    inside = np.maximum(right_bottom - left_top, 0).prod(axis=2).max(axis=1)
    covered: BoolArray = inside >= COVERED * area(boxes.xyxy)
    return covered


def least_scores(
    boxes: MatchedBoxes, grid: DoubleArray = GRID, slack: float = SLACK
) -> dict[int, float]:
    """Class id -> the least score, of those in `grid`, with which F1 of all of them is highest.

    A class that is not in it is off. Of those that are worth as much to F1 as the best one, but for
    a share `slack`, the middle one is taken: it is the furthest from doing worse, and other footage
    is a little different. Shown is a box whose score is above the least one.
    """
    classes = np.unique(boxes.class_ids)
    off = np.zeros((len(classes), 1))
    shown, right = (
        np.concatenate([_above(boxes, classes, rows, grid), off], axis=1)
        for rows in (np.ones(len(boxes.right), np.bool_), boxes.right)
    )
    best, before = 0.0, -1.0
    worth = 2 * right
    while best > before:
        worth = 2 * right - best * shown
        rows = np.arange(len(classes)), worth.argmax(axis=1)
        n_boxes = shown[rows].sum() + boxes.there
        before, best = best, float(2 * right[rows].sum() / n_boxes) if n_boxes else 0.0
    chosen = {}
    for class_id, values in zip(classes.tolist(), worth, strict=True):
        highest = values.max()
        if highest > 1e-9:  # else showing it is worth no more than not showing it
            ties = np.flatnonzero(values[:-1] >= highest * (1 - slack) - 1e-9)
            chosen[class_id] = round(float(grid[ties[len(ties) // 2]]), 4)
    return chosen


def _above(
    boxes: MatchedBoxes, classes: IntArray, rows: BoolArray, grid: DoubleArray
) -> DoubleArray:
    """Boxes above each threshold, float64 (classes, thresholds), of these rows."""
    counts = np.zeros((len(classes), len(grid)))
    # Compared as the detector does it, in its precision.
    levels = grid.astype(np.float32)
    for row, class_id in enumerate(classes):
        own = np.sort(boxes.scores[rows & (boxes.class_ids == class_id)])
        counts[row] = len(own) - np.searchsorted(own, levels, side="right")
    return counts


def tuned(
    raw: Sequence[Boxes], sure: Sequence[Boxes], unsure: Sequence[Boxes], nms_iou: float
) -> dict[int, float]:
    """`least_scores` for a model whose boxes are `raw`: above the lowest of the grid, none of them
    suppressed.

    nms_iou  from which on two boxes are one thing

    What is off hides nothing, so with it off the others are looked at anew, until no more class
    goes. Classes that the teacher never shows are off from the beginning.
    """
    on = np.unique(np.concatenate([np.empty(0, np.int32), *(one.class_ids for one in sure)]))
    while True:
        chosen = least_scores(found([_one_each(each, on, nms_iou) for each in raw], sure, unsure))
        if len(chosen) == len(on):
            return chosen
        on = np.array(sorted(chosen), np.int32)


def shown(raw: Boxes, least: Mapping[int, float], nms_iou: float) -> Boxes:
    """What a model with these least scores shows of its `raw` boxes, as `tuned` has them."""
    on = np.array(sorted(least), np.int32)
    boxes = _one_each(raw, on, nms_iou)
    needed = np.array([least[class_id] for class_id in boxes.class_ids.tolist()], np.float32)
    return boxes.take(boxes.scores > needed)


def _one_each(raw: Boxes, on: IntArray, nms_iou: float) -> Boxes:
    """Boxes of the classes that are on, one a thing."""
    boxes = raw.take(np.isin(raw.class_ids, on))
    return boxes.take(suppress(boxes.xyxy, boxes.scores, nms_iou))
