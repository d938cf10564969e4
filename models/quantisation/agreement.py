"""How far two detectors agree about the same pictures, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from framegate.models.boxes import Boxes, iou

# -- How sure a figure is that was measured on a set of pictures: percentile bootstrap over
# pictures. Two detectors that are compared were shown the same pictures, so a difference of
# theirs is one statistic, of the same resamples: what makes a picture hard cancels out in it.


Counts = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]
Statistic = Callable[[Counts], Figures]

_TABLE_CELLS = 1 << 20  # of one block of resamples: what a statistic makes of it fits in memory


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure of all pictures, and between what its resamples lie."""

    middle: float
    low: float
    high: float


def resamples(n_pictures: int, n_resamples: int, seed: int = 0) -> Iterator[Counts]:
    """Draws with replacement, as int64 (R, n_pictures): how often each picture was drawn.

    In blocks of a few hundred resamples; the same seed gives the same draws.
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
    """The interval of a figure.

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


MIN_IOU = 0.5


def n_matched(a: Boxes, b: Boxes, min_iou: float = MIN_IOU) -> int:
    """Most pairs of a box of `a` and one of `b`: same class, IoU at least `min_iou`, each once."""
    same = a.class_ids[:, None] == b.class_ids[None, :]
    fits = same & (iou(a.xyxy, b.xyxy) >= min_iou)
    rows, columns = scipy.optimize.linear_sum_assignment(fits, maximize=True)
    return int(np.count_nonzero(fits[rows, columns]))


def counted(ours: Sequence[Boxes], theirs: Sequence[Boxes]) -> npt.NDArray[np.int64]:
    """int64 (pictures, 3): boxes that match, of ours, of theirs; the same pictures in order."""
    rows = [(n_matched(a, b), len(a), len(b)) for a, b in zip(ours, theirs, strict=True)]
    return np.array(rows, np.int64).reshape(-1, 3)


def f1(counts: npt.NDArray[np.int64], times: Counts) -> Figures:
    """F1 (R,) of all boxes, picture i taken `times[r, i]` times; 1 where neither has a box."""
    both, ours, theirs = (times @ counts).T
    boxes = ours + theirs
    share: Figures = np.divide(2.0 * both, boxes, out=np.ones(len(times)), where=boxes > 0)
    return share


def agreement(
    ours: Sequence[Boxes], theirs: Sequence[Boxes], n_resamples: int = 2000, seed: int = 0
) -> Interval:
    """F1 of the boxes of one detector against another's, with its 95 % interval over pictures.

    Raises ValueError without pictures.
    """
    counts = counted(ours, theirs)
    return interval(lambda times: f1(counts, times), len(counts), n_resamples, seed)
