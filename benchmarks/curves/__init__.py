"""Measure how footage, minutes and input size change a camera's own network.

    python -m benchmarks.curves --data FOLDER [--kept FOLDER] [--train N] [--quick] [--write]

Clips, their parts, teacher and judges are those of `benchmarks.learn`. From one point, that has the
most footage, the usual steps and the input of compact, each of the three is changed alone: how many
pictures teach, evenly over the same time; how many steps are taken; the longer side of the input.
Beside, the light detector is tuned to the same pictures: what footage is worth without training.
Least scores, too, are of the pictures that teach alone. F1 is against the heavy pass, on the last
35 % of the clip, and one seed is trained. The last line is the whole result as one JSON object.

A point takes minutes, so with --kept each is kept there, and the next run of the same code goes on;
--train says how many are made now. Without torch only what needs no training is told.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import cv2

from benchmarks.harness import report
from benchmarks.harness.kept_parts import KeptPart
from benchmarks.learn import place_for
from benchmarks.learn.clip import Clip
from benchmarks.learn.protocol import CHOSE, OTHERS
from benchmarks.learn.scores import f1, gain, rounded, sums_by
from framegate.models import coco
from framegate.models.learning import tuning
from framegate.models.learning.tuning import Tuning
from framegate.stages.footage.footage import evenly
from framegate.stages.learning.camera_tuning import general
from framegate.stages.learning.choices import SIDES, STEPS

USUAL_SIDE: Final = SIDES["compact"]

Row = dict[str, Any]
Point = tuple[int, int, int]  # pictures that teach, steps, longer side


def whole(given: argparse.Namespace) -> report.BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    trains = find_spec("torch") is not None
    left_out = "" if trains else "networks, for which the extra `train` is needed"
    if left_out:
        print(f"left out: {left_out}", flush=True)
    points = _points(given)
    paths = {Path(name).stem: given.data / "clips" / name for name in (*CHOSE, *OTHERS)}
    asked = argparse.Namespace(
        data=given.data,
        frames=max(given.footage),
        judging=given.judging,
        sides=(general().side,),
        steps=given.steps,
    )
    with place_for(given.kept) as folder:
        clips = [Clip(paths[name], folder, asked, "benchmarks.curves") for name in given.clips]
        if trains:
            todo = [(clip, one) for one in points for clip in clips if _name(one) not in clip.parts]
            for clip, one in todo[: given.train]:
                clip.parts.of(_name(one), partial(_trained, clip, one))
        rows = [_row(clip, given.footage, points) for clip in clips]
    return {
        "clips": rows,
        "conditions": report.conditions(
            ("openvino", "numpy", *(("torch",) if trains else ())),
            judging=given.judging,
            teacher="heavy, frozen policy",
            left_out=left_out,
        ),
    }


def _points(given: argparse.Namespace) -> list[Point]:
    """Each once; first the one that all three curves share."""
    most, usual = max(given.footage), STEPS if STEPS in given.steps else max(given.steps)
    side = USUAL_SIDE if USUAL_SIDE in given.sides else given.sides[0]
    found = [(most, usual, side)]
    found += [(frames, usual, side) for frames in given.footage]
    found += [(most, steps, side) for steps in given.steps]
    found += [(most, usual, one) for one in given.sides]
    return [*dict.fromkeys(found)]


def _name(point: Point) -> str:
    return "-".join(map(str, point))


def _of(clip: Clip, frames: int) -> Tuning:
    """What tuning makes of so many of the earlier pictures, evenly over the same time."""
    looks, found = clip.seen
    earlier = {look.moment_s for look in found.earlier}
    later = {look.moment_s for look in found.later}
    taken = evenly([look for look in looks if look.moment_s in earlier], frames)
    taken += [look for look in looks if look.moment_s in later]
    return tuning.tune(taken, clip.confirmed, {}, general(), len(coco.LABELS))


def _tuned(clip: Clip, frames: int) -> KeptPart:
    """The light detector, tuned to so many."""
    found = _of(clip, frames)
    [side] = found.sides
    return {
        "frames": len(found.earlier),
        "boxes": sum(len(look.said.sure) for look in found.earlier),
        "sums": sums_by("teacher", found, side.shown),
        "shipped": sums_by("teacher", found, found.general),
    }


def _trained(clip: Clip, point: Point) -> KeptPart:
    """A network of so many pictures and steps, with such an input."""
    from benchmarks.learn.own_network import taught
    from framegate.models.training.train_student import Course
    from framegate.stages.learning.student_training import share_of

    frames, steps, side = point
    found = _of(clip, frames)
    with taught(clip, found, side, Course(steps)) as own:
        return {
            "frames": len(found.earlier),
            "sums": sums_by("teacher", found, own.came.side.shown),
            "f1_earlier": round(own.came.side.f1, 4),
            "refused": own.came.verdict.refused,
            "ms": [round(ms, 3) for ms in own.came.ms],
            "share": round(share_of(own.training), 4),
            "arithmetic": own.training.course.arithmetic,
            "train_cpu_s": round(own.train_cpu_s, 1),
        }


def _row(clip: Clip, footage: Sequence[int], points: Sequence[Point]) -> Row:
    """A clip, with the points that there are."""
    tuned = [clip.parts.of(f"tuned-{n}", partial(_tuned, clip, n)) for n in footage]
    best = max(tuned, key=lambda part: int(part["frames"]))
    told: Row = {
        "clip": clip.path.stem,
        "f1_shipped": rounded(f1([best["shipped"]]))[0],
        "tuned": [
            {"frames": part["frames"], "boxes": part["boxes"], "f1": rounded(f1([part["sums"]]))[0]}
            for part in tuned
        ],
    }
    trained = []
    for point in points:
        if (name := _name(point)) in clip.parts:
            part = clip.parts.of(name, dict)
            middle, interval = rounded(f1([part["sums"]]))
            over, over_interval = rounded(gain([part["sums"]], best["sums"]))
            one = {"steps": point[1], "side": point[2], "f1": middle, "interval": interval}
            one |= {"over_tuned": over, "over_tuned_95": over_interval}
            trained.append({key: part[key] for key in part if key != "sums"} | one)
    told["points"] = trained or None
    return told


BENCHMARK = report.Benchmark(
    name="curves",
    measure=whole,
    needs=("clips",),
    options={
        "clips": report.Option(("bottle-detection", "pets2001-campus"), ("bottle-detection",)),
        "footage": report.Option((20, 60, 200, 600), (20,), "pictures that teach"),
        "steps": report.Option((100, 200, 400, 800, 1600), (2,), "of training"),
        "sides": report.Option((224, 320, 416), (320,), "of the input"),
        "judging": report.Option(200, 20, "that judge, at most"),
        "kept": report.Option(None, explanation="folder where points that are done are kept"),
        "train": report.Option(10**9, 1, "networks that are trained now, at most"),
    },
    absent=("torch",),
    draws="benchmarks.curves.figure",
)
