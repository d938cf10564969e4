"""Decode the outputs of CenterNet, with numpy."""

from typing import Final

import numpy as np

from framegate.models.boxes import BoolArray, Boxes, FloatArray, IntArray
from framegate.models.formats.nanodet import logit, sigmoid

MAX_BOXES: Final = 100


def decode(
    heat: FloatArray,
    sides: FloatArray,
    offset: FloatArray,
    min_score: float,
    stride: int = 4,
    is_logits: bool = True,
    max_boxes: int = MAX_BOXES,
) -> Boxes:
    """Return the best `max_boxes` boxes above `min_score` in model pixels, highest score first.

    heat    float32 (classes, H/stride, W/stride)  class logits, or scores 0..1 if not `is_logits`
    sides   float32 (2, H/stride, W/stride)  width and height in cells
    offset  float32 (2, H/stride, W/stride)  x and y of the centre in its cell

    A box is a peak: a cell that no cell of its 3x3 neighbourhood exceeds in the same class. Of
    equal neighbours, both are peaks. Neighbours are read for the few cells above the threshold
    only, with the result of a max-pool over all maps, which would cost more than the network.
    Peaks need no suppression.
    """
    threshold = min_score
    if is_logits:
        threshold = logit(min_score)
    classes, rows, columns = _peaks(heat, threshold, max_boxes)
    scores = heat[classes, rows, columns]
    if is_logits:
        scores = sigmoid(scores)
    centre = np.stack([columns, rows]).astype(np.float32) + offset[:, rows, columns]
    half = sides[:, rows, columns] * np.float32(0.5)
    corners = np.concatenate([centre - half, centre + half]) * np.float32(stride)
    return Boxes(np.ascontiguousarray(corners.T), scores, classes)


def _peaks(
    heat: FloatArray, threshold: float, max_boxes: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return class, row and column of the best peaks above `threshold`, highest first."""
    hits = np.flatnonzero(heat > threshold)
    classes, rows, columns = (i.astype(np.int32) for i in np.unravel_index(hits, heat.shape))
    peak = _is_peak(heat, classes, rows, columns)
    classes, rows, columns = classes[peak], rows[peak], columns[peak]
    order = np.argsort(-heat[classes, rows, columns], kind="stable")[:max_boxes]
    return classes[order], rows[order], columns[order]


def _is_peak(heat: FloatArray, classes: IntArray, rows: IntArray, columns: IntArray) -> BoolArray:
    """Return a mask of the cells that equal the maximum of their 3x3 neighbourhood."""
    values = heat[classes, rows, columns]
    peak = np.ones(len(values), bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            # At the border, clipping compares a cell of the neighbourhood twice.
            y = np.clip(rows + down, 0, heat.shape[1] - 1)
            x = np.clip(columns + right, 0, heat.shape[2] - 1)
            peak &= values >= heat[classes, y, x]
    return peak
