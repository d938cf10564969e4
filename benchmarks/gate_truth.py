"""Boxes and tracks against labels that people made (needs the `bench` extra: trackeval)."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import agreement, tracking
from benchmarks.agreement import Tracked
from benchmarks.gate_clips import GateClip
from benchmarks.gate_scores import Baseline
from models import coco
from models.boxes import Boxes

_PERSON = coco.LABELS.index("person")


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
    boxes = Boxes(corners, np.ones(n, np.float32), np.full(n, _PERSON, np.int32))
    return Tracked(pts, boxes, table[:, 0].astype(np.int32))


def against_truth(clip: GateClip, base: Baseline, shown: Sequence[Tracked]) -> dict[str, Any]:
    """AP, F1, HOTA and IDF1 of people in the labelled frames: the gate's and the dense path's."""
    truth = read_truth(clip, base.dense.stamps)
    first, last = clip.annotated
    labelled = slice(first - 1, last)
    gate, dense = (_scores(side[labelled], truth) for side in (shown, base.shown))
    return {
        **gate,
        "truth_frames": [first, last],
        "dense": dense,
        "hota_loss": round(dense["hota"] - gate["hota"], 4),
    }


def _scores(shown: Sequence[Tracked], truth: Sequence[Tracked]) -> dict[str, float]:
    people = [_only_people(frame) for frame in shown]
    ours, theirs = ([frame.boxes for frame in side] for side in (people, truth))
    tracks = tracking.score(people, truth)
    found = {
        "ap": agreement.average_precision(agreement.rank(ours, theirs)),
        "f1_truth": agreement.f1(agreement.count(ours, theirs)),
        "hota": tracks.hota,
        "idf1": tracks.idf1,
    }
    return {name: round(value, 4) for name, value in found.items()}


def _only_people(frame: Tracked) -> Tracked:
    rows = frame.boxes.class_ids == _PERSON
    return Tracked(frame.pts, frame.boxes.take(rows), frame.ids[rows])
