"""NanoDet's raw outputs to boxes in model pixels, in numpy."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from framegate.models.boxes import Boxes, FloatArray, empty
from framegate.models.coco import N_CLASSES
from framegate.models.formats.decoding import above, best, in_input, shaped

STRIDES = (8, 16, 32)
HEADS = ("head8", "head16", "head32")  # as the shipped networks name their outputs
BINS = 11


def logit(score: float) -> float:
    """The number whose sigmoid is `score` (0 < score < 1)."""
    return float(np.log(score) - np.log1p(-score))


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow."""
    out: FloatArray = (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)
    return out


def decode(
    heads: Sequence[FloatArray],
    min_score: float,
    max_candidates: int = 500,
    n_classes: int = N_CLASSES,
) -> Boxes:
    """Boxes in model pixels whose score is above `min_score`, highest first, before suppression.

    heads  three float32 arrays (n_classes + 44, H/s, W/s) for s = 8, 16, 32: class logits, then
           for each of the sides left, top, right, bottom 11 logits over 0..10 strides

    At most `max_candidates` boxes, the best ones.
    """
    cells = np.concatenate([head.reshape(head.shape[0], -1).T for head in heads])
    height, width = heads[0].shape[1:]
    size = width * STRIDES[0], height * STRIDES[0]
    return decode_cells(cells, size, min_score, max_candidates, n_classes)


def decode_cells(
    cells: FloatArray,
    size: tuple[int, int],
    min_score: float,
    max_candidates: int = 500,
    n_classes: int = N_CLASSES,
) -> Boxes:
    """As `decode`, of all three heads as one: float32 (cells, n_classes + 44), the finest first.

    size  (width, height) of the network's input

    The threshold comes first: sigmoid and softmax are computed for the few cells that pass it. All
    in few calls on one array: after a network every call finds its code and memory uncached.
    """
    hits = np.flatnonzero(cells[:, :n_classes] > np.float32(logit(min_score)))
    if not len(hits):
        return empty()
    at, classes = np.divmod(hits, n_classes)
    logits = cells[at, classes]
    centres, strides = _centres(size)
    # Equal ones, in bf16 there are many, by head, class and cell.
    order = np.lexsort((at, classes, strides[at], -logits))[:max_candidates]
    at = at[order]
    reach = _expectation(cells[at, n_classes:].T) * strides[at]
    centre = centres[:, at]
    xyxy = np.concatenate([centre - reach[:2], centre + reach[2:]]).T
    return Boxes(xyxy, sigmoid(logits[order]), classes[order].astype(np.int32))


def decode_heads(
    heads: Sequence[FloatArray],
    size: tuple[int, int],
    min_score: float,
    max_boxes: int,  # noqa: ARG001
) -> Boxes:
    """As `decode_cells` of the only one, for `detector.member.Kind`: all candidates, to be
    suppressed.
    """
    return decode_cells(heads[0], size, min_score)


def decode_joined(
    rows: FloatArray,
    size: tuple[int, int],
    n_classes: int,
    min_score: float,
    strides: Sequence[int] = (8, 16, 32, 64),
    centre: float = 0.0,
) -> Boxes:
    """As `decode`, of upstream's one output: a row a cell, finest grid first.

    rows    float32 (N, n_classes + 4 * bins): class scores 0..1, then logits over 0..bins-1
            strides for left, top, right, bottom
    size    (width, height) of the network's input: boxes are cut at its border, as upstream does
    centre  where in its cell a box is measured from: 0.5 for NanoDet, 0 for NanoDet-Plus
    """
    places, steps = _cells(size, strides, centre)
    n_bins = (rows.shape[1] - n_classes) // 4
    shaped("output", rows, len(steps), n_classes + 4 * max(n_bins, 1))
    scores = rows[:, :n_classes]
    at, classes = np.divmod(above(scores, min_score), n_classes)
    reach = _expectation(rows[at, n_classes:].T, n_bins) * steps[at]
    corners = np.concatenate([places[:, at] - reach[:2], places[:, at] + reach[2:]]).T
    return best(in_input(corners, size), scores[at, classes], classes)


def _cells(
    size: tuple[int, int], strides: Sequence[int], centre: float
) -> tuple[FloatArray, FloatArray]:
    """Where each cell measures from (2, N), in pixels, and its stride (N,)."""
    places, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: -(-size[1] // stride), : -(-size[0] // stride)]
        places.append((np.stack([columns.ravel(), rows.ravel()]) + centre) * stride)
        steps.append(np.full(rows.size, stride))
    return np.concatenate(places, axis=1).astype(np.float32), np.concatenate(steps).astype(
        np.float32
    )


@lru_cache(64)
def _centres(size: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """As `_cells`, of the shipped networks; read-only."""
    places, steps = _cells(size, STRIDES, 0.5)
    places.flags.writeable = steps.flags.writeable = False
    return places, steps


def _expectation(logits: FloatArray, n_bins: int = BINS) -> FloatArray:
    """Mean of 0..10 under a softmax of (44, N) logits, for each of the four sides: (4, N)."""
    bins = logits.reshape(4, n_bins, -1)
    weights = np.exp(bins - bins.max(axis=1, keepdims=True))
    out: FloatArray = np.einsum(
        "sbn,b->sn", weights, np.arange(n_bins, dtype=np.float32)
    ) / weights.sum(axis=1)
    return out
