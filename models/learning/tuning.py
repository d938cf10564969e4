"""Choose the classes, thresholds and input size of a detector for a camera, and judge them.

Pure: the input is the labels of the teacher and the boxes of the detector, without pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models import matching
from framegate.models.boxes import Boxes
from framegate.models.learning import judgement, teacher, thresholds
from framegate.models.learning.judgement import ModelVerdict
from framegate.models.learning.split_footage import split
from framegate.models.learning.teacher import TeacherLabels

WORTH: Final = 0.01  # gain in F1 on the earlier pictures that justifies a slower size


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """Labels and boxes of a picture of a source.

    raw  by longer side of the input: all boxes of the detector above the lowest score of
         `thresholds.GRID`, before non-maximum suppression
    """

    source: str
    moment_s: float
    said: TeacherLabels
    raw: Mapping[int, Boxes]


@dataclass(frozen=True, slots=True)
class General:
    """The untuned detector: longer side of its input, and its thresholds of score and IoU."""

    side: int
    min_score: float
    nms_iou: float


@dataclass(frozen=True, slots=True, eq=False)
class TunedSide:
    """The detector at an input size, tuned.

    least    class id -> threshold; a missing class is off
    f1       on the pictures that it was tuned on
    shown    boxes that it shows in each judging picture
    """

    side: int
    least: dict[int, float]
    f1: float
    shown: tuple[Boxes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tuning:
    """All sizes, tuned on the earlier pictures, and their boxes in the later ones.

    general  boxes that the untuned detector shows in the later pictures, of the same classes
    """

    earlier: tuple[Look, ...]
    later: tuple[Look, ...]
    sides: tuple[TunedSide, ...]
    general: tuple[Boxes, ...]

    @property
    def sources(self) -> list[str]:
        """Source of each later picture."""
        return [look.source for look in self.later]

    def best(self, ms: Mapping[int, float]) -> TunedSide:
        """Return the fastest size whose F1 on the earlier pictures is within WORTH of the best."""
        highest = max(tuned.f1 for tuned in self.sides)
        good = [tuned for tuned in self.sides if tuned.f1 >= highest - WORTH]
        return min(good, key=lambda tuned: ms[tuned.side])

    @property
    def said(self) -> list[TeacherLabels]:
        """Labels of each later picture."""
        return [look.said for look in self.later]

    def judged(self, side: TunedSide, labels: Sequence[str]) -> ModelVerdict:
        """Judge a size on the later pictures."""
        return judgement.judge(side.shown, self.general, self.said, self.sources, labels)


def tune(
    looks: Sequence[Look],
    kept: Collection[int],
    merged: Mapping[int, int],
    general: General,
    n_classes: int,
) -> Tuning:
    """Tune every input size of the looks with these classes.

    kept    class ids that are looked for, after merging
    merged  class id -> class id that it becomes
    """
    rows = [_with_classes(look, kept, merged) for look in looks]
    earlier, later = split([(look.source, look.moment_s) for look in rows])
    learned = [rows[i] for i in earlier]
    judging = [rows[i] for i in later]
    untuned = dict.fromkeys(kept, general.min_score)
    # The untuned detector merges no classes.
    raw = [looks[i].raw[general.side] for i in later]
    shown = tuple(thresholds.shown(boxes, untuned, general.nms_iou) for boxes in raw)
    tuned: list[TunedSide] = []
    if rows:
        input_sides = rows[0].raw
        tuned = [
            tuned_side(side, learned, judging, general.nms_iou, n_classes) for side in input_sides
        ]
    return Tuning(tuple(learned), tuple(judging), tuple(tuned), shown)


def tuned_side(
    side: int, learned: Sequence[Look], judging: Sequence[Look], nms_iou: float, n_classes: int
) -> TunedSide:
    """Return the thresholds that fit the labels in `learned`, and the boxes shown in `judging`.

    side  key of the raw boxes of the looks
    """
    raw = [look.said.judgeable(look.raw[side]) for look in learned]
    sure = [look.said.judgeable(look.said.sure) for look in learned]
    unsure = [look.said.unsure for look in learned]
    least = thresholds.tuned(raw, sure, unsure, nms_iou)
    before = [thresholds.shown(each, least, nms_iou) for each in raw]
    counts = judgement.counted(before, sure, unsure, n_classes)
    shown = tuple(thresholds.shown(look.raw[side], least, nms_iou) for look in judging)
    return TunedSide(side, least, float(matching.f1(counts.sum(axis=1))), shown)


def _with_classes(look: Look, kept: Collection[int], merged: Mapping[int, int]) -> Look:
    """Return a look with these classes alone."""
    class_ids = [*kept, *merged]
    raw = {}
    for side, boxes in look.raw.items():
        chosen = boxes.take(np.isin(boxes.class_ids, class_ids))
        raw[side] = teacher.renamed(chosen, merged)
    said = teacher.chosen(look.said, kept, merged)
    return Look(look.source, look.moment_s, said, raw)
