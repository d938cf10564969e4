"""Boxes that a network gives finished or nearly so, beside their scores."""

from collections.abc import Sequence

import numpy as np

from framegate.models.boxes import Boxes, FloatArray
from framegate.models.formats.candidates import (
    Options,
    Size,
    above,
    best,
    class_columns,
    class_numbers,
    shaped,
    to_xyxy,
)


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
