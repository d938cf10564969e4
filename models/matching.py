"""Pair the boxes of two sets that show the same object, and measure how well the sets agree.

Each box is in at most one pair.

All three rules choose from a matrix of worth, float (N, M): how well box i of one set fits box j
of the other; 0 means not at all. `overlaps` is the usual matrix.

by_score   the box with the highest score takes the free box that it fits best, then the next one:
           COCO's rule, for evaluations that rank boxes by score
by_worth   the best pair first, then the best of the remaining pairs: for objects that are tracked
           from one answer to the next
optimal    the largest number of pairs, and then the largest total worth: for counts, because the
           result depends neither on the order of the boxes nor on which set comes first

Pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy

from framegate.models.boxes import Boxes, FloatArray, iou

MIN_IOU: Final = 0.5  # IoU from which two boxes show one object

WorthMatrix = npt.NDArray[np.floating[Any]]
MatchCounts = npt.NDArray[np.int64]
Pairs = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]  # rows of the first and second set


def overlaps(ours: Boxes, theirs: Boxes) -> FloatArray:
    """Return float32 (N, M): the IoU of boxes with equal classes, 0 below MIN_IOU."""
    overlap = iou(ours.xyxy, theirs.xyxy)
    fits = (overlap >= MIN_IOU) & (ours.class_ids[:, None] == theirs.class_ids[None, :])
    return np.where(fits, overlap, np.float32(0))


def by_score(worth: WorthMatrix, scores: npt.NDArray[np.floating[Any]]) -> Pairs:
    """Return pairs in descending order of `scores` (N,), each with the best free column.

    Of equal scores or columns the first wins.
    """
    rows: list[int] = []
    columns: list[int] = []
    if worth.shape[1]:
        free_worth = worth.copy()
        for row in np.argsort(-scores, kind="stable"):
            column = int(free_worth[row].argmax())
            if free_worth[row, column] > 0:
                rows.append(int(row))
                columns.append(column)
                free_worth[:, column] = 0
    return np.array(rows, np.intp), np.array(columns, np.intp)


def by_worth(worth: WorthMatrix) -> Pairs:
    """Return pairs in descending order of worth; ties in the order of rows, then columns."""
    free_rows = np.ones(worth.shape[0], bool)
    free_columns = np.ones(worth.shape[1], bool)
    fitting = np.nonzero(worth)
    rows = []
    columns = []
    for pair in np.argsort(-worth[fitting], kind="stable"):
        row = int(fitting[0][pair])
        column = int(fitting[1][pair])
        if free_rows[row] and free_columns[column]:
            free_rows[row] = False
            free_columns[column] = False
            rows.append(row)
            columns.append(column)
    return np.array(rows, np.intp), np.array(columns, np.intp)


def optimal(worth: WorthMatrix) -> Pairs:
    """Return the largest set of pairs with the largest total worth; rows ascend."""
    if not worth.any():
        return np.empty(0, np.intp), np.empty(0, np.intp)
    # An additional pair must count more than the worth of all other pairs together.
    one_pair = 2.0 * min(worth.shape) * float(worth.max())
    rows, columns = assigned(np.where(worth > 0, one_pair + worth, 0))
    fits = worth[rows, columns] > 0
    return rows[fits], columns[fits]


def assigned(worth: WorthMatrix) -> Pairs:
    """Return the assignment of rows to columns with the largest total worth.

    Method: `scipy.optimize.linear_sum_assignment`.
    """
    rows, columns = _solver()(worth, maximize=True)
    return rows, columns


@cache
def _solver() -> Callable[..., Pairs]:
    """Import only this function of scipy.

    The whole of `scipy.optimize` costs each start a quarter of a second and 23 MB.
    """
    folder = Path(scipy.__file__).parent / "optimize"
    spec = PathFinder.find_spec("_lsap", [str(folder)])
    if spec is None or spec.loader is None:
        return scipy.optimize.linear_sum_assignment  # type: ignore[no-any-return]
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.linear_sum_assignment  # type: ignore[no-any-return]


def matched(ours: Sequence[Boxes], theirs: Sequence[Boxes]) -> MatchCounts:
    """Return int64 (pictures, 3): number of pairs (`optimal`), of our boxes, of their boxes.

    ours, theirs  boxes of the same pictures
    """
    rows = [
        (len(optimal(overlaps(a, b))[0]), len(a), len(b)) for a, b in zip(ours, theirs, strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def f1(counts: MatchCounts, times: npt.NDArray[np.integer[Any]] | None = None) -> Any:
    """Return the F1 score, 0..1, of all pictures in `counts`, or 1 if neither side has a box.

    counts  int64 (pictures, 3) from `matched`
    times   int (pictures,) or (R, pictures), weight of each picture; None: 1

    The result is float64, a number or (R,).
    """
    if times is None:
        times = np.ones(len(counts), np.int64)
    pairs, ours, theirs = np.moveaxis(times @ counts, -1, 0)
    boxes = ours + theirs
    return np.divide(2.0 * pairs, boxes, out=np.ones(np.shape(boxes)), where=boxes > 0)[()]


# -- An interval for a figure that was measured on a set of pictures: percentile bootstrap over
# pictures. Two detectors that are compared saw the same pictures. Their difference is one statistic
# of the same resamples, so a picture that is hard for both does not widen its interval.


Counts = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]
Statistic = Callable[[Counts], Figures]

_TABLE_CELLS = 1 << 20  # of one block of resamples, so that the table of a statistic fits in memory


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure of all pictures, and the bounds of the interval of its resamples."""

    middle: float
    low: float
    high: float


def resamples(n_pictures: int, n_resamples: int, seed: int = 0) -> Iterator[Counts]:
    """Yield draws with replacement, as int64 (R, n_pictures): how often each picture was drawn.

    Each block has a few hundred resamples. The same seed gives the same draws.
    """
    rng = np.random.default_rng(seed)
    most = max(1, _TABLE_CELLS // (16 * max(1, n_pictures)))
    shares = np.full(n_pictures, 1 / n_pictures)
    for start in range(0, n_resamples, most):
        yield rng.multinomial(n_pictures, shares, size=min(most, n_resamples - start))


def interval(
    statistic: Statistic,
    n_pictures: int,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    centred: bool = False,
) -> Interval:
    """Return the interval of a figure.

    statistic   int64 (R, n_pictures), how often each picture counts -> float64 (R,); NaN where a
                resample has no such figure, which is left out
    level       0..1, share of the resamples that lie inside
    centred     moved by the distance between the resamples' mean and the figure: for one that a
                resample shifts, as mean average precision by the rare classes that it lacks

    Raises ValueError without pictures, or where no resample has the figure.
    """
    if n_pictures < 1:
        raise ValueError("no pictures to resample")
    middle = float(statistic(np.ones((1, n_pictures), np.int64))[0])
    drawn = np.concatenate([statistic(one) for one in resamples(n_pictures, n_resamples, seed)])
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        raise ValueError("no resample has the figure")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    shift = middle - float(drawn.mean()) if centred else 0.0
    return Interval(middle, float(low) + shift, float(high) + shift)


def agreement(ours: Sequence[Boxes], theirs: Sequence[Boxes]) -> Interval:
    """Return F1 (`f1`) of one detector's boxes against another's, and its 95 % interval.

    Raises ValueError without pictures.
    """
    counts = matched(ours, theirs)
    return interval(lambda times: f1(counts, times), len(counts))
