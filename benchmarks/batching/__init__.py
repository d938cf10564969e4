"""Batches: of heavy questions over sources, what they gain, and what one source's flood costs
another; of the light network's looks, beside looks on more threads.

    python -m benchmarks.batching [--data FOLDER] [--seconds S] [--rounds N] [--write]

Throughput: eight sources ask through `heavy.asks` and `framegate worker --heavy`, which looks at
batches of 1, 4 or 8. Fairness: one source asks twice a second, alone, then beside one that floods,
then beside one with frames of four times the side, whose looks are slower; at the workers and at
the local heavy pass. And among eight that always have a question under way: what it costs the
others that the last of them has 64. Every round has each case once, in another order.

Looks: CPU time of two looks at a part or the whole, in turn, as a batch, and of one on two threads;
on the machine as it is, and beside a program a core that computes.

No look is broken off for another: beside whoever keeps the place busy a question waits for the rest
of the look that it met, so twice the time of one look is the least that p99 can be there.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import redis

from benchmarks.batching.looks import measure_looks
from benchmarks.batching.sources import Asker, Frames, Told, asked_by
from benchmarks.harness.clips import find_clip
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
from framegate.models.detector import detector
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.queries import Place
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.queue import HeavyQueue
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.stages.escalate.heavy_pass import LocalHeavy, encode_question
from tests.support.runs import environment, wait_until

SOURCES = 8
BATCHES = (1, 4, 8)
DEFAULT = 4  # of `framegate worker --heavy`
BAR = 1.25
CALM = Asker("calm", per_second=2.0)
BESIDE = ("flood", "slow")
Open = Callable[[], Place]


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    clip = find_clip(given.data, "one-by-one-person-detection.mp4" if given.data else None)
    frames = Frames(clip)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framegate-batch-")))
        urls = {n: stack.enter_context(_worker(folder / f"batch{n}", n)) for n in BATCHES}
        gains = _throughput(urls, frames, given.seconds, given.rounds)
        places: dict[str, Open] = {
            "workers": partial(_queue, urls[DEFAULT]),
            "workers_batch_1": partial(_queue, urls[1]),
            "local": LocalHeavy,
        }
        sizes = given.seconds, given.rounds
        flood = Asker("flood", in_hand=given.flood)
        cases = _beside(flood), _among(flood)
        fairness = {n: _fairness(n, cases[0], of, frames, *sizes) for n, of in places.items()}
        among = {n: _fairness(n, cases[1], of, frames, *sizes) for n, of in places.items()}
    return {
        **gains,
        "bar_p99_ratio": BAR,
        **_worst(fairness),
        "p99_ratio_among_8": max(rows["one_floods"]["p99_ratio"] for rows in among.values()),
        "fairness": fairness,
        "among_8": among,
        **measure_looks(given.looks, given.sizes),
        "conditions": conditions(
            ("openvino", "redis"),
            clip=clip.name,
            seconds_a_case=given.seconds,
            rounds=given.rounds,
            sources=SOURCES,
            batch=DEFAULT,
        ),
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """Return what a flood may cost others."""
    return [
        Bar("p99 beside a flood, times alone", result["p99_ratio"], "<=", BAR),
        Bar("... among eight", result["p99_ratio_among_8"], "<=", BAR),
    ]


def _beside(flood: Asker) -> dict[str, tuple[Asker, ...]]:
    """Who asks in each case: one source alone, and beside each of two others."""
    slow = Asker("slow", scale=4)
    return {"alone": (CALM,), "flood": (CALM, flood), "slow": (CALM, slow)}


def _among(flood: Asker) -> dict[str, tuple[Asker, ...]]:
    """Who asks in each case: eight sources that are alike, and seven beside a flood."""
    sources = tuple(Asker(f"source{n}") for n in range(SOURCES))
    return {"each_one": sources, "one_floods": (*sources[:-1], flood)}


@contextmanager
def _worker(folder: Path, batch: int) -> Iterator[str]:
    """A store with a worker of its own that looks at so many at once; the store's URL."""
    store = EmbeddedStore(folder, "everysec")
    store.start()
    words = [
        "-m",
        "framegate.cli",
        "worker",
        "--heavy",
        "--redis",
        store.url,
        f"--batch={batch}",
    ]
    worker = subprocess.Popen([sys.executable, *words], env=environment())
    try:
        client: Any = redis.Redis.from_url(store.url, protocol=2)
        with client:
            wait_until("a heavy worker", lambda: client.exists(keys.HEAVY_ALIVE))
        yield store.url
    finally:
        worker.kill()
        worker.wait()
        store.stop()


def _queue(url: str) -> Place:
    return HeavyQueue(url, encode_question, detector.policy_id("heavy"))


def _throughput(
    urls: dict[int, str], frames: Frames, seconds: float, rounds: int
) -> dict[str, Any]:
    """Answers a second of eight sources that always have two questions under way."""
    askers = [Asker(f"source{n}", in_hand=2) for n in range(SOURCES)]
    rates: dict[int, list[float]] = defaultdict(list)
    for number in range(rounds):
        for batch in in_turn(list(urls), number):
            told, spent_s = _case(askers, partial(_queue, urls[batch]), frames, seconds)
            answered = sum(len(one.responses_s) for one in told.values())
            rates[batch].append(answered / spent_s)
        print("throughput", {n: round(of[-1], 2) for n, of in rates.items()}, flush=True)
    ones = rates[1]
    return {
        "throughput_8_sources": round(statistics.median(rates[DEFAULT]), 2),
        "throughput_batch_1": round(statistics.median(ones), 2),
        "ratio": round(median_of_ratios(rates[DEFAULT], ones), 3),
        "batches": {
            str(batch): {
                "throughput": round(statistics.median(of), 2),
                "ratio": round(median_of_ratios(of, ones), 3),
            }
            for batch, of in rates.items()
        },
    }


def _fairness(
    name: str,
    cases: dict[str, tuple[Asker, ...]],
    open_place: Open,
    frames: Frames,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    """Response times in each case of those that ask the same way in all; the first is the base."""
    base, *_ = cases
    watched = set.intersection(*({one.name for one in askers} for askers in cases.values()))
    responses: dict[str, list[float]] = defaultdict(list)
    others: dict[str, int] = defaultdict(int)
    unanswered = 0
    for number in range(rounds):
        for case in in_turn(list(cases), number):
            told = _case(cases[case], open_place, frames, seconds)[0]
            for who, one in told.items():
                if who in watched:
                    responses[case] += one.responses_s
                else:
                    others[case] += len(one.responses_s)
                unanswered += one.unanswered
        print(name, {case: _row(of) for case, of in responses.items()}, flush=True)
    alone = percentile(responses[base], 0.99)
    rows = {case: _row(of) | {"to_others": others[case]} for case, of in responses.items()}
    for case, row in rows.items():
        if case != base:
            row["p99_ratio"] = round(percentile(responses[case], 0.99) / alone, 3)
    return {**rows, "unanswered": unanswered}


def _row(responses_s: Sequence[float]) -> dict[str, Any]:
    return {
        "questions": len(responses_s),
        "p50_ms": round(1000 * statistics.median(responses_s), 1),
        "p99_ms": round(1000 * percentile(responses_s, 0.99), 1),
    }


def _worst(fairness: dict[str, Any]) -> dict[str, Any]:
    """Of all places and neighbours, the one that costs most."""
    cases = [
        (rows[case]["p99_ratio"], name, case) for name, rows in fairness.items() for case in BESIDE
    ]
    ratio, name, case = max(cases)
    return {
        "p99_alone_ms": fairness[name]["alone"]["p99_ms"],
        "p99_beside_ms": fairness[name][case]["p99_ms"],
        "p99_ratio": ratio,
        "p99_at": f"{name}, beside {case}",
        "p99_holds": ratio <= BAR,
    }


def _case(
    askers: Sequence[Asker], open_place: Open, frames: Frames, seconds: float
) -> tuple[dict[str, Told], float]:
    """What came of it, and in how many seconds, those for the last answers included."""
    asks = Asks(open_place())
    try:
        begun = time.monotonic()
        return asked_by(askers, asks, frames, seconds), time.monotonic() - begun
    finally:
        asks.close()


BENCHMARK = Benchmark(
    name="batching",
    measure=whole,
    options={
        "seconds": Option(10.0, 0.5, "of each case and round"),
        "rounds": Option(6, 1),
        "flood": Option(64, 4, "questions that a flood has under way"),
        "looks": Option(60, 3, "of each way to look, size and load"),
        "sizes": Option(10**9, 1, "of a look, at most"),
    },
    bars=bars,
)
