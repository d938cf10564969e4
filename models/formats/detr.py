"""Decode the outputs of DETR and its variants, and of networks that output finished boxes.

The decoders return boxes in pixels of the network's input; see table.OutputDecoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.formats.nanodet import logit, sigmoid
from framegate.models.formats.shared_decoding import (
    Options,
    Size,
    above,
    best,
    class_columns,
    class_numbers,
    shaped,
    softmax,
    to_xyxy,
)


def with_softmax(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode logits (Q, classes + 1), the last for "no object", and boxes (Q, 4) of DETR.

    Boxes are centre, width and height in 0..1. A query has the class with its highest score.
    """
    logits, boxes = _two(outputs)
    shares = softmax(logits)[:, :-1]
    shares = shares[:, class_columns(shares, options, n_classes)]
    hits = above(shares.max(axis=1), min_score)
    few = shares[hits]
    xyxy = to_xyxy(boxes[hits], "cxcywh", size)
    return best(xyxy, few.max(axis=1), few.argmax(axis=1))


def with_sigmoid(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode logits (Q, classes) and boxes (Q, 4) of Deformable DETR and RT-DETR.

    Boxes are centre, width and height in 0..1. Scores are independent: a query may have several
    classes.
    """
    logits, boxes = _two(outputs)
    logits = logits[:, class_columns(logits, options, n_classes)]
    hits = above(logits, logit(min_score))
    queries, classes = np.divmod(hits, n_classes)
    return best(to_xyxy(boxes[queries], "cxcywh", size), sigmoid(logits[queries, classes]), classes)


def joined(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, _: Options
) -> Boxes:
    """Decode the single output (Q, 4 + classes) of Ultralytics' RT-DETR.

    A row is centre, width and height in 0..1, then scores 0..1. A query has the class with its
    highest score.
    """
    rows = shaped("output", outputs[0], None, 4 + n_classes)
    hits = above(rows[:, 4:].max(axis=1), min_score)
    few = rows[hits, 4:]
    return best(to_xyxy(rows[hits, :4], "cxcywh", size), few.max(axis=1), few.argmax(axis=1))


def _two(outputs: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    logits, boxes = outputs
    shaped("logits", logits, None, None)
    return logits, shaped("boxes", boxes, len(logits), 4)


# -- Networks that output boxes and their scores.


def labelled(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode boxes (N, 4), scores (N,) and labels (N,) after suppression, as torchvision exports.

    options  form: xyxy (default), yxyx, xywh or cxcywh; unit: pixels (default) or share;
             class_numbers: the label of each class, default 0 and up; boxes with other labels are
             left out
    """
    boxes, scores, labels = outputs
    shaped("boxes", boxes, len(scores), 4)
    shaped("labels", labels, len(scores))
    is_class = labels[:, None].round() == class_numbers(options, n_classes)
    rows = np.flatnonzero(is_class.any(axis=1) & (scores > np.float32(min_score)))
    return best(_corners(boxes[rows], size, options), scores[rows], is_class[rows].argmax(axis=1))


def scored(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Decode boxes (N, 4) and scores 0..1 (N, classes or more) before suppression.

    A box may have several classes.

    options  form and unit as in `labelled`; class_numbers: the column of each class, default 0 and
             up
    """
    boxes, scores = outputs
    shaped("scores", scores, len(boxes), None)
    scores = scores[:, class_columns(scores, options, n_classes)]
    rows, classes = np.divmod(above(scores, min_score), n_classes)
    shaped("boxes", boxes, None, 4)
    return best(_corners(boxes[rows], size, options), scores[rows, classes], classes)


def _corners(boxes: FloatArray, size: Size, options: Options) -> FloatArray:
    form = options.get("form", "xyxy")
    if options.get("unit", "pixels") == "share":
        return to_xyxy(boxes, form, size)
    return to_xyxy(boxes, form)
