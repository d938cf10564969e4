"""Roboflow's InferencePipeline on cameras, in a Python where `inference` is installed.

Its own OpenCV producer reads them; our light detector and tracker are its custom logic. All else is
as it comes. Nothing of the engine is imported.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import cv2

from benchmarks.harness.process_tree import memory_bytes
from benchmarks.rivals.roboflow_peer import Network, PeerSpec, run_peer

_START_S = 45.0


@dataclass(frozen=True, slots=True)
class LiveSpec:
    """One run.

    settle, settle_s   frames of each camera, and then seconds, before the span of `seconds`; it
                       begins after 45 s even if some camera gave too few
    """

    urls: tuple[str, ...]
    fps: float
    settle: int
    settle_s: float
    seconds: float
    precision: str = "f32"
    threads: int = 1


def measure_live_peer(python: str, spec: LiveSpec) -> dict[str, Any]:
    """Run the peer: published, dropped, seconds, cpu_s, latencies_s, memory_bytes.

    CalledProcessError or TimeoutExpired if it fails.
    """
    timeout_s = 2.5 * _START_S + spec.seconds
    return run_peer(python, "benchmarks.rivals.roboflow_live", asdict(spec), timeout_s)


class Sink:
    """Custom logic and sink of the pipeline; tells what the measured span had."""

    def __init__(self, spec: LiveSpec) -> None:
        self._spec = spec
        self._network = Network(
            PeerSpec(
                phases_s=(0.0,) * len(spec.urls),
                fps=spec.fps,
                paced=True,
                warm_up=0,
                seconds=spec.seconds,
                precision=spec.precision,
                threads=spec.threads,
            )
        )
        self.arrived: list[dict[int, float]] = [{} for _ in spec.urls]
        self._seen: Counter[int] = Counter()
        self._made = time.monotonic()
        self._settled = self._began = self._ended = 0.0
        self._cpu_s = self._cpu_end_s = 0.0
        self._grabbed = self._grabbed_end = 0
        self._latencies_s: list[float] = []
        self._memory = 0
        self.over = threading.Event()

    def on_video_frame(self, video_frames: list[Any]) -> list[Any]:
        """A prediction for each frame."""
        return [self._network.answer(each.image, each.source_id or 0) for each in video_frames]

    def on_prediction(self, predictions: Any, video_frames: Any) -> None:
        """Count what came out: single frames of one camera, lists with gaps of several."""
        del predictions
        now = time.monotonic()
        frames = video_frames if isinstance(video_frames, list) else [video_frames]
        for frame in (frame for frame in frames if frame is not None):
            source = frame.source_id or 0
            self._seen[source] += 1
            if self._began and not self.over.is_set():
                self._latencies_s.append(now - self.arrived[source][frame.frame_id])
        if not self._began:
            self._settle(now)
        elif now - self._began >= self._spec.seconds and not self.over.is_set():
            self._ended, self._cpu_end_s = now, time.process_time()
            self._grabbed_end = self._grabs()
            self._memory = memory_bytes(os.getpid())
            self.over.set()

    def _settle(self, now: float) -> None:
        enough = sum(n >= self._spec.settle for n in self._seen.values()) == len(self._spec.urls)
        if not enough and now - self._made < _START_S:
            return
        self._settled = self._settled or now
        if now - self._settled >= self._spec.settle_s:
            self._began, self._cpu_s, self._grabbed = now, time.process_time(), self._grabs()

    def _grabs(self) -> int:
        return sum(len(each) for each in self.arrived)

    def told(self) -> dict[str, Any]:
        """The figures of the span; RuntimeError if there was none."""
        if not self.over.is_set():
            raise RuntimeError(f"too few frames came: {dict(self._seen)}")
        published = len(self._latencies_s)
        return {
            "published": published,
            "dropped": max(0, self._grabbed_end - self._grabbed - published),
            "seconds": self._ended - self._began,
            "cpu_s": self._cpu_end_s - self._cpu_s,
            "latencies_s": self._latencies_s,
            "memory_bytes": self._memory,
        }


def stamped_producer(url: str, arrived: dict[int, float]) -> Any:
    """The pipeline's own producer, which also notes when it had each frame."""
    from inference.core.interfaces.camera import video_source  # type: ignore[import-not-found]

    class Producer(video_source.CV2VideoFrameProducer):  # type: ignore[misc]
        def grab(self) -> bool:
            """Its `grab` reads and decodes; the pipeline numbers frames from 1."""
            grabbed = bool(super().grab())
            if grabbed:
                arrived[len(arrived) + 1] = time.monotonic()
            return grabbed

    return Producer(url)


def run(spec: LiveSpec) -> dict[str, Any]:
    """Run the pipeline until enough was measured."""
    from inference import InferencePipeline  # type: ignore[import-not-found]

    sink = Sink(spec)
    pairs = list(zip(spec.urls, sink.arrived, strict=True))
    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=[lambda u=u, a=a: stamped_producer(u, a) for u, a in pairs],
        on_video_frame=sink.on_video_frame,
        on_prediction=sink.on_prediction,
    )
    pipeline.start(use_main_thread=False)
    sink.over.wait(1.5 * _START_S + spec.seconds)
    return sink.told()


def main() -> None:
    """Run what the argument describes."""
    cv2.setNumThreads(1)
    code = 1
    try:
        print("\n" + json.dumps(run(LiveSpec(**json.loads(sys.argv[1])))), flush=True)
        code = 0
    finally:
        os._exit(code)  # its threads do not all end


if __name__ == "__main__":
    main()
