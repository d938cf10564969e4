"""Which pictures of footage are worth looking at: those in which something moved, evenly spaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import cv2
import numpy as np

from framegate.models.picture import ByteArray, Picture

T = TypeVar("T")

_SMALL: Final = (96, 54)
_MOVED: Final = 10  # grey levels of 255
_SHARE: Final = 0.004  # of the small picture's pixels


def grey_of(picture: Picture) -> ByteArray:
    """The picture in grey, uint8 (54, 96), whatever its size. Any thread."""
    small = cv2.resize(picture.y, _SMALL, interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def has_moved(last: ByteArray | None, grey: ByteArray) -> bool:
    """Whether a picture shows something else than the last one: .4 % of its pixels or more changed
    by more than 10 levels. True where there is no last one.
    """
    if last is None:
        return True
    return float((cv2.absdiff(last, grey) > _MOVED).mean()) >= _SHARE


def evenly(ordered: Sequence[T], most: int) -> list[T]:
    """At most so many of them, in their order, evenly spaced, with the first and the last."""
    if len(ordered) <= most:
        return list(ordered)
    places = np.linspace(0, len(ordered) - 1, most).astype(int)
    return [ordered[place] for place in places.tolist()]


def shares(counts: Sequence[int], most: int) -> list[int]:
    """How many each of several may give, at most `most` together: as equal as they can be, so that
    a long one does not push out a short one. Each at least 1 where it has any and `most` allows.
    """
    given = [0] * len(counts)
    left = most
    for place in sorted(range(len(counts)), key=lambda place: counts[place]):
        waiting = sum(1 for other, count in enumerate(counts) if not given[other] and count)
        if waiting:
            given[place] = min(counts[place], max(left // waiting, min(left, 1)))
            left -= given[place]
    return given
