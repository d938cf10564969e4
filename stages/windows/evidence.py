"""The evidence of the looks at a track, and the decision whether its object is published.

A single look decides by its score, and the mean of a few looks by its mean. Both forget how the
object behaves. An object that moves is there even if its scores are low, because noise does not
walk. The settings are those at which no clip that chooses loses F1 by its labels, see
docs/decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from framegate.pipeline.contracts.results import Object

TENTHS: Final = 10  # of a pixel
SEEN: Final = ("detected", "escalated")
_LEAST_LOOKS: Final = 3
_MOVED: Final = 0.5  # heights over which the centre has moved, from which an object moves
_LEAST_HEIGHT: Final = 0.7  # share of its mean height, below which a box may be another thing
_REFUTED_MS: Final = 10_000  # as long as an answer of the heavy model corrects detect
_DOUBLE: Final = 0.5  # share of the smaller of two boxes, from which they may be one object


class TrackEvidence(NamedTuple):
    """The looks at a track.

    looks          frames in which a network saw it
    left, right    range of the centre of its box in these, tenths of a pixel
    upper, lower   the same, from top to bottom
    heights        sum of the heights of its box in these, tenths of a pixel
    refuted_ms     media time of the last answer of the heavy model, if it was without the object
    """

    looks: int = 0
    left: int = 0
    right: int = 0
    upper: int = 0
    lower: int = 0
    heights: int = 0
    refuted_ms: int | None = None

    def after(self, detected: Object) -> TrackEvidence:
        """Return the evidence after a frame with the object."""
        if detected.origin not in SEEN:
            return self
        x = round(TENTHS * (detected.box[0] + detected.box[2]) / 2)
        y = round(TENTHS * (detected.box[1] + detected.box[3]) / 2)
        height = round(TENTHS * (detected.box[3] - detected.box[1]))
        if not self.looks:
            return self._replace(looks=1, left=x, right=x, upper=y, lower=y, heights=height)
        return self._replace(
            looks=self.looks + 1,
            left=min(self.left, x),
            right=max(self.right, x),
            upper=min(self.upper, y),
            lower=max(self.lower, y),
            heights=self.heights + height,
        )

    def heights_moved(self, detected: Object) -> float:
        """Return over how many heights of the object its centre has moved."""
        way = math.hypot(self.right - self.left, self.lower - self.upper)
        return way / (TENTHS * max(detected.box[3] - detected.box[1], 1.0))

    def is_shrunk(self, detected: Object) -> bool:
        """Return whether the box is much lower than the object was in the mean of its looks.

        Behind a sign or a lamp, the track of a person can continue on the sign. Its way is then
        that of the person.
        """
        height = TENTHS * (detected.box[3] - detected.box[1])
        return height * self.looks < _LEAST_HEIGHT * self.heights


def is_moving(evidence: TrackEvidence, detected: Object, ms: int) -> bool:
    """Return whether an object of low score is published, because it moves.

    ms  media time of the frame
    """
    if evidence.refuted_ms is not None and ms - evidence.refuted_ms <= _REFUTED_MS:
        return False
    if evidence.looks < _LEAST_LOOKS or evidence.is_shrunk(detected):
        return False
    return evidence.heights_moved(detected) > _MOVED


def first_double(detected: Object, others: Sequence[Object]) -> int | None:
    """Return the index of the first of others with which an object shares more than half of the
    smaller box; None if there is none.
    """
    left, top, right, bottom = detected.box
    area = (right - left) * (bottom - top)
    for row, other in enumerate(others):
        x1, y1, x2, y2 = other.box
        width = min(right, x2) - max(left, x1)
        height = min(bottom, y2) - max(top, y1)
        smaller = min(area, (x2 - x1) * (y2 - y1))
        if width > 0 and height > 0 and width * height > _DOUBLE * smaller:
            return row
    return None
