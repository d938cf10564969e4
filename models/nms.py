"""Class-wise non-maximum suppression in numpy."""

import numpy as np
import numpy.typing as npt

from models.boxes import FloatArray, IntArray


def iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """Intersection over union of every box of `a` (N, 4) with every box of `b` (M, 4): (N, M).

    Boxes are left, top, right, bottom; two boxes without area have an IoU of 0.
    """
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(right_bottom - left_top, 0)
    inter = sides[..., 0] * sides[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - inter
    out: FloatArray = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return out


def area(xyxy: FloatArray) -> FloatArray:
    """Area (N,) of boxes (N, 4); 0 where a side is negative."""
    sides = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0)
    out: FloatArray = sides[:, 0] * sides[:, 1]
    return out


def suppress(
    xyxy: FloatArray, scores: FloatArray, class_ids: IntArray, max_iou: float
) -> npt.NDArray[np.intp]:
    """Rows to keep, highest score first.

    A box goes when one of its own class with a higher score was kept and their IoU is above
    `max_iou`. Of equal scores the earlier row wins, so the answer depends on nothing but the input.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, classes = xyxy[order], class_ids[order]
    alive = np.ones(len(order), bool)
    for one_class in np.flatnonzero(np.bincount(classes) > 1) if len(order) else ():
        rows = np.flatnonzero(classes == one_class)
        alive[rows] = _greedy(iou(boxes[rows], boxes[rows]) > max_iou)
    return order[alive]


def _greedy(overlaps: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of boxes sorted by score stay, given who overlaps whom (N, N)."""
    alive = np.ones(len(overlaps), bool)
    # Only rows that overlap a later one can remove anything; most overlap none.
    for i in np.flatnonzero(np.triu(overlaps, 1).any(axis=1)):
        if alive[i]:
            alive[i + 1 :] &= ~overlaps[i, i + 1 :]
    return alive
