"""Labels of a teacher, which is a heavier model or people, and the pictures that they belong to.

The earlier part of the footage teaches a model, the later part judges it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import Boxes, together
from framegate.models.errors import ArrayMismatch
from framegate.models.picture import Picture

LEAST_FRAMES: Final = 2  # in which a class is seen: what shows up once is a mistake, or chance
EARLIER: Final = 0.60  # share of the footage that is learned from; what comes later judges
GAP: Final = 0.05  # share of the footage between the two: neighbouring pictures are alike


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a teacher says of one picture, in its pixels; class ids are those of the teacher.

    sure    objects
    unsure  neither objects nor background: nobody is wrong there, whatever they say
    """

    sure: Boxes
    unsure: Boxes


@dataclass(frozen=True, slots=True)
class SeenClass:
    """A class that the teacher is sure of: how many objects of it, in how many pictures."""

    class_id: int
    objects: int
    frames: int


def seen(said_of: Sequence[Said], least_frames: int = LEAST_FRAMES) -> tuple[SeenClass, ...]:
    """Classes seen in so many pictures or more, most objects first."""
    objects: dict[int, int] = {}
    frames: dict[int, int] = {}
    for one in said_of:
        ids, counts = np.unique(one.sure.class_ids, return_counts=True)
        for class_id, count in zip(ids.tolist(), counts.tolist(), strict=True):
            objects[class_id] = objects.get(class_id, 0) + count
            frames[class_id] = frames.get(class_id, 0) + 1
    found = [SeenClass(i, n, frames[i]) for i, n in objects.items() if frames[i] >= least_frames]
    return tuple(sorted(found, key=lambda one: (-one.objects, one.class_id)))


def chosen(one: Said, kept: Collection[int], merged: Mapping[int, int]) -> Said:
    """What remains of it with these classes; merged: class -> the one that it is taken for.

    Objects of a class that is not kept are unsure from then on: a teacher that was wrong about what
    a thing is saw a thing all the same.
    """
    sure, unsure = (renamed(boxes, merged) for boxes in (one.sure, one.unsure))
    stays = np.isin(sure.class_ids, list(kept))
    return Said(sure.take(stays), together([sure.take(~stays), unsure]))


def renamed(boxes: Boxes, merged: Mapping[int, int]) -> Boxes:
    """The same boxes under the classes that theirs are taken for."""
    if not merged or not len(boxes):
        return boxes
    ids = [merged.get(class_id, class_id) for class_id in boxes.class_ids.tolist()]
    return Boxes(boxes.xyxy, boxes.scores, np.array(ids, np.int32))


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A picture with a teacher's answer.

    picture   as decoded
    sure      objects, in pixels of the picture; scores are the teacher's, 1 where people labelled
    unsure    neither objects nor background: nothing is learned from what they cover, and a box
              that overlaps one is not wrong
    source    name of the camera or file
    moment_s  seconds on the source's clock, finite

    Raises ArrayMismatch. Safe to share between threads.
    """

    picture: Picture
    sure: Boxes
    unsure: Boxes
    source: str
    moment_s: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.moment_s):
            raise ArrayMismatch("moment_s", "a finite number", repr(self.moment_s))


def sides(moments: Sequence[tuple[str, float]]) -> tuple[list[int], list[int]]:
    """Return the rows of (source, moment_s) that teach, and those that judge.

    Of each source the first 60 % of its time teach and the last 35 % judge.
    """
    earlier: list[int] = []
    later: list[int] = []
    for name in dict.fromkeys(source for source, _ in moments):
        own = [row for row, (source, _) in enumerate(moments) if source == name]
        seconds = [moments[row][1] for row in own]
        first_s, length_s = min(seconds), max(seconds) - min(seconds)
        earlier += [row for row in own if moments[row][1] <= first_s + EARLIER * length_s]
        later += [row for row in own if moments[row][1] > first_s + (EARLIER + GAP) * length_s]
    return sorted(earlier), sorted(later)
