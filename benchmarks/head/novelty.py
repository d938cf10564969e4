"""Whether the window head's novelty is higher for frames of another scene than for its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.gate.run import frames
from benchmarks.harness.gate_clips import GateClip
from benchmarks.head.ways import LONG_SIDE, Sight
from framegate.models.detector.detector import Detector
from framegate.models.gate import crops
from framegate.models.picture import ByteArray, Picture
from framegate.models.window import features
from framegate.models.window.head import NewFrame, WindowHead
from framegate.models.window.rows import ROWS, WindowRows

FOREIGN: Final = 8  # frames that are spliced in
SPLICES: Final = 5  # places in each clip, each with another clip's frames


def novelty(
    clips: Sequence[GateClip],
    seen: Sequence[Sequence[Sight]],
    own: Sequence[Sequence[float]],
    light: Detector,
    head: WindowHead,
) -> dict[str, Any]:
    """Area under the curve: how often a spliced-in frame is newer than one of the clip's own.

    own: the novelty of every frame of each clip; those before the window is full do not count.
    """
    told, every_foreign, every_own = {}, [], []
    for i, clip in enumerate(clips):
        others = [clips[(i + 1 + k) % len(clips)] for k in range(min(SPLICES, len(clips) - 1))]
        usual = list(own[i][ROWS:])
        if not usual or not others:
            continue
        places = np.linspace(ROWS, len(seen[i]), len(others), dtype=int)
        foreign = [
            value
            for place, other in zip(places, others, strict=True)
            for value in _spliced(seen[i][place - ROWS : place], other, light, head)
        ]
        told[clip.name] = round(area(foreign, usual), 4)
        every_foreign += foreign
        every_own += usual
    return {"auc": round(area(every_foreign, every_own), 4), "auc_by_clip": told}


def area(higher: Sequence[float], lower: Sequence[float]) -> float:
    """The chance that one of `higher` is above one of `lower`; equal ones count as half."""
    ordered = np.sort(np.asarray(lower))
    below = np.searchsorted(ordered, higher, side="left")
    not_above = np.searchsorted(ordered, higher, side="right")
    return float((below + not_above).mean() / 2 / len(ordered))


def _spliced(
    before: Sequence[Sight], other: GateClip, light: Detector, head: WindowHead
) -> list[float]:
    """Novelty of another clip's first frames, one after the other, following `before`."""
    state = WindowRows()
    for sight in before:
        state = head.remember(state, sight.frame)
    last, new = before[-1].frame, []
    for number, (picture, _, _) in enumerate(islice(frames(other), FOREIGN), last.seq + 1):
        frame = _seen(_resized(picture, last.size), light, last.size, number)
        step = head.step(state, frame)
        state = step.window
        new.append(step.novelty)
    return new


def _seen(picture: Picture, light: Detector, size: tuple[int, int], number: int) -> NewFrame:
    look = crops.whole(*size, LONG_SIDE)
    ((boxes, shown),) = light.look_with_features(picture, (look,), features.read)
    n = len(boxes)
    untracked, fresh = np.zeros(n, np.int32), np.ones(n, np.bool_)
    return NewFrame(boxes, untracked, fresh, shown.boxes, (shown,), size, number)


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    planes: list[ByteArray] = []
    for plane, wanted in ((picture.y, size), (picture.u, half), (picture.v, half)):
        resized = cv2.resize(plane, wanted, interpolation=cv2.INTER_AREA)
        planes.append(resized.astype(np.uint8, copy=False))
    y, u, v = planes
    return Picture(y, u, v, picture.matrix, picture.full_range)
