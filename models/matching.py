"""Which boxes of two sets show the same thing: each box in one pair at most, by one of three rules.

All rules choose from a matrix of worth, float (N, M): how well box i of one set fits box j of the
other, 0 where it does not. `overlaps` is the usual one. What differs is which pair comes first:

by_score   the surest box takes the free one that it fits best, then the next surest. COCO's rule,
           for whatever ranks boxes by score.
by_worth   the best pair of all, then the best of what is left. For objects that are followed from
           one answer to the next: a box is not given away because a surer one is a little near.
optimal    as many pairs as there can be, and of these ways the one worth most. For counts: no order
           of the boxes lowers it, and it is the same from both sides.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy

from framegate.models.boxes import Boxes, FloatArray, iou

MIN_IOU: Final = 0.5  # from which on two boxes are of one thing, unless a caller says otherwise

WorthMatrix = npt.NDArray[np.floating[Any]]
MatchCounts = npt.NDArray[np.int64]
Pairs = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]  # rows of the one, rows of the other


def overlaps(ours: Boxes, theirs: Boxes, min_iou: float = MIN_IOU) -> FloatArray:
    """float32 (N, M): IoU of each two boxes of one class, 0 where it is below `min_iou` (> 0)."""
    overlap = iou(ours.xyxy, theirs.xyxy)
    fits = (overlap >= min_iou) & (ours.class_ids[:, None] == theirs.class_ids[None, :])
    return np.where(fits, overlap, np.float32(0))


def by_score(worth: WorthMatrix, scores: npt.NDArray[np.floating[Any]]) -> Pairs:
    """Pairs in falling order of `scores` (N,), each with the free column that is worth most.

    Of equal scores, and of equal columns, the first wins.
    """
    left = worth.copy()
    rows, columns = [], []
    for row in np.argsort(-scores, kind="stable") if worth.shape[1] else ():
        column = int(left[row].argmax())
        if left[row, column] > 0:
            rows.append(int(row))
            columns.append(column)
            left[:, column] = 0
    return np.array(rows, np.intp), np.array(columns, np.intp)


def by_worth(worth: WorthMatrix) -> Pairs:
    """Pairs from the best one down; of equal ones the first in the order of rows, then columns."""
    free_rows, free_columns = np.ones(worth.shape[0], bool), np.ones(worth.shape[1], bool)
    fitting = np.nonzero(worth)
    rows, columns = [], []
    for pair in np.argsort(-worth[fitting], kind="stable"):
        row, column = int(fitting[0][pair]), int(fitting[1][pair])
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            rows.append(row)
            columns.append(column)
    return np.array(rows, np.intp), np.array(columns, np.intp)


def optimal(worth: WorthMatrix) -> Pairs:
    """As many pairs as there can be, of these ways the one whose sum is highest; rows ascend."""
    if not worth.any():
        return np.empty(0, np.intp), np.empty(0, np.intp)
    # One more pair counts for more than all that the others could be worth together.
    one_pair = 2.0 * min(worth.shape) * float(worth.max())
    rows, columns = assigned(np.where(worth > 0, one_pair + worth, 0))
    fits = worth[rows, columns] > 0
    return rows[fits], columns[fits]


def assigned(worth: WorthMatrix) -> Pairs:
    """Each row with a column of its own, or each column with a row, so that their sum is highest:
    `scipy.optimize.linear_sum_assignment`.
    """
    rows, columns = _solver()(worth, maximize=True)
    return rows, columns


@cache
def _solver() -> Callable[..., Pairs]:
    """That function by itself: all that lies beside it takes a quarter of a second and 23 MB, which
    each start would pay.
    """
    optimize = Path(scipy.__file__).parent / "optimize"
    found = PathFinder.find_spec("_lsap", [str(optimize)])
    if found is None or found.loader is None:
        return scipy.optimize.linear_sum_assignment  # type: ignore[no-any-return]
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module.linear_sum_assignment  # type: ignore[no-any-return]


def matched(ours: Sequence[Boxes], theirs: Sequence[Boxes]) -> MatchCounts:
    """int64 (pictures, 3): pairs (`optimal`), boxes of ours, boxes of theirs; same pictures."""
    rows = [
        (len(optimal(overlaps(a, b))[0]), len(a), len(b)) for a, b in zip(ours, theirs, strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def f1(counts: MatchCounts, times: npt.NDArray[np.integer[Any]] | None = None) -> Any:
    """F1, 0..1, of all boxes of `matched`; 1 where neither side has a box.

    times  int (pictures,) or (R, pictures), how often each picture counts; None: once

    Gives float64, a number or (R,).
    """
    totals = counts.sum(axis=0) if times is None else times @ counts
    pairs, ours, theirs = np.moveaxis(totals, -1, 0)
    boxes = ours + theirs
    return np.divide(2.0 * pairs, boxes, out=np.ones(np.shape(boxes)), where=boxes > 0)[()]
