"""Boxes and tracks against labels that people made (needs the `bench` extra: trackeval)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gate.scores import Baseline
from benchmarks.harness import agreement, tracking
from benchmarks.harness.agreement import Tracked
from benchmarks.harness.gate_clips import GateClip
from benchmarks.harness.labelled_people import PERSON, read_truth
from framegate.models import matching


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
        "f1_truth": matching.f1(matching.matched(ours, theirs)),
        "hota": tracks.hota,
        "idf1": tracks.idf1,
    }
    return {name: round(value, 4) for name, value in found.items()}


def _only_people(frame: Tracked) -> Tracked:
    rows = frame.boxes.class_ids == PERSON
    return Tracked(frame.pts, frame.boxes.take(rows), frame.ids[rows])
