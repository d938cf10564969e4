"""Blurred faces: nothing is left of them to know anybody by, and everything else stays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from framegate.models.detector.faces import FaceNetwork
from framegate.models.picture import Picture, read_photograph
from framegate.stages.draw.faces import FaceBlur, blurred

DATA = os.environ.get("FRAMEGATE_DATA")
HAS = Path(DATA or "", "images", "coco128", "000000000113.jpg")  # two faces

needs_data = pytest.mark.skipif(not HAS.is_file(), reason="FRAMEGATE_DATA has no images/coco128")


def noise(width: int, height: int) -> Picture:
    rng = np.random.default_rng(7)
    half = (height + 1) // 2, (width + 1) // 2
    planes = [rng.integers(0, 256, shape, np.uint8) for shape in ((height, width), half, half)]
    return Picture(*planes)


def test_a_face_is_smeared_and_the_rest_keeps_its_bytes() -> None:
    picture = noise(161, 97)
    made = blurred(picture, np.array([[60, 30, 90, 70]], np.float32))
    for before, after, of in (
        (picture.y, made.y, 1),
        (picture.u, made.u, 2),
        (picture.v, made.v, 2),
    ):
        face = np.s_[30 // of : 70 // of, 60 // of : 90 // of]
        # Noise whose neighbours have nothing to do with each other became smooth.
        steps = np.abs(np.diff(after[face].astype(int), axis=1))
        assert steps.max() <= 8 * of
        assert np.abs(np.diff(before[face].astype(int), axis=1)).mean() > 60
        around = np.ones(before.shape, bool)
        around[20 // of : 80 // of, 50 // of : 100 // of] = False
        assert (after[around] == before[around]).all()
    assert picture.y.base is not made.y.base


@pytest.mark.parametrize(
    "place", [[-20, -30, 12, 9], [150, 90, 190, 130], [0, 0, 161, 97], [200, 200, 210, 220]]
)
def test_a_face_at_or_over_the_edge_is_no_fault(place: list[float]) -> None:
    made = blurred(noise(161, 97), np.array([place], np.float32))
    assert (made.width, made.height) == (161, 97)


def test_of_a_large_face_less_is_left_than_of_a_stamp() -> None:
    picture = noise(400, 400)
    made = blurred(picture, np.array([[50, 50, 350, 350]], np.float32))
    inner = made.y[20:380, 20:380].astype(int)
    assert len(np.unique(inner)) < 30  # twenty means of noise, and what is between them


@needs_data
def test_the_network_knows_no_face_any_more_where_one_was() -> None:
    picture = read_photograph(HAS)
    before = FaceNetwork().faces(picture, min_score=0.4)
    made = FaceBlur().blurred(picture)
    after = FaceNetwork().faces(made, min_score=0.4)
    assert len(before) == 2
    assert len(after) == 0


def test_a_picture_without_faces_is_given_as_it_is() -> None:
    grey = np.full((90, 160), 128, np.uint8)
    picture = Picture(grey, grey[::2, ::2], grey[::2, ::2])
    assert FaceBlur().blurred(picture) is picture
