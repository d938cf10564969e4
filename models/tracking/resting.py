"""Objects at rest: a lost track that stayed in its place is recognised by this place only.

Boxes of a small object shake, and the noise looks like speed. A lost track then drifts, and its
number is given to the next object, such as the next parked car. So an object that has stayed in its
place has no speed, and its number stays at the place.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from framegate.models.boxes import BoolArray, DoubleArray, FloatArray

_LEFT: Final = 0.5  # IoU with the place below which an object has left it
_FOLLOW: Final = 0.1  # share by which the place follows each box, because a first box may be wrong


def is_resting(
    rest_from: DoubleArray, lost_s: DoubleArray, now: float | None, rest_s: float | None
) -> BoolArray:
    """Return which tracks are at rest, bool (T,).

    rest_from  float64 (T,)  time stamp of the first box in the place, seconds
    lost_s     float64 (T,)  seconds since the last box
    now        seconds; None if unknown, then no track is at rest
    rest_s     seconds in one place after which a track is at rest; None: no track is ever at rest
    """
    if now is None or rest_s is None:
        return np.zeros(len(rest_from), np.bool_)
    resting: BoolArray = now - lost_s - rest_from >= rest_s
    return resting


def settled(
    place: DoubleArray, rest_from: DoubleArray, box: FloatArray, now: float
) -> tuple[DoubleArray, DoubleArray]:
    """Return the places (N, 4) of tracks and the times from which they are there, after new boxes.

    place, box  (N, 4)  left, top, right, bottom in pixels

    A place follows its boxes slowly. A box outside begins a new place.
    """
    first = np.maximum(place[:, :2], box[:, :2])
    last = np.minimum(place[:, 2:], box[:, 2:])
    shared = np.maximum(last - first, 0).prod(axis=1)
    areas = _areas(place) + _areas(box.astype(np.float64)) - shared
    stays = shared >= _LEFT * areas
    followed = np.where(stays[:, None], place + _FOLLOW * (box - place), box)
    return followed, np.where(stays, rest_from, now)


def _areas(boxes: DoubleArray) -> DoubleArray:
    areas: DoubleArray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas
