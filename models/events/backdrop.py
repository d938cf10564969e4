"""A small picture of what a camera looks at, and whether another one shows the same view.

An area that was drawn on a picture means nothing once the camera was moved. Light, weather and who
walks there change a picture, too; its edges lie where they lay. So of a picture brought down to
18x32 the fine structure is kept, each place by its own contrast, and a view counts as another one
where the same structure lies elsewhere in it, or where none of it is left.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import ByteArray

ROWS, COLUMNS = 18, 32
_PLAIN: Final = 6.0  # levels of 256: who deviates by less is night, fog, or a covered lens
_FINE: Final = 1.5  # places over which structure is fine,
_AROUND: Final = 2.0  # and those over which its contrast is taken
_NOISE: Final = 2.0  # levels of contrast that are none
_SCALE: Final = 4.0  # so that most of it falls into 0..15
_REACH: Final = (6, 10)  # rows and columns by which a view is looked for elsewhere
_SAME: Final = 0.3  # likeness from which it is the same view, if it is nowhere liker
_FOUND: Final = 0.4  # from which it is found elsewhere,
_BETTER: Final = 0.15  # if it is so much liker there
_NOTHING: Final = 0.15  # below which nothing of it is where it was

Levels = npt.NDArray[np.float32]


def backdrop_of(luma: ByteArray) -> bytes:
    """What a picture shows, in 288 bytes; none where it is too plain to be known again.

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
    """Whether a camera looks elsewhere than it did; None: nobody can say.

    before, now  of backdrop_of. ValueError for bytes of another length
    """
    if not before or not now:
        return None
    one, other = _levels(before), _levels(now)
    here = _likeness(one, other, 0, 0)
    down, across = _REACH
    best = max(
        _likeness(one, other, y, x)
        for y in range(-down, down + 1)
        for x in range(-across, across + 1)
    )
    if (best >= _FOUND and best - here >= _BETTER) or here < _NOTHING:
        return True
    return False if here >= _SAME else None


def _levels(packed: bytes) -> Levels:
    pairs = np.frombuffer(packed, np.uint8)
    if len(pairs) * 2 != ROWS * COLUMNS:
        raise ValueError(f"{len(pairs)} bytes; allowed are {ROWS * COLUMNS // 2}, or none")
    return np.stack([pairs >> 4, pairs & 15], 1).reshape(ROWS, COLUMNS).astype(np.float32)


def _likeness(one: Levels, other: Levels, y: int, x: int) -> float:
    """Correlation, -1..1, of what both show if the second view lies y rows and x columns on."""
    a = one[max(0, y) : ROWS + min(0, y), max(0, x) : COLUMNS + min(0, x)]
    b = other[max(0, -y) : ROWS + min(0, -y), max(0, -x) : COLUMNS + min(0, -x)]
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0
