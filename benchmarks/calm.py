"""What the calm rule does to the light detector's answers (needs the `bench` extra).

    python -m benchmarks.calm --data FOLDER [--clips NAME ...] [--frames N] [--write]

Raw is what a detector shows by itself: boxes above its threshold, tracks that ignore classes. Both
are held to the heavy pass, raw. Agreement is F1 with the same path on frames with noise of 2 grey
levels; flicker is changes of class or existence a track-second. The rule was chosen on the first
three clips; the others judge. The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.gate.run import Dense, dense
from benchmarks.harness import agreement, tracking
from benchmarks.harness.agreement import Tracked
from benchmarks.harness.gate_clips import GateClip, find_clips
from benchmarks.harness.labelled_people import read_truth
from benchmarks.harness.report import Benchmark, BenchmarkResult, Option, conditions
from framegate.models import coco, matching
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.tracking import bytetrack, calm, thresholds
from framegate.models.tracking.bytetrack import TrackSettings, no_tracks
from framegate.models.tracking.calm import not_calmed

CHOSEN_ON: Final = ("bottle-detection", "car-detection", "one-by-one-person-detection")
JUDGES: Final = (
    "pets09-s2l1-view001-part1",
    "pets2001-campus",
    "cctv-highway-overlay",
    "highway-cdnet-part1",
    "escalator-cctv",
    "dashcam-solidWhiteRight",
    "kitchen-pancake",
)
NOISE: Final = 2
THREADS: Final = 2
_PERSON: Final = coco.LABELS.index("person")


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What is shown of a clip, and of the same clip with noise."""

    clear: list[Tracked]
    noisy: list[Tracked]


def raw(found: Dense, min_score: float) -> list[Tracked]:
    """Boxes above the threshold, and their tracks, as they were shown before there was a rule."""
    settings = TrackSettings(high=min_score + 0.1, low=min_score, start=min_score + 0.15)
    state, shown = no_tracks(), []
    for boxes, pts in zip(found.boxes, found.stamps, strict=True):
        above = boxes.take(boxes.scores > np.float32(min_score))
        state, ids = bytetrack.step(state, above, pts, settings)
        shown.append(Tracked(pts, above, ids))
    return shown


def calmed(found: Dense, min_score: float) -> list[Tracked]:
    """The same clip by the calm rule, every frame looked at."""
    rule, settings = thresholds.settings_for(min_score)
    tracks, state, shown = no_tracks(), not_calmed(), []
    for boxes, pts in zip(found.boxes, found.stamps, strict=True):
        tracks, ids = bytetrack.step(tracks, boxes, pts, settings)
        boxes = replace(boxes, class_ids=tracks.named(ids, boxes.class_ids))
        looked = np.ones(len(boxes), np.bool_)
        state, here, rows = calm.step(state, boxes, ids, looked, pts, rule)
        shown.append(Tracked(pts, here, ids[rows]))
    return shown


def measure(clip: GateClip, light: Detector, heavy: Detector) -> dict[str, Any]:
    """Both ways on one clip, held to the heavy pass, and to people's labels where there are any."""
    least = policy.load("light").min_score
    clear, noisy = (dense(clip, light, levels) for levels in (0, NOISE))
    truth = raw(dense(clip, heavy), heavy.choices.min_score)
    ways = {
        "raw": Shown(raw(clear, least), raw(noisy, least)),
        "calm": Shown(calmed(clear, least), calmed(noisy, least)),
    }
    told: dict[str, Any] = {
        "clip": clip.name,
        "chosen_on": clip.name in CHOSEN_ON,
        "frames": len(clear.stamps),
        "reference_boxes": sum(len(frame.boxes) for frame in truth),
        **{name: scores(shown, truth) for name, shown in ways.items()},
        **differences(ways["calm"].clear, ways["raw"].clear, truth),
    }
    if clip.truth is not None:
        labels = read_truth(clip, clear.stamps)[: clip.frames]
        told["labels"] = {
            name: against(people(shown.clear[: len(labels)]), labels)
            for name, shown in ways.items()
        }
    return told


def scores(shown: Shown, truth: Sequence[Tracked]) -> dict[str, float]:
    """Accuracy, agreement with itself under noise, and flicker."""
    steady = matching.f1(matching.matched(boxes_of(shown.noisy), boxes_of(shown.clear)))
    moving = agreement.flicker(shown.clear).per_second
    return {
        **against(shown.clear, truth),
        "agreement": round(steady, 4),
        "flicker": round(moving, 3),
    }


def against(shown: Sequence[Tracked], truth: Sequence[Tracked]) -> dict[str, float]:
    """AP and F1 at IoU .5, HOTA and IDF1."""
    ours, theirs = boxes_of(shown), boxes_of(truth)
    tracks = tracking.score(shown, truth)
    found = {
        "ap": agreement.average_precision(agreement.rank(ours, theirs)),
        "f1": matching.f1(matching.matched(ours, theirs)),
        "hota": tracks.hota,
        "idf1": tracks.idf1,
    }
    return {name: round(value, 4) for name, value in found.items()}


def differences(
    ours: Sequence[Tracked], theirs: Sequence[Tracked], truth: Sequence[Tracked]
) -> dict[str, list[float]]:
    """Calm less raw in AP and F1, each with its 95 % interval."""
    sides = [boxes_of(side) for side in (ours, theirs)]
    one, other = (agreement.rank(side, boxes_of(truth)) for side in sides)
    mine, others = (matching.matched(side, boxes_of(truth)) for side in sides)
    n = len(truth)
    pairs = {
        "ap_gain": (
            lambda times: agreement.average_precision(one, times),
            lambda times: agreement.average_precision(other, times),
            n,
        ),
        "f1_gain": (
            lambda times: matching.f1(mine, times),
            lambda times: matching.f1(others, times),
            n,
        ),
    }
    found = {name: agreement.paired_bootstrap([pair]) for name, pair in pairs.items()}
    return {
        name: [round(value, 4) for value in (one.mean, one.low, one.high)]
        for name, one in found.items()
    }


def boxes_of(frames: Sequence[Tracked]) -> list[Boxes]:
    """Their boxes alone."""
    return [frame.boxes for frame in frames]


def people(frames: Sequence[Tracked]) -> list[Tracked]:
    """Only people: others have no labels."""
    chosen = []
    for frame in frames:
        rows = frame.boxes.class_ids == _PERSON
        chosen.append(Tracked(frame.pts, frame.boxes.take(rows), frame.ids[rows]))
    return chosen


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the clips that the rule was chosen on, and over those that judge."""
    told: dict[str, Any] = {}
    for name, chosen in (("chosen_on", True), ("judges", False)):
        part = [row for row in rows if row["chosen_on"] is chosen]
        if part:
            gains = {
                key: statistics.fmean(row["calm"][key] - row["raw"][key] for row in part)
                for key in ("ap", "f1", "hota", "idf1", "agreement")
            }
            ratio = statistics.fmean(row["calm"]["flicker"] / row["raw"]["flicker"] for row in part)
            told[name] = {f"{key}_gain": round(value, 4) for key, value in gains.items()}
            told[name]["flicker_ratio"] = round(ratio, 3)
    return told


def line(row: dict[str, Any]) -> str:
    """One clip, as printed while the benchmark runs."""
    parts = [
        f"{key} {row['raw'][key]:.3f} -> {row['calm'][key]:.3f}"
        for key in ("ap", "f1", "hota", "agreement", "flicker")
    ]
    return f"{row['clip']} ({row['frames']} frames): " + ", ".join(parts)


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    light = detector.load("light", threads=THREADS, min_score=thresholds.CALM.candidate)
    heavy = detector.load("heavy", threads=THREADS)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for clip in find_clips(given.data, given.clips, given.frames, Path(folder)):
            rows.append(measure(clip, light, heavy))
            print(line(rows[-1]), flush=True)
    made = {"precision": light.precision, "threads": THREADS, "models": light.models}
    found = conditions(["numpy", "openvino", "trackeval"], **made)
    return {**summary(rows), "clips": rows, "conditions": found}


BENCHMARK = Benchmark(
    name="calm",
    measure=whole,
    needs=("clips", "bench"),
    options={
        "clips": Option((*CHOSEN_ON, *JUDGES), (CHOSEN_ON[0], JUDGES[0]), "names of some"),
        "frames": Option(150, 30, "of each clip, from its first"),
    },
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
