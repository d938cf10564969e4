"""Fuse the boxes of the members of an ensemble, by weighted boxes fusion (Solovyev et al., 2019).

A group has the boxes of one object: at most one of each member, all of one class. The fused score
rewards agreement, but keeps most of the score of a member that alone detects an object. A mean over
the members would let the weakest member decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from framegate.models.boxes import Boxes, DoubleArray, IndexArray, iou, suppress, together

_AGREEMENT: Final = 0.5  # weight of the mean over the members, against the highest score


def fuse(members: Sequence[Boxes], fusion_iou: float, nms_iou: float) -> Boxes:
    """Return one set of boxes from those of each member, highest score first. Pure.

    members     boxes of one picture by each member, with scores above 0; at least one member
    fusion_iou  0..1, IoU above which boxes of one class are one object
    nms_iou     0..1, IoU above which only the best of the fused boxes stays, of any class

    The box with the highest score starts a group. From each other member joins the box of the same
    class with the highest score whose IoU with it is above `fusion_iou`. The next box without a
    group starts the next group. A fused box is the mean of its group, weighted by score. Its score
    is half the highest score of the group, and half the sum of its scores divided by the number of
    members. Of equal scores, the earlier member is first.
    """
    rows = together(members)
    member_of = np.repeat(np.arange(len(members)), [len(boxes) for boxes in members])
    order = np.argsort(-rows.scores, kind="stable")
    rows = rows.take(order)
    groups = _groups(rows, member_of[order], fusion_iou)
    fused = [_fused(rows, group, len(members)) for group in groups]
    scores = np.array([score for _, score in fused], np.float32)
    boxes = Boxes(
        np.array([box for box, _ in fused], np.float32).reshape(-1, 4),
        scores,
        rows.class_ids[[group[0] for group in groups]],
    )
    return boxes.take(suppress(boxes.xyxy, boxes.scores, nms_iou))


def _groups(rows: Boxes, member_of: IndexArray, min_iou: float) -> list[list[int]]:
    """Return the rows of each object, highest score first. `rows` are in the order of scores."""
    is_same = iou(rows.xyxy, rows.xyxy) > min_iou
    is_same &= rows.class_ids[:, None] == rows.class_ids
    is_free = np.ones(len(rows), np.bool_)
    groups = []
    for first in range(len(rows)):
        if not is_free[first]:
            continue
        group = [first]
        for row in np.flatnonzero(is_same[first] & is_free).tolist():
            if member_of[row] not in member_of[group]:
                group.append(row)
        is_free[group] = False
        groups.append(group)
    return groups


def _fused(rows: Boxes, group: Sequence[int], n_members: int) -> tuple[DoubleArray, float]:
    """Return the mean box and the score of a group."""
    scores = rows.scores[group].astype(np.float64)
    box = scores @ rows.xyxy[group] / scores.sum()
    mean = scores.sum() / n_members
    return box, float(_AGREEMENT * mean + (1 - _AGREEMENT) * scores[0])
