"""The job alone, without an engine: what decoding and looking cost at least, and each part.

Each measurement is in a process of its own; all is CPU time of that process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeVar

import av
import cv2
import msgspec
from av.video.reformatter import VideoReformatter

from benchmarks.harness.engine_run import REPOSITORY
from framegate.models.detector import detector
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import Precision
from framegate.models.gate import crops
from framegate.models.gate.cells import cells_of, grid_of
from framegate.models.picture import Picture, as_picture
from framegate.models.tracking.track_state import no_tracks
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.stage import PlaneRef
from framegate.pipeline.shared_memory.state import unshared_plane
from framegate.stages.decode.file import FileSource
from framegate.stages.decode.frame import DecodedFrame
from framegate.stages.detect.estimate import (
    conclude,
    evidence_of,
    run_looks,
    settings_for,
    whole_if_doubted,
)
from framegate.stages.detect.look_plan import plan_looks
from framegate.stages.detect.memory import CurrentFrame, SourceMemory, memory_bytes
from framegate.stages.detect.options import GateOptions
from framegate.stages.detect.output import detections_of

T = TypeVar("T")

_WARM_UP = 20  # frames
_DECODED = 300  # frames that the bare decoding takes
_LOOKS = 40
_IDLE_S = 0.02  # CPU seconds in half a second


@dataclass(frozen=True, slots=True)
class Spec:
    """clip: a camera's file, played at its own pace for so many seconds."""

    clip: str
    precision: Precision
    threads: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Alone:
    """CPU-ms of a frame.

    decode_ms  packets to planes as fast as it goes, and nothing else
    look_ms    one look of the network at a whole frame, the same
    looked     share of the frames that the paced chain looked at
    part_share  pixels of its looks at parts of a frame, in the mean of such frames, by those of a
                look at the whole; 0 without such a frame
    parts_ms   of the paced chain, in the mean, by part
    """

    decode_ms: float
    look_ms: float
    looked: float
    part_share: float
    parts_ms: dict[str, float]


def measure_alone(spec: Spec) -> Alone:
    """Measure in a process of its own. CalledProcessError if it fails."""
    return Alone(**_told("main", spec))


@dataclass(frozen=True, slots=True)
class PacedSpec:
    """clips: cameras' files, each at `fps` frames a second, one as long after the other as makes
    them even; looks: so many looks at the whole a frame, in the mean.
    """

    clips: tuple[str, ...]
    fps: float
    looks: float
    precision: Precision
    threads: int
    seconds: float


def measure_paced(spec: PacedSpec) -> float:
    """CPU-ms a frame of decoding and looks alone at the cameras' pace: no copy, no gate, no result.

    What any program pays that does not keep its core busy in between: after each wait the caches
    are cold. In a process of its own. CalledProcessError if it fails.
    """
    return float(_told("main_paced", spec))


def _told(program: str, spec: Spec | PacedSpec) -> Any:
    code = f"from benchmarks.floor.job import {program}; {program}()"
    command = (sys.executable, "-c", code, json.dumps(asdict(spec)))
    done = subprocess.run(
        command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    return json.loads(done.stdout.splitlines()[-1])


class _Chain:
    """What decode and detect do with each frame of one form, and the CPU seconds of its parts.

    frames, looked  that were timed, and those of them that were looked at
    part_shares     of each of them that was looked at in part: pixels, by those of the whole
    number          of frames so far
    picture         of the last one
    """

    def __init__(self, using: Detector, form: Form) -> None:
        self.frames = self.looked = 0
        self.part_shares: list[float] = []
        self.spent: dict[str, float] = {}
        self._using, self._settings = using, settings_for(GateOptions(), using.choices)
        self._memory, self._tracks = SourceMemory(), no_tracks()
        self._size = form.width, form.height
        self._whole = crops.whole(*self._size, self._settings.plan.long_side)
        self._buffer = memoryview(bytearray(form.nbytes))
        self.picture: Picture = as_picture(self._buffer, form)
        self._plane = unshared_plane("floor", memory_bytes(grid_of(*self._size)))
        self._named: PlaneRef | None = None
        self.number = 0

    def timed(self, part: str, call: Callable[..., T], *given: Any) -> T:
        """Return what the call does, its time noted."""
        began = time.process_time()
        answer = call(*given)
        self.spent[part] = self.spent.get(part, 0.0) + time.process_time() - began
        return answer

    def take(self, frame: DecodedFrame) -> None:
        """Do all that is done about a frame."""
        self.timed("copy", frame.write, self._buffer)
        self.timed("cells", cells_of, self.picture, grid_of(*self._size))
        now = CurrentFrame(
            self._memory, self._tracks, self._size, frame.pts, frame.key_frame, b"floor"
        )
        plan = self.timed("decision", plan_looks, now, self.picture, self._settings.plan)
        found = self.timed("network", run_looks, self._using, self.picture, plan, None)
        evidence = self.timed("belief", evidence_of, now, plan, found, self._settings)
        whole = self.timed("belief", whole_if_doubted, now, plan, evidence, self._settings)
        if whole is not None:
            plan, evidence = whole, None
            found = self.timed("network", run_looks, self._using, self.picture, plan, None)
        after = self.timed("belief", conclude, now, plan, found, self._settings, None, evidence)
        self._memory, self._tracks = after.memory, after.tracks
        self.timed("state", self._keep)
        said = self.timed("record", detections_of, plan, after, self._using.models)
        self.timed("record", records.encode, said)
        self.frames += 1
        self.looked += plan.looked != "no"
        if plan.looked == "part":
            seen = sum(look.pixels for look in plan.looks)
            self.part_shares.append(seen / self._whole.pixels)

    def forget_times(self) -> None:
        """Begin to count."""
        self.spent.clear()
        self.part_shares.clear()
        self.frames = self.looked = 0

    def _keep(self) -> None:
        self._tracks.to_bytes()
        at = Position(1, self.number)
        self._named = self._plane.write(at, self._memory.to_bytes(), self._named)
        self.number += 1


def _played(spec: Spec, using: Detector) -> _Chain:
    """Return the chain after the clip was played at its own pace."""
    source = FileSource(spec.clip)
    first = next(source.frames())
    source.close()
    using.warm_up(first.form.width, first.form.height)
    _wait_for_threads()
    source, chain, shift = FileSource(spec.clip), _Chain(using, first.form), None
    frames = source.frames()
    until = time.monotonic() + spec.seconds
    while time.monotonic() < until:
        frame = chain.timed("decode", next, frames, None)
        if frame is None:
            break
        pts = frame.pts or 0.0
        shift = time.monotonic() - pts if shift is None else shift
        time.sleep(max(0.0, shift + pts - time.monotonic()))
        chain.take(frame)
        if chain.number == _WARM_UP:
            chain.forget_times()
    source.close()
    return chain


def _wait_for_threads() -> None:
    """Wait until this process is idle: a thread compiles the network for parts of a picture, whose
    CPU time would count as that of the first frames.
    """
    spent, before = time.process_time(), -1.0
    while spent - before > _IDLE_S:
        time.sleep(0.5)
        before, spent = spent, time.process_time()


def _decoded(clip: str) -> Iterator[av.VideoFrame]:
    """Pictures of a clip by one thread, those of its beginning left out."""
    with av.open(clip) as container:
        container.streams.video[0].thread_count = 1
        yield from islice(container.decode(video=0), _WARM_UP, None)


def _decode_ms(clip: str) -> float:
    frames = _decoded(clip)
    next(frames)
    began = time.process_time()
    count = sum(1 for _ in islice(frames, _DECODED))
    return 1e3 * (time.process_time() - began) / max(1, count)


def _paced_ms(spec: PacedSpec) -> float:
    """What `measure_paced` tells."""
    using = detector.load("light", spec.precision, spec.threads)
    cameras = [_decoded(clip) for clip in spec.clips]
    first, *_ = [next(frames) for frames in cameras]
    shown = DecodedFrame(first, VideoReformatter())
    buffer = memoryview(bytearray(shown.nbytes))
    shown.write(buffer)
    picture = as_picture(buffer, shown.form)
    using.detect([picture])  # compiled for the whole, and for nothing beside it later
    apart, owed, number = 1 / (spec.fps * len(cameras)), 0.0, 0
    began, spent = time.monotonic(), time.process_time()
    while number * apart < spec.seconds:
        time.sleep(max(0.0, began + number * apart - time.monotonic()))
        if next(cameras[number % len(cameras)], None) is None:
            break
        number, owed = number + 1, owed + spec.looks
        if owed >= 1:
            owed -= 1
            using.detect([picture])
    return 1e3 * (time.process_time() - spent) / max(1, number)


def _look_ms(using: Detector, picture: Picture) -> float:
    times = []
    for _ in range(_LOOKS):
        began = time.process_time()
        using.detect([picture])
        times.append(1e3 * (time.process_time() - began))
    return statistics.median(times)


def _alone(spec: Spec) -> Alone:
    using = detector.load("light", spec.precision, spec.threads)
    chain = _played(spec, using)
    counted = max(1, chain.frames)
    parts = {part: 1e3 * spent / counted for part, spent in chain.spent.items()}
    parts["decision"] -= parts["cells"]  # the plan makes its own cells, too
    looks = _look_ms(using, chain.picture)
    part_share = statistics.fmean(chain.part_shares or [0.0])
    return Alone(_decode_ms(spec.clip), looks, chain.looked / counted, part_share, parts)


def main() -> None:
    """Measure what the argument describes; the last line is what it tells."""
    cv2.setNumThreads(1)
    print(json.dumps(asdict(_alone(msgspec.json.decode(sys.argv[1], type=Spec)))))


def main_paced() -> None:
    """The same of `measure_paced`."""
    cv2.setNumThreads(1)
    print(_paced_ms(msgspec.json.decode(sys.argv[1], type=PacedSpec)))
