"""The pictures of a training: kept small, and augmented differently in each step.

`models/learning/split_footage` decides which pictures teach and which judge.

Needs torch (the `train` extra). The seed and the number of a step determine its pictures and their
augmentation, so a checkpoint need not keep the state of a loader.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import msgspec
import numpy as np
import torch

from framegate.models.boxes import AnyArray, Boxes, DoubleArray, IntArray
from framegate.models.errors import TrainingRefused
from framegate.models.picture import ByteArray, Picture, inner_size, padded, to_bgr
from framegate.models.training.detection_loss import Objects

LESSONS = "lessons.msgpack"
ZOOM: Final = (0.8, 1.3)
_SHIFT: Final = 0.06  # maximum, as a share of a side
_LEFT: Final = 0.35  # share of an object's area; with less inside the picture, it becomes unsure
_LEAST_PX: Final = 2.0  # of a side of an object
_QUALITY: Final = 95  # of JPEG


class Lesson(msgspec.Struct, frozen=True, gc=False):
    """A picture as training keeps it, with its labels.

    jpeg    a JPEG file, 1.3 times as large as the student's input, for the largest zoom
    source  (width, height) of the picture as decoded; inner  of the picture in the student's input
    sure, unsure  bytes of Boxes in pixels of the student's input; an unsure class id that the
            student does not have means all classes
    """

    jpeg: bytes
    source: tuple[int, int]
    inner: tuple[int, int]
    sure: bytes = b""
    unsure: bytes = b""

    def taught(self, sure: Boxes, unsure: Boxes) -> Lesson:
        """Return the lesson with these boxes, in pixels of the picture as decoded."""
        across = self.inner[0] / self.source[0]
        down = self.inner[1] / self.source[1]
        scale = np.array([across, down] * 2, np.float32)
        sure = Boxes(sure.xyxy * scale, sure.scores, sure.class_ids)
        unsure = Boxes(unsure.xyxy * scale, unsure.scores, unsure.class_ids)
        return Lesson(self.jpeg, self.source, self.inner, sure.to_bytes(), unsure.to_bytes())


class Lessons(msgspec.Struct, frozen=True):
    """All input of a training.

    labels   of the student's classes, in the order of its class ids
    size     (width, height) of its input, multiples of 32
    earlier  pictures that teach; later  pictures on which the progress is measured
    """

    labels: tuple[str, ...]
    size: tuple[int, int]
    earlier: list[Lesson]
    later: list[Lesson]
    v: int = 1

    def write(self, folder: Path) -> None:
        """Write the file in `folder` atomically. Raises OSError."""
        new = folder / f"{LESSONS}.new"
        with new.open("wb") as file:
            file.write(msgspec.msgpack.encode(self))
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / LESSONS)

    @classmethod
    def read(cls, folder: Path) -> Lessons:
        """Read the file in `folder`. Raises TrainingRefused."""
        file = folder / LESSONS
        try:
            lessons = msgspec.msgpack.decode(file.read_bytes(), type=cls)
        except FileNotFoundError as fault:
            raise TrainingRefused(f"{file}: no such file, so there is nothing to resume") from fault
        except (OSError, msgspec.MsgspecError) as fault:
            raise TrainingRefused(f"{file}: no lessons that can be read: {fault}") from fault
        if lessons.v != 1:
            raise TrainingRefused(f"{file}: of version {lessons.v}, allowed is 1")
        return lessons


@dataclass(frozen=True, slots=True)
class Seen:
    """An input of a student: uint8 (H, W, 3) in the order B, G, R, with its objects."""

    bgr: ByteArray
    objects: Objects


def input_size(sizes: Iterable[tuple[int, int]], long_side: int) -> tuple[int, int]:
    """Return the size of an input for pictures of all these sizes, in multiples of 32."""
    inner = [inner_size(width, height, long_side) for width, height in sizes]
    return max(padded(width) for width, _ in inner), max(padded(height) for _, height in inner)


def pictured(picture: Picture, long_side: int) -> Lesson:
    """Return a lesson without labels for an input with that longer side; never enlarged."""
    source = picture.width, picture.height
    kept = min(math.ceil(long_side * ZOOM[1]), max(source))
    bgr = to_bgr(picture, inner_size(*source, kept))
    _, coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return Lesson(coded.tobytes(), source, inner_size(*source, long_side))


def batch(
    lessons: Sequence[Lesson], size: tuple[int, int], seed: int, step: int, places: range, of: int
) -> list[Seen]:
    """Return the pictures at `places` of a step's batch of `of` pictures.

    Every lesson is used once before any is used again.
    """
    numbers = [turn_of(seed, step * of + place, len(lessons)) for place in places]
    return [
        augmented(lessons[number], size, np.random.default_rng((seed, step, place)))
        for number, place in zip(numbers, places, strict=True)
    ]


def turn_of(seed: int, look: int, n: int) -> int:
    """Return the index in 0..n-1 of the lesson for the look of that number of a whole course."""
    turn, at = divmod(look, n)
    return int(np.random.default_rng((seed, turn)).permutation(n)[at])


def augmented(one: Lesson, size: tuple[int, int], rng: np.random.Generator) -> Seen:
    """Return a lesson moved, zoomed, mirrored, recoloured, blurred or with noise, at random.

    size  (width, height) of the student's input; right of and below the picture it is black
    """
    scale, move = _placement(one.inner, rng)
    return _seen(one, size, scale, move, lambda bgr: _recoloured(bgr, rng))


def plain(one: Lesson, size: tuple[int, int]) -> Seen:
    """Return a lesson without augmentation."""
    return _seen(one, size, np.ones(2), np.zeros(2), lambda bgr: bgr)


def _seen(
    one: Lesson,
    size: tuple[int, int],
    scale: DoubleArray,
    move: DoubleArray,
    recoloured: Callable[[ByteArray], ByteArray],
) -> Seen:
    """Return the lesson with a pixel (x, y) of the input moved to (x, y) * scale + move."""
    kept = _pixels(cv2.imdecode(np.frombuffer(one.jpeg, np.uint8), cv2.IMREAD_COLOR))
    width, height = one.inner
    from_kept = scale * (width / kept.shape[1], height / kept.shape[0])
    shift = move + 0.5 * from_kept - 0.5  # OpenCV has pixels' centres at whole numbers
    matrix = np.array([[from_kept[0], 0, shift[0]], [0, from_kept[1], shift[1]]])
    whole = np.zeros((size[1], size[0], 3), np.uint8)
    inside = _pixels(cv2.warpAffine(kept, matrix, (width, height), flags=cv2.INTER_LINEAR))
    whole[:height, :width] = recoloured(inside)
    sure, unsure = Boxes.from_bytes(one.sure), Boxes.from_bytes(one.unsure)
    boxes, cut = _moved(sure, scale, move, one.inner)
    loose, loose_cut = _moved(unsure, scale, move, one.inner)
    # An object that is mostly outside may or may not be recognisable, so its rest is unsure.
    return Seen(whole, Objects(*_tensors(boxes), *_tensors(loose, cut, loose_cut)))


def _placement(inner: tuple[int, int], rng: np.random.Generator) -> tuple[DoubleArray, DoubleArray]:
    """Draw scale and move, each (x, y)."""
    side = np.array(inner, np.float64)
    scale = np.ones(2)
    move = np.zeros(2)
    if rng.random() < 0.7:
        zoom = math.exp(rng.uniform(math.log(ZOOM[0]), math.log(ZOOM[1])))
        about = rng.random(2) * side
        scale, move = scale * zoom, about * (1 - zoom) + rng.uniform(-_SHIFT, _SHIFT, 2) * side
    if rng.random() < 0.5:  # mirrored
        scale[0], move[0] = -scale[0], side[0] - move[0]
    return scale, move


def _recoloured(bgr: ByteArray, rng: np.random.Generator) -> ByteArray:
    if rng.random() < 0.7:
        contrast, brightness = rng.uniform(0.7, 1.3), rng.uniform(-25, 25)
        gains = rng.uniform(0.94, 1.06, 3)
        levels = np.arange(256)[:, None] * contrast * gains + brightness
        bgr = _pixels(cv2.LUT(bgr, np.clip(levels, 0, 255).astype(np.uint8)[None]))
    if rng.random() < 0.15:
        bgr = _pixels(cv2.GaussianBlur(bgr, (3, 3), 0))
    if rng.random() < 0.25:
        noise = rng.integers(-10, 11, (*bgr.shape[:2], 1), np.int16)
        bgr = np.clip(bgr.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return bgr


def _pixels(array: AnyArray | None) -> ByteArray:
    assert array is not None
    return array.astype(np.uint8, copy=False)


def _moved(
    boxes: Boxes, scale: DoubleArray, move: DoubleArray, inner: tuple[int, int]
) -> tuple[_ClassedBoxes, _ClassedBoxes]:
    """Return the boxes that are still in the picture, and the rest of those mostly outside."""
    side = np.array(inner * 2, np.float64)
    corners = boxes.xyxy.reshape(-1, 2, 2) * scale + move
    placed = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    inside = np.clip(placed, 0, side)
    area_in = (inside[:, 2:] - inside[:, :2]).prod(axis=1)
    seen = area_in >= _LEFT * (placed[:, 2:] - placed[:, :2]).prod(axis=1)
    seen &= (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) >= _LEAST_PX
    rest = ~seen & (area_in > 0)
    mostly_in = _ClassedBoxes(inside[seen], boxes.class_ids[seen])
    return mostly_in, _ClassedBoxes(inside[rest], boxes.class_ids[rest])


@dataclass(frozen=True, slots=True)
class _ClassedBoxes:
    """Boxes (N, 4) and their classes (N,)."""

    xyxy: DoubleArray
    class_ids: IntArray


def _tensors(*parts: _ClassedBoxes) -> tuple[torch.Tensor, torch.Tensor]:
    xyxy = np.concatenate([part.xyxy for part in parts]).astype(np.float32)
    ids = np.concatenate([part.class_ids for part in parts]).astype(np.int64)
    return torch.from_numpy(xyxy), torch.from_numpy(ids)
