"""What it saves to keep a window's features: each frame through the network once, not 32 times.

    python -m benchmarks.window --data FOLDER [--write]

The light detector looks at a clip, whole frames, and the window head judges the newest frame of
each step by the last 32. *Naive*: a step takes all 32 frames of its window through the detector
again. *Kept*: a step takes the frames that are new since the step before. Both keep the keys and
values of frames that are only past, and judge once: what differs is the detector's work and the
pooling. Rounds of both alternate, so that a change of load meets both; a speed-up is the median
over rounds of their ratios. Then the head alone goes on for 100,000 steps, and now and then its
answer is compared with that of a window built anew from the same frames. The figure is
docs/window.png. The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.harness.clips import find_clip, rate
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    median_of_ratios,
)
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.detector.member import Features
from framegate.models.detector.network import nearest
from framegate.models.gate import crops
from framegate.models.picture import Picture
from framegate.models.tracking import bytetrack, thresholds
from framegate.models.tracking.bytetrack import no_tracks
from framegate.models.window import features
from framegate.models.window.head import NewFrame, WindowHead, WindowStep
from framegate.models.window.rows import ROWS, WindowRows, row_bytes
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.shared_memory.state import unshared_ring
from framegate.stages.decode.file import FileSource
from framegate.stages.planes import as_picture

Row = dict[str, Any]
CANDIDATE = 0.1
LONG_SIDE = 416
STRIDES = (1, 2, 4, 8, 16, 32)
N_FRAMES = 100
SOAK_STEPS = 100_000
CHECKS = 25


@dataclass(frozen=True, slots=True)
class Running:
    """The detector and the head at work on a clip.

    frames  of it, with numbers and tracks; a step makes their features anew
    """

    light: Detector
    head: WindowHead
    pictures: Sequence[Picture]
    frames: Sequence[NewFrame]

    def look(self, number: int) -> NewFrame:
        """Frame `number` through the detector, with the tracks that it has."""
        frame = looked(self.light, self.pictures[number])
        return replace(frame, ids=self.frames[number].ids, seq=number)

    def taken_in(self, state: WindowRows, numbers: Sequence[int]) -> WindowStep:
        """Looks at these frames and judges the last of them."""
        for number in numbers[:-1]:
            state = self.head.remember(state, self.look(number))
        return self.head.step(state, self.look(numbers[-1]))


def looked(light: Detector, picture: Picture) -> NewFrame:
    """A frame by a whole look, still without number and tracks."""
    size = (picture.width, picture.height)
    look = crops.whole(*size, LONG_SIDE)
    ((boxes, seen),) = light.look_with_features(picture, (look,), features.read)
    n = len(boxes)
    nothing, fresh = np.zeros(n, np.int32), np.ones(n, np.bool_)
    return NewFrame(boxes, nothing, fresh, seen.boxes, (seen,), size, 0)


def start(path: Path, most: int) -> Running:
    """Detector, head, and the clip's first frames, each in memory of its own."""
    precision = nearest(policy.load("light").precision)
    light = detector.load("light", precision, 1, min_score=CANDIDATE, features=True)
    head = WindowHead(LONG_SIDE)
    head.warm_up()
    pictures = list(islice(_pictures(path), most))
    _, settings = thresholds.settings_for(policy.load("light").min_score)
    tracks, frames = no_tracks(), []
    for number, picture in enumerate(pictures):
        frame, pts = looked(light, picture), number / rate(path)
        tracks, ids = bytetrack.step(tracks, frame.candidates, pts, settings)
        frames.append(replace(frame, ids=ids, seq=number))
    return Running(light, head, pictures, frames)


def _pictures(path: Path) -> Iterator[Picture]:
    with closing(FileSource(str(path))) as source:
        for frame in source.frames():
            pixels = memoryview(bytearray(frame.nbytes))
            frame.write(pixels)
            yield as_picture(pixels, frame.form)


def stride_row(run: Running, stride: int, rounds: int) -> Row:
    """Both ways at one stride: median milliseconds of a step, speed-up, largest difference."""
    naive_ms, kept_ms, apart = [], [], 0.0
    last = ROWS - 1
    state = run.taken_in(WindowRows(), range(ROWS)).window
    for _ in range(rounds):
        new = range(last + 1, last + 1 + stride)
        if new[-1] >= len(run.pictures):
            last = ROWS - 1
            state, new = run.taken_in(WindowRows(), range(ROWS)).window, range(ROWS, ROWS + stride)
        begin = time.perf_counter()
        kept = run.taken_in(state, new)
        middle = time.perf_counter()
        anew = run.taken_in(WindowRows(), range(new[-1] + 1 - ROWS, new[-1] + 1))
        end = time.perf_counter()
        naive_ms.append((end - middle) * 1e3)
        kept_ms.append((middle - begin) * 1e3)
        apart = max(apart, _apart(kept, anew))
        state, last = kept.window, new[-1]
    return {
        "stride": stride,
        "naive_ms": round(statistics.median(naive_ms), 3),
        "kept_ms": round(statistics.median(kept_ms), 3),
        "speedup": round(median_of_ratios(naive_ms, kept_ms), 2),
        "max_abs_diff": apart,
    }


def parts(run: Running, rounds: int) -> dict[str, float]:
    """Median milliseconds of a frame's parts: detector (backbone), pooling, head, ring."""
    ring = unshared_ring("benchmark", ROWS, row_bytes(*run.frames[0].size, LONG_SIDE))
    state = run.taken_in(WindowRows(), range(ROWS)).window
    taken: dict[str, list[float]] = {"backbone": [], "pooling": [], "head": [], "ring": []}
    for i in range(rounds):
        number = ROWS + i % (len(run.pictures) - ROWS)
        begin = time.perf_counter()
        pooling = _pooling_s(run.light, run.pictures[number])
        seen = time.perf_counter()
        step = run.head.step(state, run.frames[number])
        judged = time.perf_counter()
        if step.row is not None:
            ring.write(Position(1, number), step.row.to_bytes(), None)
        kept = time.perf_counter()
        spans = (seen - begin - pooling, pooling, judged - seen, kept - judged)
        for name, span in zip(taken, spans, strict=True):
            taken[name].append(span * 1e3)
    return {name: round(statistics.median(spans), 3) for name, spans in taken.items()}


def _pooling_s(light: Detector, picture: Picture) -> float:
    """Seconds of the pooling in one whole look, timed where it happens."""

    def timed(boxes: Boxes, maps: Features | None) -> float:
        begin = time.perf_counter()
        features.read(boxes, maps)
        return time.perf_counter() - begin

    look = crops.whole(picture.width, picture.height, LONG_SIDE)
    (seconds,) = light.look_with_features(picture, (look,), timed)
    return seconds


def soak(run: Running, n_steps: int) -> Row:
    """The head on the clip's frames over and over: memory and error, `CHECKS` times."""
    state, rows = WindowRows(), []
    frames: list[NewFrame] = []
    for i in range(n_steps):
        frame = replace(run.frames[i % len(run.frames)], seq=i)
        frames = [*frames, frame][-ROWS:]
        step = run.head.step(state, frame)
        state = step.window
        if (i + 1) % (n_steps // CHECKS) == 0:
            anew = WindowRows()
            for one in frames[:-1]:
                anew = run.head.step(anew, one).window
            apart = _apart(step, run.head.step(anew, frames[-1]))
            rows.append({"steps": i + 1, "rss_mib": _rss_mib(), "max_abs_diff": apart})
    return {"steps": n_steps, "points": rows}


def _apart(a: WindowStep, b: WindowStep) -> float:
    """The largest difference of anything that two answers say."""
    pairs = [(a.boxes.scores, b.boxes.scores), (a.things, b.things), (a.embedding, b.embedding)]
    if a.row and b.row:
        pairs += [(a.row.keys, b.row.keys), (a.row.values, b.row.values)]
    return max((float(np.abs(x - y).max()) for x, y in pairs if len(x)), default=0.0)


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 1)


def result_of(run: Running, rounds: int, soak_steps: int) -> Row:
    """All figures."""
    rows = []
    for stride in STRIDES:
        rows.append(stride_row(run, stride, rounds))
        print(json.dumps(rows[-1]), flush=True)
    each = parts(run, 10 * rounds)
    by_stride = {row["stride"]: row for row in rows}
    return {
        "speedup_stride_1": by_stride[1]["speedup"],
        "speedup_stride_8": by_stride[8]["speedup"],
        "step_ms_naive": by_stride[8]["naive_ms"],
        "step_ms": by_stride[8]["kept_ms"],
        "head_ms": each["head"],
        "beside_backbone_ms": round(each["pooling"] + each["head"] + each["ring"], 3),
        "max_abs_diff": max(row["max_abs_diff"] for row in rows),
        "window": ROWS,
        "parts_ms": each,
        "strides": rows,
        "soak": soak(run, soak_steps),
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """What is gained, what a step beside the network costs, and that nothing differs."""
    return [
        Bar("times as fast, stride 1", result["speedup_stride_1"], ">=", 25.0),
        Bar("times as fast, stride 8", result["speedup_stride_8"], ">=", 3.5),
        Bar("ms beside the network", result["beside_backbone_ms"], "<=", 2.0),
        Bar("largest difference of an answer", result["max_abs_diff"], "<=", 1e-5),
    ]


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cv2.setNumThreads(1)
    path = find_clip(given.data)
    run = start(path, N_FRAMES)
    packages = ("numpy", "opencv-python-headless", "openvino")
    told = conditions(packages, clip=path.name, detector=run.light.models[0], head=run.head.name)
    return {**result_of(run, given.rounds, given.soak_steps), "conditions": told}


BENCHMARK = Benchmark(
    name="window",
    measure=whole,
    options={"rounds": Option(12, 1), "soak_steps": Option(SOAK_STEPS, 250)},
    bars=bars,
    draws="benchmarks.window.figure",
)
