"""What a camera's own footage makes of the detector, without labels: tuning.

    python -m benchmarks.learn --data FOLDER [--quick] [--write]

Each clip is taken for a camera's footage (`protocol`): thresholds by class, class list and size are
chosen on its first 60 %, by the word of the heavy pass, and judged on its last 35 %, beside the
light detector at a least score of .31, as the research had it, and of .42, as it ships. F1 is of
all classes together, at IoU .5, against the heavy pass; intervals are of blocks of ten neighbours,
paired for differences. The six clips of the research count apart from those that chose nothing. Of
PETS 2009 people are labelled in some frames: there precision and recall against the labels stand
beside. CPU minutes are of all of it, the heavy pass included. The last line is the whole result as
one JSON object. Takes some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2

from benchmarks.harness import report
from benchmarks.learn.protocol import (
    CHOSE,
    LABELLED,
    OTHERS,
    chosen,
    frames,
    labelled_people,
    looks,
)
from framegate.models import coco, matching
from framegate.models.boxes import Boxes
from framegate.models.learning import judgement, thresholds, tuning
from framegate.models.learning.tuning import Look, TunedSide, Tuning
from framegate.models.registry.registry import Registry
from framegate.stages.commands.teaching import HEAVY, Teacher
from framegate.stages.commands.tune import general, times

OF_THE_RESEARCH = 0.31  # least score that the research held things against
LEAST_GAIN, WORST_GAIN = 0.08, -0.01
N_CLASSES = len(coco.LABELS)


def measured(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One clip."""
    began = time.process_time()
    taken = chosen(path, given.frames, given.judging)
    # Nothing that was answered before: the CPU time is that of a new camera.
    with (
        tempfile.TemporaryDirectory(prefix="framegate-learn-") as answers,
        Teacher(HEAVY, Registry(), threads=1, answers=Path(answers)) as told,
    ):
        seen = looks(taken, told, given.sides)
    kept = range(N_CLASSES)  # which are off is for the thresholds to say
    found = tuning.tune(seen, kept, {}, general(), N_CLASSES)
    first = next(picture for _, picture in frames(taken))
    ms = times([side.side for side in found.sides], first, kept)
    best = found.best(ms)
    verdict = found.judged(best, coco.LABELS)
    cpu_minutes = (time.process_time() - began) / 60
    usual = _at(found, seen, dict.fromkeys(kept, OF_THE_RESEARCH))
    gain = judgement.difference_of(best.later, usual, found.sources)
    row = {
        "clip": path.stem,
        "chose": path.name in CHOSE,
        "frames": len(found.earlier),
        "judged": verdict.frames,
        "boxes": verdict.boxes,
        "f1_general": _f1(usual),
        "f1_shipped": round(verdict.general.middle, 4),
        "f1_tuned": round(verdict.f1.middle, 4),
        "interval": [round(verdict.f1.low, 4), round(verdict.f1.high, 4)],
        "gain": round(gain.middle, 4),
        "gain_95": [round(gain.low, 4), round(gain.high, 4)],
        "gain_shipped": round(verdict.difference.middle, 4),
        "gain_shipped_95": [round(verdict.difference.low, 4), round(verdict.difference.high, 4)],
        "side": best.side,
        "sides": {str(one.side): _f1(one.later) for one in found.sides},
        "ms_general": round(ms[general().side], 3),
        "ms_tuned": round(ms[best.side], 3),
        "cpu_minutes": round(cpu_minutes, 3),
        "min_scores": {coco.LABELS[i]: score for i, score in best.least.items()},
        "refused": verdict.refused,
    }
    if path.stem == LABELLED:
        row["labels"] = _against_labels(seen, best, labelled_people(given.data))
    print(json.dumps(row), flush=True)
    return row


def _at(found: Tuning, seen: Sequence[Look], least: dict[int, float]) -> judgement.ClassCounts:
    """The light detector with these least scores, on what judges."""
    own = {look.moment_s: look.raw[general().side] for look in seen}
    shown = [thresholds.shown(own[each.moment_s], least, general().nms_iou) for each in found.later]
    sure, unsure = [one.said.sure for one in found.later], [one.said.unsure for one in found.later]
    return judgement.counted(shown, sure, unsure, N_CLASSES)


def _f1(counts: judgement.ClassCounts) -> float:
    return round(float(matching.f1(counts.sum(axis=1))), 4)


def _against_labels(
    seen: Sequence[Look], best: TunedSide, people: dict[int, Boxes]
) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of people in the frames that are labelled, by who shows them."""
    labelled = [look for look in seen if int(look.moment_s) in people]
    nms_iou, person = general().nms_iou, coco.LABELS.index("person")

    def of(shown: Callable[[Look], Boxes]) -> dict[str, float]:
        ours = [boxes.take(boxes.class_ids == person) for boxes in map(shown, labelled)]
        counts = matching.matched(ours, [people[int(look.moment_s)] for look in labelled])
        pairs, shown_boxes, there = counts.sum(axis=0).tolist()
        said = {
            "precision": pairs / max(1, shown_boxes),
            "recall": pairs / max(1, there),
            "f1": float(matching.f1(counts)),
        }
        return {key: round(value, 4) for key, value in said.items()}

    def at(least: float) -> dict[str, float]:
        side = general().side
        return of(lambda look: thresholds.shown(look.raw[side], {person: least}, nms_iou))

    return {
        "general": at(OF_THE_RESEARCH),
        "shipped": at(general().min_score),
        "tuned": of(lambda look: thresholds.shown(look.raw[best.side], best.least, nms_iou)),
        "teacher": of(lambda look: look.said.sure),
    }


def whole(given: argparse.Namespace) -> report.Result:
    """The whole result."""
    cv2.setNumThreads(1)
    names = [*CHOSE, *OTHERS][: given.clips]
    rows = [measured(given.data / "clips" / name, given) for name in names]
    gains = [row["gain"] for row in rows if row["chose"]]
    usable = [row["gain"] for row in rows if not row["refused"]]
    others = [row["gain"] for row in rows if not row["chose"]]
    return {
        "clips": rows,
        "mean_tune_gain": round(statistics.fmean(gains), 4),
        "worst_tune_gain": min(gains),
        "mean_tune_gain_usable": round(statistics.fmean(usable), 4) if usable else None,
        "mean_tune_gain_others": round(statistics.fmean(others), 4) if others else None,
        "mean_gain_shipped": round(
            statistics.fmean(row["gain_shipped"] for row in rows if row["chose"]), 4
        ),
        "conditions": report.conditions(
            ("openvino", "numpy"),
            frames=given.frames,
            judging=given.judging,
            teacher="heavy, frozen policy",
        ),
    }


def bars(result: report.Result) -> list[report.Bar]:
    """What tuning has to bring on the six clips of the research."""
    return [
        report.Bar("tuned: F1 over 416 at .31, mean", result["mean_tune_gain"], ">=", LEAST_GAIN),
        report.Bar("tuned: F1 over 416 at .31, worst", result["worst_tune_gain"], ">=", WORST_GAIN),
    ]


BENCHMARK = report.Benchmark(
    name="learn",
    measure=whole,
    needs=("clips",),
    options={
        "frames": report.Option(400, 20, "that tune, at most"),
        "judging": report.Option(200, 20, "that judge, at most"),
        "clips": report.Option(len(CHOSE) + len(OTHERS), 1, "how many of them"),
        "sides": report.Option((416, 320, 224), (416,), "of the input"),
    },
    bars=bars,
    keyed=("sides", "min_scores"),
    absent=("labels",),
)
