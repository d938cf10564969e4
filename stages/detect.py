"""Detect: the objects of each frame, whole frame by whole frame, and the tracks they belong to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from models import bytetrack, coco, detector, trial
from models.boxes import Boxes
from models.bytetrack import TrackSettings
from models.track_state import TrackState, no_tracks
from pipeline.records import Object
from pipeline.stage import Context, Item, Stage
from stages.detections import Detections
from stages.planes import as_picture

DetectorName = Literal["light", "heavy"]


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.

    detector   light, or heavy (about ten times the time)
    classes    COCO labels to look for; none: all 80
    min_score  0..1, least score of an object; none: the frozen one of the detector
    """

    detector: DetectorName = "light"
    classes: tuple[str, ...] | None = field(default=None, metadata={"allowed": coco.LABELS})
    min_score: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})


class DetectState(msgspec.Struct, frozen=True):
    """State of detect: the tracks of an epoch, as bytes of models.track_state."""

    epoch: int = 0
    tracks: bytes = b""


class Detect(Stage[DetectState]):
    """One frame in, its objects out. Looks at every frame, whole.

    In     pixels of the frame
    Out    Detections
    State  tracks; they never span a break of continuity (epoch), and ids go on counting
    Fails  FrameLost: the runner waits for the pixels, or publishes the frame as failed
    """

    Options = DetectOptions
    State = DetectState
    pixels = 1
    batch = 8
    options: DetectOptions

    def __init__(self, options: DetectOptions, context: Context) -> None:
        """Choose precision and threads once a run, compile, warm up."""
        super().__init__(options, context)
        cv2.setNumThreads(1)
        choice = _pinned_choice(context.folder)
        self.detector = detector.load(
            options.detector,
            choice.precision if options.detector == "light" else None,
            choice.threads,
            classes=options.classes,
            min_score=options.min_score,
        )
        self.detector.warm_up(640, 360)
        least = self.detector.choices.min_score
        # A track begins where the detector is sure; what it merely reports may continue one.
        high, start = least + min(0.1, (1 - least) / 3), least + min(0.15, (1 - least) / 2)
        self._tracking = TrackSettings(high=high, low=least, start=start, min_hits=2)

    def process(
        self, batch: Sequence[Item], states: Mapping[str, DetectState]
    ) -> tuple[list[Detections], dict[str, DetectState]]:
        """Detect in all pictures of the batch, then go on with each source's tracks in order."""
        with ExitStack() as stack:
            pictures = [
                as_picture(stack.enter_context(self.context.pixels(item)), item.record.form)
                for item in batch
            ]
            found = self.detector.detect(pictures)
            del pictures
        now = dict(states)
        answers = []
        for item, boxes in zip(batch, found, strict=True):
            tracks = _tracks_of(now[item.source], item.position.epoch)
            tracks, ids = bytetrack.step(tracks, boxes, item.record.pts, self._tracking)
            now[item.source] = DetectState(item.position.epoch, tracks.to_bytes())
            answers.append(self._detections(boxes, ids))
        return answers, now

    def _detections(self, boxes: Boxes, ids: npt.NDArray[np.int32]) -> Detections:
        return Detections(
            outcome="detected",
            looked="whole",
            reason="every_frame",
            objects=as_objects(boxes, ids),
            models=self.detector.models,
        )


def as_objects(boxes: Boxes, ids: npt.NDArray[np.int32]) -> tuple[Object, ...]:
    """Objects of a frame: boxes to a tenth of a pixel, scores to a ten-thousandth."""
    rows = zip(
        np.round(boxes.xyxy.astype(np.float64), 1).tolist(),
        np.round(boxes.scores.astype(np.float64), 4).tolist(),
        boxes.class_ids.tolist(),
        ids.tolist(),
        strict=True,
    )
    return tuple(
        Object(
            track=track or None,
            label=coco.LABELS[class_id],
            class_id=class_id,
            score=score,
            box=(box[0], box[1], box[2], box[3]),
            origin="detected",
        )
        for box, score, class_id, track in rows
    )


def _tracks_of(state: DetectState, epoch: int) -> TrackState:
    if not state.tracks:
        return no_tracks()
    tracks = TrackState.from_bytes(state.tracks)
    return tracks if state.epoch == epoch else replace(no_tracks(), next_id=tracks.next_id)


def _pinned_choice(folder: Path) -> trial.Choice:
    """The run's choice: measured once, kept in its folder, so that no restart decides anew."""
    pinned = folder / "precision.json"
    if not pinned.exists():
        known = _user_cache() / "precision.json"
        trial.run(known)
        with suppress(OSError):
            shutil.copyfile(known, pinned)
    return trial.run(pinned)


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "framegate"
