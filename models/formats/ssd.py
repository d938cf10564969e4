"""SSD to boxes in pixels of the network's input: finished rows, or deltas from default boxes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.errors import ArrayMismatch
from framegate.models.formats.decoding import (
    Options,
    Size,
    above,
    best,
    class_columns,
    class_numbers,
    in_input,
    shaped,
    softmax,
    to_xyxy,
)

# -- The default boxes of an SSD: which boxes its location deltas start from.


KEYS = ("aspect_ratios", "scales", "min_ratio", "max_ratio", "steps", "grids", "clip")


def default_boxes(options: Options, size: Size) -> FloatArray:
    """Centre, width, height in 0..1 of each, (N, 4) read-only; row by row, coarser grids later.

    aspect_ratios  of each grid, beside 1: [[2], [2, 3], ...]; each also turned
    scales         of each grid and one more, in shares of the input; or min_ratio and max_ratio,
                   between which they are spread evenly
    steps          pixels from box to box of each grid; or grids: rows and columns of each
    clip           1: sides are at most the input's (default)
    """
    told = {key: options[key] for key in KEYS if key in options}
    return _made(json.dumps(told), size)


@lru_cache(16)
def _made(told: str, size: Size) -> FloatArray:
    options: dict[str, Any] = json.loads(told)
    ratios = options.get("aspect_ratios")
    if not ratios:
        raise ArrayMismatch("aspect_ratios", "a list for each grid", repr(ratios))
    scales, grids = _scales(options, len(ratios)), _grids(options, size)
    if len(scales) != len(ratios) + 1 or len(grids) != len(ratios):
        wanted = f"{len(ratios) + 1} scales and {len(ratios)} grids"
        raise ArrayMismatch("default boxes", wanted, f"{len(scales)} and {len(grids)}")
    parts = []
    for own, pair, (rows, columns, down, across) in zip(
        ratios, itertools.pairwise(scales), grids, strict=True
    ):
        sides = np.array(_sides(own, *pair), np.float32)
        if options.get("clip", 1):
            sides = sides.clip(0, 1)
        y, x = np.mgrid[:rows, :columns].astype(np.float32) + np.float32(0.5)
        centres = np.stack([x.ravel() / across, y.ravel() / down], axis=1)
        parts.append(
            np.concatenate(
                [centres.repeat(len(sides), axis=0), np.tile(sides, (len(centres), 1))], 1
            )
        )
    out = np.concatenate(parts).astype(np.float32)
    out.flags.writeable = False
    return out


def _sides(ratios: Sequence[float], scale: float, following: float) -> list[tuple[float, float]]:
    """Width and height of each box at one place."""
    between = math.sqrt(scale * following)
    sides = [(scale, scale), (between, between)]
    for ratio in ratios:
        root = math.sqrt(ratio)
        sides += [(scale * root, scale / root), (scale / root, scale * root)]
    return sides


def _scales(options: dict[str, Any], n_grids: int) -> list[float]:
    if options.get("scales"):
        return list(options["scales"])
    least, most = options.get("min_ratio", 0.15), options.get("max_ratio", 0.9)
    if n_grids == 1:
        return [least, most]
    return [*(least + (most - least) * k / (n_grids - 1) for k in range(n_grids)), 1.0]


def _grids(options: dict[str, Any], size: Size) -> list[tuple[int, int, float, float]]:
    """Of each grid: rows, columns, and how many rows and columns fill the input."""
    width, height = size
    if steps := options.get("steps"):
        sides = options.get("grids") or [[-(-height // s), -(-width // s)] for s in steps]
        return [(r, c, height / s, width / s) for (r, c), s in zip(sides, steps, strict=True)]
    return [(rows, columns, rows, columns) for rows, columns in options.get("grids", ())]


_MOST_GROWTH = math.log(1000 / 16)  # torchvision's bound of a side's logarithm


def rows(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """DetectionOutput of OpenVINO and Caffe, (1, N, 7) or (N, 7), suppressed already.

    A row: picture (-1 after the last), class, score, left, top, right, bottom in 0..1.

    options  class_numbers: of the classes, default from 1, as 0 is the background
    """
    table = shaped("output", outputs[0].reshape(-1, outputs[0].shape[-1]), None, 7)
    ended = np.flatnonzero(table[:, 0] < 0)
    table = table[: ended[0]] if len(ended) else table
    table = table[table[:, 2] > np.float32(min_score)]
    known = table[:, 1:2].round() == class_numbers(options, n_classes, first=1)
    table, known = table[known.any(axis=1)], known[known.any(axis=1)]
    return best(to_xyxy(table[:, 3:], "xyxy", size), table[:, 2], known.argmax(axis=1))


def deltas(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Location deltas (N, 4) and class logits (N, classes + 1), as torchvision's SSDs have them.

    A box may be of several classes; it is cut at the border, as torchvision does it.

    options  those of `default_boxes`; variances: of centre and sides, default [.1, .1, .2, .2];
             background: its column, default 0; class_numbers: columns of the classes
    """
    anchors = default_boxes(options, size)
    moves = shaped("deltas", outputs[0], len(anchors), 4)
    logits = shaped("logits", outputs[1], len(anchors), None)
    background = options.get("background", 0)
    columns = class_columns(logits, options, n_classes, first=0 if background else 1)
    # No share is above what it would be if all but the highest logit weighed nothing.
    possible = logits[:, columns].max(axis=1) > logits.max(axis=1) + np.float32(math.log(min_score))
    at = np.flatnonzero(possible)
    shares = softmax(logits[at])[:, columns]
    picked, classes = np.divmod(above(shares, min_score), n_classes)
    at = at[picked]
    xyxy = in_input(_moved(anchors[at], moves[at], options, size), size)
    return best(xyxy, shares[picked, classes], classes)


def _moved(anchors: FloatArray, moves: FloatArray, options: Options, size: Size) -> FloatArray:
    variances = np.array(options.get("variances", (0.1, 0.1, 0.2, 0.2)), np.float32)
    scaled = moves * variances
    centres = anchors[:, :2] + scaled[:, :2] * anchors[:, 2:]
    sides = anchors[:, 2:] * np.exp(np.minimum(scaled[:, 2:], np.float32(_MOST_GROWTH)))
    return to_xyxy(np.concatenate([centres, sides], axis=1), "cxcywh", size)
