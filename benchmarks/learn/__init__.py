"""Measure detectors that learned from a camera's own footage: tuned, and its own network.

    python -m benchmarks.learn --data FOLDER [--kept FOLDER] [--train N] [--quick] [--write]

Each clip is taken for a camera's footage (`protocol`): thresholds by class and size are chosen on
its first 60 %, by the word of the heavy pass, and judged on its last 35 %, beside the light
detector at a least score of .31, as the research had it, and as it ships. `labels` is the gain over
the shipped detector by people's labels, `agreement` the gain in agreement with the heavy pass, on
the other pictures; `decided_by` and `refused` are the verdict of `framegate tune`. All other F1 are
agreement, of all classes together, at IoU .5; intervals are of blocks of ten neighbours, paired for
differences. On the same frames the clip's own network is trained, compact and accurate,
by the code of `framegate train`, and judged beside the light detector tuned at 416, 320 and 224.
The six clips of the research count apart from those that chose nothing, and what has too little
to judge by counts in no mean of networks. Of PETS 2009 people are labelled in some frames, all of
them among those that teach: there precision, recall and AP against the labels stand beside.
`forgotten` is F1 on photographs of anything, against people's labels. CPU minutes are of all of it,
the heavy pass included. The last line is the whole result as one JSON object.

A network takes minutes, so with --kept each part is kept there, and the next run of the same code
goes on after it; --train says how many networks are trained now. Without torch, or with none
trained and none kept, what hangs on them is null. `networks` says which there are.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import cv2

from benchmarks.harness import report
from benchmarks.harness.kept_parts import KeptPart
from benchmarks.learn.clip import Clip
from benchmarks.learn.protocol import CHOSE, CROWDED, OTHERS
from benchmarks.learn.scores import compared, f1, gain, rounded
from framegate.models.learning.judgement import LEAST_BOXES, LEAST_FRAMES

SIZES: Final = ("compact", "accurate")
LEAST_GAIN, WORST_GAIN = 0.08, -0.01
LEAST_OF_TUNED, MOST_SHARE = 0.95, 0.60  # of the tuned detector's F1 and of its compute
MINUTES_BF16, MINUTES = 6.0, 18.0

Row = dict[str, Any]


def whole(given: argparse.Namespace) -> report.BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    named = [name for name in (*CHOSE, *OTHERS) if Path(name).stem in given.clips]
    left_out = ""
    if find_spec("torch") is None:
        left_out = "networks of their own, for which the extra `train` is needed"
        print(f"left out: {left_out}", flush=True)
    with place_for(given.kept) as folder:
        clips = [Clip(given.data / "clips" / name, folder, given) for name in named]
        if not left_out:
            _train(clips, given)
        rows = [row(clip, given.seeds) for clip in clips]
    told = means(rows)
    for one in rows:
        one["networks"] = one["networks"] or None
    return told | {
        "conditions": report.conditions(
            ("openvino", "numpy", *(() if left_out else ("torch",))),
            frames=given.frames,
            judging=given.judging,
            steps=given.steps,
            teacher="heavy, frozen policy",
            left_out=left_out,
        )
    }


@contextmanager
def place_for(kept: str | None) -> Iterator[Path]:
    """The folder for parts; without --kept one that is gone after the block."""
    if kept is not None:
        yield Path(kept)
        return
    with tempfile.TemporaryDirectory(prefix="framegate-learn-") as folder:
        yield Path(folder)


def _train(clips: Sequence[Clip], given: argparse.Namespace) -> None:
    """What is not kept yet, at most so many: one seed of all clips after the other."""
    from benchmarks.learn.own_network import own_network

    ordered = sorted(clips, key=lambda clip: given.clips.index(clip.path.stem))
    todo = [
        (clip, size, seed)
        for seed, size, clip in itertools.product(range(given.seeds), SIZES, ordered)
        if _name(size, seed) not in clip.parts
    ]
    for clip, size, seed in todo[: given.train]:
        clip.parts.of(_name(size, seed), partial(own_network, clip, size, seed))


def _name(size: str, seed: int) -> str:
    return f"{size}-{seed}"


def row(clip: Clip, seeds: int) -> Row:
    """All figures of a clip."""
    tuned = clip.tuned()
    sums, sides = tuned["sums"], [name for name in tuned["sums"] if name.isdigit()]
    side = str(tuned["side"])
    best = sums[side]
    told: Row = {
        "clip": clip.path.stem,
        "chose": tuned["chose"],
        "usable": tuned["boxes"] >= LEAST_BOXES and tuned["judged"] >= LEAST_FRAMES,
        "frames": tuned["frames"],
        "judged": tuned["judged"],
        "boxes": tuned["boxes"],
        "f1_general": rounded(f1([sums["usual"]]))[0],
        "f1_shipped": rounded(f1([sums["shipped"]]))[0],
    }
    told["f1_tuned"], told["interval"] = rounded(f1([best]))
    told["gain"], told["gain_95"] = rounded(gain([best], sums["usual"]))
    told["gain_shipped"], told["gain_shipped_95"] = rounded(gain([best], sums["shipped"]))
    told |= {
        "side": tuned["side"],
        "sides": {side: rounded(f1([sums[side]]))[0] for side in sides},
        "ms_tuned": tuned["ms"],
        "cpu_minutes_tuned": round(tuned["cpu_s"] / 60, 3),
        "min_scores": tuned["min_scores"],
        "labels": compared([tuned["by_labels"][side]], tuned["by_labels"]["shipped"]),
        "agreement": compared([best], sums["shipped"]),
        "decided_by": tuned["decided_by"],
        "refused": tuned["refused"],
        "people": tuned["people"],
        "networks": [],
    }
    for size in SIZES:
        parts = {
            seed: clip.parts.of(_name(size, seed), dict)
            for seed in range(seeds)
            if _name(size, seed) in clip.parts
        }
        told |= _of_networks(size, [*parts.values()], sums)
        told["networks"] += [_network(size, seed, part, tuned) for seed, part in parts.items()]
    compact = [one for one in told["networks"] if one["size"] == "compact"]
    told["ms_general"] = _mean(one["ms"][0] for one in compact)
    told["ms_compact"] = _mean(one["ms"][1] for one in compact)
    told["cpu_minutes"] = _mean(one["cpu_minutes"] for one in compact)
    told["forgotten"] = compact[0]["forgotten"] if compact else None
    return told


def _of_networks(size: str, parts: Sequence[KeptPart], sums: KeptPart) -> Row:
    """F1 of a size, all seeds together, and what is gained over the light detector tuned."""
    told: Row = {f"f1_{size}": None, f"{size}_gain": None, f"{size}_gain_95": None}
    told[f"{size}_over"] = None
    if parts:
        own = [part["sums"] for part in parts]
        told[f"f1_{size}"] = rounded(f1(own))[0]
        told[f"{size}_gain"], told[f"{size}_gain_95"] = rounded(gain(own, sums["416"]))
        over = {side: rounded(gain(own, sums[side]))[0] for side in ("320", "224") if side in sums}
        told[f"{size}_over"] = over
    return told


def _network(size: str, seed: int, part: KeptPart, tuned: KeptPart) -> Row:
    """One that was trained."""
    sums = tuned["sums"]
    told: Row = {"size": size, "seed": seed, "f1": rounded(f1([part["sums"]]))[0]}
    told["gain"], told["gain_95"] = rounded(gain([part["sums"]], sums["416"]))
    told["labels"] = compared([part["by_labels"]], tuned["by_labels"]["shipped"])
    told["agreement"] = compared([part["sums"]], sums["shipped"])
    same = (
        "classes", "min_scores", "decided_by", "refused", "share", "times", "ms", "precision",
        "arithmetic", "steps", "train_cpu_s", "forgotten", "people",
    )  # fmt: skip
    return told | {key: part[key] for key in same} | {"cpu_minutes": round(part["cpu_s"] / 60, 2)}


def means(rows: Sequence[Row]) -> report.BenchmarkResult:
    """Over clips."""
    gains = [row["gain"] for row in rows if row["chose"]]
    networks = {
        size: {
            str(seed): [
                row["clip"]
                for row in rows
                if any(one["size"] == size and one["seed"] == seed for one in row["networks"])
            ]
            for seed in sorted({one["seed"] for row in rows for one in row["networks"]})
        }
        for size in SIZES
    }
    told: report.BenchmarkResult = {
        "clips": rows,
        "networks": networks,
        "mean_tune_gain": _mean(gains),
        "worst_tune_gain": min(gains, default=None),
        "mean_tune_gain_usable": _mean(row["gain"] for row in rows if not row["refused"]),
        "mean_tune_gain_others": _mean(row["gain"] for row in rows if not row["chose"]),
        "mean_gain_shipped": _mean(row["gain_shipped"] for row in rows if row["chose"]),
    }
    for size in SIZES:
        counted = _counted(rows, size)
        own = [one for row in rows for one in row["networks"] if one["size"] == size]
        told |= {
            f"mean_{size}_gain": _mean(row[f"{size}_gain"] for row in counted),
            f"worst_{size}_gain": min((row[f"{size}_gain"] for row in counted), default=None),
            f"mean_{size}_gain_allowed": _mean(one["gain"] for one in own if not one["refused"]),
            f"mean_{size}_gain_others": _mean(
                row[f"{size}_gain"]
                for row in rows
                if not row["chose"] and row[f"{size}_gain"] is not None
            ),
            f"mean_{size}_over_320": _mean(
                row[f"{size}_over"]["320"] for row in counted if "320" in row[f"{size}_over"]
            ),
            f"admitted_{size}": len({row["clip"] for row in rows if _is_admitted(row, size)}),
            f"least_{size}_of_tuned": min(
                (row[f"f1_{size}"] / row["f1_tuned"] for row in rows if _is_admitted(row, size)),
                default=None,
            ),
            f"{size}_share": max((one["share"] for one in own), default=None),
            f"{size}_ms_ratio": {
                kind: _middle(
                    one["times"][kind]["own"] / one["times"][kind]["general"]
                    for one in own
                    if kind in one["times"]
                )
                for kind in ("f32", "bf16")
            },
        }
    return told


def _is_admitted(row: Row, size: str) -> bool:
    """Whether a clip has networks of a size, and none was refused."""
    own = [one for one in row["networks"] if one["size"] == size]
    return bool(own) and not any(one["refused"] for one in own)


def _counted(rows: Sequence[Row], size: str) -> list[Row]:
    """The clips of the research that have a network and enough to judge by."""
    return [
        row for row in rows if row["chose"] and row["usable"] and row[f"{size}_gain"] is not None
    ]


def _mean(values: Iterable[float]) -> float | None:
    found = [*values]
    return round(statistics.fmean(found), 4) if found else None


def _middle(values: Iterable[float]) -> float | None:
    found = [*values]
    return round(statistics.median(found), 4) if found else None


def bars(result: report.BenchmarkResult) -> list[report.Bar]:
    """What is wanted on the six clips of the research; of networks, where enough judges."""
    bar = report.Bar
    crowded = [row for row in result["clips"] if row["clip"] in CROWDED]
    over = [row["compact_over"]["224"] for row in crowded if "224" in (row["compact_over"] or {})]
    accurate = [row["accurate_gain"] for row in crowded if row["accurate_gain"] is not None]
    lows = sorted(row["accurate_gain_95"][0] for row in crowded if row["accurate_gain_95"])
    minutes = [row["cpu_minutes"] for row in result["clips"] if row["cpu_minutes"] is not None]
    with_bf16 = result["compact_ms_ratio"]["bf16"] is not None
    return [
        bar("tuned: F1 over 416 at .31, mean", result["mean_tune_gain"], ">=", LEAST_GAIN),
        bar("tuned: F1 over 416 at .31, worst", result["worst_tune_gain"], ">=", WORST_GAIN),
        bar("compact: F1 over 416 tuned, mean", result["mean_compact_gain"], ">=", 0.0),
        bar("compact: F1 over 416 tuned, worst", result["worst_compact_gain"], ">=", -0.03),
        bar("compact: F1 over 320 tuned, mean", result["mean_compact_over_320"], ">=", 0.02),
        bar("compact: F1 over 224 tuned, crowded, worst",
            min(over) if len(over) == len(CROWDED) else None, ">=", 0.10),
        bar("compact: clips admitted", result.get("admitted_compact"), ">=", 4),
        bar("compact: F1 of the tuned detector's, admitted, least",
            result.get("least_compact_of_tuned"), ">=", LEAST_OF_TUNED),
        bar("compact: multiplications, of 416", result["compact_share"], "<=", MOST_SHARE),
        bar("compact: time in bf16, of 416", result["compact_ms_ratio"]["bf16"], "<=", MOST_SHARE),
        bar("compact: time in f32, of 416", result["compact_ms_ratio"]["f32"], "<=", MOST_SHARE),
        bar("compact: CPU minutes, most", max(minutes, default=None), "<=",
            MINUTES_BF16 if with_bf16 else MINUTES),
        bar("accurate: F1 over 416 tuned, crowded, mean",
            _mean(accurate) if len(accurate) == len(CROWDED) else None, ">=", 0.04),
        bar("accurate: F1 over 416 tuned, lower end, second of three crowded",
            lows[-2] if len(lows) > 1 else None, ">=", 0.0),
        bar("accurate: F1 over 416 tuned, lower end, third of three crowded",
            lows[0] if len(lows) == len(CROWDED) else None, ">=", -0.02),
        bar("accurate: F1 of the tuned detector's, admitted, least",
            result.get("least_accurate_of_tuned"), ">=", LEAST_OF_TUNED),
        bar("accurate: multiplications, of 416", result["accurate_share"], "<=", MOST_SHARE),
        bar("accurate: time in bf16, of 416",
            result["accurate_ms_ratio"]["bf16"], "<=", MOST_SHARE),
    ]  # fmt: skip


# Whose networks are trained first: crowded ones tell most.
_ORDER = (
    "pets2001-campus",
    "pets09-s2l1-view001-part1",
    "bottle-detection",
    "cctv-highway-overlay",
    "one-by-one-person-detection",
    "highway-cdnet-part1",
    "kitchen-pancake",
    "car-detection",
)

BENCHMARK = report.Benchmark(
    name="learn",
    measure=whole,
    needs=("clips",),
    options={
        "clips": report.Option(_ORDER, ("bottle-detection",), "in the order of training"),
        "seeds": report.Option(3, 1, "of each network"),
        "train": report.Option(10**9, 1, "networks that are trained now, at most"),
        "kept": report.Option(None, explanation="folder where parts that are done are kept"),
        "frames": report.Option(400, 20, "that teach, at most"),
        "judging": report.Option(200, 20, "that judge, at most"),
        "sides": report.Option((416, 320, 224), (416,), "of the input"),
        "steps": report.Option(800, 2, "of training"),
        "photographs": report.Option(128, 4, "for what was forgotten"),
    },
    bars=bars,
    keyed=("sides", "min_scores", "ms_tuned", "times", "people", "compact_over", "accurate_over",
           "compact", "accurate"),
    absent=("labels", "people", "torch"),
)  # fmt: skip
