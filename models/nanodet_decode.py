"""NanoDet's raw outputs to boxes in model pixels, in numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.boxes import Boxes, FloatArray, IntArray, empty
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


def decode(heads: Sequence[FloatArray], min_score: float, max_candidates: int = 500) -> Boxes:
    """Boxes in model pixels whose score is above `min_score`, highest first, before suppression.

    heads  three float32 arrays (124, H/s, W/s) for s = 8, 16, 32: 80 class logits, then for each
           of the sides left, top, right, bottom 11 logits over 0..10 strides

    The threshold comes first: sigmoid and softmax are computed for the few cells that pass it. At
    most `max_candidates` boxes, the best ones.
    """
    flats = [head.reshape(head.shape[0], -1) for head in heads]
    threshold = logit(min_score)
    hits = [np.flatnonzero(flat[:N_CLASSES] > threshold) for flat in flats]
    logits = [flat.ravel()[hit] for flat, hit in zip(flats, hits, strict=True)]
    lowest = _cut(np.concatenate(logits), max_candidates)
    parts = [
        _read(head, hit[values >= lowest], stride)
        for head, hit, values, stride in zip(heads, hits, logits, STRIDES, strict=True)
        if len(hit)
    ]
    if not parts:
        return empty()
    scores, class_ids, centre, strides, side_logits = (
        np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)
    )
    order = np.argsort(-scores, kind="stable")[:max_candidates]
    reach = _expectation(side_logits[:, order]) * strides[order]
    xyxy = np.concatenate([centre[:, order] - reach[:2], centre[:, order] + reach[2:]]).T
    return Boxes(xyxy, sigmoid(scores[order]), class_ids[order])


def decode_heads(
    heads: Sequence[FloatArray],
    size: tuple[int, int],  # noqa: ARG001
    min_score: float,
    max_boxes: int,  # noqa: ARG001
) -> Boxes:
    """As `decode`, for `models.member.Kind`: all candidates, to be suppressed."""
    return decode(heads, min_score)


def _cut(logits: FloatArray, n: int) -> float:
    """The n-th highest of `logits`; minus infinity when there are no more than n."""
    return float(np.partition(logits, -n)[-n]) if len(logits) > n else -np.inf


def _read(
    head: FloatArray, hits: npt.NDArray[np.intp], stride: int
) -> tuple[FloatArray, IntArray, FloatArray, FloatArray, FloatArray]:
    """Of (class, cell) pairs of one level: logit, class, centre (2, N), stride, side logits."""
    flat = head.reshape(head.shape[0], -1)
    classes, cells = np.divmod(hits, flat.shape[1])
    rows, columns = np.divmod(cells, head.shape[2])
    centre = (np.array([columns, rows], np.float32) + np.float32(0.5)) * np.float32(stride)
    strides = np.full(len(hits), stride, np.float32)
    return (
        flat[classes, cells],
        classes.astype(np.int32),
        centre,
        strides,
        flat[N_CLASSES:, cells],
    )


def _expectation(logits: FloatArray) -> FloatArray:
    """Mean of 0..10 under a softmax of (44, N) logits, for each of the four sides: (4, N)."""
    bins = logits.reshape(4, BINS, -1)
    weights = np.exp(bins - bins.max(axis=1, keepdims=True))
    out: FloatArray = np.einsum("sbn,b->sn", weights, _STEPS) / weights.sum(axis=1)
    return out
