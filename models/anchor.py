"""A reference that follows noise and key frames, yet only so far from where it was anchored."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.picture import ByteArray

MOST_ANCHOR: Final = 7  # levels of reach; a state keeps what was moved in four bits


def nearer(
    origin: ByteArray,
    reference: ByteArray,
    expected: ByteArray,
    now: ByteArray,
    reach: int,
    step: ByteArray | None = None,
) -> ByteArray:
    """The reference moved by what came over the expected, yet within `reach` of the origin.

    origin, reference, expected, now  uint8 (n,)  cells when they were inferred, what
        became of them, how they should look at today's exposure, and how they look
    step  uint8 (n,)  at most so many levels at once; None: all the way

    Moved by one level at a time a reference goes to the median of what it sees (sigma-delta
    estimation, Manzanera and Richefeu 2004). Since it stays near its origin in total, no number of
    key frames or looks can carry it away.
    """
    up, down = above(now, expected), above(expected, now)
    if step is not None:
        up, down = np.minimum(up, step), np.minimum(down, step)
    moved = above(plus(reference, up), down)
    limit = np.uint8(reach)
    return np.minimum(np.maximum(moved, above(origin, limit)), plus(origin, limit))


def above(more: ByteArray, less: ByteArray | np.uint8) -> ByteArray:
    """How much `more` is above `less`, 0 where it is not."""
    return np.maximum(more, less) - less


def plus(levels: ByteArray, more: ByteArray | np.uint8) -> ByteArray:
    """The sum, at most 255."""
    return np.minimum(levels, ~more) + more
