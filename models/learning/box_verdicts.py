"""Verdicts of people about single boxes of a picture: partial labels.

A verdict states that a box is right or that it is wrong. It never states that nothing else is in
the picture. So a box of a model that matches no judged box is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from framegate.models import matching
from framegate.models.boxes import Boxes, together


@dataclass(frozen=True, slots=True, eq=False)
class BoxVerdicts:
    """The judged boxes of a picture, in its pixels, with the classes that they were shown under.

    right  an object of the class is at the box
    wrong  no object of the class is at the box
    """

    right: Boxes
    wrong: Boxes

    def __len__(self) -> int:
        return len(self.right) + len(self.wrong)

    def of(self, class_ids: Collection[int]) -> BoxVerdicts:
        """Return the verdicts about these classes."""
        chosen = list(class_ids)
        right = self.right.take(np.isin(self.right.class_ids, chosen))
        wrong = self.wrong.take(np.isin(self.wrong.class_ids, chosen))
        return BoxVerdicts(right, wrong)


def counted_by_verdicts(
    ours: Boxes, verdicts: BoxVerdicts, n_classes: int
) -> npt.NDArray[np.int64]:
    """Count boxes, as int64 (classes, 3): right boxes that we show too, those and the wrong boxes
    that we show too, right boxes.

    Boxes match at IoU 0.5 with equal classes. The right boxes take ours first: if one of our boxes
    fits a right and a wrong box, it shows the object.
    """
    rows, columns = matching.optimal(matching.overlaps(ours, verdicts.right))
    is_free = np.ones(len(ours), np.bool_)
    is_free[rows] = False
    _, repeated = matching.optimal(matching.overlaps(ours.take(is_free), verdicts.wrong))
    hits = verdicts.right.class_ids[columns]
    false = verdicts.wrong.class_ids[repeated]
    counts = np.zeros((n_classes, 3), np.int64)
    shown = np.concatenate([hits, false])
    for column, ids in enumerate((hits, shown, verdicts.right.class_ids)):
        counts[:, column] = np.bincount(ids, minlength=n_classes)
    return counts


def corrected(sure: Boxes, verdicts: BoxVerdicts) -> Boxes:
    """Return a model's objects without those that a person called wrong, and with those that a
    person called right and the model lacks.
    """
    rows, columns = matching.optimal(matching.overlaps(sure, verdicts.right))
    is_confirmed = np.zeros(len(sure), np.bool_)
    is_confirmed[rows] = True
    # One object at most for each verdict, as when the boxes are counted.
    worth = matching.overlaps(sure, verdicts.wrong)
    worth[is_confirmed] = 0
    refuted, _ = matching.optimal(worth)
    is_kept = np.ones(len(sure), np.bool_)
    is_kept[refuted] = False
    is_lacking = np.ones(len(verdicts.right), np.bool_)
    is_lacking[columns] = False
    return together([sure.take(is_kept), verdicts.right.take(is_lacking)])
