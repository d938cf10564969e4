"""Weighted box fusion: several detectors' boxes for one picture as one set."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.boxes import Boxes, empty

Corners = tuple[float, float, float, float]


@dataclass(slots=True)
class _Cluster:
    """Boxes of one object: the score-weighted sum of corners and each member's best score."""

    box: Corners
    weighted: Corners = (0.0, 0.0, 0.0, 0.0)
    weight: float = 0.0
    best: dict[int, float] = field(default_factory=dict)

    def add(self, box: Corners, score: float, member: int) -> None:
        a, b = self.weighted, box
        self.weighted = (
            a[0] + b[0] * score, a[1] + b[1] * score, a[2] + b[2] * score, a[3] + b[3] * score
        )  # fmt: skip
        self.weight += score
        w = self.weight
        a = self.weighted
        self.box = (a[0] / w, a[1] / w, a[2] / w, a[3] / w)
        self.best[member] = max(score, self.best.get(member, 0.0))


def fuse(members: Sequence[Boxes], min_iou: float) -> Boxes:
    """One set of boxes from the boxes of `members` (one entry a detector, all weighing the same).

    From the highest score down, a box joins the cluster of its class that it overlaps most, if
    their IoU is above `min_iou`, else it starts one. The fused box is the mean of all its boxes,
    weighted by score; the fused score is the sum of each member's best score over the number of
    members: a member that saw nothing counts as 0. That mean is what makes the set better than
    its parts. Scores must be above 0.
    """
    everything = [
        (float(score), int(class_id), member, tuple(map(float, box)))
        for member, boxes in enumerate(members)
        for box, score, class_id in zip(boxes.xyxy, boxes.scores, boxes.class_ids, strict=True)
    ]
    clusters: dict[int, list[_Cluster]] = {}
    # A stable sort: of equal scores the earlier member goes first.
    for score, class_id, member, box in sorted(everything, key=lambda row: -row[0]):
        mine = clusters.setdefault(class_id, [])
        cluster = _best_match(mine, box, min_iou)
        if cluster is None:
            mine.append(cluster := _Cluster(box))
        cluster.add(box, score, member)
    return _as_boxes(clusters, len(members))


def _best_match(clusters: list[_Cluster], box: Corners, min_iou: float) -> _Cluster | None:
    found, best = None, min_iou
    for cluster in clusters:
        overlap = _iou(cluster.box, box)
        if overlap > best:
            found, best = cluster, overlap
    return found


def _iou(a: Corners, b: Corners) -> float:
    # Plain floats: a picture has some ten clusters a class, too few for an array to pay.
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


def _as_boxes(clusters: dict[int, list[_Cluster]], n_members: int) -> Boxes:
    rows = [
        (sum(cluster.best.values()) / n_members, class_id, cluster.box)
        for class_id, mine in clusters.items()
        for cluster in mine
    ]
    if not rows:
        return empty()
    rows.sort(key=lambda row: -row[0])
    return Boxes(
        np.array([row[2] for row in rows], np.float32),
        np.array([row[0] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.int32),
    )
