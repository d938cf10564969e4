"""A camera that was moved is told from light, noise and who walks there."""

from __future__ import annotations

import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from framegate.models.backdrop import backdrop_of, is_moved
from framegate.models.picture import ByteArray

DATA = os.environ.get("FRAMEGATE_DATA")


def scene(seed: int = 0) -> ByteArray:
    """A street as made of boxes, uint8 (540, 960)."""
    rng = np.random.default_rng(seed)
    picture = np.full((540, 960), 120, np.uint8)
    for _ in range(60):
        x, y, w, h = rng.integers((0, 0, 20, 20), (900, 500, 200, 120))
        picture[y : y + h, x : x + w] = rng.integers(20, 235)
    return cv2.GaussianBlur(picture, (0, 0), 2)


def cut(picture: ByteArray, across: float, down: float = 0.0) -> ByteArray:
    """Four fifths of a picture, from so far right and down of its middle, in parts of it."""
    height, width = picture.shape
    x, y = round(width * (0.1 + across)), round(height * (0.1 + down))
    return np.ascontiguousarray(picture[y : y + height * 4 // 5, x : x + width * 4 // 5])


@pytest.mark.parametrize("seed", range(5))
def test_a_moved_camera(seed: int) -> None:
    whole = scene(seed)
    here = backdrop_of(cut(whole, 0.0))
    assert len(here) == 288
    for across, down in ((0.06, 0.0), (-0.08, 0.0), (0.0, 0.08), (0.1, -0.06)):
        assert is_moved(here, backdrop_of(cut(whole, across, down))) is True
    assert is_moved(here, backdrop_of(cut(scene(seed + 100), 0.0))) is True, "another place"


@pytest.mark.parametrize("seed", range(5))
def test_light_noise_and_people_are_none(seed: int) -> None:
    whole = cut(scene(seed), 0.0)
    here, rng = backdrop_of(whole), np.random.default_rng(seed)
    noisy = np.clip(whole + rng.normal(0, 12, whole.shape), 0, 255).astype(np.uint8)
    people = whole.copy()
    for _ in range(4):
        x, y = rng.integers(0, 650), rng.integers(0, 300)
        people[y : y + 120, x : x + 45] = 30
    sun = np.clip(whole * np.linspace(0.5, 1.3, whole.shape[1]), 0, 255).astype(np.uint8)
    for now in (whole // 2, noisy, people, sun, np.uint8(255) - np.uint8(128) + whole // 2):
        assert is_moved(here, backdrop_of(now)) is False


def test_a_covered_lens_or_night_says_nothing() -> None:
    dark = backdrop_of(np.full((540, 960), 9, np.uint8))
    assert dark == b""
    assert is_moved(backdrop_of(scene()), dark) is None
    with pytest.raises(ValueError, match="must have 288 bytes"):
        is_moved(b"12", b"12")


@pytest.mark.skipif(not DATA, reason="FRAMEGATE_DATA names no folder with the clips")
@pytest.mark.parametrize("clip", ["pets2001-campus", "one-by-one-person-detection"])
def test_real_cameras_that_stand_still(clip: str) -> None:
    """Clouds, parked cars, and people as tall as the picture: a picture in each five seconds."""
    lumas = []
    with av.open(Path(str(DATA)) / "clips" / f"{clip}.mp4") as file:
        for n, frame in zip(range(1200), file.decode(video=0), strict=False):
            if n % 128 == 0:
                lumas.append(frame.to_ndarray(format="gray"))
    first, here = backdrop_of(lumas[0]), backdrop_of(cut(lumas[0], 0.0))
    assert [is_moved(first, backdrop_of(luma)) for luma in lumas] == [False] * len(lumas)
    turned = [is_moved(here, backdrop_of(cut(luma, 0.08))) for luma in lumas]
    assert turned.count(True) >= len(lumas) - 2, "people may hide what was there"
