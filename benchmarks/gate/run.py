"""A clip through the detector: every frame whole, the same with noise, and as the gate has it.

All in this process and through the code that the stage detect runs, with the network on one thread.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness.agreement import Tracked
from benchmarks.harness.gate_clips import GateClip
from benchmarks.rivals.subsampling import Answering, followed, small_luma
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.models.detector.network import Precision
from framegate.models.gate import changed_tiles, crops
from framegate.models.gate.cells import cells_of, grid_of
from framegate.models.picture import Picture
from framegate.models.tracking import bytetrack, calm
from framegate.models.tracking.calm import not_calmed
from framegate.models.tracking.track_state import no_tracks
from framegate.stages.detect.estimate import EstimateSettings, look_at, settings_for
from framegate.stages.detect.memory import CurrentFrame, SourceMemory
from framegate.stages.detect.options import GateOptions

Array = npt.NDArray[Any]
_KEY: Final = b"benchmark"
_TIMED_EVERY: Final = 8  # frames; more would only take longer
_ENLARGED: Final = 60  # frames


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Every frame looked at whole: its boxes with candidates that are not shown, and its seconds.

    pixels  that the network is given for a whole frame
    """

    boxes: list[Boxes]
    stamps: list[float]
    pixels: int


@dataclass(slots=True)
class Times:
    """Milliseconds of parts, one entry a time that they were measured.

    whole  a whole pass with what follows it; gate  which tiles changed; flow  boxes moved once
    """

    whole: list[float] = field(default_factory=list)
    gate: list[float] = field(default_factory=list)
    flow: list[float] = field(default_factory=list)

    def mean(self, name: str) -> float:
        """Of `whole`, `gate` or `flow`; NaN where it was not measured."""
        values = getattr(self, name)
        return statistics.fmean(values) if values else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Gated:
    """What came of a clip with a gate.

    shown    of each frame
    pixels   int64 (F,)    that the network was given
    ms       float64 (F,)  milliseconds from the decoded picture to the objects
    reasons  why each frame was looked at as it was
    """

    shown: list[Tracked]
    pixels: Array
    ms: Array
    reasons: Sequence[str]
    times: Times

    def reasons_from(self, frame: int) -> dict[str, int]:
        """How often each reason was given from that frame on, most often first."""
        return dict(Counter(self.reasons[frame:]).most_common())


def light(precision: Precision | None = None) -> Detector:
    """The light detector as detect has it by default, with the calm rule, on one thread."""
    candidate = settings(GateOptions()).calm.candidate
    return detector.load("light", precision, 1, classes=coco.CAMERA, min_score=candidate)


def settings(options: GateOptions, min_score: float | None = None) -> EstimateSettings:
    """Everything that decides, for the light detector, and the least score of a user."""
    choices = policy.load("light")
    return settings_for(options, choices, min_score)


def answering(given: EstimateSettings) -> Answering:
    """A fresh run of what comes after the network: tracks, and the calm rule."""
    tracks, memory = no_tracks(), not_calmed()

    def answer(boxes: Boxes, looked: Array, pts: float) -> Tracked:
        nonlocal tracks, memory
        tracks, ids = bytetrack.step(tracks, boxes, pts, given.tracks, looked)
        boxes = replace(boxes, class_ids=tracks.named(ids, boxes.class_ids))
        memory, shown, rows = calm.step(memory, boxes, ids, looked, pts, given.calm)
        return Tracked(pts, shown, ids[rows])

    return answer


def frames(clip: GateClip) -> Iterator[tuple[Picture, float, bool]]:
    """Picture, seconds and whether it is a key frame; a frame without a time stamp gets one."""
    for number, shot in enumerate(clip.shots()):
        pts = number / clip.fps if shot.pts is None else shot.pts
        yield shot.picture, pts, shot.key_frame


def dense(clip: GateClip, using: Detector, noise: int = 0, folder: Path | None = None) -> Dense:
    """Every frame whole, with noise of up to so many levels on each pixel of Y.

    folder  where answers are kept: a second call with the same clip and detector reads them
    """
    kept = None
    if folder is not None:
        kept = folder / f"{clip.name}-{clip.frames}-{noise}-{using.policy_id[:12]}.npz"
        if kept.is_file():
            return _read(kept)
    boxes, stamps = [], []
    noisy = _Noise(noise)
    pixels = 0
    for picture, pts, _ in frames(clip):
        if not pixels:
            pixels = _whole_pixels(picture, using)
        boxes.append(using.detect([noisy.on(picture)])[0])
        stamps.append(pts)
    found = Dense(boxes, stamps, pixels)
    if kept is not None:
        _write(kept, found)
    return found


def gated(
    clip: GateClip, using: Detector, given: EstimateSettings, shown: Sequence[Tracked] = ()
) -> Gated:
    """A clip as the stage detect has it, and what its parts cost.

    shown  what a rival that moves boxes would move, to measure that, too; none: not measured
    """
    memory, tracks, times = SourceMemory(), no_tracks(), Times()
    answer = answering(given)
    out, pixels, ms, reasons = [], [], [], []
    before: Array | None = None
    for number, (picture, pts, key_frame) in enumerate(frames(clip)):
        if number % _TIMED_EVERY == 0:
            if memory.gate is not None:
                times.gate.append(gate_ms(picture, memory, given))
            times.whole.append(_whole_ms(picture, pts, using, answer))
            before = small_luma(picture)
        elif number % _TIMED_EVERY == 1 and shown and before is not None:
            times.flow.append(_flow_ms(picture, before, shown[number - 1]))
        size = picture.width, picture.height
        began = time.perf_counter()
        frame = CurrentFrame(memory, tracks, size, pts, key_frame, _KEY)
        plan, estimate = look_at(using, frame, picture, given)
        ms.append(1e3 * (time.perf_counter() - began))
        memory, tracks = estimate.memory, estimate.tracks
        out.append(Tracked(pts, estimate.shown, estimate.ids))
        pixels.append(sum(look.pixels for look in (*plan.looks, *plan.parts)))
        reasons.append(plan.reason)
    return Gated(out, np.array(pixels, np.int64), np.array(ms), reasons, times)


def gate_ms(picture: Picture, memory: SourceMemory, given: EstimateSettings) -> float:
    """Milliseconds from a decoded picture to which of its tiles changed."""
    began = time.perf_counter()
    grid = grid_of(picture.width, picture.height)
    changed_tiles.look(memory.gate, cells_of(picture, grid), grid, False, given.plan.gate)
    return 1e3 * (time.perf_counter() - began)


def gate_ms_at(clip: GateClip, size: tuple[int, int], given: EstimateSettings) -> float:
    """Median milliseconds of the gate on a clip's first frames at another size."""
    memory, spent = SourceMemory(), []
    for number, (picture, _, key_frame) in enumerate(frames(clip)):
        if number == _ENLARGED:
            break
        large = _resized(picture, size)
        if memory.gate is not None:
            spent.append(gate_ms(large, memory, given))
        grid = grid_of(*size)
        cells = cells_of(large, grid)
        state = changed_tiles.look(memory.gate, cells, grid, key_frame, given.plan.gate).state
        everywhere = np.ones(grid.tiles, np.bool_)
        memory = SourceMemory(gate=changed_tiles.inferred(state, cells, everywhere, everywhere))
    return statistics.median(spent)


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    half = (size[0] + 1) // 2, (size[1] + 1) // 2
    planes = (picture.y, size), (picture.u, half), (picture.v, half)
    y, u, v = (np.asarray(cv2.resize(plane, at), np.uint8) for plane, at in planes)
    return Picture(y, u, v, picture.matrix, picture.full_range)


def _whole_ms(picture: Picture, pts: float, using: Detector, answer: Answering) -> float:
    began = time.perf_counter()
    boxes = using.detect([picture])[0]
    answer(boxes, np.ones(len(boxes), np.bool_), pts)
    return 1e3 * (time.perf_counter() - began)


def _flow_ms(picture: Picture, before: Array, shown: Tracked) -> float:
    began = time.perf_counter()
    followed(before, small_luma(picture), [shown], (picture.width, picture.height))
    return 1e3 * (time.perf_counter() - began)


def _whole_pixels(picture: Picture, using: Detector) -> int:
    return crops.whole(picture.width, picture.height, using.members[0].long_side).pixels


class _Noise:
    """Uniform noise on Y, another piece of one large sheet for each frame."""

    def __init__(self, levels: int, seed: int = 0) -> None:
        self._levels, self._rng = levels, np.random.default_rng(seed)
        self._sheet = np.empty((0, 0), np.int8)

    def on(self, picture: Picture) -> Picture:
        """The picture with noise; itself for no levels."""
        if not self._levels:
            return picture
        height, width = picture.y.shape
        if self._sheet.shape != (height + 64, width + 64):
            spread = (-self._levels, self._levels + 1)
            self._sheet = self._rng.integers(*spread, (height + 64, width + 64), np.int8)
        top, left = self._rng.integers(0, 64, 2)
        part = self._sheet[top : top + height, left : left + width]
        luma = np.asarray(cv2.add(picture.y, part, dtype=cv2.CV_8U), np.uint8)
        return Picture(luma, picture.u, picture.v, picture.matrix, picture.full_range)


def _write(path: Path, found: Dense) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes = found.boxes
    np.savez(
        path,
        xyxy=np.concatenate([each.xyxy for each in boxes]),
        scores=np.concatenate([each.scores for each in boxes]),
        class_ids=np.concatenate([each.class_ids for each in boxes]),
        ends=np.cumsum([len(each) for each in boxes]),
        stamps=np.array(found.stamps),
        pixels=found.pixels,
    )


def _read(path: Path) -> Dense:
    with np.load(path) as kept:
        ends = kept["ends"][:-1]
        parts = [np.split(kept[name], ends) for name in ("xyxy", "scores", "class_ids")]
        boxes = [Boxes(*each) for each in zip(*parts, strict=True)]
        return Dense(boxes, kept["stamps"].tolist(), int(kept["pixels"]))
