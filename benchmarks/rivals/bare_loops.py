"""Two loops without an engine, of the same parts: what a careful user would write.

sequential   decode, detect with two threads, track, one frame after the other
overlapped   a thread decodes ahead; while a frame is in the network the next one is prepared

Decoding, preparation, network, tracker and the result's bytes are the engine's own; there is no
store, no window, no second process. Each loop runs in a fresh process (`measure_loop`).
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Literal

import cv2
import msgspec

from benchmarks.harness.engine_run import REPOSITORY
from benchmarks.harness.process_tree import memory_bytes
from framegate.models.boxes import Boxes
from framegate.models.detector import detector
from framegate.models.detector.member import Pending
from framegate.models.detector.network import Precision
from framegate.models.picture import as_picture
from framegate.models.tracking import bytetrack
from framegate.models.tracking.bytetrack import TrackSettings
from framegate.models.tracking.track_state import no_tracks
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.results import Origin
from framegate.pipeline.contracts.source import Form
from framegate.stages.decode.file import FileSource
from framegate.stages.detect.output import as_objects
from framegate.stages.detections import Detections

LoopName = Literal["sequential", "overlapped"]
LOOPS: tuple[LoopName, ...] = ("sequential", "overlapped")
AHEAD = 8


@dataclass(frozen=True, slots=True)
class Spec:
    """One run of a loop. seconds: measured, after `warm_up` frames; paced: as its pts say."""

    loop: LoopName
    clip: str
    precision: Precision
    threads: int
    paced: bool
    warm_up: int
    seconds: float


@dataclass(slots=True)
class Told:
    """What a loop says of its run; latencies from when a frame was due, in seconds."""

    frames: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    latencies_s: list[float] = field(default_factory=list)
    model_s: list[float] = field(default_factory=list)


def measure_loop(spec: Spec) -> Told:
    """Run a loop in a process of its own. CalledProcessError if it fails."""
    command = (sys.executable, "-m", "benchmarks.rivals.bare_loops", json.dumps(asdict(spec)))
    done = subprocess.run(
        command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    return Told(**json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True, slots=True)
class _Ready:
    """A decoded frame. due: monotonic seconds."""

    number: int
    pts: float | None
    form: Form
    pixels: memoryview
    ready: float


class _Run:
    """When frames are due, what comes after the network, and the counting."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.told = Told()
        self.over = False
        threads = 2 if spec.loop == "sequential" else spec.threads
        self.detector = detector.load("light", spec.precision, threads)
        self.detector.warm_up(640, 360)
        least = self.detector.choices.min_score
        self._settings = TrackSettings(least + 0.1, least, least + 0.15, min_hits=2)
        self._tracks = no_tracks()
        self._shift: float | None = None
        self._began = self._cpu_s = 0.0

    def due(self, frame: _Ready) -> float:
        """Monotonic seconds; at full speed a frame is due when it is decoded."""
        if not self.spec.paced or frame.pts is None:
            return frame.ready
        if self._shift is None:
            self._shift = frame.ready - frame.pts
        return self._shift + frame.pts

    def publish(self, frame: _Ready, boxes: Boxes) -> None:
        """Track, make the result's bytes, count."""
        self._tracks, ids = bytetrack.step(self._tracks, boxes, frame.pts, self._settings)
        origins: list[Origin] = ["detected"] * len(boxes)
        objects = as_objects(boxes, ids, origins)
        found = Detections("detected", "whole", "every_frame", objects, self.detector.models)
        records.encode(("clip", frame.number, frame.pts, time.time(), frame.form, found))
        self._count(frame)

    def _count(self, frame: _Ready) -> None:
        now, told = time.monotonic(), self.told
        if frame.number < self.spec.warm_up:
            self._began, self._cpu_s = now, time.process_time()
            told.model_s.clear()
            return
        told.frames += 1
        told.latencies_s.append(now - self.due(frame))
        told.seconds, told.cpu_s = now - self._began, time.process_time() - self._cpu_s
        self.over = told.seconds >= self.spec.seconds


def _sequential(run: _Run) -> None:
    source = FileSource(run.spec.clip)
    buffer = memoryview(b"")
    for number, frame in enumerate(source.frames()):
        if len(buffer) != frame.nbytes:
            buffer = memoryview(bytearray(frame.nbytes))
        frame.write(buffer)
        ready = _Ready(number, frame.pts, frame.form, buffer, time.monotonic())
        time.sleep(max(0.0, run.due(ready) - time.monotonic()))
        began = time.monotonic()
        (boxes,) = run.detector.detect([as_picture(buffer, frame.form)])
        run.told.model_s.append(time.monotonic() - began)
        run.publish(ready, boxes)
        if run.over:
            break
    source.close()


def _overlapped(run: _Run) -> None:
    ahead = _Ahead(run.spec.clip)
    ahead.start()
    member = run.detector.members[0]
    under_way: tuple[_Ready, Pending, float] | None = None
    while not run.over:
        frame = ahead.frames.get()
        wait = run.due(frame) - time.monotonic()
        if wait > 0 and under_way is not None:
            _finish(run, *under_way)
            under_way = None
            wait = run.due(frame) - time.monotonic()
        time.sleep(max(0.0, wait))
        began = time.monotonic()
        pending = member.start(member.prepare(as_picture(frame.pixels, frame.form)))
        ahead.free.put(frame.pixels)
        if under_way is not None:
            _finish(run, *under_way)
        under_way = (frame, pending, began)
    ahead.stop()


def _finish(run: _Run, frame: _Ready, pending: Pending, began: float) -> None:
    boxes = run.detector.joined([pending.finish()])
    run.told.model_s.append(time.monotonic() - began)
    run.publish(frame, boxes)


class _Ahead(threading.Thread):
    """Decodes up to AHEAD frames ahead."""

    def __init__(self, clip: str) -> None:
        super().__init__(name="decode", daemon=True)
        self.frames: queue.SimpleQueue[_Ready] = queue.SimpleQueue()
        self.free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._clip = clip

    def run(self) -> None:
        """Decode until stopped."""
        source = FileSource(self._clip)
        for number, frame in enumerate(source.frames()):
            if number < AHEAD:
                self.free.put(memoryview(bytearray(frame.nbytes)))
            buffer = self.free.get()
            if buffer is None:
                break
            frame.write(buffer)
            self.frames.put(_Ready(number, frame.pts, frame.form, buffer, time.monotonic()))
        source.close()

    def stop(self) -> None:
        """End after the frame in hand."""
        while not self.free.empty():
            self.free.get()
        self.free.put(None)
        self.join()


def main() -> None:
    """Run the loop that the argument describes; the last line is what it tells."""
    cv2.setNumThreads(1)
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    run = _Run(spec)
    {"sequential": _sequential, "overlapped": _overlapped}[spec.loop](run)
    run.told.peak_bytes = memory_bytes(os.getpid())
    print(json.dumps(asdict(run.told)))


if __name__ == "__main__":
    main()
