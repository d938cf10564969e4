"""A reference that follows noise and key frames, yet only so far from where it was anchored."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from framegate.models.picture import ByteArray

MOST_ANCHOR: Final = 7  # levels of reach; a state keeps what was moved in four bits


def nearer(
    origin: ByteArray,
    reference: ByteArray,
    expected: ByteArray,
    now: ByteArray,
    reach: int,
    step: ByteArray | np.uint8 | None = None,
) -> ByteArray:
    """The reference moved by what came over the expected, yet within `reach` of the origin.

    origin, reference, expected, now  uint8 (n,)  cells when they were inferred, what
        became of them, how they should look at today's exposure, and how they look
    step  uint8 (n,), or one for all  at most so many levels at once; None: all the way

    Moved by one level at a time a reference goes to the median of what it sees (sigma-delta
    estimation, Manzanera and Richefeu 2004). Since it stays near its origin in total, no number of
    key frames or looks can carry it away.
    """
    up, down = above(now, expected), above(expected, now)
    if step is not None:
        np.minimum(up, step, out=up)
        np.minimum(down, step, out=down)
    moved = above(plus(reference, up), down)
    np.maximum(moved, above(origin, reach), out=moved)
    return np.minimum(moved, plus(origin, reach), out=moved)


def above(more: ByteArray, less: Any) -> ByteArray:
    """How much `more` is above `less`, levels or one level for all; 0 where it is not."""
    out = np.empty_like(more)
    cv2.subtract(more, less, out)  # saturates
    return out


def plus(levels: ByteArray, more: Any) -> ByteArray:
    """The sum with more levels, or with one for all; at most 255."""
    out = np.empty_like(levels)
    cv2.add(levels, more, out)
    return out


def apart(a: ByteArray, b: ByteArray) -> ByteArray:
    """How far the levels are from each other."""
    out = np.empty_like(a)
    cv2.absdiff(a, b, out)
    return out
