"""Counts that can be kept, what they come to, and what labels of people say."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.agreement import average_precision, rank
from framegate.models import coco, matching
from framegate.models.boxes import Boxes
from framegate.models.learning import judgement, thresholds
from framegate.models.learning.judgement import ClassCounts, JudgedBy
from framegate.models.learning.tuning import Tuning
from framegate.models.matching import Interval
from framegate.models.picture import Picture, read_photograph

Sums = list[list[int]]  # of each picture: pairs, boxes of ours, boxes of the teacher
PERSON = coco.LABELS.index("person")
PHOTOGRAPHS = "coco128"


def sums_of(counts: ClassCounts) -> Sums:
    """Of all classes together."""
    sums: Sums = counts.sum(axis=1).tolist()
    return sums


def sums_by(judged_by: JudgedBy, found: Tuning, shown: Sequence[Boxes]) -> Sums:
    """Of boxes in the later pictures that people labelled, or in those that the teacher did."""
    rows = judgement.rows_of(judged_by, found.said)
    said = [found.said[row] for row in rows]
    boxes = [shown[row] for row in rows]
    return sums_of(judgement.counted_by(judged_by, boxes, said, len(coco.LABELS)))


def compared(ours: Sequence[Sums], shipped: Sums) -> dict[str, Any] | None:
    """F1 of nets together, and what is gained over the light detector as it ships; None without
    pictures.
    """
    if not shipped:
        return None
    told: dict[str, Any] = {"frames": len(shipped), "boxes": sum(row[2] for row in shipped)}
    told["f1"], told["f1_95"] = rounded(f1(ours))
    told["f1_shipped"] = rounded(f1([shipped]))[0]
    told["gain"], told["gain_95"] = rounded(gain(ours, shipped))
    return told


def _counts(sums: Sequence[Sums]) -> ClassCounts:
    """Of several nets on the same pictures, as if they were one: what makes a picture hard is in
    all of them, so it is the pictures that an interval draws.
    """
    counts: ClassCounts = np.array(sums, np.int64).sum(axis=0)[:, None, :]
    return counts


def f1(sums: Sequence[Sums]) -> Interval:
    """Of these nets together."""
    counts = _counts(sums)
    return judgement.f1_of(counts, ["clip"] * len(counts))


def gain(ours: Sequence[Sums], theirs: Sums) -> Interval:
    """By how much the F1 of these nets together is above that of one."""
    own = _counts(ours)
    return judgement.difference_of(own, _counts([theirs] * len(ours)), ["clip"] * len(own))


def rounded(one: Interval) -> tuple[float, list[float]]:
    """The middle, and both ends."""
    return round(one.middle, 4), [round(one.low, 4), round(one.high, 4)]


def people(
    raw: Sequence[Boxes], there: Sequence[Boxes], least: Mapping[int, float], nms_iou: float
) -> dict[str, float]:
    """Precision, recall and F1 of people with these least scores, and AP whatever they are."""
    ours = [_people(thresholds.shown(boxes, least, nms_iou)) for boxes in raw]
    pairs, shown, labels = matching.matched(ours, there).sum(axis=0).tolist()
    lowest = {PERSON: float(thresholds.GRID[0])}
    all_of_them = [thresholds.shown(boxes, lowest, nms_iou) for boxes in raw]
    said = {
        "precision": pairs / max(1, shown),
        "recall": pairs / max(1, labels),
        "f1": 2 * pairs / max(1, shown + labels),
        "ap": average_precision(rank(all_of_them, there)),
    }
    return {key: round(value, 4) for key, value in said.items()}


def _people(boxes: Boxes) -> Boxes:
    return boxes.take(boxes.class_ids == PERSON)


@dataclass(frozen=True, slots=True, eq=False)
class Photographs:
    """Pictures of all kinds with people's labels; crowds are neither right nor wrong."""

    pictures: tuple[Picture, ...]
    labels: tuple[Boxes, ...]
    crowds: tuple[Boxes, ...]

    def f1(self, shown: Sequence[Boxes], classes: Collection[int]) -> float:
        """F1 of what is shown, of these classes."""
        counts = judgement.counted(shown, self.labels, self.crowds, len(coco.LABELS))
        return round(float(matching.f1(counts[:, sorted(classes)].sum(axis=1))), 4)


def photographs(data: Path, most: int) -> Photographs:
    """The first so many of PHOTOGRAPHS."""
    told = json.loads((data / "gt" / f"{PHOTOGRAPHS}.json").read_text(encoding="utf-8"))
    images = sorted(told["images"], key=lambda image: image["id"])[:most]
    boxes = {
        (image["id"], crowd): [
            (one["bbox"], coco.CATEGORY_IDS.index(one["category_id"]))
            for one in told["annotations"]
            if one["image_id"] == image["id"] and one["iscrowd"] == crowd
        ]
        for image in images
        for crowd in (0, 1)
    }
    labels, crowds = (
        tuple(_boxes(boxes[image["id"], crowd]) for image in images) for crowd in (0, 1)
    )
    folder = data / "images" / PHOTOGRAPHS
    pictures = tuple(read_photograph(folder / image["file_name"]) for image in images)
    return Photographs(pictures, labels, crowds)


def _boxes(rows: Sequence[tuple[Sequence[float], int]]) -> Boxes:
    sides = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
    corners = np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1)
    ids = np.array([class_id for _, class_id in rows], np.int32)
    return Boxes(corners, np.ones(len(rows), np.float32), ids)
