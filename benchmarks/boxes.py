"""Count objects with two boxes, with changing names, or without a track.

    python -m benchmarks.boxes --data FOLDER [--clips NAME ...] [--frames N] [--write]

Each clip as the stage detect has it, with everything as it ships; photographs as single pictures at
the same least scores. Needs the `bench` extra. The last line is the whole result, one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.gate import run
from benchmarks.harness import scoring, tracking
from benchmarks.harness.agreement import Tracked
from benchmarks.harness.gate_clips import GateClip, find_clips
from benchmarks.harness.labelled_people import PERSON, read_truth
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from framegate.models import coco, matching
from framegate.models.boxes import Boxes, iou
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.picture import read_photograph
from framegate.stages.detect.options import GateOptions

SETS: Final = ("coco128", "coco-val2017-a")
MAY_TUNE: Final = ("bottle-detection", "car-detection", "one-by-one-person-detection")
CLIPS: Final = (
    *MAY_TUNE,
    "pets09-s2l1-view001-part1",
    "pets2001-campus",
    "cctv-highway-overlay",
    "highway-cdnet-part1",
    "escalator-cctv",
    "dashcam-solidWhiteRight",
    "kitchen-pancake",
)
SAME: Final = 0.6  # IoU above which two boxes of a frame are one thing
CURVE: Final = tuple(round(0.02 * n, 2) for n in range(12, 30))
LOWEST: Final = 0.05  # score of the boxes of which AP is made


def seen_of(clip: GateClip, light: Detector) -> dict[str, Any]:
    """One clip as it is published: doubles, names, tracks; people where somebody labelled them."""
    shown = run.gated(clip, light, run.settings(GateOptions())).shown
    told: dict[str, Any] = {"clip": clip.name, "may_tune": clip.name in MAY_TUNE, **facts(shown)}
    if clip.truth is not None:
        truth = read_truth(clip, [frame.pts for frame in shown])
        told["people"] = against(people_of(clip, shown), truth)
        told["curve"] = curve(clip, truth)
    return told


def curve(clip: GateClip, truth: Sequence[Tracked]) -> list[dict[str, float]]:
    """Precision and recall of people at other least scores, each frame looked at whole.

    It tells what no choice of a least score can reach.
    """
    rules = {least: run.settings(GateOptions(mode="off"), least) for least in CURVE}
    lowest = min(rule.calm.candidate for rule in rules.values())
    light = detector.load("light", threads=2, classes=coco.CAMERA, min_score=lowest)
    found = run.dense(replace(clip, frames=clip.annotated[1]), light)
    rows = []
    for least, rule in rules.items():
        answer, shown = run.answering(rule), []
        for boxes, pts in zip(found.boxes, found.stamps, strict=True):
            here = boxes.take(boxes.scores >= np.float32(rule.calm.candidate))
            shown.append(answer(here, np.ones(len(here), np.bool_), pts))
        rows.append({"min_score": least, **against(people_of(clip, shown), truth)})
    return rows


def people_of(clip: GateClip, shown: Sequence[Tracked]) -> list[Tracked]:
    """The people of the frames that somebody labelled."""
    first, last = clip.annotated
    return [only_people(frame) for frame in shown[first - 1 : last]]


def facts(shown: Sequence[Tracked]) -> dict[str, Any]:
    """What needs no truth: of all that is published, frame by frame."""
    n_boxes = sum(len(frame.ids) for frame in shown)
    n_untracked = sum(int((frame.ids == 0).sum()) for frame in shown)
    names = Counter(coco.LABELS[i] for frame in shown for i in frame.boxes.class_ids.tolist())
    return {
        "frames": len(shown),
        "objects": n_boxes,
        "tracks": len({track for frame in shown for track in frame.ids.tolist()} - {0}),
        "doubled_frames": round(float(np.mean([has_double(frame.boxes) for frame in shown])), 4),
        "untracked": round(n_untracked / n_boxes, 4) if n_boxes else 0.0,
        "label_changes_s": round(label_changes(shown), 4),
        "labels": dict(names.most_common()),
    }


def has_double(boxes: Boxes) -> bool:
    """Whether two boxes of a frame overlap by more than SAME, of whatever classes."""
    overlap = iou(boxes.xyxy, boxes.xyxy)
    return bool((np.triu(overlap, 1) > SAME).any())


def label_changes(shown: Sequence[Tracked]) -> float:
    """How often a track has another label than in the frame before, a track-second."""
    changes, together = 0, 0
    for before, after in itertools.pairwise(shown):
        labels = dict(zip(before.ids.tolist(), before.boxes.class_ids.tolist(), strict=True))
        for track, label in zip(after.ids.tolist(), after.boxes.class_ids.tolist(), strict=True):
            if track and track in labels:
                together += 1
                changes += labels[track] != label
    period_s = (shown[-1].pts - shown[0].pts) / max(len(shown) - 1, 1)
    return changes / (together * period_s) if together else 0.0


def only_people(frame: Tracked) -> Tracked:
    """Its people: of others there are no labels."""
    rows = frame.boxes.class_ids == PERSON
    return Tracked(frame.pts, frame.boxes.take(rows), frame.ids[rows])


def against(people: Sequence[Tracked], truth: Sequence[Tracked]) -> dict[str, float]:
    """Precision, recall, F1 at IoU .5; HOTA and IDF1."""
    ours, theirs = ([frame.boxes for frame in side] for side in (people, truth))
    tracks = tracking.score(people, truth)
    told = {**shares(matching.matched(ours, theirs)), "hota": tracks.hota, "idf1": tracks.idf1}
    return {name: round(value, 4) for name, value in told.items()}


def shares(counts: matching.MatchCounts) -> dict[str, float]:
    """Precision, recall, F1 of `matching.matched`."""
    pairs, ours, theirs = (int(each) for each in counts.sum(axis=0))
    return {
        "precision": pairs / ours if ours else 0.0,
        "recall": pairs / theirs if theirs else 0.0,
        "f1": float(matching.f1(counts)),
    }


def photographs(data: Path, name: str, pictures: int) -> dict[str, Any]:
    """AP of all that the light detector finds in a set; precision and recall of what is shown.

    Of all 80 classes and of those that cameras are for, by class and of whatever class.
    """
    files = scoring.read_labelled(data, name, pictures).files
    pixels = [read_photograph(file) for file in files]
    least = policy.load("light").min_score
    told: dict[str, Any] = {}
    for which, labels in (("all", coco.LABELS), ("camera", coco.CAMERA)):
        labelled = scoring.read_labelled(data, name, pictures, labels)
        found = detector.load("light", threads=2, classes=labels, min_score=LOWEST).detect(pixels)
        for way, by_class in (("by_class", True), ("any_class", False)):
            matches = scoring.match(labelled, found, by_class)
            score = scoring.score(matches, n_resamples=1)
            ranked = {"map": score.map, "ap50": score.ap50, **scoring.at_threshold(matches, least)}
            told[f"{which}_{way}"] = {key: round(value, 4) for key, value in ranked.items()}
        shown = [boxes.take(boxes.scores > np.float32(least)) for boxes in found]
        told[f"{which}_doubled"] = round(float(np.mean([has_double(one) for one in shown])), 4)
    return {"pictures": len(pixels), **told}


def line(row: dict[str, Any]) -> str:
    """One clip, as printed while the benchmark runs."""
    keys = ("objects", "tracks", "doubled_frames", "untracked", "label_changes_s")
    told = ", ".join(f"{key} {row[key]}" for key in keys)
    people = f"; people {row['people']}" if "people" in row else ""
    labels = ", ".join(f"{n} {label}" for label, n in itertools.islice(row["labels"].items(), 6))
    return f"{row['clip']} ({row['frames']} frames): {told}{people}; {labels}"


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    light = run.light()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in find_clips(given.data, given.clips, given.frames, Path(folder)):
            rows.append(seen_of(clip, light))
            print(line(rows[-1]), flush=True)
    sets = {name: photographs(given.data, name, given.pictures) for name in SETS}
    found = conditions(["numpy", "openvino", "trackeval"], precision=light.precision)
    return {"clips": rows, "photographs": sets, "conditions": found}


def bars(result: BenchmarkResult) -> list[Bar]:
    """Law 16, and what a user sees first."""
    rows = result["clips"]
    doubled = max(row["doubled_frames"] for row in rows)
    people = [row["people"] for row in rows if "people" in row]
    return [
        Bar("most frames of a clip with two boxes of one thing", doubled, "<=", 0.01),
        Bar("precision of people", min(one["precision"] for one in people), ">=", 0.85),
        Bar("recall of people", min(one["recall"] for one in people), ">=", 0.83),
    ]


BENCHMARK = Benchmark(
    name="boxes",
    measure=whole,
    needs=("clips", "bench"),
    bars=bars,
    keyed=("photographs", "labels"),
    options={
        "clips": Option(CLIPS, ("car-detection", "pets09-s2l1-view001-part1"), "names of some"),
        "frames": Option(300, 30, "of each clip, from its first"),
        "pictures": Option(10**9, 16, "most of each set"),
    },
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
