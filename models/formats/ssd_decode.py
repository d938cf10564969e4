"""SSD to boxes in pixels of the network's input: finished rows, or deltas and logits."""

import math
from collections.abc import Sequence

import numpy as np

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.formats.candidates import (
    Options,  # fmt: skip
    Size,  # fmt: skip
    above,  # fmt: skip
    best,  # fmt: skip
    class_columns,  # fmt: skip
    class_numbers,  # fmt: skip
    in_input,  # fmt: skip
    shaped,  # fmt: skip
    softmax,  # fmt: skip
    to_xyxy,  # fmt: skip
)
from framegate.models.formats.default_boxes import default_boxes

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
