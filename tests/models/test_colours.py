"""The colour names of boxes, for pictures of one colour made by a library."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from framegate.models.colours import NAMES, SAMPLES, counts
from framegate.models.picture import Picture

EXAMPLES = {
    "black": (10, 10, 10), "grey": (128, 128, 128), "white": (245, 245, 245), "red": (200, 20, 20),
    "orange": (240, 130, 10), "yellow": (240, 220, 20), "green": (30, 150, 40),
    "blue": (30, 60, 190), "purple": (110, 30, 170), "pink": (240, 160, 185),
    "brown": (110, 60, 25),
}  # fmt: skip


def picture_of(rgb: tuple[int, int, int]) -> Picture:
    """Return a picture of one colour, BT.601 in full range, as OpenCV converts it."""
    planes = cv2.cvtColor(np.full((32, 32, 3), rgb, np.uint8), cv2.COLOR_RGB2YCrCb)
    y, red, blue = (np.ascontiguousarray(planes[..., n]) for n in range(3))
    half = (slice(None, None, 2), slice(None, None, 2))
    return Picture(y, blue[half].copy(), red[half].copy(), "bt601", True)


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_colour_has_its_name(name: str) -> None:
    boxes = np.array([[0, 0, 32, 32], [20, 20, 90, 90]], np.float32)
    found = counts(picture_of(EXAMPLES[name]), boxes)
    assert found.shape == (2, len(NAMES))
    assert found[:, NAMES.index(name)].tolist() == [SAMPLES**2] * 2


def test_what_is_around_an_object_does_not_count() -> None:
    picture = picture_of(EXAMPLES["green"])
    planes = [plane.copy() for plane in (picture.y, picture.u, picture.v)]
    inside = picture_of(EXAMPLES["red"])
    for plane, other, step in zip(planes, (inside.y, inside.u, inside.v), (1, 2, 2), strict=True):
        middle = slice(8 // step, 24 // step)
        plane[middle, middle] = other[middle, middle]
    mixed = Picture(*planes, "bt601", True)
    (found,) = counts(mixed, np.array([[4, 4, 28, 28]], np.float32))
    assert found[NAMES.index("red")] == SAMPLES**2


def test_an_upright_box_has_the_colour_of_its_upper_part() -> None:
    picture = picture_of(EXAMPLES["blue"])
    planes = [plane.copy() for plane in (picture.y, picture.u, picture.v)]
    shirt = picture_of(EXAMPLES["yellow"])
    for plane, other, step in zip(planes, (shirt.y, shirt.u, shirt.v), (1, 2, 2), strict=True):
        plane[: 16 // step] = other[: 16 // step]
    person, car = np.array([[10, 0, 20, 32], [0, 0, 32, 32]], np.float32)
    mixed = Picture(*planes, "bt601", True)
    found = counts(mixed, np.stack([person, car]))
    assert found[0, NAMES.index("yellow")] == SAMPLES**2
    assert found[1, NAMES.index("yellow")] == SAMPLES**2 // 2
