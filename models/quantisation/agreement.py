"""How far two detectors agree about the same pictures."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy

from framegate.models.boxes import Boxes, iou
from framegate.models.quantisation.paired_bootstrap import Counts, Figures, Interval, interval

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
