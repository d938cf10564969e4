"""The evidence of the looks at a track, and the decision whether its object is published.

A single look decides by its score, and the mean of a few looks by its mean. Both forget how the
object behaves. An object that moves is there even if its scores are low, because noise does not
walk. A living thing of low score that never moves, and never changes the picture, is furniture. An
answer of the heavy model makes an object sure or unsure, and hides no object that moves. The
settings are those at which no clip that chooses loses F1 by its labels, see docs/decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from framegate.pipeline.contracts.results import Object
from framegate.stages.detections import ChangedParts, Detections

TENTHS: Final = 10  # of a pixel
SEEN: Final = ("detected", "escalated")
_LEAST_LOOKS: Final = 3
_MOVED: Final = 0.5  # heights over which the centre has moved, from which an object moves
_LEAST_HEIGHT: Final = 0.7  # share of its mean height, below which a box may be another thing
_OTHER_SHAPE: Final = 1.1  # ratio of its width by height to the mean one, above which it is another
_UNMOVED: Final = 0.25  # heights up to which the centre of an object has never moved
_GRACE_MS: Final = 5000  # compared time that a living thing has to move, or to change the picture
_MEMORY_MS: Final = 60_000  # compared time that counts
_STIRRED: Final = 1 / 3  # share of the parts that a box touches, from which its object stirs
_LEAST_STIRRED: Final = 0.1  # share of the compared time in which a living thing stirs
LIVING: Final = frozenset({
    "person", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
})  # fmt: skip
_DOUBLE: Final = 0.5  # share of the smaller of two boxes, from which they may be one object


class TrackEvidence(NamedTuple):
    """The looks at a track.

    looks          frames in which a network saw it
    left, right    range of the centre of its box in these, tenths of a pixel
    upper, lower   the same, from top to bottom
    heights        sum of the heights of its box in these, tenths of a pixel
    compared_ms    time in which the gate compared its box with earlier looks, as long as it was not
                   sure; older time counts less, see `compared`
    stirred_ms     the part of it in which the gate saw changes in the box
    top            greatest score in the looks
    widths         sum of the widths of its box in these, tenths of a pixel
    """

    looks: int = 0
    left: int = 0
    right: int = 0
    upper: int = 0
    lower: int = 0
    heights: int = 0
    compared_ms: int = 0
    stirred_ms: int = 0
    top: float = 0.0
    widths: int = 0

    def after(self, detected: Object) -> TrackEvidence:
        """Return the evidence after a frame with the object."""
        if detected.origin not in SEEN:
            return self
        x1, y1, x2, y2 = detected.box
        x = round(TENTHS * (x1 + x2) / 2)
        y = round(TENTHS * (y1 + y2) / 2)
        width = round(TENTHS * (x2 - x1))
        height = round(TENTHS * (y2 - y1))
        if not self.looks:
            return TrackEvidence(
                1, x, x, y, y, height, self.compared_ms, self.stirred_ms, detected.score, width
            )
        return TrackEvidence(
            self.looks + 1,
            min(self.left, x),
            max(self.right, x),
            min(self.upper, y),
            max(self.lower, y),
            self.heights + height,
            self.compared_ms,
            self.stirred_ms,
            max(self.top, detected.score),
            self.widths + width,
        )

    def compared(self, is_stirring: bool, lasts_ms: int) -> TrackEvidence:
        """Return the evidence after a frame in which the gate compared the box of the object.

        is_stirring  whether the picture changed in the box
        lasts_ms     duration of the frame

        Both times are halved when they exceed a minute, so the evidence is of the last minute.
        """
        compared_ms, stirred_ms = self.compared_ms + lasts_ms, self.stirred_ms
        if is_stirring:
            stirred_ms += lasts_ms
        if compared_ms > _MEMORY_MS:
            compared_ms, stirred_ms = compared_ms // 2, stirred_ms // 2
        return TrackEvidence(*self[:6], compared_ms, stirred_ms, *self[8:])

    def heights_moved(self, detected: Object) -> float:
        """Return over how many heights of the object its centre has moved."""
        way = math.hypot(self.right - self.left, self.lower - self.upper)
        return way / (TENTHS * max(detected.box[3] - detected.box[1], 1.0))

    def is_shrunk(self, detected: Object) -> bool:
        """Return whether the box is much lower than the object was in the mean of its looks, and of
        another shape.

        Behind a sign or a lamp, the track of a person can continue on the sign. Its way is then
        that of the person. A person who walks away gets lower as well, and as much narrower.
        """
        height = TENTHS * (detected.box[3] - detected.box[1]) * self.looks
        width = TENTHS * (detected.box[2] - detected.box[0]) * self.looks
        is_low = height < _LEAST_HEIGHT * self.heights
        return is_low and width * self.heights > _OTHER_SHAPE * height * self.widths


def is_moving(evidence: TrackEvidence, detected: Object) -> bool:
    """Return whether an object of low score is published, because it moves."""
    if evidence.looks < _LEAST_LOOKS or evidence.is_shrunk(detected):
        return False
    return evidence.heights_moved(detected) > _MOVED


def is_unsure(evidence: TrackEvidence, detected: Object, detections: Detections) -> bool:
    """Return whether an object may be furniture: a living thing that was never sure in a look.

    The last answer of the heavy model, if it is still valid, counts more than all looks.
    """
    sure = detections.sure.get(detected.label, 0.0)
    if not evidence.looks or not sure or detected.label not in LIVING:
        return False
    if detected.track in detections.confirmed:
        return False
    if evidence.top < sure:
        return True
    return any(each.track == detected.track for each in detections.refuted)


def stirs(detected: Object, changes: ChangedParts | None) -> bool:
    """Return whether the picture changed in the box of an object."""
    return changes is not None and changes.share_of(detected.box) > _STIRRED


def is_furniture(evidence: TrackEvidence, detected: Object, detections: Detections) -> bool:
    """Return whether an object is not published, because it was never sure and nothing shows that
    it lives: it never moved, and the picture in its box hardly changed in the last minute.
    """
    if evidence.compared_ms < _GRACE_MS or not is_unsure(evidence, detected, detections):
        return False
    is_still = evidence.stirred_ms <= _LEAST_STIRRED * evidence.compared_ms
    return is_still and evidence.heights_moved(detected) <= _UNMOVED


def first_double(detected: Object, others: Sequence[Object]) -> int | None:
    """Return the index of the first of others with which an object shares more than half of the
    smaller box; None if there is none.
    """
    left, top, right, bottom = detected.box
    area = (right - left) * (bottom - top)
    for row, other in enumerate(others):
        x1, y1, x2, y2 = other.box
        if x1 >= right or x2 <= left or y1 >= bottom or y2 <= top:  # most are apart
            continue
        width = min(right, x2) - max(left, x1)
        height = min(bottom, y2) - max(top, y1)
        smaller = min(area, (x2 - x1) * (y2 - y1))
        if width * height > _DOUBLE * smaller:
            return row
    return None
