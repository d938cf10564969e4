"""What the window head does to the light detector's answers (needs the `bench` extra).

    python -m benchmarks.head --data FOLDER [--heads FOLDER] [--frames N] [--write]

Three ways to say what is in a frame, all whole frames and the same candidates: *raw*, boxes above
the detector's threshold; *calm*, the mean of each object's scores, which is what runs without the
head; *head*, the same rule over the head's scores. All are held to the heavy pass. The three clips
that the head is trained on are judged by heads that did not see them (`--heads`: files
`<clip>.safetensors` of `models.training.train_window_head --without CLIP`; without that folder
these clips are left out), the others by the committed one. Intervals are 95 %, of a paired
bootstrap over blocks of frames. The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import cv2

from benchmarks.calm import CHOSEN_ON, JUDGES, boxes_of, people
from benchmarks.harness import agreement
from benchmarks.harness.agreement import Tracked
from benchmarks.harness.clips import rate
from benchmarks.harness.gate_clips import GateClip, find_clips
from benchmarks.harness.labelled_people import read_truth
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.head.novelty import novelty
from benchmarks.head.ways import CANDIDATE, Sight, calmed, raw, refined, see, verdict
from framegate.models import matching
from framegate.models.boxes import Boxes
from framegate.models.detector import detector
from framegate.models.detector.detector import Detector
from framegate.models.window.head import WindowHead

Row = dict[str, Any]
Ways = dict[str, list[Tracked]]
SMALL: Final = "mot16-04-night-1080p"  # labelled, but of only eight frames
FRAMES: Final = 400
MEASURES: Final = ("f1", "ap")


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A clip in all ways, and what they are held to."""

    clip: GateClip
    seen: list[Sight]
    ways: Ways
    new: list[float]
    heavy: list[Boxes]


def judge(clip: GateClip, light: Detector, heavy: Detector, head: WindowHead) -> Judged:
    """All ways on one clip."""
    seen = see(clip, light)
    scored, new = refined(seen, head)
    ways = {"raw": raw(seen), "calm": calmed(seen), "head": calmed(seen, scored)}
    return Judged(clip, seen, ways, new, verdict(clip, heavy))


def row_of(judged: Judged) -> Row:
    """The figures of a clip; against people's labels too, where it has any."""
    told: Row = {
        "clip": judged.clip.name,
        "left_out_of_training": True,
        "frames": len(judged.heavy),
        "reference_boxes": sum(map(len, judged.heavy)),
    }
    for name, shown in judged.ways.items():
        told[name] = scores(boxes_of(shown), judged.heavy)
        told[name]["flicker"] = round(agreement.flicker(shown).per_second, 3)
    for measure in MEASURES:
        gain = agreement.paired_bootstrap([pair_of(judged, measure)])
        told[f"{measure}_gain"] = interval(gain)
    if judged.clip.truth is not None:
        told["labels"] = against_labels(judged)
    return told


def scores(shown: Sequence[Boxes], reference: Sequence[Boxes]) -> dict[str, float]:
    """F1 and AP at IoU .5."""
    f1 = matching.f1(matching.matched(shown, reference))
    ap = agreement.average_precision(agreement.rank(shown, reference))
    return {"f1": round(f1, 4), "ap": round(ap, 4)}


def pair_of(
    judged: Judged, measure: str
) -> tuple[agreement.FrameStatistic, agreement.FrameStatistic, int]:
    """Head and calm as statistics of how often each frame counts."""
    ours, theirs = (boxes_of(judged.ways[name]) for name in ("head", "calm"))
    if measure == "f1":
        counts = [matching.matched(side, judged.heavy) for side in (ours, theirs)]
        return (
            lambda times: matching.f1(counts[0], times),
            lambda times: matching.f1(counts[1], times),
            len(judged.heavy),
        )
    ranks = [agreement.rank(side, judged.heavy) for side in (ours, theirs)]
    return (
        lambda times: agreement.average_precision(ranks[0], times),
        lambda times: agreement.average_precision(ranks[1], times),
        len(judged.heavy),
    )


def against_labels(judged: Judged) -> Row:
    """AP and F1 of people in the labelled frames, each way."""
    stamps = [frame.pts for frame in judged.ways["raw"]]
    truth = boxes_of(read_truth(judged.clip, stamps))
    first, last = judged.clip.annotated
    return {
        name: scores(boxes_of(people(shown[first - 1 : last])), truth)
        for name, shown in judged.ways.items()
    }


def interval(found: agreement.Difference) -> list[float]:
    """Mean and both ends."""
    return [round(value, 4) for value in (found.mean, found.low, found.high)]


def summary(every: Sequence[Judged], rows: Sequence[Row]) -> Row:
    """Means over clips, and the mean gains of the head over calm."""
    told: Row = {}
    for name in ("raw", "calm", "head"):
        for measure in (*MEASURES, "flicker"):
            told[f"{name}_{measure}"] = round(
                statistics.fmean(row[name][measure] for row in rows), 4
            )
    for measure in MEASURES:
        pairs = [pair_of(one, measure) for one in every]
        told[f"{measure}_gain"] = interval(agreement.paired_bootstrap(pairs))
    told["flicker_ratio"] = round(
        statistics.fmean(row["head"]["flicker"] / row["raw"]["flicker"] for row in rows), 3
    )
    return told


def clips_of(data: Path, names: Sequence[str], most: int, left_out: bool) -> list[GateClip]:
    """The clips to judge, and the small one that is labelled."""
    judging = [name for name in names if left_out or name not in CHOSEN_ON]
    found = find_clips(data, judging, most, data)
    path = data / "clips" / f"{SMALL}.mp4"
    if path.is_file():
        labels = data / "gt" / SMALL / "gt.txt"
        found.append(GateClip(SMALL, "busy", path, 8, rate(path), labels, (1, 8)))
    return [replace(clip, frames=min(clip.frames, most)) for clip in found]


def head_for(clip: GateClip, heads: Path | None) -> WindowHead:
    """The committed head, or for a clip that it learned from, one that did not."""
    if heads is None or clip.name not in CHOSEN_ON:
        return WindowHead()
    from safetensors.torch import load_file  # torch is not in the base install

    from framegate.models.training.export_window_head import convert
    from framegate.models.training.window_head import WindowHeadModule

    module = WindowHeadModule()
    module.load_state_dict(load_file(heads / f"{clip.name}.safetensors"))
    return WindowHead(model=convert(module.eval()))


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    light = detector.load("light", None, 1, min_score=CANDIDATE, features=True)
    heavy = detector.load("heavy", None, 2)
    every, rows = [], []
    for clip in clips_of(given.data, given.clips, given.frames, given.heads is not None):
        every.append(judge(clip, light, heavy, head_for(clip, given.heads)))
        rows.append(row_of(every[-1]))
        print(json.dumps(rows[-1]), flush=True)
    seen, new = [one.seen for one in every], [one.new for one in every]
    head = WindowHead()
    return {
        **summary(every, rows),
        "novelty": novelty([one.clip for one in every], seen, new, light, head),
        "clips": rows,
        "conditions": conditions(("numpy", "openvino"), detector=light.models[0], head=head.name),
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """What the head gains over the calm rule, where chance alone would lose it."""
    return [
        Bar("AP gained, lower end", result["ap_gain"][1], ">=", 0.0),
        Bar("F1 gained, lower end", result["f1_gain"][1], ">=", 0.0),
    ]


BENCHMARK = Benchmark(
    name="head",
    measure=whole,
    needs=("clips",),
    options={
        "heads": Option(None, said="folder of heads that were trained without a clip"),
        "clips": Option((*CHOSEN_ON, *JUDGES), (JUDGES[0], JUDGES[1]), "names of some"),
        "frames": Option(FRAMES, 40, "of each clip, from its first"),
    },
    bars=bars,
    keyed=("auc_by_clip",),
)
