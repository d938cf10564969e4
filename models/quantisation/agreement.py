"""How far two detectors agree about the same pictures, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from framegate.models import matching
from framegate.models.boxes import Boxes

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


def agreement(ours: Sequence[Boxes], theirs: Sequence[Boxes]) -> Interval:
    """F1 (`matching.f1`) of one detector's boxes against another's, and its 95 % interval.

    Raises ValueError without pictures.
    """
    counts = matching.matched(ours, theirs)
    return interval(lambda times: matching.f1(counts, times), len(counts))
