"""Class-wise non-maximum suppression."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import FloatArray, IntArray


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


def row_iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """Intersection over union of each box of `a` (N, 4) with that of `b` (N, 4) beside it: (N,)."""
    sides = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0)
    inter = sides[:, 0] * sides[:, 1]
    union = area(a) + area(b) - inter
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
    Scores must be above 0 and areas too.
    """
    if not len(scores):
        return np.empty(0, np.intp)
    boxes = xyxy.astype(np.float64)
    # OpenCV tells classes apart by shifting each one's boxes: that needs coordinates from 0 up.
    boxes[:, :2] -= boxes[:, :2].min(axis=0)
    boxes[:, 2:] -= xyxy[:, :2]
    # OpenCV's stubs ask for lists; arrays are taken as they are, without a copy to Python numbers.
    arrays: tuple[Any, Any, Any] = (boxes, scores, class_ids)
    keep = cv2.dnn.NMSBoxesBatched(*arrays, 0.0, max_iou)
    rows = np.sort(np.asarray(keep, np.intp).ravel())
    return rows[np.argsort(-scores[rows], kind="stable")]
