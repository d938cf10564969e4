"""What a detector says about one picture: boxes, their overlap, suppression, checks of arrays."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.errors import ArrayMismatch

# -- Names of arrays, for all of models; ByteArray is picture's.

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]
IndexArray = npt.NDArray[np.intp]  # rows of an array
AnyArray = npt.NDArray[Any]
R = TypeVar("R")

# -- Checks of shape and dtype that frozen records run at construction.


def read_only(
    name: str, array: Any, dtype: npt.DTypeLike, shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """A read-only view of `array`; `None` in `shape` stands for any length.

    The caller's own array stays writable: only the view is locked. Raises ArrayMismatch when
    `array` is no numpy array, or its dtype or shape differ. Nothing is converted or copied.
    """
    # Spelt out: it runs dozens of times a frame, mostly on arrays whose whole shape is known.
    fits = isinstance(array, np.ndarray) and array.dtype == dtype
    if not fits or (array.shape != shape and not _is_of(array.shape, shape)):
        raise ArrayMismatch(name, _words(np.dtype(dtype), shape), _found(array))
    view: npt.NDArray[Any] = array
    if view.flags.writeable:
        view = view.view()
        view.flags.writeable = False
    return view


def unchecked(record: R, **changed: Any) -> R:
    """A copy of a frozen record with other values, for which the caller vouches: no check is run.

    What cached properties worked out goes along: it must not depend on what changes. The record's
    class has no slots.
    """
    copy: R = object.__new__(type(record))
    copy.__dict__.update(record.__dict__, **changed)
    return copy


def _is_of(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    for want, have in zip(wanted, found, strict=False):
        if want is not None and want != have:
            return False
    return len(found) == len(wanted)


def _words(dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> str:
    return f"{dtype} ({', '.join('any' if n is None else str(n) for n in shape)})"


def _found(array: Any) -> str:
    return _words(array.dtype, array.shape) if isinstance(array, np.ndarray) else str(type(array))


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """A struct of read-only arrays, one row a box, highest score first.

    xyxy       float32 (N, 4)  left, top, right, bottom in pixels of the source picture
    scores     float32 (N,)    0..1
    class_ids  int32   (N,)    index into `coco.LABELS`

    Raises ArrayMismatch. N may be 0: "looked, found nothing". Safe to share between threads.
    """

    xyxy: FloatArray
    scores: FloatArray
    class_ids: IntArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", read_only("scores", self.scores, np.float32, (None,)))
        n = len(self.scores)
        object.__setattr__(self, "xyxy", read_only("xyxy", self.xyxy, np.float32, (n, 4)))
        object.__setattr__(
            self, "class_ids", read_only("class_ids", self.class_ids, np.int32, (n,))
        )
        # A sum of doubles is finite when all of it is; this runs dozens of times a frame.
        if not math.isfinite(self.xyxy.sum(dtype=np.float64) + self.scores.sum(dtype=np.float64)):
            raise ArrayMismatch("boxes", "finite numbers", "NaN or infinity")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: IndexArray | BoolArray) -> Boxes:
        """The rows of an index array or a Boolean mask, in that order."""
        return _vouched(self.xyxy[rows], self.scores[rows], self.class_ids[rows])

    def named(self, class_ids: IntArray) -> Boxes:
        """The same boxes, each of another class."""
        return Boxes(self.xyxy, self.scores, class_ids)

    def moved(self, right: float, down: float) -> Boxes:
        """The same boxes, shifted by that many pixels: from a part of a picture to the whole."""
        shift = np.array([right, down, right, down], np.float32)
        return Boxes(self.xyxy + shift, self.scores, self.class_ids)

    def to_bytes(self) -> bytes:
        """21 bytes a box, as this machine has numbers."""
        class_ids = self.class_ids.astype(np.uint8)
        return b"".join((self.xyxy.tobytes(), self.scores.tobytes(), class_ids.tobytes()))

    @staticmethod
    def from_bytes(data: bytes) -> Boxes:
        """What `to_bytes` wrote, whole."""
        n = len(data) // 21
        xyxy = np.frombuffer(data, np.float32, 4 * n).reshape(n, 4)
        scores = np.frombuffer(data, np.float32, n, 16 * n)
        return Boxes(xyxy, scores, np.frombuffer(data, np.uint8, n, 20 * n).astype(np.int32))

    @staticmethod
    def read(data: bytes, classes: Collection[int] = range(256)) -> Boxes | None:
        """What `to_bytes` wrote of these classes; None for anything else."""
        if len(data) % 21:
            return None
        try:
            boxes = Boxes.from_bytes(data)
        except ArrayMismatch:
            return None
        return boxes if all(each in classes for each in boxes.class_ids.tolist()) else None


def _vouched(xyxy: FloatArray, scores: FloatArray, class_ids: IntArray) -> Boxes:
    """Boxes of new arrays with rows of others, which were checked: no check is run."""
    boxes = object.__new__(Boxes)
    for name, array in (("xyxy", xyxy), ("scores", scores), ("class_ids", class_ids)):
        array.flags.writeable = False
        object.__setattr__(boxes, name, array)
    return boxes


_EMPTY: Final = Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


def empty() -> Boxes:
    """No box at all."""
    return _EMPTY


def together(parts: Sequence[Boxes]) -> Boxes:
    """All boxes of all parts, one part after the other."""
    parts = [*parts, _EMPTY]
    return _vouched(
        np.concatenate([part.xyxy for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
    )


# -- Overlap, and non-maximum suppression: one thing has one box, whatever classes it was taken for.


SAME: Final = 0.5  # IoU above which two boxes of a frame are one thing (law 16)


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


def suppress(xyxy: FloatArray, scores: FloatArray, max_iou: float = SAME) -> IndexArray:
    """Rows to keep, highest score first.

    A box goes when one with a higher score was kept and their IoU is above `max_iou`, of whatever
    classes they are: a network often takes one thing for two. Of equal scores the earlier row wins,
    so the answer depends on nothing but the input. Scores must be above 0 and areas too.
    """
    if not len(scores):
        return np.empty(0, np.intp)
    boxes = xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    # OpenCV's stubs ask for lists; arrays are taken as they are, without a copy to Python numbers.
    arrays: tuple[Any, Any] = (boxes, scores)
    keep = cv2.dnn.NMSBoxes(*arrays, 0.0, max_iou)
    rows = np.sort(np.asarray(keep, np.intp).ravel())
    return rows[np.argsort(-scores[rows], kind="stable")]
