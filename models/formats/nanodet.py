"""Decode the outputs of NanoDet, with numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from framegate.models.boxes import Boxes, FloatArray, SmallArray, empty
from framegate.models.coco import N_CLASSES
from framegate.models.formats.shared_decoding import above, best, in_input, shaped

BINS = 8  # of each side in NanoDet-Plus
MAX_FEATURES = 96  # values of a box
_FEATURE_SCALE = 12.0


@dataclass(frozen=True, slots=True)
class CellGrid:
    """The cells of a network.

    strides  pixels of the input from one cell to the next, finest grid first
    centre   point in a cell from which its box is measured, as a share of its stride: 0.5 for
             NanoDet, 0 for NanoDet-Plus
    """

    strides: tuple[int, ...]
    centre: float


NANODET_PLUS = CellGrid((8, 16, 32, 64), 0.0)


def logit(score: float) -> float:
    """Return the inverse of the sigmoid for 0 < score < 1."""
    return float(np.log(score) - np.log1p(-score))


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-logits)), float32, without overflow."""
    out: FloatArray = (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)
    return out


def decode_cells(
    cells: FloatArray,
    size: tuple[int, int],
    min_score: float,
    max_candidates: int = 500,
    n_classes: int = N_CLASSES,
    grid: CellGrid = NANODET_PLUS,
) -> Boxes:
    """Return the boxes above `min_score` in model pixels, highest score first, before suppression.

    cells           float32 (cells, n_classes + 4 * bins), one row for each cell, finest grid first:
                    class logits, then for each side left, top, right, bottom logits over
                    0..bins-1 strides
    size            (width, height) of the network's input
    max_candidates  maximum number of boxes; the best are kept

    The threshold comes first, so sigmoid and softmax are computed for few cells. The function makes
    few numpy calls: right after a network, each call starts with cold caches.
    """
    hits = np.flatnonzero(cells[:, :n_classes] > np.float32(logit(min_score)))
    if not len(hits):
        return empty()
    rows, classes = np.divmod(hits, n_classes)
    logits = cells[rows, classes]
    centres, strides = _centres(size, grid)
    # In bf16 many logits are equal: these are ordered by head, class and cell.
    order = np.lexsort((rows, classes, strides[rows], -logits))[:max_candidates]
    rows = rows[order]
    sides = cells[rows, n_classes:].T
    reach = _expectation(sides, len(sides) // 4) * strides[rows]
    centre = centres[:, rows]
    xyxy = np.concatenate([centre - reach[:2], centre + reach[2:]]).T
    found = classes[order].astype(np.int32)
    return Boxes(xyxy, sigmoid(logits[order]), found, _features(cells[rows, :n_classes]))


def _features(logits: FloatArray) -> SmallArray:
    """Return features of boxes, int8 (N, at most 96), from the class logits of their cells.

    The logits are a linear projection of the network's last feature map at that cell, which is
    trained to keep what distinguishes objects. Their usual range is -10 to 4.
    """
    scaled = np.rint(logits[:, :MAX_FEATURES] * np.float32(_FEATURE_SCALE))
    features: SmallArray = np.clip(scaled, -127, 127).astype(np.int8)
    return features


def decode_plus(
    heads: Sequence[FloatArray],
    size: tuple[int, int],
    min_score: float,
    max_boxes: int,  # noqa: ARG001
) -> Boxes:
    """Return the boxes of NanoDet-Plus from its only output; see `detector.member.Kind`."""
    return decode_cells(heads[0], size, min_score)


def decode_joined(
    rows: FloatArray,
    size: tuple[int, int],
    n_classes: int,
    min_score: float,
    grid: CellGrid = NANODET_PLUS,
    is_logits: bool = False,
) -> Boxes:
    """Return the boxes from a single output.

    rows       float32 (N, n_classes + 4 * bins), one row for each cell, finest grid first: class
               scores 0..1, then logits over 0..bins-1 strides for left, top, right, bottom
    size       (width, height) of the network's input
    is_logits  the scores are logits, as in the shipped network; then boxes are not cut at the
               border of the input

    Raises ArrayMismatch.
    """
    points, steps = _centres(size, grid)
    n_bins = (rows.shape[1] - n_classes) // 4
    shaped("output", rows, len(steps), n_classes + 4 * max(n_bins, 1))
    if is_logits:
        return decode_cells(rows, size, min_score, n_classes=n_classes, grid=grid)
    scores = rows[:, :n_classes]
    cells, classes = np.divmod(above(scores, min_score), n_classes)
    reach = _expectation(rows[cells, n_classes:].T, n_bins) * steps[cells]
    corners = np.concatenate([points[:, cells] - reach[:2], points[:, cells] + reach[2:]]).T
    return best(in_input(corners, size), scores[cells, classes], classes)


@lru_cache(64)
def _centres(size: tuple[int, int], grid: CellGrid) -> tuple[FloatArray, FloatArray]:
    """Return the point of each cell, (2, N) in pixels, and its stride, (N,); both read-only."""
    width, height = size
    points = []
    steps = []
    for stride in grid.strides:
        rows, columns = np.mgrid[: -(-height // stride), : -(-width // stride)]
        points.append((np.stack([columns.ravel(), rows.ravel()]) + grid.centre) * stride)
        steps.append(np.full(rows.size, stride))
    all_points = np.concatenate(points, axis=1).astype(np.float32)
    all_steps = np.concatenate(steps).astype(np.float32)
    all_points.flags.writeable = False
    all_steps.flags.writeable = False
    return all_points, all_steps


def _expectation(logits: FloatArray, n_bins: int) -> FloatArray:
    """Return the mean bin under a softmax for each side, (4, N), from logits (4 * n_bins, N)."""
    bins = logits.reshape(4, n_bins, -1)
    weights = np.exp(bins - bins.max(axis=1, keepdims=True))
    out: FloatArray = np.einsum(
        "sbn,b->sn", weights, np.arange(n_bins, dtype=np.float32)
    ) / weights.sum(axis=1)
    return out
