"""Measure the cost of a run beside its frames: start, memory, idle waiting, and printing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.floor.cameras import make_cameras, name
from benchmarks.harness import configuration
from benchmarks.harness.engine_run import EngineRun, RunFailed
from benchmarks.harness.process_tree import memory_bytes, own_memory_bytes, switches, usage
from framegate.pipeline.config.config import WorkersConfig

ROWS: Final = 360  # of the cameras whose memory is told
PRINTED_ROWS: Final = 432
MANY: Final = 8
FILL: Final = WorkersConfig().fill
SLOW_FPS: Final = 1.0
OFF: Final = "rtsp://127.0.0.1:9/off"  # the port of "discard": nobody listens
SETTLED: Final = 20  # frames of each camera
TRIES: Final = 3  # to reach a camera that is off, after which nothing of the start is left to do
START_S: Final = 120.0

Urls = Mapping[str, str]


def measure_still(clip: Path, seconds: float) -> dict[str, Any]:
    """Start, memory and idle of runs with this clip as cameras; idle over so many seconds, as a
    tick of the clock is 10 ms of a process.

    start_s, start_cpu_s       from the command to the first result, the second run's: what is
                               cached is there; CPU of the whole tree
    memory_mb                  proportional set size of the tree with one camera of 360 rows
    memory_further_mb          what each further one in its shard adds of memory that is no file's:
                               its frames are not in it
    memory_shard_mb            what the one adds with which the next shard starts
    idle                       share of a core, and wake-ups a second, of the whole tree: with a
                               camera that is off, and with one and eight of a frame a second
    """
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        folder = Path(made)
        make_cameras(clip, folder, ROWS, 10.0, MANY, START_S)
        _started(_files(folder, 1))
        start_s, start_cpu_s = _started(_files(folder, 1))
        whole, own = _memory(_files(folder, 1))
        _, own_filled = _memory(_files(folder, FILL))
        _, own_next = _memory(_files(folder, FILL + 1))
        make_cameras(clip, folder, ROWS, SLOW_FPS, MANY, START_S + seconds)
        idle = {
            "off": _idle({"camera0": OFF}, seconds, _fails),
            "one_slow": _idle(_files(folder, 1), seconds, _shows),
            "eight_slow": _idle(_files(folder, MANY), seconds, _shows),
        }
    return {
        "start_s": round(start_s, 2),
        "start_cpu_s": round(start_cpu_s, 2),
        "memory_mb": round(whole / 2**20, 1),
        "memory_further_mb": round((own_filled - own) / (FILL - 1) / 2**20, 2),
        "memory_shard_mb": round((own_next - own_filled) / 2**20, 1),
        "idle": idle,
    }


def measure_printing(clip: Path, seconds: float) -> dict[str, float]:
    """Run a quiet camera twice at the same time, and print the results of one run as JSON lines.

    cpu_ms, json_ms   CPU-ms of a frame of the whole tree, without and with `--json`
    added_ms          their difference

    Both runs meet the same caches and the same other load. One after the other they would differ
    by more than printing costs.
    """
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        folder = Path(made)
        make_cameras(clip, folder, PRINTED_ROWS, 10.0, 1, START_S + seconds)
        files = _files(folder, 1)
        with _run(files) as plain, _run(files, ("--json",)) as printing:
            for run in (plain, printing):
                run.wait_for_each(SETTLED, START_S)
            before = plain.sample(), printing.sample()
            time.sleep(seconds)
            after = plain.sample(), printing.sample()
    costs = []
    for begin, end in zip(before, after, strict=True):
        frames = max(1, end.published - begin.published)
        costs.append(1e3 * end.usage.since(begin.usage) / frames)
    return {
        "cpu_ms": round(costs[0], 3),
        "json_ms": round(costs[1], 3),
        "added_ms": round(costs[1] - costs[0], 3),
    }


def _files(folder: Path, count: int) -> Urls:
    return {f"camera{number}": str(folder / name(number)) for number in range(count)}


def _run(urls: Urls, arguments: tuple[str, ...] = ()) -> EngineRun:
    sources = {
        f"sources.{source}": {"url": url, **({} if url == OFF else {"pace": "realtime"})}
        for source, url in urls.items()
    }
    config = configuration.toml({**sources, "cache": {"exact": False}})
    return EngineRun(config, list(urls), arguments)


def _started(urls: Urls) -> tuple[float, float]:
    began = time.monotonic()
    with _run(urls) as run:
        run.wait_for(1, START_S)
        return time.monotonic() - began, sum(usage(run.pid).by_pid.values())


def _memory(urls: Urls) -> tuple[int, int]:
    with _run(urls) as run:
        run.wait_for_each(SETTLED, START_S)
        return memory_bytes(run.pid), own_memory_bytes(run.pid)


def _idle(urls: Urls, seconds: float, settle: Callable[[EngineRun], None]) -> dict[str, float]:
    with _run(urls) as run:
        settle(run)
        before, switched, began = usage(run.pid), switches(run.pid), time.monotonic()
        time.sleep(seconds)
        spent, switched = usage(run.pid).since(before), switches(run.pid) - switched
        passed = time.monotonic() - began
    return {
        "core_share": round(spent / passed, 5),
        "wakeups_per_s": round(switched / passed, 1),
    }


def _fails(run: EngineRun) -> None:
    until = time.monotonic() + START_S
    while run.counters()["camera0"].get("connect_failures", 0) < TRIES:
        if time.monotonic() > until:
            raise RunFailed(run.last_words())
        time.sleep(0.1)


def _shows(run: EngineRun) -> None:
    run.wait_for_each(3, START_S)
