"""Classes, least scores and size of a detector that fit a camera: chosen, and judged later.

Pure: of a picture only what teacher and detector say of it is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models import matching
from framegate.models.boxes import Boxes
from framegate.models.learning import judgement, teacher, thresholds
from framegate.models.learning.judgement import ClassCounts, ModelVerdict
from framegate.models.learning.teacher import Said, sides

WORTH: Final = 0.01  # of F1: what a slower size must bring, on what it was tuned on


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What was said of one picture of a source.

    raw  by longer side of the input: all boxes of the detector above the lowest score of
         `thresholds.GRID`, none suppressed
    """

    source: str
    moment_s: float
    said: Said
    raw: Mapping[int, Boxes]


@dataclass(frozen=True, slots=True)
class General:
    """The detector as it comes along: longer side of its input, least score, IoU of one thing."""

    side: int
    min_score: float
    nms_iou: float


@dataclass(frozen=True, slots=True, eq=False)
class TunedSide:
    """The detector at one size, tuned.

    least    class id -> least score; what is not in it is off
    f1       on what it was tuned on
    later    `judgement.counted` on what judges
    """

    side: int
    least: dict[int, float]
    f1: float
    later: ClassCounts


@dataclass(frozen=True, slots=True, eq=False)
class Tuning:
    """All sizes, tuned on the earlier pictures and looked at on the later ones.

    general  as it comes along, on the later pictures, with the same classes
    """

    earlier: tuple[Look, ...]
    later: tuple[Look, ...]
    sides: tuple[TunedSide, ...]
    general: ClassCounts

    @property
    def sources(self) -> list[str]:
        """Of the later pictures."""
        return [look.source for look in self.later]

    def best(self, ms: Mapping[int, float]) -> TunedSide:
        """The fastest whose F1 on the earlier pictures is within WORTH of the best."""
        highest = max(one.f1 for one in self.sides)
        worth_it = [one for one in self.sides if one.f1 >= highest - WORTH]
        return min(worth_it, key=lambda one: ms[one.side])

    def judged(self, side: TunedSide, labels: Sequence[str]) -> ModelVerdict:
        """What the later pictures say of one size."""
        return judgement.judge(side.later, self.general, self.sources, labels)


def tune(
    looks: Sequence[Look],
    kept: Collection[int],
    merged: Mapping[int, int],
    general: General,
    n_classes: int,
) -> Tuning:
    """Tune every size that the looks have, with these classes.

    kept    class ids that are looked for, after merging
    merged  class id -> the one that it is taken for

    Raises ValueError where no picture is left to judge.
    """
    rows = [_with(look, kept, merged) for look in looks]
    earlier, later = sides([(look.source, look.moment_s) for look in rows])
    learned, judging = [rows[i] for i in earlier], [rows[i] for i in later]
    usual = dict.fromkeys(kept, general.min_score)
    # As it comes along it merges nothing.
    plain = [looks[i].raw[general.side] for i in later]
    counts = _counts([thresholds.shown(raw, usual, general.nms_iou) for raw in plain], judging,
                     n_classes)  # fmt: skip
    tuned = (
        [tuned_side(side, learned, judging, general.nms_iou, n_classes) for side in rows[0].raw]
        if rows
        else []
    )
    return Tuning(tuple(learned), tuple(judging), tuple(tuned), counts)


def tuned_side(
    side: int, learned: Sequence[Look], judging: Sequence[Look], nms_iou: float, n_classes: int
) -> TunedSide:
    """Least scores that fit the teacher in `learned`, and what they show in `judging`.

    side  which of the looks' raw boxes
    """
    raw = [look.raw[side] for look in learned]
    sure = [look.said.sure for look in learned]
    unsure = [look.said.unsure for look in learned]
    least = thresholds.tuned(raw, sure, unsure, nms_iou)
    before = _counts([thresholds.shown(one, least, nms_iou) for one in raw], learned, n_classes)
    shown = [thresholds.shown(look.raw[side], least, nms_iou) for look in judging]
    f1 = float(matching.f1(before.sum(axis=1)))
    return TunedSide(side, least, f1, _counts(shown, judging, n_classes))


def _counts(shown: Sequence[Boxes], looks: Sequence[Look], n_classes: int) -> ClassCounts:
    sure, unsure = [look.said.sure for look in looks], [look.said.unsure for look in looks]
    return judgement.counted(shown, sure, unsure, n_classes)


def _with(look: Look, kept: Collection[int], merged: Mapping[int, int]) -> Look:
    """What remains of a look with these classes."""
    of_interest = [*kept, *merged]
    raw = {
        side: teacher.renamed(boxes.take(np.isin(boxes.class_ids, of_interest)), merged)
        for side, boxes in look.raw.items()
    }
    said = teacher.chosen(look.said, kept, merged)
    return Look(look.source, look.moment_s, said, raw)
