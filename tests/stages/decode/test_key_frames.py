"""Key frames are compared with the gate's settings, and only noise raises their thresholds."""

from __future__ import annotations

import numpy as np

from framegate.models.gate.settings import settings_of
from framegate.models.picture import Picture
from framegate.stages.decode.key_frames import KeyFrames

ROWS, COLUMNS = 96, 128


def room(levels: int = 0) -> Picture:
    """A picture from dark to bright, with a square that is brighter by so many levels."""
    y = np.repeat(np.arange(ROWS, dtype=np.uint8)[:, None] + 60, COLUMNS, 1)
    y[32:64, 32:64] += np.uint8(levels)
    grey = np.full((ROWS // 2, COLUMNS // 2), 128, np.uint8)
    return Picture(y, grey, grey, full_range=False)


def seen(keys: KeyFrames, levels: int, *, is_noise: bool = False) -> bool:
    """Whether the next key frame, with such a square, is alike."""
    return keys.is_alike(room(levels), lambda: is_noise)


def test_the_levels_of_the_gate_count() -> None:
    default, high, low = (None, None, 9, True), (30.0, 40.0, 20, True), (7.0, 7.0, 9, False)
    for least, most, levels, is_alike in (default, high, low):
        keys = KeyFrames(settings=settings_of(least, most))
        assert not seen(keys, 0)  # the first
        assert seen(keys, 0)
        assert seen(keys, levels) is is_alike


def test_only_noise_raises_the_threshold() -> None:
    for is_noise in (False, True):
        keys = KeyFrames()
        seen(keys, 0)
        for _ in range(4):
            seen(keys, 40, is_noise=is_noise)
            seen(keys, 0, is_noise=is_noise)
        assert seen(keys, 20) is is_noise


def test_whether_it_is_noise_is_asked_before_the_key_frame_is_remembered() -> None:
    keys = KeyFrames()
    seen(keys, 0)
    asked = []

    def may_learn() -> bool:
        asked.append(keys.differs(room(40)))
        return False

    assert not keys.is_alike(room(40), may_learn)
    assert asked == [True]
    assert keys.is_alike(room(40), may_learn)
    assert asked == [True]
