"""Draw contact sheets: for each object its way in the scene, and crops of its life."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.truth.labels import Edges, corners
from framegate.models.picture import ByteArray
from tools.label.proposals import decoded_frames

ROWS: Final = 5  # objects on one sheet
CROPS: Final = 6
_SIDE: Final = 212  # pixels of a crop
_TITLE: Final = 20
_CONTEXT: Final = 1.7  # side of a crop, as a multiple of the longer side of the box
_LEAST_CROP: Final = 24.0  # pixels of the source
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_BEGIN: Final = (80, 255, 80)  # B, G, R
_END: Final = (60, 60, 255)
_WAY: Final = (0, 255, 255)


@dataclass(frozen=True, slots=True)
class Life:
    """An object to draw: the title of its row, and its box by frame, ascending."""

    title: str
    boxes: Mapping[int, Edges]

    @property
    def shown(self) -> tuple[int, ...]:
        """Return the frames of the crops, evenly spaced from the first to the last."""
        frames = list(self.boxes)
        places = np.linspace(0, len(frames) - 1, min(CROPS, len(frames))).round()
        return tuple(frames[int(place)] for place in places)


def draw(path: Path, lives: Sequence[Life]) -> Iterator[ByteArray]:
    """Yield sheets, uint8 (H, W, 3) in the order B, G, R, of ROWS objects each."""
    wanted: dict[int, list[int]] = {}
    for row, life in enumerate(lives):
        for number in life.shown:
            wanted.setdefault(number, []).append(row)
    crops: list[list[ByteArray]] = [[] for _ in lives]
    scenes: dict[int, ByteArray] = {}
    for number, frame in decoded_frames(path, set(wanted)):
        if frame is None:
            continue
        for row in wanted[number]:
            crops[row].append(_crop(frame.bgr, lives[row].boxes[number], number))
            if row not in scenes:
                scenes[row] = _scene(frame.bgr, lives[row])
    rows = [_row(life, scenes[row], crops[row]) for row, life in enumerate(lives)]
    width = max((row.shape[1] for row in rows), default=0)
    for first in range(0, len(rows), ROWS):
        yield np.vstack([_widened(row, width) for row in rows[first : first + ROWS]])


def _crop(bgr: ByteArray, edges: Edges, frame: int) -> ByteArray:
    """Return the object with its surroundings, enlarged; its box has thin corners."""
    left, top, right, bottom = edges
    side = _CONTEXT * max(right - left, bottom - top, _LEAST_CROP)
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    scale = _SIDE / side
    shift = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
    crop: Any = cv2.warpAffine(bgr, shift, (_SIDE, _SIDE), flags=cv2.INTER_CUBIC)
    _draw_corners(crop, [round((e - o) * scale) for e, o in zip(edges, (x, y) * 2, strict=True)])
    cv2.putText(crop, str(frame), (3, 12), _FONT, 0.4, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(crop, str(frame), (3, 12), _FONT, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(crop)


def _draw_corners(crop: Any, box: Sequence[int]) -> None:
    left, top, right, bottom = box
    for x, inward in ((left, 8), (right, -8)):
        for y in (top, bottom):
            cv2.line(crop, (x, y), (x + inward, y), _WAY)
    for y, inward in ((top, 8), (bottom, -8)):
        for x in (left, right):
            cv2.line(crop, (x, y), (x, y + inward), _WAY)


def _scene(bgr: ByteArray, life: Life) -> ByteArray:
    """Return the scene with the way of the foot: green where it begins, red where it ends."""
    scale = _SIDE / bgr.shape[0]
    scene: Any = cv2.resize(bgr, (round(bgr.shape[1] * scale), _SIDE))
    edges = corners(list(life.boxes.values())) * scale
    feet = np.stack([(edges[:, 0] + edges[:, 2]) / 2, edges[:, 3]], axis=1)
    points = feet.round().astype(np.int32)
    cv2.polylines(scene, [points], False, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.polylines(scene, [points], False, _WAY, 1, cv2.LINE_AA)
    for box, colour in ((edges[0], _BEGIN), (edges[-1], _END)):
        left, top, right, bottom = box.round().astype(int).tolist()
        cv2.rectangle(scene, (left, top), (right, bottom), colour, 1)
    return np.asarray(scene)


def _row(life: Life, scene: ByteArray, crops: Sequence[ByteArray]) -> ByteArray:
    empty = [np.full((_SIDE, _SIDE, 3), 255, np.uint8)] * (CROPS - len(crops))
    pictures = np.hstack([scene, *crops, *empty])
    title: Any = np.full((_TITLE, pictures.shape[1], 3), 255, np.uint8)
    cv2.putText(title, life.title, (4, 14), _FONT, 0.48, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([title, pictures])


def _widened(row: ByteArray, width: int) -> ByteArray:
    missing = np.full((row.shape[0], width - row.shape[1], 3), 255, np.uint8)
    return np.hstack([row, missing])
