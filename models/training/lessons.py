"""A student's pictures: kept small, moved and recoloured anew for every step, the same ones again.

Needs torch (the `train` extra). Which pictures a step sees, and how they are changed, follows from
the seed and the step's number alone: no loader has a state that a checkpoint would have to keep.
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
from framegate.models.learning.teacher import Example
from framegate.models.picture import ByteArray, Picture
from framegate.models.preprocess import inner_size, padded, to_bgr
from framegate.models.training.detection_loss import Objects

LESSONS = "lessons.msgpack"
ZOOM: Final = (0.8, 1.3)
_SHIFT: Final = 0.06  # of a side, at most
_LEFT: Final = 0.35  # of an object's area: with less of it inside, nothing is asked about it
_LEAST_PX: Final = 2.0  # of a side
_QUALITY: Final = 95  # of JPEG


class Lesson(msgspec.Struct, frozen=True, gc=False):
    """A picture as training keeps it, and what is to be found in it.

    jpeg    a JPEG file, 1.3 times as large as the student's input: what the largest zoom asks for
    source  (width, height) of the picture as decoded; inner  of the picture in the student's input
    sure, unsure  bytes of Boxes in pixels of the student's input; an unsure class id that is none
            of the student's stands for all of them
    """

    jpeg: bytes
    source: tuple[int, int]
    inner: tuple[int, int]
    sure: bytes = b""
    unsure: bytes = b""

    def taught(self, sure: Boxes, unsure: Boxes) -> Lesson:
        """The same picture with these boxes, in pixels of the picture as decoded."""
        across, down = self.inner[0] / self.source[0], self.inner[1] / self.source[1]
        scale = np.array([across, down] * 2, np.float32)
        both = (
            Boxes(one.xyxy * scale, one.scores, one.class_ids).to_bytes() for one in (sure, unsure)
        )
        return Lesson(self.jpeg, self.source, self.inner, *both)


class Lessons(msgspec.Struct, frozen=True):
    """All that a course needs on disk.

    labels          of the student's classes, in the order of its class ids
    size            (width, height) of its input, multiples of 32
    earlier, later  what it learns from, and what its progress is told by
    """

    labels: tuple[str, ...]
    size: tuple[int, int]
    earlier: list[Lesson]
    later: list[Lesson]
    v: int = 1

    def write(self, folder: Path) -> None:
        """As the file of `folder`, whole. Raises OSError."""
        new = folder / f"{LESSONS}.new"
        with new.open("wb") as file:
            file.write(msgspec.msgpack.encode(self))
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / LESSONS)

    @classmethod
    def read(cls, folder: Path) -> Lessons:
        """What was written there. Raises TrainingRefused."""
        file = folder / LESSONS
        try:
            found = msgspec.msgpack.decode(file.read_bytes(), type=cls)
        except FileNotFoundError as fault:
            raise TrainingRefused(f"{file}: no such file, so there is nothing to resume") from fault
        except (OSError, msgspec.MsgspecError) as fault:
            raise TrainingRefused(f"{file}: no lessons that can be read: {fault}") from fault
        if found.v != 1:
            raise TrainingRefused(f"{file}: of version {found.v}, allowed is 1")
        return found


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as a student sees it: uint8 (H, W, 3), order B, G, R, and what is to be found."""

    bgr: ByteArray
    objects: Objects


def input_size(sizes: Iterable[tuple[int, int]], long_side: int) -> tuple[int, int]:
    """Width and height of an input that pictures of all these sizes fit in; multiples of 32."""
    inner = [inner_size(width, height, long_side) for width, height in sizes]
    return max(padded(width) for width, _ in inner), max(padded(height) for _, height in inner)


def pictured(picture: Picture, long_side: int) -> Lesson:
    """A picture for a student whose input has that longer side; never enlarged."""
    source = picture.width, picture.height
    kept = min(math.ceil(long_side * ZOOM[1]), max(source))
    bgr = to_bgr(picture, inner_size(*source, kept))
    _, coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return Lesson(coded.tobytes(), source, inner_size(*source, long_side))


def lesson(example: Example, long_side: int) -> Lesson:
    """An example for such a student, whose classes are those of the example's set."""
    return pictured(example.picture, long_side).taught(example.sure, example.unsure)


def batch(
    lessons: Sequence[Lesson], size: tuple[int, int], seed: int, step: int, places: range, of: int
) -> list[Seen]:
    """The pictures of a step: those at `places` of a batch `of` so many.

    Every lesson comes once before any comes again.
    """
    numbers = [turn_of(seed, step * of + place, len(lessons)) for place in places]
    return [
        augmented(lessons[number], size, np.random.default_rng((seed, step, place)))
        for number, place in zip(numbers, places, strict=True)
    ]


def turn_of(seed: int, look: int, n: int) -> int:
    """Which of `n` lessons has the look of that number, counted from 0 over a whole course."""
    turn, at = divmod(look, n)
    return int(np.random.default_rng((seed, turn)).permutation(n)[at])


def augmented(one: Lesson, size: tuple[int, int], rng: np.random.Generator) -> Seen:
    """As a camera might have seen it that is nudged, or mirrored, in other light, or out of focus.

    size  (width, height) of the student's input; right of and below the picture it is black
    """
    scale, move = _placement(one.inner, rng)
    return _seen(one, size, scale, move, lambda bgr: _recoloured(bgr, rng))


def plain(one: Lesson, size: tuple[int, int]) -> Seen:
    """As it is."""
    return _seen(one, size, np.ones(2), np.zeros(2), lambda bgr: bgr)


def _seen(
    one: Lesson,
    size: tuple[int, int],
    scale: DoubleArray,
    move: DoubleArray,
    recoloured: Callable[[ByteArray], ByteArray],
) -> Seen:
    """With a pixel (x, y) of the input moved to (x, y) * scale + move."""
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
    # What is mostly outside may be known by its rest, and may not.
    return Seen(whole, Objects(*_tensors(boxes), *_tensors(loose, cut, loose_cut)))


def _placement(inner: tuple[int, int], rng: np.random.Generator) -> tuple[DoubleArray, DoubleArray]:
    """Scale and move, each (x, y)."""
    side = np.array(inner, np.float64)
    scale, move = np.ones(2), np.zeros(2)
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
    """What is still in the picture, and the rest of what mostly is not."""
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
