"""Roboflow's InferencePipeline on the same jobs, in a Python where `inference` is installed.

null     made frames of 640x360 from each source and a handler that does nothing
network  a clip, and our light detector and tracker as the pipeline's custom logic

Sources are paced as ours are: decoded ahead, handed over when they are due. Nothing of the engine
is imported, so that what the peer needs (other versions of redis and PyAV) can lie beside it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """One run. clip: None for null frames; phases_s: one source each; seconds: measured."""

    phases_s: tuple[float, ...]
    fps: float
    paced: bool
    warm_up: int
    seconds: float
    clip: str | None = None
    precision: str = "f32"
    threads: int = 1


def measure_peer(python: str, spec: PeerSpec) -> dict[str, Any]:
    """Run the peer: frames, seconds, cpu_s and latencies_s. CalledProcessError if it fails."""
    return run_peer(python, "benchmarks.rivals.roboflow_peer", asdict(spec))


def run_peer(
    python: str, module: str, spec: dict[str, Any], timeout_s: float | None = None
) -> dict[str, Any]:
    """Run a module of ours in the peer's Python, with a spec as its argument, and return the JSON
    of its last line.

    CalledProcessError or TimeoutExpired if it fails.
    """
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        (python, "-m", module, json.dumps(spec)),
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), "TELEMETRY_OPT_OUT": "True"},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=timeout_s,
        encoding="utf-8",
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


class Producer:
    """A source as the pipeline wants it: `grab` waits until the next frame is due."""

    def __init__(self, spec: PeerSpec, start: float) -> None:
        self._spec, self._start, self._number = spec, start, 0
        self._capture = cv2.VideoCapture(spec.clip) if spec.clip else None
        self._made = np.zeros((360, 640, 3), np.uint8)

    def isOpened(self) -> bool:  # noqa: N802 (the peer's name)
        """Return whether frames can be had."""
        return self._capture is None or bool(self._capture.isOpened())

    def grab(self) -> bool:
        """Decode the next frame, then wait for its time."""
        if self._capture is not None and not self._capture.grab():
            return False
        if self._spec.paced:
            due = self._start + self._number / self._spec.fps
            time.sleep(max(0.0, due - time.monotonic()))
        self._number += 1
        return True

    def retrieve(self) -> tuple[bool, Any]:
        """The grabbed frame."""
        return (True, self._made) if self._capture is None else self._capture.retrieve()

    def release(self) -> None:
        """Close the clip."""
        if self._capture is not None:
            self._capture.release()

    def connection_error_message(self) -> str:
        """Nothing to say."""
        return ""

    def initialize_source_properties(self, properties: dict[str, Any]) -> None:
        """Nothing to set."""

    def discover_source_properties(self) -> Any:
        """Full speed is what the pipeline does with files, dropping nothing."""
        from inference.core.interfaces.camera import entities  # type: ignore[import-not-found]

        image = self._made.shape
        if self._capture is not None:
            image = (int(self._capture.get(4)), int(self._capture.get(3)), 3)
        is_file = not self._spec.paced
        return entities.SourceProperties(
            width=image[1],
            height=image[0],
            total_frames=10**9 if is_file else -1,
            is_file=is_file,
            fps=self._spec.fps,
        )


class Handler:
    """What the pipeline calls: custom logic, then the sink, which counts."""

    def __init__(self, spec: PeerSpec, starts: list[float]) -> None:
        self._spec, self._starts = spec, starts
        self._network = Network(spec) if spec.clip else None
        self.frames, self.seen = 0, 0
        self.latencies_s: list[float] = []
        self._began = self._cpu_s = 0.0
        self.seconds = self.cpu_s = 0.0
        self.over = threading.Event()

    def on_video_frame(self, video_frames: list[Any]) -> list[Any]:
        """A prediction for each frame."""
        if self._network is None:
            return [{"objects": 1}] * len(video_frames)
        return [self._network.answer(frame.image, frame.source_id or 0) for frame in video_frames]

    def on_prediction(self, predictions: Any, video_frames: Any) -> None:
        """Count what came out; one source gives single frames, several give lists with gaps."""
        del predictions
        now = time.monotonic()
        frames = video_frames if isinstance(video_frames, list) else [video_frames]
        for frame in (frame for frame in frames if frame is not None):
            self.seen += 1
            if self.seen <= self._spec.warm_up:
                self._began, self._cpu_s = now, time.process_time()
                continue
            self.frames += 1
            due = self._starts[frame.source_id or 0] + (frame.frame_id - 1) / self._spec.fps
            self.latencies_s.append(now - due)
        self.seconds, self.cpu_s = now - self._began, time.process_time() - self._cpu_s
        if self.seen > self._spec.warm_up and self.seconds >= self._spec.seconds:
            self.over.set()


class Network:
    """Our light detector and a tracker for each source, on the pipeline's BGR frames."""

    def __init__(self, spec: PeerSpec) -> None:
        from framegate.models.detector import detector
        from framegate.models.tracking import bytetrack
        from framegate.models.tracking.track_state import no_tracks

        self._detector = detector.load("light", spec.precision, spec.threads)  # type: ignore[arg-type]
        self._detector.warm_up(640, 360)
        least = self._detector.choices.min_score
        self._settings = bytetrack.TrackSettings(least + 0.1, least, least + 0.15, min_hits=2)
        self._tracks = [no_tracks()] * len(spec.phases_s)
        self._numbers = [0] * len(spec.phases_s)
        self._step, self._fps = bytetrack.step, spec.fps

    def answer(self, image: Any, source: int) -> Any:
        """Boxes and track ids of one frame of a source, counted from 0."""
        from framegate.models.picture import NetworkInput, inner_size, padded

        height, width = image.shape[:2]
        (network,) = self._detector.members
        inner = inner_size(width, height, network.long_side)
        bgr = np.zeros((padded(inner[1]), padded(inner[0]), 3), np.uint8)
        bgr[: inner[1], : inner[0]] = cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR)
        pending = network.start(NetworkInput(bgr, inner, (width, height)))
        boxes = self._detector.joined([pending.finish()])
        pts = self._numbers[source] / self._fps
        self._numbers[source] += 1
        self._tracks[source], ids = self._step(self._tracks[source], boxes, pts, self._settings)
        return boxes, ids


def run(spec: PeerSpec) -> dict[str, Any]:
    """Run the pipeline until enough was measured."""
    from inference import InferencePipeline  # type: ignore[import-not-found]

    begin = math.ceil(time.monotonic() + 5.0)
    starts = [begin + phase for phase in spec.phases_s]
    handler = Handler(spec, starts)
    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=[lambda start=start: Producer(spec, start) for start in starts],
        on_video_frame=handler.on_video_frame,
        on_prediction=handler.on_prediction,
    )
    pipeline.start(use_main_thread=False)
    handler.over.wait(60.0 + spec.seconds)
    pipeline.terminate()
    return {
        "frames": handler.frames,
        "seconds": handler.seconds,
        "cpu_s": handler.cpu_s,
        "latencies_s": handler.latencies_s,
    }


def main() -> None:
    """Run what the argument describes."""
    cv2.setNumThreads(1)
    told = run(PeerSpec(**json.loads(sys.argv[1])))
    print("\n" + json.dumps(told), flush=True)
    os._exit(0)  # its threads do not all end


if __name__ == "__main__":
    main()
