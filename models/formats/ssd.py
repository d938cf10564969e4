"""Decode the outputs of SSD: finished rows, or deltas from default boxes.

The decoders return boxes in pixels of the network's input; see table.OutputDecoder.
"""

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
from framegate.models.formats.shared_decoding import (
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

# -- The default boxes, to which location deltas apply.


KEYS = ("aspect_ratios", "scales", "min_ratio", "max_ratio", "steps", "grids", "clip")


def default_boxes(options: Options, size: Size) -> FloatArray:
    """Return the default boxes as centre, width and height in 0..1: float32 (N, 4), read-only.

    They are ordered row by row, finest grid first. Options:

    aspect_ratios  ratios of each grid other than 1, such as [[2], [2, 3], ...]; their inverses are
                   added
    scales         scale of each grid and of one more, in shares of the input; or min_ratio and
                   max_ratio, between which scales are spaced evenly
    steps          pixels between boxes of each grid; or grids: rows and columns of each
    clip           1 (default): sides are at most those of the input

    Raises ArrayMismatch.
    """
    given = {key: options[key] for key in KEYS if key in options}
    return _default_boxes(json.dumps(given), size)


@lru_cache(16)
def _default_boxes(options_json: str, size: Size) -> FloatArray:
    options: dict[str, Any] = json.loads(options_json)
    ratios = options.get("aspect_ratios")
    if not ratios:
        raise ArrayMismatch("aspect_ratios", "a list for each grid", repr(ratios))
    scales = _scales(options, len(ratios))
    grids = _grids(options, size)
    if len(scales) != len(ratios) + 1 or len(grids) != len(ratios):
        wanted = f"{len(ratios) + 1} scales and {len(ratios)} grids"
        raise ArrayMismatch("default boxes", wanted, f"{len(scales)} and {len(grids)}")
    parts = []
    pairs = itertools.pairwise(scales)
    for own, pair, (rows, columns, down, across) in zip(ratios, pairs, grids, strict=True):
        sides = np.array(_sides(own, *pair), np.float32)
        if options.get("clip", 1):
            sides = sides.clip(0, 1)
        y, x = np.mgrid[:rows, :columns].astype(np.float32) + np.float32(0.5)
        centres = np.stack([x.ravel() / across, y.ravel() / down], axis=1)
        each_centre = centres.repeat(len(sides), axis=0)
        each_sides = np.tile(sides, (len(centres), 1))
        parts.append(np.concatenate([each_centre, each_sides], axis=1))
    boxes = np.concatenate(parts).astype(np.float32)
    boxes.flags.writeable = False
    return boxes


def _sides(ratios: Sequence[float], scale: float, next_scale: float) -> list[tuple[float, float]]:
    """Return width and height of each default box of a cell."""
    between = math.sqrt(scale * next_scale)
    sides = [(scale, scale), (between, between)]
    for ratio in ratios:
        root = math.sqrt(ratio)
        sides += [(scale * root, scale / root), (scale / root, scale * root)]
    return sides


def _scales(options: dict[str, Any], n_grids: int) -> list[float]:
    if options.get("scales"):
        return list(options["scales"])
    low = options.get("min_ratio", 0.15)
    high = options.get("max_ratio", 0.9)
    if n_grids == 1:
        return [low, high]
    return [*(low + (high - low) * k / (n_grids - 1) for k in range(n_grids)), 1.0]


def _grids(options: dict[str, Any], size: Size) -> list[tuple[int, int, float, float]]:
    """Return rows and columns of each grid, and the rows and columns that fill the input."""
    width, height = size
    steps = options.get("steps")
    grids = options.get("grids")
    if not steps:
        return [(rows, columns, rows, columns) for rows, columns in grids or ()]
    if not grids:
        grids = [[-(-height // step), -(-width // step)] for step in steps]
    pairs = zip(grids, steps, strict=True)
    return [(rows, columns, height / step, width / step) for (rows, columns), step in pairs]


_MAX_GROWTH = math.log(1000 / 16)  # torchvision's limit for the logarithm of a side


def rows(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode DetectionOutput of OpenVINO and Caffe after suppression, (1, N, 7) or (N, 7).

    A row is picture (-1 after the last row), class, score, left, top, right, bottom in 0..1.

    options  class_numbers: numbers of the classes, default 1 and up, as 0 is the background
    """
    table = shaped("output", outputs[0].reshape(-1, outputs[0].shape[-1]), None, 7)
    after_last = np.flatnonzero(table[:, 0] < 0)
    if len(after_last):
        table = table[: after_last[0]]
    table = table[table[:, 2] > np.float32(min_score)]
    is_class = table[:, 1:2].round() == class_numbers(options, n_classes, first=1)
    known = np.flatnonzero(is_class.any(axis=1))
    table = table[known]
    return best(to_xyxy(table[:, 3:], "xyxy", size), table[:, 2], is_class[known].argmax(axis=1))


def deltas(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode location deltas (N, 4) and class logits (N, classes + 1) of torchvision's SSDs.

    A box may have several classes. It is cut at the border of the input, as in torchvision.

    options  those of `default_boxes`; variances: of centre and sides, default [.1, .1, .2, .2];
             background: its column, default 0; class_numbers: columns of the classes
    """
    anchors = default_boxes(options, size)
    moves = shaped("deltas", outputs[0], len(anchors), 4)
    logits = shaped("logits", outputs[1], len(anchors), None)
    first_class = 1
    if options.get("background", 0):
        first_class = 0
    columns = class_columns(logits, options, n_classes, first=first_class)
    # A share is at most exp(logit - highest logit): a cheap bound that rules out most rows.
    possible = logits[:, columns].max(axis=1) > logits.max(axis=1) + np.float32(math.log(min_score))
    rows = np.flatnonzero(possible)
    shares = softmax(logits[rows])[:, columns]
    picked, classes = np.divmod(above(shares, min_score), n_classes)
    rows = rows[picked]
    xyxy = in_input(_moved(anchors[rows], moves[rows], options, size), size)
    return best(xyxy, shares[picked, classes], classes)


def _moved(anchors: FloatArray, moves: FloatArray, options: Options, size: Size) -> FloatArray:
    """Return the anchors moved and scaled by their deltas, as xyxy in pixels."""
    variances = np.array(options.get("variances", (0.1, 0.1, 0.2, 0.2)), np.float32)
    scaled = moves * variances
    centres = anchors[:, :2] + scaled[:, :2] * anchors[:, 2:]
    sides = anchors[:, 2:] * np.exp(np.minimum(scaled[:, 2:], np.float32(_MAX_GROWTH)))
    return to_xyxy(np.concatenate([centres, sides], axis=1), "cxcywh", size)
