"""NanoDet's raw outputs to boxes in model pixels, in numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.boxes import Boxes, FloatArray
from models.coco import N_CLASSES

STRIDES = (8, 16, 32)
BINS = 11
_STEPS = np.arange(BINS, dtype=np.float32)


def logit(score: float) -> float:
    """The number whose sigmoid is `score` (0 < score < 1)."""
    return float(np.log(score) - np.log1p(-score))


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow."""
    out: FloatArray = (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)
    return out


def decode(heads: Sequence[FloatArray], min_score: float, max_candidates: int = 1000) -> Boxes:
    """Boxes in model pixels whose score is above `min_score`, highest first, before suppression.

    heads  three float32 arrays (124, H/s, W/s) for s = 8, 16, 32: 80 class logits, then for each
           of the sides left, top, right, bottom 11 logits over 0..10 strides

    The threshold comes first: sigmoid and softmax are computed for the few cells that pass it. At
    most `max_candidates` boxes, the best ones.
    """
    parts = [_level(head, s, logit(min_score)) for head, s in zip(heads, STRIDES, strict=True)]
    xyxy, logits, class_ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-logits, kind="stable")[:max_candidates]
    return Boxes(xyxy[order], sigmoid(logits[order]), class_ids[order])


def _level(
    head: FloatArray, stride: int, threshold: float
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int32]]:
    width = head.shape[2]
    flat = head.reshape(head.shape[0], -1)
    hits = np.flatnonzero(flat[:N_CLASSES] > threshold)
    classes, cells = np.divmod(hits, flat.shape[1])
    sides = _expectation(flat[N_CLASSES:, cells]) * np.float32(stride)
    rows, columns = np.divmod(cells, width)
    centre = (np.stack([columns, rows]).astype(np.float32) + np.float32(0.5)) * np.float32(stride)
    xyxy = np.concatenate([centre - sides[:2], centre + sides[2:]]).T
    return xyxy, flat[classes, cells], classes.astype(np.int32)


def _expectation(logits: FloatArray) -> FloatArray:
    """Mean of 0..10 under a softmax of (44, N) logits, for each of the four sides: (4, N)."""
    bins = logits.reshape(4, BINS, -1)
    weights = np.exp(bins - bins.max(axis=1, keepdims=True))
    out: FloatArray = np.einsum("sbn,b->sn", weights, _STEPS) / weights.sum(axis=1)
    return out
