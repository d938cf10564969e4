"""Chooses what `detector/policy.toml` freezes: least scores and overlaps (needs the `bench` extra).

    python -m benchmarks.thresholds --data FOLDER [--write]

Each detector answers every box it has for images/coco128, at several overlaps of its suppression.
Told is the least score from which on 85 of 100 boxes are right, of all the classes that cameras are
for and of three groups of them, and what it finds. A box of nothing is what a person sees first, so
precision is given, and recall what it may be. No other set may be used for this: the others judge.
For a surveillance network only people, vehicles and bikes count, and each vehicle is a car; its
threshold is that of `clips`: single looks at the labelled clips that choose settings, which show
what it was made for.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final

import numpy as np

from benchmarks.harness.report import Benchmark, BenchmarkResult, Option, conditions
from benchmarks.harness.scoring import (
    THREE_CLASSES,
    LabelledPhotographs,
    Matches,
    at_threshold,
    least_with_precision,
    match,
    read_labelled,
)
from benchmarks.truth.clips import LabelledClip, find_clips
from benchmarks.truth.single_looks import least_score, looks
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy
from framegate.models.detector.network import Precision, nearest, precisions_of
from framegate.models.picture import read_photograph

SET: Final = "coco128"
LOWEST: Final = 0.05
WANTED: Final = 0.85
OVERLAPS: Final = (0.45, 0.5, 0.6)
GROUPS: Final = {
    "all": coco.CAMERA,
    "people": ("person",),
    "vehicles": ("bicycle", "car", "motorcycle", "bus", "train", "truck", "boat"),
    "animals": ("bird", "cat", "dog", "horse"),
}


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    rows = []
    clips = [
        replace(clip, frames=clip.frames[: given.frames])
        for clip in find_clips(given.data, given.clips)
        if clip.role == "chooses"
    ]
    for name in given.detectors:
        frozen = policy.load(name)
        groups = _groups(name)
        merged = None
        if len(groups["all"]) < len(coco.CAMERA):
            merged = THREE_CLASSES
        sets = {
            group: read_labelled(given.data, SET, given.pictures, labels, merged)
            for group, labels in groups.items()
        }
        pictures = [read_photograph(file) for file in sets["all"].files]
        usual = nearest(frozen.precision)
        for precision in _precisions(name)[-given.precisions :]:
            overlaps: tuple[float, ...] = (frozen.nms_iou,)
            if precision == usual:
                overlaps = given.overlaps
            for overlap in overlaps:
                found = _loaded(name, precision, overlap).detect(pictures)
                best = {
                    group: _best(labelled, groups[group], found) for group, labelled in sets.items()
                }
                if merged is not None:
                    best["clips"] = _of_clips(_loaded(name, precision, overlap), clips)
                rows.append({"name": name, "precision": precision, "iou": overlap, **best})
                print(json.dumps(rows[-1]), flush=True)
    return {"thresholds": rows, "conditions": conditions(("openvino", "numpy"), set=SET)}


def _groups(name: str) -> dict[str, tuple[str, ...]]:
    """Return the groups of classes that a detector knows."""
    known = policy.load(name).labels
    groups = {}
    for group, labels in GROUPS.items():
        if kept := tuple(label for label in labels if label in known):
            groups[group] = kept
    return groups


def _precisions(name: str) -> tuple[Precision, ...]:
    return precisions_of(*dict(policy.load(name).parts))


def _loaded(name: str, precision: Precision, overlap: float) -> detector.Detector:
    choices = replace(policy.load(name), nms_iou=overlap, min_score=LOWEST)
    return detector.build(choices, precision, 2, coco.class_ids(_groups(name)["all"]))


def _best(
    labelled: LabelledPhotographs, labels: Sequence[str], found: Sequence[Boxes]
) -> dict[str, Any]:
    """Of a group's classes."""
    ids = coco.class_ids(labels)
    rows = [[each in ids for each in boxes.class_ids.tolist()] for boxes in found]
    of_group = [boxes.take(np.array(row, bool)) for boxes, row in zip(found, rows, strict=True)]
    matches = match(labelled, of_group)
    least = least_with_precision(matches, WANTED)
    told = {"min_score": least, "labels": _labels(matches), **at_threshold(matches, least)}
    return {key: round(value, 4) for key, value in told.items()}


def _of_clips(loaded: detector.Detector, clips: Sequence[LabelledClip]) -> dict[str, float]:
    """Of all labelled frames of these clips together."""
    frames = list(chain.from_iterable(looks(loaded, clip) for clip in clips))
    return {key: round(value, 4) for key, value in least_score(frames, WANTED).items()}


def _labels(matches: Sequence[Matches]) -> int:
    return sum(int(one.n_labels.sum()) for one in matches)


BENCHMARK = Benchmark(
    name="thresholds",
    measure=whole,
    needs=("clips", "bench"),
    options={
        "pictures": Option(10**9, 4, "most of the set"),
        "detectors": Option(policy.names(), ("light", "surveillance")),
        "precisions": Option(10**9, 1, "most of each detector: its last ones"),
        "overlaps": Option(OVERLAPS, OVERLAPS[:1], "of suppression"),
        "clips": Option((), ("one-by-one-person-detection",), "names of some that choose settings"),
        "frames": Option(10**9, 4, "most of each clip that are labelled"),
    },
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
