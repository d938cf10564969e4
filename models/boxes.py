"""Boxes of one picture, their overlap, non-maximum suppression, and checks of arrays."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.errors import ArrayMismatch

# -- Names of array types.

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]
SmallArray = npt.NDArray[np.int8]
IndexArray = npt.NDArray[np.intp]  # rows of an array
AnyArray = npt.NDArray[Any]
R = TypeVar("R")

BOX_BYTES: Final = 21  # of a box in `Boxes.to_bytes`

# -- Checks of shape and dtype, which frozen records run at construction.


def read_only(
    name: str, array: Any, dtype: npt.DTypeLike, shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """Return a read-only view of `array`, without a copy or a conversion.

    shape  expected shape; None is any length

    The caller's own array stays writable. Raises ArrayMismatch if `array` is not a numpy array, or
    if its dtype or shape differ.
    """
    # This runs dozens of times per frame, mostly on arrays whose whole shape is known.
    is_array = isinstance(array, np.ndarray) and array.dtype == dtype
    if not is_array or (array.shape != shape and not _has_shape(array.shape, shape)):
        actual = str(type(array))
        if isinstance(array, np.ndarray):
            actual = _description(array.dtype, array.shape)
        raise ArrayMismatch(name, _description(np.dtype(dtype), shape), actual)
    view: npt.NDArray[Any] = array
    if view.flags.writeable:
        view = view.view()
        view.flags.writeable = False
    return view


def check_length(name: str, values: Sized, length: int) -> None:
    """Check that a sequence has a value for each box. Raises ArrayMismatch."""
    if len(values) != length:
        raise ArrayMismatch(name, f"{length} values", f"{len(values)} values")


def unchecked(record: R, **changed: Any) -> R:
    """Return a copy of a frozen record with changed values, without running its checks.

    The caller must pass valid values. Cached properties are copied, so they must not depend on the
    changed values. The class of the record must have no slots.
    """
    copy: R = object.__new__(type(record))
    copy.__dict__.update(record.__dict__, **changed)
    return copy


def _has_shape(actual: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    for length, allowed in zip(actual, expected, strict=False):
        if allowed is not None and allowed != length:
            return False
    return len(actual) == len(expected)


def _description(dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> str:
    lengths = ["any" if length is None else str(length) for length in shape]
    return f"{dtype} ({', '.join(lengths)})"


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The boxes of one picture as read-only arrays, one row per box, highest score first.

    xyxy       float32 (N, 4)  left, top, right, bottom in pixels of the source picture
    scores     float32 (N,)    0..1
    class_ids  int32   (N,)    index into the labels of the detector, usually `coco.LABELS`
    features   int8    (N, F)  values that the network computed of each; None: unknown

    N = 0 means that a detector looked and found nothing. Safe to share between threads. Raises
    ArrayMismatch.
    """

    xyxy: FloatArray
    scores: FloatArray
    class_ids: IntArray
    features: SmallArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", read_only("scores", self.scores, np.float32, (None,)))
        n = len(self.scores)
        if self.features is not None:
            features = read_only("features", self.features, np.int8, (n, None))
            object.__setattr__(self, "features", features)
        object.__setattr__(self, "xyxy", read_only("xyxy", self.xyxy, np.float32, (n, 4)))
        object.__setattr__(
            self, "class_ids", read_only("class_ids", self.class_ids, np.int32, (n,))
        )
        # The sum is finite if all values are. One sum is the cheapest check, and this runs dozens
        # of times per frame.
        if not math.isfinite(self.xyxy.sum(dtype=np.float64) + self.scores.sum(dtype=np.float64)):
            raise ArrayMismatch("boxes", "finite numbers", "NaN or infinity")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: IndexArray | BoolArray) -> Boxes:
        """Return the rows of an index array, in its order, or of a Boolean mask."""
        features: SmallArray | None = None
        if self.features is not None:
            features = self.features[rows]
        return _checked_before(self.xyxy[rows], self.scores[rows], self.class_ids[rows], features)

    def named(self, class_ids: IntArray) -> Boxes:
        """Return the same boxes with other classes."""
        return Boxes(self.xyxy, self.scores, class_ids, self.features)

    def moved(self, right: float, down: float) -> Boxes:
        """Return the boxes, shifted by this many pixels (from a part of a picture to the whole)."""
        shift = np.array([right, down, right, down], np.float32)
        return Boxes(self.xyxy + shift, self.scores, self.class_ids, self.features)

    def to_bytes(self) -> bytes:
        """Return the boxes in 21 bytes each without features, in the byte order of this machine."""
        class_ids = self.class_ids.astype(np.uint8)
        return b"".join((self.xyxy.tobytes(), self.scores.tobytes(), class_ids.tobytes()))

    @staticmethod
    def from_bytes(data: bytes) -> Boxes:
        """Return the boxes that `to_bytes` wrote. Raises ArrayMismatch for values not finite."""
        n = len(data) // BOX_BYTES
        xyxy = np.frombuffer(data, np.float32, 4 * n).reshape(n, 4)
        scores = np.frombuffer(data, np.float32, n, 16 * n)
        return Boxes(xyxy, scores, np.frombuffer(data, np.uint8, n, 20 * n).astype(np.int32))

    @staticmethod
    def read(data: bytes, classes: Collection[int] = range(256)) -> Boxes | None:
        """Return the boxes that `to_bytes` wrote, or None for other bytes or other classes."""
        if len(data) % BOX_BYTES:
            return None
        try:
            boxes = Boxes.from_bytes(data)
        except ArrayMismatch:
            return None
        if not all(class_id in classes for class_id in boxes.class_ids.tolist()):
            return None
        return boxes


def _checked_before(
    xyxy: FloatArray, scores: FloatArray, class_ids: IntArray, features: SmallArray | None = None
) -> Boxes:
    """Return boxes of new arrays whose rows come from checked boxes, without running the checks."""
    boxes = object.__new__(Boxes)
    for name, array in (("xyxy", xyxy), ("scores", scores), ("class_ids", class_ids)):
        array.flags.writeable = False
        object.__setattr__(boxes, name, array)
    if features is not None:
        features.flags.writeable = False
    object.__setattr__(boxes, "features", features)
    return boxes


_EMPTY: Final = Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


def empty() -> Boxes:
    """Return no boxes."""
    return _EMPTY


def together(parts: Sequence[Boxes]) -> Boxes:
    """Return the boxes of all parts, in the order of the parts."""
    parts = [*parts, _EMPTY]
    return _checked_before(
        np.concatenate([part.xyxy for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        _features_together(parts),
    )


def _features_together(parts: Sequence[Boxes]) -> SmallArray | None:
    """Return the features of all parts; zeros for a part without; None if no part has any."""
    lengths = [part.features.shape[1] for part in parts if part.features is not None]
    if not lengths:
        return None
    rows = []
    for part in parts:
        row = np.zeros((len(part), max(lengths)), np.int8)
        if part.features is not None:
            row[:, : part.features.shape[1]] = part.features
        rows.append(row)
    return np.concatenate(rows)


# -- Overlap, and non-maximum suppression across classes: one object has one box.


SAME: Final = 0.5  # IoU above which two boxes of a frame are one object (law 16)


def iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the intersection over union (N, M) of all boxes in `a` (N, 4) with all in `b` (M, 4).

    Boxes are left, top, right, bottom. Boxes without area have an IoU of 0.
    """
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(right_bottom - left_top, 0)
    inter = sides[..., 0] * sides[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - inter
    out: FloatArray = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return out


def row_iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the intersection over union (N,) of the boxes in `a` and `b`, both (N, 4), by row."""
    sides = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0)
    inter = sides[:, 0] * sides[:, 1]
    union = area(a) + area(b) - inter
    out: FloatArray = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return out


def area(xyxy: FloatArray) -> FloatArray:
    """Return the area (N,) of boxes (N, 4), or 0 if a side is negative."""
    sides = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0)
    out: FloatArray = sides[:, 0] * sides[:, 1]
    return out


def suppress(xyxy: FloatArray, scores: FloatArray, max_iou: float = SAME) -> IndexArray:
    """Return the rows that remain after non-maximum suppression, highest score first.

    A box is removed if its IoU with a kept box of a higher score is above `max_iou`, regardless of
    the classes, because a network often detects one object as two classes. Of equal scores the
    earlier row wins, so the result depends only on the input. Scores and areas must be above 0.
    """
    if not len(scores):
        return np.empty(0, np.intp)
    boxes = xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    # OpenCV's type stubs ask for lists, but it takes arrays without a conversion.
    arrays: tuple[Any, Any] = (boxes, scores)
    keep = cv2.dnn.NMSBoxes(*arrays, 0.0, max_iou)
    rows = np.sort(np.asarray(keep, np.intp).ravel())
    return rows[np.argsort(-scores[rows], kind="stable")]
