"""The rival that looks where a motion rule says: squares of at least 320 pixels, at 320x320.

As Frigate and DL Streamer cut them from the full picture. What lies elsewhere is kept. Their
trackers are left out: the same tracks and the same calm rule follow here as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.harness.agreement import Tracked
from benchmarks.rivals.motion_rules import MotionRule, merged
from benchmarks.rivals.subsampling import Answering
from framegate.models.boxes import Boxes, iou, suppress
from framegate.models.detector.detector import Detector
from framegate.models.detector.member import DetectorMember
from framegate.models.picture import Picture, cut

Array = npt.NDArray[Any]
Rect = tuple[int, int, int, int]
_SIDE: Final = 320
_ROOM: Final = 1.35  # a region's side, times the longer side of what it is for
_COVERED: Final = 0.5  # a known box of which so much is looked at again is replaced
_SAME: Final = 0.9  # overlap from which an object did not move
_EDGE_PX: Final = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known after a frame, one row a box.

    is_new  bool (N,)   whether it was found in this frame
    still   int64 (N,)  looks in a row that found it at the same place
    pixels  what the network was given in this frame
    """

    boxes: Boxes
    is_new: Array
    still: Array
    pixels: int = 0


class RegionDetector:
    """The light detector's network on regions, each at 320x320."""

    def __init__(self, detector: Detector) -> None:
        whole = detector.members[0]
        self._member = DetectorMember(
            whole.kind,
            _SIDE,
            whole.network,
            detector.choices,
            whole.min_score,
            detector.class_ids,
            fixes=False,
        )
        self._nms_iou = detector.choices.nms_iou

    def look(self, picture: Picture, known: Known, places: list[Rect]) -> Known:
        """Look at the places again; known boxes elsewhere stay."""
        fresh, pixels = [], 0
        for place in places:
            prepared = self._member.prepare(cut(picture, place))
            pixels += prepared.bgr.shape[0] * prepared.bgr.shape[1]
            found = self._member.start(prepared).finish().moved(place[0], place[1])
            is_part = _cut_off(found.xyxy, place, picture)
            fresh.append(found.take(~is_part | ~touching(found.xyxy, known.boxes.xyxy)))
        kept = _uncovered(known.boxes.xyxy, places)
        joined = _joined([*fresh, known.boxes.take(kept)])
        still = np.concatenate([*(_still(boxes, known) for boxes in fresh), known.still[kept]])
        is_new = np.arange(len(joined)) < len(joined) - len(kept)
        rows = suppress(joined.xyxy, joined.scores, self._nms_iou)
        return Known(joined.take(rows), is_new[rows], still[rows], pixels)


def follow(
    rule: MotionRule,
    detector: RegionDetector,
    frames: Iterable[tuple[Picture, float]],
    first: Boxes,
    answering: Answering,
) -> tuple[list[Tracked], npt.NDArray[np.int64]]:
    """What is shown, and the model pixels of each frame. `first`: boxes of the first frame."""
    known = Known(first, np.ones(len(first), bool), np.zeros(len(first), np.int64))
    shown, pixels = [], []
    for number, (picture, pts) in enumerate(frames):
        changed = rule.changed(picture)
        if number:
            watched = known.boxes.xyxy[known.still < rule.watched]
            wanted = np.concatenate([changed, watched])
            places = regions(wanted, known.boxes.xyxy, (picture.width, picture.height))
            known = detector.look(picture, known, places)
        shown.append(answering(known.boxes, known.is_new, pts))
        pixels.append(known.pixels)
    return shown, np.array(pixels, np.int64)


def regions(wanted: Array, known: Array, size: tuple[int, int]) -> list[Rect]:
    """Squares to look at, float32 (M, 4) wanted places with the known boxes that they touch.

    As large as the picture (`size`: width, height) has room for where that is less than a square.
    """
    if not len(wanted):
        return []
    places = merged(np.concatenate([wanted, known[touching(known, wanted)]]))
    squares = np.array([_square(place, size) for place in places], np.float32)
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in merged(squares)]


def touching(known: Array, places: Array) -> Array:
    """bool (N,): which of the known boxes overlap any of the places."""
    apart = (known[:, None, :2] >= places[None, :, 2:]) | (
        places[None, :, :2] >= known[:, None, 2:]
    )
    found: Array = np.any(~np.any(apart, axis=2), axis=1)
    return found


def _square(place: Array, size: tuple[int, int]) -> Rect:
    side = max(_SIDE, _ROOM * float(max(place[2] - place[0], place[3] - place[1])))
    begins, ends = [], []
    for middle, length in zip((place[:2] + place[2:]) / 2, size, strict=True):
        used = min(side, length)
        begin = int(min(max(0, middle - used / 2), length - used)) // 2 * 2
        begins.append(begin)
        ends.append(min(length, begin + int(used)))
    return begins[0], begins[1], ends[0], ends[1]


def _cut_off(xyxy: Array, place: Rect, picture: Picture) -> Array:
    """Which boxes end at a border of the region that is none of the picture."""
    inner = np.array(
        [place[0] > 0, place[1] > 0, place[2] < picture.width, place[3] < picture.height]
    )
    near = np.abs(xyxy - np.array(place, np.float32)) < _EDGE_PX
    found: Array = np.any(near & inner, axis=1)
    return found


def _uncovered(xyxy: Array, places: list[Rect]) -> Array:
    """Rows of the boxes of which less than half is looked at again."""
    if not len(xyxy) or not places:
        return np.arange(len(xyxy))
    rects = np.array(places, np.float32)
    low = np.maximum(xyxy[:, None, :2], rects[None, :, :2])
    high = np.minimum(xyxy[:, None, 2:], rects[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1)
    return np.flatnonzero(shared < _COVERED * area)


def _still(found: Boxes, known: Known) -> npt.NDArray[np.int64]:
    """For how many looks each found box has been where a known one of its class was."""
    if not len(known.still):
        return np.zeros(len(found), np.int64)
    overlap = iou(found.xyxy, known.boxes.xyxy)
    overlap[found.class_ids[:, None] != known.boxes.class_ids[None, :]] = 0
    best = overlap.argmax(axis=1)
    return np.where(overlap.max(axis=1, initial=0) >= _SAME, known.still[best] + 1, 0)


def _joined(parts: list[Boxes]) -> Boxes:
    xyxy, scores, class_ids = (
        np.concatenate([getattr(boxes, name) for boxes in parts])
        for name in ("xyxy", "scores", "class_ids")
    )
    return Boxes(xyxy, scores, class_ids)
