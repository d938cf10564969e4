"""Functions that the decoders share: selection of candidates, softmax, box coordinates.

`detector/member` calls the decoder of a format, applies the threshold and suppresses overlaps.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import Boxes, FloatArray, IntArray
from framegate.models.errors import ArrayMismatch

MAX_CANDIDATES = 500  # boxes of a decoder, enough for 100 boxes after any suppression
BoxFormat = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
Indices = npt.NDArray[np.intp]
Size = tuple[int, int]  # width, height of the network's input
Options = Mapping[str, Any]


def best(xyxy: FloatArray, scores: FloatArray, class_ids: npt.NDArray[np.integer[Any]]) -> Boxes:
    """Return the best MAX_CANDIDATES of the boxes (N, 4), highest score first. Boxes with equal
    scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    return Boxes(
        np.ascontiguousarray(xyxy[order], np.float32),
        np.ascontiguousarray(scores[order], np.float32),
        class_ids[order].astype(np.int32),
    )


def above(scores: FloatArray, threshold: float) -> Indices:
    """Return the flat indices, rising, of the MAX_CANDIDATES highest scores above `threshold`.

    Of equal scores at the limit, those with lower indices are kept, so the result depends on the
    input only.
    """
    flat = scores.ravel()
    hits = np.flatnonzero(flat > np.float32(threshold))
    if len(hits) <= MAX_CANDIDATES:
        return hits
    kept = hits[np.argsort(-flat[hits], kind="stable")[:MAX_CANDIDATES]]
    kept.sort()
    return kept


def class_numbers(options: Options, n_classes: int, first: int = 0) -> IntArray:
    """Return the network's number of each class, int32 (n_classes,).

    first  number of the first class if the option `class_numbers` is absent

    Raises ArrayMismatch.
    """
    numbers = options.get("class_numbers") or range(first, first + n_classes)
    out = np.array(numbers, np.int32)
    if len(out) != n_classes:
        raise ArrayMismatch("class_numbers", f"{n_classes} numbers", f"{len(out)}")
    return out


def class_columns(scores: FloatArray, options: Options, n_classes: int, first: int = 0) -> IntArray:
    """Return the column of `scores` (N, C) for each class. Raises ArrayMismatch if one is missing.

    first  as in class_numbers
    """
    columns = class_numbers(options, n_classes, first)
    if columns.min() < 0 or columns.max() >= scores.shape[1]:
        wanted = f"a column for each of {n_classes} classes, the last being {columns.max()}"
        raise ArrayMismatch("scores", wanted, f"{scores.shape[1]} columns")
    return columns


def shaped(name: str, array: FloatArray, *shape: int | None) -> FloatArray:
    """Return `array` if it has this shape; None allows any length. Raises ArrayMismatch."""
    fits = array.ndim == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ArrayMismatch(name, f"{shape}".replace("None", "any"), f"{array.shape}")
    return array


def to_xyxy(boxes: FloatArray, form: BoxFormat, size: Size | None = None) -> FloatArray:
    """Return boxes (N, 4) as left, top, right, bottom.

    form  the coordinates of `boxes`
    size  if given, `boxes` are shares of it, 0..1, and the result is in pixels

    Raises ArrayMismatch for an unknown form.
    """
    first, second = boxes[:, :2], boxes[:, 2:]
    if form == "xyxy":
        corners = [first, second]
    elif form == "yxyx":
        corners = [first[:, ::-1], second[:, ::-1]]
    elif form == "xywh":
        corners = [first, first + second]
    elif form == "cxcywh":
        half = second * np.float32(0.5)
        corners = [first - half, first + half]
    else:
        raise ArrayMismatch("boxes", "xyxy, yxyx, xywh or cxcywh", repr(form))
    xyxy: FloatArray = np.concatenate(corners, axis=1)
    if size is not None:
        xyxy = xyxy * np.array(size * 2, np.float32)
    return xyxy


def in_input(xyxy: FloatArray, size: Size) -> FloatArray:
    """Return the boxes, cut at the border of the network's input."""
    out: FloatArray = np.clip(xyxy, np.float32(0), np.array(size * 2, np.float32))
    return out


def softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax along the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return out
