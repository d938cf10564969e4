"""Labels of a teacher, which is a heavier model or people.

`split_footage` decides which pictures teach and which judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import Boxes, together

LEAST_FRAMES: Final = 2  # a class that occurs in a single picture is a mistake, or chance


@dataclass(frozen=True, slots=True, eq=False)
class TeacherLabels:
    """The labels of a picture, in its pixels, with the teacher's class ids.

    sure    objects
    unsure  neither objects nor background: a box there is never wrong
    """

    sure: Boxes
    unsure: Boxes


@dataclass(frozen=True, slots=True)
class SeenClass:
    """A class of the teacher: number of sure objects, and of pictures with any."""

    class_id: int
    objects: int
    frames: int


def seen(
    labels: Sequence[TeacherLabels], least_frames: int = LEAST_FRAMES
) -> tuple[SeenClass, ...]:
    """Return the classes that occur in at least `least_frames` pictures, most objects first."""
    objects: Counter[int] = Counter()
    frames: Counter[int] = Counter()
    for picture in labels:
        class_ids = picture.sure.class_ids.tolist()
        objects.update(class_ids)
        frames.update(set(class_ids))
    classes = [SeenClass(i, n, frames[i]) for i, n in objects.items() if frames[i] >= least_frames]
    return tuple(sorted(classes, key=lambda row: (-row.objects, row.class_id)))


def chosen(
    labels: TeacherLabels, kept: Collection[int], merged: Mapping[int, int]
) -> TeacherLabels:
    """Return the labels with these classes. merged: class id -> class id that it becomes.

    Objects of a class that is not kept become unsure: the teacher may have seen an object of a kept
    class under the wrong class.
    """
    sure = renamed(labels.sure, merged)
    unsure = renamed(labels.unsure, merged)
    is_kept = np.isin(sure.class_ids, list(kept))
    return TeacherLabels(sure.take(is_kept), together([sure.take(~is_kept), unsure]))


def renamed(boxes: Boxes, merged: Mapping[int, int]) -> Boxes:
    """Return the boxes with merged class ids."""
    if not merged or not len(boxes):
        return boxes
    ids = [merged.get(class_id, class_id) for class_id in boxes.class_ids.tolist()]
    return Boxes(boxes.xyxy, boxes.scores, np.array(ids, np.int32))
