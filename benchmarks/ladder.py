"""Routing by difficulty against the largest input size on every frame (`models/ladder.py`).

    python -m benchmarks.ladder --data FOLDER [--clips NAME ...] [--frames N] [--judged N]
                                [--rungs SIDE ...] [--cache FOLDER] [--write]

Every rung looks at every frame whole, without a gate; the heavy pass at about `--judged` of each
clip. F1 is with the heavy pass, IoU .5, classes must agree, of boxes that tracks and calm rule show
(f1), and of the rungs' own boxes (raw_f1). All F1 and all compute of a group are means over its
clips; ratios are to those of the largest rung on every frame.
compute_ratio          CPU of the network in all looks on one thread, probes too, by the largest's
look_ratio             the same with what prepares a picture and reads an answer
best_single_f1_ratio   the best rung, on every frame of every clip, that costs no more
interpolated_f1_ratio  between the two rungs around the same cost, on a line
mixed_f1_ratio         these two taking turns within each clip
carried_f1_ratio       the largest rung on as many frames as that cost allows, boxes stay between
oracle                 of each frame's raw boxes the best rung, the cheapest of equals
`tuning` are the clips that parameters may be chosen on, `judging` the others, `scenes` every scene
once. The size curve is from coco128 alone; the rungs and the limit were settled with all groups in
view, so for these two `judging` is no held-out set. The last line is the whole result as JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import agreement
from benchmarks.gate_run import settings as believed
from benchmarks.heavy_truth import Answers
from benchmarks.ladder_run import (
    Routed,
    Seen,
    calmed,
    clips_of,
    detectors,
    kept_between,
    mixture,
    route,
    see,
)
from benchmarks.ladder_scores import GROUPS, bars, group_of, table, told_groups
from benchmarks.promise import cache_folder
from benchmarks.report import Benchmark, Option, Result, conditions
from models import detector, policy
from models.boxes import Boxes
from models.detector import Detector
from models.ladder import DEFAULT, LadderSettings
from models.network import nearest
from stages.belief import BeliefSettings
from stages.gate_options import GateOptions


def f1(seen: Seen, shown: Sequence[Boxes]) -> float:
    """F1 of the judged frames with the heavy pass."""
    return agreement.f1(agreement.count(seen.judged(shown), seen.heavy))


def above(boxes: Boxes, least: float) -> Boxes:
    """Those that a single look would show."""
    return boxes.take(boxes.scores > np.float32(least))


def oracle(seen: Seen, least: float) -> dict[str, float]:
    """Raw F1 and compute of who knows of each judged frame which rung is best; no look is extra."""
    counts, spent = [], 0.0
    for found, truth in zip(seen.found[:: seen.stride], seen.heavy, strict=True):
        by_rung = [agreement.count([above(boxes, least)], [truth])[0] for boxes in found]
        scores = [agreement.f1(each[None]) for each in by_rung]
        best = scores.index(max(scores))
        counts.append(by_rung[best])
        spent += seen.ms[best]
    cost = spent / (len(counts) * seen.ms[-1])
    return {"raw_f1": round(agreement.f1(np.array(counts)), 4), "compute": round(cost, 4)}


def measured(seen: Seen, routed: Routed, given: BeliefSettings, sides: Sequence[int]) -> Any:
    """One clip: what the policy did and what every rung would have done."""
    least = policy.load("light").min_score
    followed = [found[rung] for found, rung in zip(seen.found, routed.rungs, strict=True)]
    columns = [[found[rung] for found in seen.found] for rung in range(len(sides))]
    raw = [f1(seen, [above(boxes, least) for boxes in one]) for one in [*columns, followed]]
    calm = [f1(seen, calmed(one, seen.stamps, given)) for one in [*columns, followed]]
    share = np.bincount(routed.rungs, minlength=len(sides)) / len(routed.rungs)
    names = [str(side) for side in sides]
    return {
        "clip": seen.clip.name,
        "group": group_of(seen.clip),
        "derived": "derived" in seen.clip.path.parts or seen.clip.name == "idle-room",
        "frames": len(seen.found),
        "judged": len(seen.heavy),
        "size": list(seen.size),
        "heavy_boxes": sum(map(len, seen.heavy)),
        "ms": dict(zip(names, (round(one, 3) for one in seen.ms), strict=True)),
        "look_ms": dict(zip(names, (round(one, 3) for one in seen.look_ms), strict=True)),
        "compute": round(routed.compute(seen.ms), 4),
        "look_compute": round(routed.compute(seen.look_ms), 4),
        "probes": routed.probes,
        "rungs": dict(zip(names, share.round(3).tolist(), strict=True)),
        "f1": round(calm[-1], 4),
        "raw_f1": round(raw[-1], 4),
        "single_f1": dict(zip(names, (round(one, 4) for one in calm), strict=False)),
        "single_raw_f1": dict(zip(names, (round(one, 4) for one in raw), strict=False)),
        "oracle": oracle(seen, least),
    }


def line(row: dict[str, Any]) -> str:
    """One clip, as printed while the benchmark runs."""
    singles = ", ".join(f"{side} {value:.3f}" for side, value in row["single_f1"].items())
    used = ", ".join(f"{side} {part:.2f}" for side, part in row["rungs"].items() if part)
    return (
        f"{row['clip']} ({row['group']}, {row['frames']} frames): compute {row['compute']:.3f},"
        f" F1 {row['f1']:.3f} (raw {row['raw_f1']:.3f}); singles {singles}; frames at {used}"
    )


def at_equal_cost(
    clips: Sequence[Seen], rows: Sequence[dict[str, Any]], given: BeliefSettings
) -> dict[str, dict[str, float | None]]:
    """F1 ratios of the two rivals that need every group's mean cost first."""
    told: dict[str, dict[str, float | None]] = {}
    for name, belongs in GROUPS.items():
        part = [pair for pair in zip(clips, rows, strict=True) if belongs(pair[1])]
        if not part:
            continue
        cost = float(np.mean([row["compute"] for _, row in part]))
        full = sum(list(row["single_f1"].values())[-1] for _, row in part)
        mixed = carried = 0.0
        for seen, _ in part:
            costs = [one / seen.ms[-1] for one in seen.ms]
            mixed += f1(seen, calmed(list(mixture(seen, costs, cost)), seen.stamps, given))
            carried += f1(seen, kept_between(seen, cost, given))
        told[name] = {
            "mixed_f1_ratio": round(mixed / full, 4) if full else None,
            "carried_f1_ratio": round(carried / full, 4) if full else None,
        }
    return told


def whole(given: argparse.Namespace) -> Result:
    """The whole result."""
    cv2.setNumThreads(1)
    settings, believes = LadderSettings(rungs=tuple(given.rungs)), believed(GateOptions())
    rungs = detectors(settings.rungs, nearest(policy.load("light").precision))
    heavy = detector.load("heavy", threads=1)
    said = told_conditions(given, rungs[0], heavy, settings)
    print(said, flush=True)
    clips: list[Seen] = []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as name:
        for clip in clips_of(given.data, given.clips, given.frames, Path(name)):
            with Answers(given.cache, heavy) as answers:
                clips.append(see(clip, rungs, answers, given.frames, given.judged))
            routed = route(clips[-1], settings)
            rows.append(measured(clips[-1], routed, believes, settings.rungs))
            print(line(rows[-1]), flush=True)
    result = table(rows, at_equal_cost(clips, rows, believes))
    print(*told_groups(result), sep="\n")
    return {**result, "clips": rows, "conditions": said}


def told_conditions(
    arguments: argparse.Namespace, rung: Detector, heavy: Detector, settings: LadderSettings
) -> dict[str, Any]:
    """What decides the figures."""
    return conditions(
        ("av", "numpy", "openvino", "opencv-python-headless"),
        frames=arguments.frames,
        judged=arguments.judged,
        precision=rung.precision,
        threads=rung.threads,
        truth=heavy.policy_id,
        settings=asdict(settings),
    )


BENCHMARK = Benchmark(
    name="ladder",
    measure=whole,
    needs=("clips",),
    options={
        "clips": Option((), ("bottle-detection", "pets09-s2l1-view001-part1"), "names of some"),
        "frames": Option(600, 20, "most of a clip, from its first"),
        "judged": Option(100, 4, "about so many are held to heavy"),
        "rungs": Option(DEFAULT.rungs, said="sides"),
        "cache": Option(cache_folder(), said="where answers of the heavy pass are kept"),
    },
    bars=bars,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
