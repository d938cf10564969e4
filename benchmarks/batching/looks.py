"""Measure two looks of the light network: one after the other, as a batch, and on more threads.

At a live pace: each begins after a pause, with caches as the pause left them. CPU time is that of
the process, so what threads cost by waiting for each other is in it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np

from benchmarks.harness.report import in_turn
from framegate.models.detector.network import config, core, nearest, shipped
from framegate.models.gate import crops

_PAUSE_S: Final = 0.03
_PICTURE: Final = 768, 432
_LONG_SIDE: Final = 416
_AT_ONCE: Final = 2
_Run = Callable[[], object]


def measure_looks(rounds: int, most_sizes: int) -> dict[str, Any]:
    """Median CPU-ms and ms of each way, by size and load, and ratios of CPU time.

    most_sizes  of a look that are measured

    looks          a row a size and load: alone, or beside a program a core that computes
    batch_ratio    of a batch of two to two in turn, the sizes' median, alone
    threads_ratio  of one look on two threads to one on one, the same
    """
    sizes = crops.sizes(*_PICTURE, _LONG_SIDE)[:most_sizes]
    ways = {size: _ways(size) for size in sizes}
    rows = []
    for load in ("alone", "busy"):
        with _load(load):
            rows += [_row(size, ways[size], load, rounds) for size in sizes]
    alone = [row for row in rows if row["load"] == "alone"]
    return {
        "looks": rows,
        "batch_ratio": _ratio(alone, "batch_of_two", "two_in_turn"),
        "threads_ratio": _ratio(alone, "two_threads", "one"),
    }


def _ratio(rows: list[dict[str, Any]], way: str, by: str) -> float:
    ratios: list[float] = [row[way]["cpu_ms"] / row[by]["cpu_ms"] for row in rows]
    return round(statistics.median(ratios), 3)


def _row(size: tuple[int, int], ways: dict[str, _Run], load: str, rounds: int) -> dict[str, Any]:
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(rounds + 1):
        for way in in_turn(list(ways), number):
            time.sleep(_PAUSE_S)
            cpu, began = time.process_time(), time.perf_counter()
            ways[way]()
            if number:
                spent[way].append((time.process_time() - cpu, time.perf_counter() - began))
    row: dict[str, Any] = {"width": size[0], "height": size[1], "load": load}
    for way, times in spent.items():
        cpu_ms, ms = (round(1e3 * statistics.median(of), 3) for of in zip(*times, strict=True))
        row[way] = {"cpu_ms": cpu_ms, "ms": ms}
    print(row, flush=True)
    return row


def _ways(size: tuple[int, int]) -> dict[str, _Run]:
    """Each way to look; what runs is compiled for this size alone."""
    shape = size[1], size[0], 3
    pictures = np.random.default_rng(0).integers(0, 256, (_AT_ONCE, *shape), np.uint8)
    one, two = _compiled(shape, 1, threads=1), _compiled(shape, _AT_ONCE, threads=1)
    threaded = _compiled(shape, 1, threads=2)
    return {
        "one": lambda: one.infer([pictures[:1]]),
        "two_in_turn": lambda: [one.infer([each[None]]) for each in pictures],
        "batch_of_two": lambda: two.infer([pictures]),
        "two_threads": lambda: threaded.infer([pictures[:1]]),
    }


def _compiled(shape: tuple[int, int, int], batch: int, threads: int) -> Any:
    precision = nearest("int8+bf16")
    model = core().read_model(shipped("nanodet-plus", precision).path)
    model.reshape([batch, *shape])
    compiled = core().compile_model(model, "CPU", config(precision, threads))
    return compiled.create_infer_request()


@contextmanager
def _load(load: str) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(len(os.sched_getaffinity(0)) if load == "busy" else 0):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        yield
