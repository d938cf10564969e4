"""What is pooled over a region is the mean of what it covers, whatever input it comes from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.models import boxes
from framegate.models.boxes import Boxes
from framegate.models.detector import detector
from framegate.models.detector.member import Features
from framegate.models.errors import ArrayMismatch
from framegate.models.gate.crops import Crop, whole
from framegate.models.picture import from_bgr
from framegate.models.window import features
from framegate.models.window.features import LENGTH, RegionFeatures, regions

Array = npt.NDArray[np.float32]
RNG = np.random.default_rng(5)
C3 = RNG.standard_normal((128, 16, 24)).astype(np.float32)
P4 = RNG.standard_normal((128, 8, 12)).astype(np.float32)
WHOLE = Features(C3, P4, (0, 0), (0.5, 0.5))  # 384x256 source pixels, 192x128 of the model


def expected(xyxy: tuple[float, ...]) -> Array:
    """Cell by cell, level by level, brought to unit length."""
    halves = []
    for cells, stride in ((C3, 8), (P4, 16)):
        left, top, right, bottom = (edge * 0.5 / stride for edge in xyxy)
        total = np.zeros(128)
        for row in range(cells.shape[1]):
            for column in range(cells.shape[2]):
                wide = min(right, column + 1) - max(left, column)
                high = min(bottom, row + 1) - max(top, row)
                total += max(wide, 0) * max(high, 0) * cells[:, row, column]
        halves.append(total / np.linalg.norm(total))
    return (np.concatenate(halves) / np.sqrt(2)).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 370), st.integers(0, 240), st.integers(2, 200), st.integers(2, 200))
def test_a_box_is_the_mean_of_what_it_covers(x: int, y: int, w: int, h: int) -> None:
    box = (x, y, min(x + w, 384), min(y + h, 256))
    found = regions(WHOLE, np.array([box], np.float32)).boxes
    np.testing.assert_allclose(found[0], expected(box), atol=2e-3)


def test_a_tile_is_the_mean_of_what_it_covers() -> None:
    tiles = regions(WHOLE, np.zeros((0, 4), np.float32)).tiles
    assert tiles.shape == (4, 6, LENGTH)
    np.testing.assert_allclose(tiles[2, 5], expected((320, 128, 384, 192)), atol=2e-3)


def test_a_part_of_the_maps_says_the_same_of_what_lies_in_it() -> None:
    part = Features(C3[:, 4:12, 8:20].copy(), P4[:, 2:6, 4:10].copy(), (64, 32), (0.5, 0.5))
    box = np.array([[150, 90, 290, 170]], np.float32)
    ours, theirs = regions(part, box), regions(WHOLE, box)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
    np.testing.assert_array_equal(ours.tiles, theirs.tiles[1:3, 2:5])


def test_boxes_without_area_or_outside_still_have_a_finite_mean() -> None:
    odd = np.array([[10, 10, 10, 10], [384, 256, 384, 256], [-50, -9, -2, -1]], np.float32)
    found = regions(WHOLE, odd).boxes.astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)


def test_no_boxes() -> None:
    assert regions(WHOLE, np.zeros((0, 4), np.float32)).boxes.shape == (0, LENGTH)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArrayMismatch, match="c3 and p4 of one input"):
        regions(Features(C3, P4[:, :, :10], (0, 0), (1, 1)), np.zeros((0, 4), np.float32))
    with pytest.raises(ArrayMismatch, match="loaded with features"):
        features.read(boxes.empty(), None)
    half = np.zeros((1, LENGTH), np.float16)
    with pytest.raises(ArrayMismatch, match="multiples of 32"):
        RegionFeatures(half, half[None], (16, 0))


def test_the_detector_gives_them_with_its_boxes() -> None:
    """Same boxes as without; twice the same bits; C3, which sees little around a tile, is the same
    in a part.
    """
    light = detector.load("light", "f32", min_score=0.1, features=True)
    coarse = RNG.integers(0, 255, (8, 13, 3), np.uint8)
    picture = from_bgr(coarse.repeat(32, axis=0).repeat(32, axis=1))
    looks = (whole(416, 256, 416), whole(416, 256, 416), Crop((128, 64, 320, 224)))
    first, again, part = light.look_with_features(picture, looks, features.read)
    plain = light.detect([picture])[0]
    _same(first[0], plain)
    assert first[1].tiles.shape == (8, 13, LENGTH)
    assert len(first[1].boxes) == len(plain)
    np.testing.assert_array_equal(first[1].tiles, again[1].tiles)
    np.testing.assert_array_equal(first[1].boxes, again[1].boxes)
    inner = part[1].tiles[1:4, 1:5, :128].astype(np.float32)
    there = first[1].tiles[3:6, 5:9, :128].astype(np.float32)
    np.testing.assert_allclose((inner * there).sum(axis=-1), 0.5, atol=2e-3)


def _same(ours: Boxes, theirs: Boxes) -> None:
    np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
