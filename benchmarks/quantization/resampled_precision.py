"""Mean average precision of a thousand resamples of the pictures at once, and its differences."""

from collections.abc import Sequence

import numpy as np

from benchmarks.harness.scoring import IOU_50, RECALLS, Matches
from framegate.models.boxes import AnyArray
from framegate.models.matching import Counts, Figures, Interval, Statistic, interval

_CELLS = 1 << 22  # of one class's table, so that it stays in memory


def mean_precision(matches: Sequence[Matches], thresholds: Sequence[int] = range(10)) -> Statistic:
    """A statistic for `paired_bootstrap`: COCO's mean average precision over classes.

    thresholds  which of IoU .50:.05:.95; the mean over them

    The mean is over the classes that a resample has; its values are those of
    `scoring.average_precision`, picture by picture counted as often as it was drawn.
    """
    there = [one for one in matches if one.n_labels.any()]

    def of(times: Counts) -> Figures:
        table = [_in_blocks(one, times, thresholds) for one in there]
        figures: Figures = np.nanmean(np.stack(table), axis=0)
        return figures

    return of


def ap50(matches: Sequence[Matches]) -> Statistic:
    """The same at IoU .50 alone."""
    return mean_precision(matches, (IOU_50,))


def _in_blocks(one: Matches, times: Counts, thresholds: Sequence[int]) -> Figures:
    rows = max(1, _CELLS // max(1, len(one.scores)))
    parts = [
        np.mean([_of_class(one, times[i : i + rows], k) for k in thresholds], axis=0)
        for i in range(0, len(times), rows)
    ]
    return np.concatenate(parts)


def _of_class(one: Matches, times: Counts, threshold: int) -> AnyArray:
    """Average precision (R,) of a class at one IoU; NaN where no label is to be found."""
    n_labels = times @ one.n_labels
    counted = times[:, one.image] * ~one.ignored[threshold]
    seen = np.cumsum(counted, axis=1)
    # Precision falls at every false box, so only true ones need be looked at.
    columns = np.flatnonzero(one.is_true[threshold])
    found = np.cumsum(counted[:, columns], axis=1)
    precision = found / np.maximum(seen[:, columns], np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    read = _recalls_up_to(n_labels)[np.arange(len(times))[:, None], found]
    new = np.diff(read, axis=1, prepend=0)
    average: AnyArray = (precision * new).sum(axis=1) / len(RECALLS)
    return np.where(n_labels > 0, average, np.nan)


def _recalls_up_to(n_labels: AnyArray) -> AnyArray:
    """int64 (R, 1 + most): how many of the 101 recalls are reached with that many found."""
    found = np.arange(n_labels.max(initial=0) + 1)
    shares = found / np.maximum(n_labels, 1)[:, None]
    return np.searchsorted(RECALLS, shares.ravel(), side="right").reshape(shares.shape)


def of_difference(
    ours: Statistic,
    theirs: Statistic,
    n_pictures: int,
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    centred: bool = False,
) -> Interval:
    """That of `ours` minus `theirs`, both of the same pictures; as `interval`."""

    def difference(times: Counts) -> Figures:
        return ours(times) - theirs(times)

    return interval(difference, n_pictures, n_resamples, seed, level, centred)
