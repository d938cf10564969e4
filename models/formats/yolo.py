"""YOLO heads, v5 to v12 and YOLOX, to boxes in pixels of the network's input."""

from collections.abc import Sequence

import numpy as np

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.errors import ArrayMismatch
from framegate.models.formats.decoding import (
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
    """v8 to v12 without suppression: (4 + classes, N) or, said by its shape, (N, 4 + classes).

    Each column: centre, width, height in pixels, then a score 0..1 a class. A box is of its best
    class.

    options  layout: "columns" or "rows", for the shape that may be both
    """
    joined = _columns(outputs[0], 4 + n_classes, options)
    scores = joined[4:]
    hits = above(scores.max(axis=0), min_score)
    few = scores[:, hits]
    return best(to_xyxy(joined[:4, hits].T, "cxcywh"), few.max(axis=0), few.argmax(axis=0))


def with_objectness(
    outputs: Sequence[FloatArray], _: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """v5 to v7: (N, 5 + classes): centre, width, height in pixels, objectness, class scores.

    The score of a box is its objectness times that of its best class.
    """
    return _of_objects(_columns(outputs[0], 5 + n_classes, options), min_score)


def x(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """YOLOX: (N, 5 + classes) as the head gives it, one row a cell of the grids, finest first.

    Centres are in cells from that cell's corner, sides are logarithms of cells.

    options  strides: of the grids, default [8, 16, 32]
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
    """Suppressed already: (N, 6): left, top, right, bottom in pixels, score, class.

    Or (N, 7), as v7 has it: picture, left, top, right, bottom, class, score.
    """
    rows = outputs[0]
    if rows.ndim == 2 and rows.shape[1] == 7:
        rows = rows[:, [1, 2, 3, 4, 6, 5]]
    rows = shaped("output", rows, None, 6)
    rows = rows[rows[:, 4] > np.float32(min_score)]
    known = rows[:, 5:].round() == class_numbers(options, n_classes)
    rows, known = rows[known.any(axis=1)], known[known.any(axis=1)]
    return best(rows[:, :4], rows[:, 4], known.argmax(axis=1))


def _of_objects(joined: FloatArray, min_score: float) -> Boxes:
    hits = np.flatnonzero(joined[4] > np.float32(min_score))
    few = joined[:, hits]
    products = few[5:] * few[4]
    scores = products.max(axis=0) if len(products) else few[4]
    keep = above(scores, min_score)
    classes = products[:, keep].argmax(axis=0)
    return best(to_xyxy(few[:4, keep].T, "cxcywh"), scores[keep], classes)


def _columns(output: FloatArray, n_numbers: int, options: Options) -> FloatArray:
    """(n_numbers, N), whichever way the network gives it."""
    if output.ndim != 2 or n_numbers not in output.shape:
        wanted = f"one axis of {n_numbers} numbers"
        raise ArrayMismatch("output", wanted, f"{output.shape}")
    layout = options.get("layout") or ("columns" if output.shape[0] == n_numbers else "rows")
    columns = output if layout == "columns" else output.T
    return shaped("output", columns, n_numbers, None)


def _grid(size: Size, strides: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Column and row of each cell (2, N), and its stride (N,)."""
    cells, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: size[1] // stride, : size[0] // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()]))
        steps.append(np.full(rows.size, stride))
    return np.concatenate(cells, axis=1).astype(np.float32), np.concatenate(steps).astype(
        np.float32
    )
