"""Weighted box fusion: several detectors' boxes for one picture as one set, a box a thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from framegate.models.boxes import Boxes, empty, suppress

Corners = tuple[float, float, float, float]


@dataclass(slots=True)
class _Cluster:
    """Boxes of one object: the score-weighted sum of corners, each member's best score, and the
    scores that spoke for each class.
    """

    box: Corners
    weighted: Corners = (0.0, 0.0, 0.0, 0.0)
    weight: float = 0.0
    best: dict[int, float] = field(default_factory=dict)
    votes: dict[int, float] = field(default_factory=dict)

    def add(self, box: Corners, score: float, class_id: int, member: int) -> None:
        left, top, right, bottom = self.weighted
        left, top = left + box[0] * score, top + box[1] * score
        right, bottom = right + box[2] * score, bottom + box[3] * score
        self.weighted = left, top, right, bottom
        self.weight = weight = self.weight + score
        self.box = left / weight, top / weight, right / weight, bottom / weight
        self.best[member] = max(score, self.best.get(member, 0.0))
        self.votes[class_id] = self.votes.get(class_id, 0.0) + score

    @property
    def class_id(self) -> int:
        """The class with most votes; of equal ones that of the surer box."""
        return max(self.votes, key=lambda each: self.votes[each])


def fuse(members: Sequence[Boxes], min_iou: float) -> Boxes:
    """One set of boxes from the boxes of `members` (one entry a detector, all weighing the same).

    From the highest score down, a box joins the cluster that it overlaps most, if their IoU is
    above `min_iou`, else it starts one. The fused box is the mean of all its boxes, weighted by
    score; its class is that for which the scores of its boxes add up to most; its score is the sum
    of each member's best over the number of members: a member that saw nothing counts as 0. That
    mean is what makes the set better than its parts. Fused boxes that came to lie on each other
    are one thing as well: the surer one stays. Scores must be above 0.
    """
    everything = [
        (score, class_id, member, tuple(box))
        for member, boxes in enumerate(members)
        for box, score, class_id in zip(
            boxes.xyxy.tolist(), boxes.scores.tolist(), boxes.class_ids.tolist(), strict=True
        )
    ]
    clusters: list[_Cluster] = []
    # A stable sort: of equal scores the earlier member goes first.
    for score, class_id, member, box in sorted(everything, key=lambda row: -row[0]):
        cluster = _best_match(clusters, box, min_iou)
        if cluster is None:
            clusters.append(cluster := _Cluster(box))
        cluster.add(box, score, class_id, member)
    fused = _as_boxes(clusters, len(members))
    return fused.take(suppress(fused.xyxy, fused.scores, min_iou))


def _best_match(clusters: list[_Cluster], box: Corners, min_iou: float) -> _Cluster | None:
    # Plain floats: a picture has some tens of clusters, too few for an array to pay.
    found, best = None, min_iou
    left, top, right, bottom = box
    own_area = (right - left) * (bottom - top)
    for cluster in clusters:
        x1, y1, x2, y2 = cluster.box
        if x2 <= left or right <= x1 or y2 <= top or bottom <= y1:
            continue
        width = (x2 if x2 < right else right) - (x1 if x1 > left else left)
        height = (y2 if y2 < bottom else bottom) - (y1 if y1 > top else top)
        inter = width * height
        overlap = inter / (own_area + (x2 - x1) * (y2 - y1) - inter)
        if overlap > best:
            found, best = cluster, overlap
    return found


def _as_boxes(clusters: Sequence[_Cluster], n_members: int) -> Boxes:
    rows = [
        (sum(cluster.best.values()) / n_members, cluster.class_id, cluster.box)
        for cluster in clusters
    ]
    if not rows:
        return empty()
    rows.sort(key=lambda row: -row[0])
    return Boxes(
        np.array([row[2] for row in rows], np.float32),
        np.array([row[0] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.int32),
    )
