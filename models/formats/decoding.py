"""What all decoders share: the best candidates, softmax of the few, coordinates of boxes."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import Boxes, FloatArray, IntArray
from framegate.models.errors import ArrayMismatch

MOST = 500  # candidates that a decoder gives: enough for 100 boxes after any suppression
BoxFormat = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
Indices = npt.NDArray[np.intp]
Size = tuple[int, int]  # width, height of the network's input
Options = Mapping[str, Any]


def best(xyxy: FloatArray, scores: FloatArray, class_ids: npt.NDArray[np.integer[Any]]) -> Boxes:
    """The best `MOST` of boxes (N, 4), highest score first; equal ones keep their order."""
    order = np.argsort(-scores, kind="stable")[:MOST]
    return Boxes(
        np.ascontiguousarray(xyxy[order], np.float32),
        np.ascontiguousarray(scores[order], np.float32),
        class_ids[order].astype(np.int32),
    )


def above(scores: FloatArray, threshold: float) -> Indices:
    """Flat indices of what is above `threshold`, at most the `MOST` highest, in rising order.

    Ties at the lowest of them are cut by position, so the answer depends on the input alone.
    """
    flat = scores.ravel()
    hits = np.flatnonzero(flat > np.float32(threshold))
    if len(hits) <= MOST:
        return hits
    kept = hits[np.argsort(-flat[hits], kind="stable")[:MOST]]
    kept.sort()
    return kept


def class_numbers(options: Options, n_classes: int, first: int = 0) -> IntArray:
    """The network's own number of each class: option `class_numbers`, or `first` and on."""
    numbers = options.get("class_numbers") or range(first, first + n_classes)
    out = np.array(numbers, np.int32)
    if len(out) != n_classes:
        raise ArrayMismatch("class_numbers", f"{n_classes} numbers", f"{len(out)}")
    return out


def class_columns(scores: FloatArray, options: Options, n_classes: int, first: int = 0) -> IntArray:
    """The column of `scores` (N, C) of each class. Raises ArrayMismatch if one is not there."""
    columns = class_numbers(options, n_classes, first)
    if columns.min() < 0 or columns.max() >= scores.shape[1]:
        wanted = f"a column for each of {n_classes} classes, the last being {columns.max()}"
        raise ArrayMismatch("scores", wanted, f"{scores.shape[1]} columns")
    return columns


def shaped(name: str, array: FloatArray, *shape: int | None) -> FloatArray:
    """`array`, whose shape must be that; None stands for any length. Raises ArrayMismatch."""
    fits = array.ndim == len(shape) and all(
        wanted in (None, have) for wanted, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        words = ", ".join("any" if n is None else str(n) for n in shape)
        raise ArrayMismatch(name, f"({words})", f"{array.shape}")
    return array


def to_xyxy(boxes: FloatArray, form: BoxFormat, size: Size | None = None) -> FloatArray:
    """Boxes (N, 4) of a form as left, top, right, bottom.

    size  given: the boxes are shares of it, 0..1
    """
    a, b, c, d = boxes.T
    if form == "yxyx":
        a, b, c, d = b, a, d, c
    elif form == "xywh":
        c, d = a + c, b + d
    elif form == "cxcywh":
        half_c, half_d = c * np.float32(0.5), d * np.float32(0.5)
        a, b, c, d = a - half_c, b - half_d, a + half_c, b + half_d
    elif form != "xyxy":
        raise ArrayMismatch("boxes", "xyxy, yxyx, xywh or cxcywh", repr(form))
    out: FloatArray = np.stack([a, b, c, d], axis=1)
    return out if size is None else out * np.array(size * 2, np.float32)


def in_input(xyxy: FloatArray, size: Size) -> FloatArray:
    """Boxes cut at the border of the network's input."""
    out: FloatArray = np.clip(xyxy, np.float32(0), np.array(size * 2, np.float32))
    return out


def softmax(logits: FloatArray) -> FloatArray:
    """Along the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return out
