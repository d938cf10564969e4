"""What is served of a frame beside what another model says of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from framegate.models.boxes import Boxes, iou
from framegate.models.quantisation.agreement import MIN_IOU
from framegate.pipeline.records import Object

Rect = tuple[int, int, int, int]
_MARGIN = 0.25  # of the disagreement's longer side, around it
_LEAST_MARGIN = 16


class Named(msgspec.Struct, frozen=True, array_like=True):
    """A box that one of them has and the other has not, or where they agree.

    box  in source pixels
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


class Disagreement(msgspec.Struct, frozen=True):
    """A frame of which they say different things.

    source, epoch, seq, pts   the frame
    served_by, other   models of each
    served, said       what each has that the other has not; agreed: what both have
    rect               the part of the frame that `picture` shows, in source pixels
    picture            a JPEG of it
    """

    source: str
    epoch: int
    seq: int
    pts: float | None
    served_by: tuple[str, ...]
    other: tuple[str, ...]
    served: tuple[Named, ...]
    said: tuple[Named, ...]
    agreed: tuple[Named, ...]
    rect: Rect
    picture: bytes = b""


class Compared(msgspec.Struct, frozen=True):
    """A frame that both looked at: boxes that agree, that only one has; CPU seconds of the new."""

    agreed: tuple[Named, ...]
    served: tuple[Named, ...]
    said: tuple[Named, ...]
    cpu_s: float = 0.0


def compare(
    served: Sequence[Object], said: Boxes, labels: Sequence[str], known: frozenset[str]
) -> Compared:
    """Boxes of one label that overlap enough agree, the surest first, each with one.

    labels  of the other model's class ids
    known   labels that both models know: what only one can say is no disagreement
    """
    ours = [Named(o.label, o.score, o.box) for o in served if o.label in known]
    theirs = [
        Named(labels[class_id], round(score, 4), _rounded(box))
        for box, score, class_id in zip(
            said.xyxy.tolist(), said.scores.tolist(), said.class_ids.tolist(), strict=True
        )
        if labels[class_id] in known
    ]
    free = dict(enumerate(ours))
    agreed, alone = [], []
    for one in sorted(theirs, key=lambda named: -named.score):
        match = _best(one, free)
        if match is None:
            alone.append(one)
        else:
            agreed.append(free.pop(match))
    return Compared(tuple(agreed), tuple(free.values()), tuple(alone))


def _best(one: Named, free: dict[int, Named]) -> int | None:
    rows = [n for n, other in free.items() if other.label == one.label]
    if not rows:
        return None
    overlaps = iou(_array([one]), _array([free[n] for n in rows]))[0]
    best = int(np.argmax(overlaps))
    return rows[best] if overlaps[best] >= MIN_IOU else None


def _array(boxes: Sequence[Named]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([named.box for named in boxes], np.float32)


def _rounded(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(edge, 1) for edge in box)
    return left, top, right, bottom


def part_of(compared: Compared, size: tuple[int, int]) -> Rect:
    """The part of a picture of (width, height) in which they disagree, with some of what is
    around; its edges are even, as colour samples are.
    """
    boxes = _array([*compared.served, *compared.said])
    left, top = boxes[:, :2].min(axis=0)
    right, bottom = boxes[:, 2:].max(axis=0)
    margin = max(_LEAST_MARGIN, _MARGIN * max(right - left, bottom - top))
    return (
        max(0, int(left - margin)) // 2 * 2,
        max(0, int(top - margin)) // 2 * 2,
        min(size[0], int(right + margin) // 2 * 2 + 2),
        min(size[1], int(bottom + margin) // 2 * 2 + 2),
    )
