"""What a searched architecture takes and is worth, beside the narrowed net and random ones.

    python -m benchmarks.search [--data FOLDER] [--kept FOLDER] [--clips NAME ...] [--seeds N]

Of each clip the first 60 % teach and the last 35 % judge; the heavy pass is the teacher. The
student without a search is the general net with half its channels; what is searched may take
--share of its time, as predicted. Random architectures take what is allowed, too: their weights are
those of the same shared network, and they and the searched one learn --short steps more. The one of
them that is best on what it was taught goes on, as the searched one does and the student, for
--steps; and so does what needs no search: the general net narrowed further, to the share of its
channels whose time is nearest to what is allowed. Every net's least scores are tuned on what it was
taught. Times are f32, one thread, all in turns.

With --kept each part that is done is kept there, and the next run of the same code goes on after
it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions

CLIPS = ("pets2001-campus", "pets09-s2l1-view001-part1", "bottle-detection")


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    from benchmarks.search.trial import Trial

    settings = {
        name: getattr(given, name)
        for name in ("frames", "side", "steps", "short", "shared", "gates", "random", "share")
    }
    told = conditions(("openvino", "torch", "numpy"), **settings, precision="f32", threads=1)
    print(told, flush=True)
    rows: list[dict[str, Any]] = []
    for clip in given.clips:
        with Trial(given.data, clip, given) as trial:
            rows += [trial.row(seed) for seed in range(given.seeds)]
    return {
        "ms_ratio": mean(rows, "ms_ratio"),
        "f1_ratio": mean(rows, "f1_ratio"),
        "random_best_f1": mean(rows, "random_best_f1"),
        "searched_f1": mean(rows, "searched_f1"),
        "narrowed_f1": mean(rows, "narrowed_f1"),
        "narrowed_ms_ratio": mean(rows, "narrowed_ms_ratio"),
        "latency_error": max(row["latency_error"] for row in rows),
        "wins_over_random": sum(row["searched_f1"] > row["random_best_f1"] for row in rows),
        "rows": rows,
        "conditions": told,
    }


def mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Of all clips and seeds."""
    return round(statistics.fmean(row[key] for row in rows), 4)


def bars(result: BenchmarkResult) -> list[Bar]:
    """The literature's 40 % of the time at 95 % of the accuracy, and chance."""
    gain = result["searched_f1"] - result["random_best_f1"]
    return [
        Bar("time of the searched net, of the student's", result["ms_ratio"], "<=", 0.60),
        Bar("F1 of the searched net, of the student's", result["f1_ratio"], ">=", 0.95),
        Bar("F1 above the best random one", gain, ">=", 0.0),
        Bar(
            "F1 above the net narrowed to that time",
            result["searched_f1"] - result["narrowed_f1"],
            ">=",
            0.0,
        ),
        Bar("worst error of the table on 20 unseen nets", result["latency_error"], "<=", 0.10),
    ]


BENCHMARK = Benchmark(
    name="search",
    measure=whole,
    options={
        "clips": Option(CLIPS, ("bottle-detection",)),
        "seeds": Option(3, 1),
        "kept": Option(None, said="folder where parts that are done are kept"),
        "frames": Option(400, 24, "of a clip that are looked at"),
        "side": Option(320, 64, "longer side of the input"),
        "steps": Option(800, 2, "of the student, and of what was searched at last"),
        "short": Option(40, 1, "of each random net, and of the searched one"),
        "shared": Option(400, 2, "of the shared network"),
        "gates": Option(60, 2, "of the gates"),
        "random": Option(32, 2, "nets by chance"),
        "share": Option(0.58, 0.9, "of the student's time that is allowed"),
        "rounds": Option(60, 3, "of timing"),
    },
    needs=("clips", "train"),
    bars=bars,
)
