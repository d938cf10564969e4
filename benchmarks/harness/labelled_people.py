"""The people that somebody labelled in a clip."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.harness.agreement import Tracked
from benchmarks.harness.gate_clips import GateClip
from framegate.models import coco
from framegate.models.boxes import Boxes

PERSON: Final = coco.LABELS.index("person")


def read_truth(clip: GateClip, stamps: Sequence[float]) -> list[Tracked]:
    """The labelled people of each frame that the labels cover. ValueError for a clip without.

    MOTChallenge: frame (from 1), track, left, top, width, height, confidence (0: to be ignored).
    """
    if clip.truth is None:
        raise ValueError(f"{clip.name} has no labels")
    first, last = clip.annotated
    rows: dict[int, list[list[float]]] = defaultdict(list)
    with clip.truth.open(newline="") as lines:
        for row in csv.reader(lines):
            if float(row[6]):
                rows[int(row[0])].append([float(value) for value in row[1:6]])
    return [_people(rows[number], stamps[number - 1]) for number in range(first, last + 1)]


def _people(rows: list[list[float]], pts: float) -> Tracked:
    table = np.array(rows, np.float32).reshape(-1, 5)
    corners = np.hstack([table[:, 1:3], table[:, 1:3] + table[:, 3:5]])
    n = len(table)
    boxes = Boxes(corners, np.ones(n, np.float32), np.full(n, PERSON, np.int32))
    return Tracked(pts, boxes, table[:, 0].astype(np.int32))
