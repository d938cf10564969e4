"""What a teacher says of pictures, sorted out: what it vouches for, and under which names.

A teacher is a heavier model, or people.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import Boxes, together

LEAST_FRAMES: Final = 2  # in which a class is seen: what shows up once is a mistake, or chance


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
