"""Labels of pictures: by people, by a teacher (a heavier model), and verdicts about boxes.

`split_footage` decides which pictures teach and which judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models.boxes import Boxes, together
from framegate.models.learning.box_verdicts import BoxVerdicts

LEAST_FRAMES: Final = 2  # a class that occurs in a single picture is a mistake, or chance


@dataclass(frozen=True, slots=True, eq=False)
class TeacherLabels:
    """The labels of a picture, in its pixels, with the teacher's class ids.

    sure      objects
    unsure    neither objects nor background: a box there is never wrong
    people    class ids of which people labelled every object; None: a model labelled the picture.
              A box of another class is neither right nor wrong there
    verdicts  of people about boxes of a picture that a model labelled; None: there are none
    """

    sure: Boxes
    unsure: Boxes
    people: frozenset[int] | None = None
    verdicts: BoxVerdicts | None = None

    def judgeable(self, boxes: Boxes) -> Boxes:
        """Return the boxes of a model that these labels call right or wrong by their classes."""
        if self.people is None:
            return boxes
        return boxes.take(np.isin(boxes.class_ids, list(self.people)))


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


def confirmed(labels: Sequence[TeacherLabels]) -> frozenset[int]:
    """Return the classes of which people labelled an object or called one right."""
    class_ids: set[int] = set()
    for picture in labels:
        if picture.people is not None:
            class_ids.update(picture.sure.class_ids.tolist())
        if picture.verdicts is not None:
            class_ids.update(picture.verdicts.right.class_ids.tolist())
    return frozenset(class_ids)


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
    people = labels.people
    if people is not None:
        # A class is labelled in full only if every class that becomes it is.
        partly = {merged.get(a, a) for a in {*kept, *merged} if a not in people}
        people = frozenset(kept) - partly
    verdicts = labels.verdicts
    if verdicts is not None:
        # A box that is wrong as a cell phone may be right as the car that cell phones become.
        verdicts = BoxVerdicts(renamed(verdicts.right, merged), verdicts.wrong).of(kept)
        if not len(verdicts):
            verdicts = None
    unsure = together([sure.take(~is_kept), unsure])
    return TeacherLabels(sure.take(is_kept), unsure, people, verdicts)


def renamed(boxes: Boxes, merged: Mapping[int, int]) -> Boxes:
    """Return the boxes with merged class ids."""
    if not merged or not len(boxes):
        return boxes
    ids = [merged.get(class_id, class_id) for class_id in boxes.class_ids.tolist()]
    return Boxes(boxes.xyxy, boxes.scores, np.array(ids, np.int32))
