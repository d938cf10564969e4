"""Measure how fast the review page and the commands answer among a million episodes.

    python -m benchmarks.review [--episodes N] [--asks N] [--write]

A database of that many, over the 400 days for which they are kept, and one of a fiftieth, filled
without a run through the projection's own tables: sources that restart once a day, rules that could
not be judged now and then, a hundredth that lasted for hours, a fiftieth judged. Each question is
asked of both by turns, with other times and filters each time, on a connection of its own, as the
server asks it. Milliseconds are by the clock, opening included.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    in_turn,
    percentile,
)
from framegate.pipeline.review.episode_counts import counts, known_sources
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.projection import COLUMNS, Projection
from framegate.pipeline.review.search import EpisodeFilter, episode_of, find, seen_in, steps_of
from framegate.pipeline.review.verdicts import verdict_counts

FEWER: Final = 50
DAYS: Final = 400
DAY_S: Final = 86_400.0
ENDS: Final = 1_800_000_000.0  # UNIX seconds
BEGINS: Final = ENDS - DAYS * DAY_S
SOURCES: Final = tuple(f"camera{n:02}" for n in range(20))
RULES: Final = ("visitor", "parked", "people", "gate", "north", "south", "desk", "alarm")
LABELS: Final = ("person", "car", "truck", "bicycle", "dog", None)
GOING_ON: Final = 20
CACHE_KB: Final = 262_144  # of the connection that fills
SPANS_S: Final = {"hour": 3600.0, "day": DAY_S, "week": 7 * DAY_S, "month": 30 * DAY_S}
BUCKETS_S: Final = {"hour": 120.0, "day": 3600.0, "week": 21_600.0, "month": DAY_S}  # of the page


def episodes(count: int) -> Iterator[dict[str, Any]]:
    """Rows of the table, in the order in which they began; the same each time."""
    chance = random.Random(1)
    step = DAYS * DAY_S / count
    for n in range(count):
        source, rule = chance.choice(SOURCES), chance.choice(RULES)
        began = BEGINS + (n + chance.random()) * step
        lasts = chance.uniform(3600, 43_200) if chance.random() < 0.01 else chance.expovariate(0.05)
        epoch, moment = int((began - BEGINS) // DAY_S) + 1, began % DAY_S
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {
            "id": f"{source}/{rule}/{epoch}-{n}/0", "source": source, "rule": rule,
            "version": "0a1b2c3d", "when": "crosses" if rule in ("north", "south") else "inside",
            "severity": "alert", "seconds": lasts, "label": chance.choice(LABELS),
            "tracks": f"[{n}]", "box": "[0.41,0.32,0.53,0.78]", "sightings": 12, "held": 40,
            "models": '["nanodet-plus-m-416-int8@0a1b2c3d"]', "unsure": 0, "bridged": 0,
            "direction": chance.choice(("in", "out")) if rule in ("north", "south") else None,
            "ended_by": None if n >= count - GOING_ON else "over",
        }  # fmt: skip
        for name, at in (("began", 0.0), ("told", 0.5), ("last", lasts)):
            row |= {
                f"{name}_epoch": epoch, f"{name}_seq": n + round(25 * at),
                f"{name}_media_s": moment + at, f"{name}_captured": began + at,
            }  # fmt: skip
        yield row


def fill(file: Path, count: int) -> None:
    """Make the database, in one transaction."""
    Projection(file).close()
    chance = random.Random(2)
    named = ", ".join(f'"{name}"' for name in COLUMNS)
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        with database:
            database.executemany(
                f"INSERT INTO episode ({named}) VALUES ({', '.join(f':{c}' for c in COLUMNS)})",
                episodes(count),
            )
            for step, number in (("start", 0), ("update", 1), ("end", 0)):
                database.execute(
                    "INSERT INTO change SELECT id, ?, ?, told_epoch, told_seq, told_media_s,"
                    " told_captured, last_captured, seconds, value, sightings, held, unsure"
                    " FROM episode WHERE ? <> 'end' OR ended_by IS NOT NULL",
                    (step, number, step),
                )
            database.execute(
                "INSERT INTO verdict SELECT id, iif(began_seq % 3, 'true', 'false'), last_captured,"
                " began_captured"
                " FROM episode WHERE began_seq % 50 = 0"
            )
            for source in SOURCES:
                for day in range(DAYS):
                    began = BEGINS + day * DAY_S
                    seen = (source, day + 1, began, began + DAY_S - chance.uniform(1, 60))
                    database.execute(
                        "INSERT INTO watched (source, epoch, first, last) VALUES (?, ?, ?, ?)", seen
                    )
                for rule in RULES:
                    for day in range(0, DAYS, 10):
                        since = BEGINS + (day + chance.random()) * DAY_S
                        row = (source, rule, day + 1, day, since, since + chance.uniform(60, 6000))
                        database.execute("INSERT INTO unknown VALUES (?, ?, ?, ?, ?, ?, 0)", row)


Ask = Callable[[sqlite3.Connection, random.Random], object]


def questions(ids: list[str]) -> Mapping[str, Ask]:
    """What is asked, by name. ids: of some episodes."""

    def some(chance: random.Random, span_s: float) -> tuple[float, float]:
        until = ENDS if chance.random() < 0.5 else chance.uniform(BEGINS + span_s, ENDS)
        return until - span_s, until

    def filters(chance: random.Random) -> dict[str, Any]:
        offered: dict[str, tuple[Any, ...]] = {
            "sources": SOURCES,
            "rules": RULES,
            "labels": LABELS[:-1],
        }
        return {
            name: (chance.choice(values),)
            for name, values in offered.items()
            if chance.random() < 0.3
        }

    def spanned(chance: random.Random, span: str) -> EpisodeFilter:
        since, until = some(chance, SPANS_S[span])
        return EpisodeFilter(since=since, until=until, **filters(chance))

    def page(span: str) -> dict[str, Ask]:
        s = SPANS_S[span]
        return {
            f"page, {span}: list": lambda db, c: find(db, spanned(c, span), 1000),
            f"page, {span}: counts": lambda db, c: counts(db, spanned(c, span), BUCKETS_S[span]),
            f"page, {span}: seen": lambda db, c: seen_in(db, *some(c, s)),
            f"page, {span}: verdicts": lambda db, c: verdict_counts(db, *some(c, s)),
        }

    def detail(database: sqlite3.Connection, chance: random.Random) -> object:
        name = chance.choice(ids)
        return episode_of(database, name), steps_of(database, name)

    def further(database: sqlite3.Connection, chance: random.Random) -> object:
        wanted = EpisodeFilter(until=chance.uniform(BEGINS + DAY_S, ENDS), **filters(chance))
        _, after = find(database, wanted, 100)
        return find(database, wanted, 100, after)

    asks = {name: ask for span in SPANS_S for name, ask in page(span).items()}
    return {
        **asks,
        "page: went on at a time": lambda db, c: find(
            db, EpisodeFilter(at=c.uniform(BEGINS, ENDS), **filters(c)), 1000
        ),
        "page: one, with its steps": detail,
        "events: the newest hundred": lambda db, c: find(db, EpisodeFilter(**filters(c)), 100),
        "events: two pages of some": further,
        "events --open": lambda db, c: find(db, EpisodeFilter(open=True, **filters(c)), 100),
        "mcp: sources": lambda db, c: known_sources(db, ENDS - 7 * DAY_S),  # noqa: ARG005
    }


def measure(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    sizes = (given.episodes // FEWER, given.episodes)
    with tempfile.TemporaryDirectory() as name:
        files = {size: Path(name) / f"{size}-{FILE}" for size in sizes}
        began = time.process_time()
        for size, file in files.items():
            fill(file, size)
        filled_cpu_s = time.process_time() - began
        print(f"filled: {filled_cpu_s:.1f} s of CPU", flush=True)
        asks = {}
        for size, file in files.items():
            with opened(file) as database:
                found = database.execute("SELECT id FROM episode ORDER BY random() LIMIT 1000")
                asks[size] = questions([each for (each,) in found])
        queries = list[dict[str, Any]]()
        for query in asks[given.episodes]:
            took: dict[int, list[float]] = {size: [] for size in sizes}
            for turn in range(-1, given.asks):
                for size in in_turn(sizes, turn):
                    start = time.perf_counter()
                    with opened(files[size]) as database:
                        asks[size][query](database, random.Random(turn))
                    if turn >= 0:  # the first one loads what it needs
                        took[size].append(1e3 * (time.perf_counter() - start))
            few, many = took.values()
            queries.append(
                {
                    "query": query,
                    "p50_ms": round(percentile(many, 0.5), 2),
                    "p99_ms": round(percentile(many, 0.99), 2),
                    "fewer_p50_ms": round(percentile(few, 0.5), 2),
                    "fewer_p99_ms": round(percentile(few, 0.99), 2),
                }
            )
            print(queries[-1], flush=True)
        size_mb = files[given.episodes].stat().st_size / 1e6
    return {
        "episodes": given.episodes,
        "file_mb": round(size_mb, 1),
        "worst_p99_ms": max(query["p99_ms"] for query in queries),
        "queries": queries,
        "conditions": conditions((), sqlite=sqlite3.sqlite_version, asks=given.asks),
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """A page waits for none of its questions."""
    return [
        Bar(f"{query['query']}: p99, ms", query["p99_ms"], "<=", 50.0)
        for query in result["queries"]
    ]


BENCHMARK = Benchmark(
    name="review",
    measure=measure,
    options={"episodes": Option(1_000_000, 20_000), "asks": Option(300, 10)},
    bars=bars,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
