"""A clip that comes again: what of it is answered without the network, and what that saves.

All in this process, by the code that the stage detect runs, with the network on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.detector.answer_cache import Recall
from framegate.models.detector.detector import Detector
from framegate.models.gate.crops import Crop
from framegate.models.picture import Picture
from framegate.models.tracking.track_state import no_tracks
from framegate.stages.decode.file import FileSource
from framegate.stages.detect.estimate import Estimate, EstimateSettings, look_at
from framegate.stages.detect.look_plan import LookPlan
from framegate.stages.detect.memory import CurrentFrame, SourceMemory
from framegate.stages.model_adapters import picture_of

Row = dict[str, Any]
_KEY = b"benchmark"


class Timed(Detector):
    """Sums CPU-seconds, of all threads, from a look to its boxes."""

    def __init__(self, using: Detector) -> None:
        given = using.choices, using.members, using.class_ids, using.precision, using.threads
        super().__init__(*given, using.labels)
        self.cpu_s = 0.0

    def detect(
        self, pictures: Sequence[Picture], recalls: Sequence[Recall | None] | None = None
    ) -> list[Boxes]:
        """As Detector's."""
        with self._measured():
            return super().detect(pictures, recalls)

    def look(
        self, picture: Picture, looks: Sequence[Crop], recall: Recall | None = None
    ) -> list[Boxes]:
        """As Detector's."""
        with self._measured():
            return super().look(picture, looks, recall)

    @contextmanager
    def _measured(self) -> Iterator[None]:
        began = time.process_time()
        yield
        self.cpu_s += time.process_time() - began


def frames(path: Path) -> Iterator[tuple[Picture, float, bool]]:
    """Picture, seconds and whether it is a key frame; a picture is valid until the next one."""
    with closing(FileSource(str(path))) as source:
        for number, frame in enumerate(source.frames()):
            pts = number / 25 if frame.pts is None else frame.pts
            yield picture_of(frame), pts, frame.key_frame


class Playing:
    """Frames one after another through gate, look-ups, network, tracks."""

    def __init__(
        self, detector: Detector, settings: EstimateSettings, recall: Recall | None = None
    ) -> None:
        self.detector, self.settings, self.recall = detector, settings, recall
        self.memory, self.tracks = SourceMemory(), no_tracks()

    def see(self, picture: Picture, pts: float, key_frame: bool) -> tuple[LookPlan, Estimate]:
        """The next frame."""
        size = picture.width, picture.height
        frame = CurrentFrame(self.memory, self.tracks, size, pts, key_frame, _KEY)
        plan, estimate = look_at(self.detector, frame, picture, self.settings, recall=self.recall)
        self.memory, self.tracks = estimate.memory, estimate.tracks
        return plan, estimate


def rounds(
    clip: Path, per_round: int, detector: Detector, settings: EstimateSettings, recall: Recall
) -> list[Row]:
    """Each round of a looped clip: inputs, share of hits, CPU of the detector and of detect."""
    timed = Timed(detector)
    playing = Playing(timed, settings, recall)
    told, before = [], _Mark.of(recall, timed)
    detect_s = 0.0
    for number, (picture, pts, key_frame) in enumerate(frames(clip), 1):
        began = time.process_time()
        playing.see(picture, pts, key_frame)
        detect_s += time.process_time() - began
        if number % per_round == 0:
            now = _Mark.of(recall, timed)
            told.append(now.since(before, per_round, detect_s))
            before, detect_s = now, 0.0
    return told


@dataclass(frozen=True, slots=True)
class _Mark:
    hits: int
    misses: int
    skipped: int
    cpu_s: float

    @staticmethod
    def of(recall: Recall, timed: Timed) -> _Mark:
        counts = recall.counts
        return _Mark(counts.hits, counts.misses, counts.skipped, timed.cpu_s)

    def since(self, before: _Mark, frames: int, detect_s: float) -> Row:
        hits, misses = self.hits - before.hits, self.misses - before.misses
        inputs = hits + misses + self.skipped - before.skipped
        return {
            "frames": frames,
            "inputs": inputs,
            "hit_rate": round(hits / max(1, inputs), 4),
            "detector_cpu_ms_per_frame": round(1e3 * (self.cpu_s - before.cpu_s) / frames, 3),
            "detect_cpu_ms_per_frame": round(1e3 * detect_s / frames, 3),
        }


def with_and_without(
    clip: Path, detector: Detector, settings: EstimateSettings, recall: Recall
) -> Row:
    """Law 6 on a looped clip: frames whose boxes, scores, labels, tracks or origins differ."""
    one = Playing(detector, settings, recall)
    two = Playing(detector, settings)
    different = n_frames = n_objects = 0
    for picture, pts, key_frame in frames(clip):
        _, known = one.see(picture, pts, key_frame)
        _, plain = two.see(picture, pts, key_frame)
        different += not _same(known, plain)
        n_frames += 1
        n_objects += len(plain.ids)
    return {"frames": n_frames, "objects": n_objects, "frames_that_differ": different}


def _same(a: Estimate, b: Estimate) -> bool:
    shown: tuple[Boxes, Boxes] = (a.shown, b.shown)
    pairs = [(getattr(shown[0], name), getattr(shown[1], name)) for name in shown[0].__slots__]
    pairs.append((a.ids, b.ids))
    return a.origins == b.origins and all(np.array_equal(x, y) for x, y in pairs)
