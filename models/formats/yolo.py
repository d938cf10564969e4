"""Decode the outputs of YOLO, v5 to v12, and YOLOX.

The decoders return boxes in pixels of the network's input; see table.OutputDecoder.
"""

from collections.abc import Sequence

import numpy as np

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.errors import ArrayMismatch
from framegate.models.formats.shared_decoding import (
    Options,
    Size,
    above,
    best,
    class_numbers,
    shaped,
    to_xyxy,
)


def plain(
    outputs: Sequence[FloatArray], _: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode the output of v8 to v12 before suppression, (4 + classes, N) or (N, 4 + classes).

    The numbers of a box are centre, width and height in pixels, then a score 0..1 for each class. A
    box has the class with its highest score.

    options  layout: "columns" or "rows", for a shape that fits both
    """
    joined = _columns(outputs[0], 4 + n_classes, options)
    scores = joined[4:]
    hits = above(scores.max(axis=0), min_score)
    few = scores[:, hits]
    return best(to_xyxy(joined[:4, hits].T, "cxcywh"), few.max(axis=0), few.argmax(axis=0))


def with_objectness(
    outputs: Sequence[FloatArray], _: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode the output of v5 to v7, (N, 5 + classes).

    A row is centre, width and height in pixels, objectness, and class scores. The score of a box
    is its objectness times its highest class score.
    """
    return _of_objects(_columns(outputs[0], 5 + n_classes, options), min_score)


def x(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode the raw output of YOLOX, (N, 5 + classes): one row for each cell, finest grid first.

    Centres are in cells from the corner of the cell. Sides are logarithms of cells.

    options  strides: strides of the grids, default [8, 16, 32]
    """
    joined = _columns(outputs[0], 5 + n_classes, options)
    cells, strides = _grid(size, options.get("strides", (8, 16, 32)))
    shaped("output", joined, 5 + n_classes, len(strides))
    hits = np.flatnonzero(joined[4] > min_score)
    few = joined[:, hits]
    few[:2] = (few[:2] + cells[:, hits]) * strides[hits]
    few[2:4] = np.exp(few[2:4]) * strides[hits]
    return _of_objects(few, min_score)


def end_to_end(
    outputs: Sequence[FloatArray], _: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode boxes after suppression, (N, 6): left, top, right, bottom in pixels, score, class.

    The output of v7 is (N, 7): picture, left, top, right, bottom, class, score.
    """
    rows = outputs[0]
    if rows.ndim == 2 and rows.shape[1] == 7:
        rows = rows[:, [1, 2, 3, 4, 6, 5]]
    rows = shaped("output", rows, None, 6)
    rows = rows[rows[:, 4] > np.float32(min_score)]
    is_class = rows[:, 5:].round() == class_numbers(options, n_classes)
    known = np.flatnonzero(is_class.any(axis=1))
    rows = rows[known]
    return best(rows[:, :4], rows[:, 4], is_class[known].argmax(axis=1))


def _of_objects(joined: FloatArray, min_score: float) -> Boxes:
    hits = np.flatnonzero(joined[4] > np.float32(min_score))
    few = joined[:, hits]
    products = few[5:] * few[4]
    scores = products.max(axis=0)
    keep = above(scores, min_score)
    classes = products[:, keep].argmax(axis=0)
    return best(to_xyxy(few[:4, keep].T, "cxcywh"), scores[keep], classes)


def _columns(output: FloatArray, n_numbers: int, options: Options) -> FloatArray:
    """Return the output as (n_numbers, N), transposed if its layout is rows."""
    if output.ndim != 2 or n_numbers not in output.shape:
        wanted = f"one axis of {n_numbers} numbers"
        raise ArrayMismatch("output", wanted, f"{output.shape}")
    layout = options.get("layout")
    if not layout and output.shape[0] == n_numbers:
        layout = "columns"
    if layout != "columns":
        output = output.T
    return shaped("output", output, n_numbers, None)


def _grid(size: Size, strides: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Return column and row of each cell, (2, N), and its stride, (N,)."""
    width, height = size
    cells = []
    steps = []
    for stride in strides:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()]))
        steps.append(np.full(rows.size, stride))
    all_cells = np.concatenate(cells, axis=1).astype(np.float32)
    return all_cells, np.concatenate(steps).astype(np.float32)
