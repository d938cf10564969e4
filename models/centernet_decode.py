"""CenterNet's raw outputs to boxes in model pixels, in numpy."""

from collections.abc import Sequence

import numpy as np

from models.boxes import Boxes, FloatArray, IntArray
from models.nanodet_decode import logit, sigmoid

STRIDE = 4


def decode(heat: FloatArray, sides: FloatArray, min_score: float, max_boxes: int = 100) -> Boxes:
    """Boxes in model pixels whose score is above `min_score`, highest first.

    heat   float32 (80, H/4, W/4), class logits
    sides  float32 (4, H/4, W/4), distances left, top, right, bottom in model pixels

    A box is a peak: a cell that no neighbour in the 3x3 around it beats in the same class; equal
    neighbours are peaks both. Neighbours are read for the few cells above the threshold only: the
    same answer as a max-pool over all maps, which costs more than the network. Peaks need no
    suppression. At most `max_boxes` boxes, the best ones.
    """
    hits = np.flatnonzero(heat > logit(min_score))
    classes, rows, columns = np.unravel_index(hits, heat.shape)
    peak = _is_peak(heat, classes.astype(np.int32), rows.astype(np.int32), columns.astype(np.int32))
    classes, rows, columns = classes[peak], rows[peak], columns[peak]
    logits = heat[classes, rows, columns]
    order = np.argsort(-logits, kind="stable")[:max_boxes]
    classes, rows, columns = classes[order], rows[order], columns[order]
    centre = np.stack([columns, rows]).astype(np.float32) * np.float32(STRIDE)
    reach = sides[:, rows, columns]
    xyxy = np.ascontiguousarray(np.concatenate([centre - reach[:2], centre + reach[2:]]).T)
    return Boxes(xyxy, sigmoid(logits[order]), classes.astype(np.int32))


def decode_maps(
    maps: Sequence[FloatArray],
    size: tuple[int, int],  # noqa: ARG001
    min_score: float,
    max_boxes: int,
) -> Boxes:
    """As `decode`, for `models.member.Kind`."""
    return decode(maps[0], maps[1], min_score, max_boxes)


def _is_peak(
    heat: FloatArray, classes: IntArray, rows: IntArray, columns: IntArray
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether each cell equals the maximum of its 3x3 neighbourhood, cut at the border."""
    here = heat[classes, rows, columns]
    peak = np.ones(len(here), bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            y = np.clip(rows + down, 0, heat.shape[1] - 1)
            x = np.clip(columns + right, 0, heat.shape[2] - 1)
            # Clipped at the border a neighbour is a cell of the neighbourhood seen twice.
            peak &= here >= heat[classes, y, x]
    return peak
