"""A thumbnail of a camera's view, and a test whether two thumbnails show the same view.

An area that was drawn on a picture is wrong after the camera was moved. Light, weather and people
also change a picture, but its edges stay in place. So the thumbnail keeps the fine structure of the
picture at 18x32, normalised by the local contrast. The view is another one if the same structure
lies elsewhere, or if none of it is left.
"""

from __future__ import annotations

import itertools
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import ByteArray

ROWS, COLUMNS = 18, 32
_PLAIN: Final = 6.0  # standard deviation in levels; below it: night, fog, or a covered lens
_FINE: Final = 1.5  # standard deviation, in cells, of the blur that removes coarse structure
_AROUND: Final = 2.0  # standard deviation, in cells, of the window of the local contrast
_NOISE: Final = 2.0  # levels that are added to the contrast, so that noise is not amplified
_SCALE: Final = 4.0  # maps most values into 0..15
_REACH: Final = (6, 10)  # rows and columns by which the view is searched elsewhere
_SAME: Final = 0.3  # correlation from which the view is the same, if no shift is better
_SHIFTED: Final = 0.4  # correlation from which a shifted view counts
_BETTER: Final = 0.15  # and by how much it must exceed the correlation without a shift
_NOTHING: Final = 0.15  # correlation below which nothing of the view is left in place

Levels = npt.NDArray[np.float32]


def backdrop_of(luma: ByteArray) -> bytes:
    """Return the thumbnail of a picture in 288 bytes, or no bytes for a picture that is too plain.

    luma  uint8 (H, W)
    """
    small = cv2.resize(luma, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA).astype(np.float32)
    if float(small.std()) < _PLAIN:
        return b""
    fine = small - cv2.GaussianBlur(small, (0, 0), _FINE)
    contrast = np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), _AROUND)) + _NOISE
    levels = np.clip(np.round(fine / contrast * _SCALE + 7.5), 0, 15).astype(np.uint8).ravel()
    return bytes(levels[::2] * 16 + levels[1::2])


def is_moved(before: bytes, now: bytes) -> bool | None:
    """Return True if the camera was moved, False if not, and None if the thumbnails do not show it.

    before, now  thumbnails from `backdrop_of`. Raises ValueError for another length.
    """
    if not before or not now:
        return None
    first = _levels(before)
    second = _levels(now)
    in_place = _correlation(first, second, 0, 0)
    down, across = _REACH
    shifts = itertools.product(range(-down, down + 1), range(-across, across + 1))
    best = max(_correlation(first, second, y, x) for y, x in shifts)
    is_shifted = best >= _SHIFTED and best - in_place >= _BETTER
    if is_shifted or in_place < _NOTHING:
        return True
    if in_place >= _SAME:
        return False
    return None


def _levels(packed: bytes) -> Levels:
    pairs = np.frombuffer(packed, np.uint8)
    if len(pairs) * 2 != ROWS * COLUMNS:
        size = ROWS * COLUMNS // 2
        raise ValueError(f"a backdrop must have {size} bytes or none, got {len(pairs)}")
    return np.stack([pairs >> 4, pairs & 15], 1).reshape(ROWS, COLUMNS).astype(np.float32)


def _correlation(first: Levels, second: Levels, y: int, x: int) -> float:
    """Return the correlation, -1..1, of the overlap if `second` is shifted by y rows, x columns."""
    a = first[max(0, y) : ROWS + min(0, y), max(0, x) : COLUMNS + min(0, x)]
    b = second[max(0, -y) : ROWS + min(0, -y), max(0, -x) : COLUMNS + min(0, -x)]
    a = a - a.mean()
    b = b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    if size == 0:
        return 0.0
    return float((a * b).sum()) / size
