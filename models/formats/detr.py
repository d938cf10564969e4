"""DETR and its kin, and networks that give finished boxes, to boxes in pixels of the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.formats.decoding import (
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
from framegate.models.formats.nanodet import logit, sigmoid


def with_softmax(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Logits (Q, classes + 1), the last for "no object"; boxes (Q, 4): cx, cy, w, h in 0..1.

    A query is of its best class.
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
    """Logits (Q, classes), each of its own (Deformable DETR, RT-DETR); boxes (Q, 4) as above.

    A query may be of several classes.
    """
    logits, boxes = _two(outputs)
    logits = logits[:, class_columns(logits, options, n_classes)]
    hits = above(logits, logit(min_score))
    queries, classes = np.divmod(hits, n_classes)
    return best(to_xyxy(boxes[queries], "cxcywh", size), sigmoid(logits[queries, classes]), classes)


def joined(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, _: Options
) -> Boxes:
    """One output (Q, 4 + classes): cx, cy, w, h in 0..1, then scores 0..1 (Ultralytics' RT-DETR).

    A query is of its best class.
    """
    rows = shaped("output", outputs[0], None, 4 + n_classes)
    hits = above(rows[:, 4:].max(axis=1), min_score)
    few = rows[hits, 4:]
    return best(to_xyxy(rows[hits, :4], "cxcywh", size), few.max(axis=1), few.argmax(axis=1))


def _two(outputs: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    logits, boxes = outputs
    shaped("logits", logits, None, None)
    return logits, shaped("boxes", boxes, len(logits), 4)


# -- Boxes that a network gives finished or nearly so, beside their scores.


def labelled(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Boxes (N, 4), scores (N,) and labels (N,), suppressed already, as torchvision exports them.

    options  form: xyxy (default), yxyx, xywh, cxcywh; unit: pixels (default) or share;
             class_numbers: the label of each class, default from 0; a box with another is left out
    """
    boxes, scores, labels = outputs
    shaped("boxes", boxes, len(scores), 4)
    shaped("labels", labels, len(scores))
    known = labels[:, None].round() == class_numbers(options, n_classes)
    at = np.flatnonzero(known.any(axis=1) & (scores > np.float32(min_score)))
    return best(_placed(boxes[at], size, options), scores[at], known[at].argmax(axis=1))


def scored(
    outputs: Sequence[FloatArray], size: Size, n_classes: int, min_score: float, options: Options
) -> Boxes:
    """Boxes (N, 4) and scores 0..1 (N, classes or more), not suppressed yet.

    A box may be of several classes.

    options  form and unit as above; class_numbers: the column of each class, default from 0
    """
    boxes, scores = outputs
    shaped("scores", scores, len(boxes), None)
    scores = scores[:, class_columns(scores, options, n_classes)]
    at, classes = np.divmod(above(scores, min_score), n_classes)
    shaped("boxes", boxes, None, 4)
    return best(_placed(boxes[at], size, options), scores[at, classes], classes)


def _placed(boxes: FloatArray, size: Size, options: Options) -> FloatArray:
    is_share = options.get("unit", "pixels") == "share"
    return to_xyxy(boxes, options.get("form", "xyxy"), size if is_share else None)
