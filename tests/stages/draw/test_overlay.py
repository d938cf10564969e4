"""Boxes and labels are drawn where they belong, in the colour of their track, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from framegate.models.picture import Picture
from framegate.pipeline.records import Object
from framegate.stages.draw.canvas import Canvas, colour_of, draw, label_of


def plain(width: int, height: int, y: int = 100, matrix="bt601", full_range=False) -> Picture:
    half = (height + 1) // 2, (width + 1) // 2
    return Picture(
        np.full((height, width), y, np.uint8),
        np.full(half, 128, np.uint8),
        np.full(half, 128, np.uint8),
        matrix,
        full_range,
    )


def thing(box, track: int | None = 1, label: str = "person", score: float = 0.87) -> Object:
    return Object(track, label, 0, score, box, "detected")


def test_drawing_changes_only_what_is_under_box_and_label():
    before = plain(320, 240)
    after = draw(before, [thing((100, 100, 180, 200))])
    changed = after.y != before.y
    assert changed[100, 100:180].all()
    assert changed[199, 100:180].all()
    assert changed[100:200, 100].all()
    assert changed[100:200, 179].all()
    assert not changed[102:198, 102:178].any()
    assert not changed[202:].any()
    assert not changed[:80].any()
    assert (before.y == 100).all()


@pytest.mark.parametrize(
    "box",
    [
        (-50, -20, 20, 30),
        (300, 220, 400, 300),
        (0, 0, 320, 240),
        (-9e9, -9e9, 9e9, 9e9),
        (5, 5, 5, 5),
    ],
)
@pytest.mark.parametrize("size", [(320, 240), (33, 17), (1, 1)])
def test_boxes_and_labels_at_and_beyond_the_border_are_clipped(box, size):
    drawn = draw(plain(*size), [thing(box, label="a very long label of a thing")])
    assert (drawn.width, drawn.height) == size


@pytest.mark.parametrize("box", [(0, 0, 60, 60), (280, 2, 319, 60), (300, 230, 319, 239)])
def test_a_label_stays_inside_the_picture(box):
    before = plain(320, 240)
    with_long = draw(before, [thing(box, label="person")])
    ink = Canvas.of(before).ink(colour_of(1))[0]
    columns = np.flatnonzero((with_long.y == ink).sum(axis=0) > 3)
    assert columns[-1] - columns[0] > 60


def test_a_track_keeps_its_colour_and_neighbours_differ():
    colours = [np.array(colour_of(track)) for track in range(1, 9)]
    assert colour_of(5) == colour_of(5)
    apart = [np.abs(a - b).max() for i, a in enumerate(colours) for b in colours[:i]]
    assert min(apart) > 0.1


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((1, 0, 0), (81, 90, 240)),
        ((0, 1, 0), (145, 54, 34)),
        ((0, 0, 1), (41, 240, 110)),
        ((1, 1, 1), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
    ],
)
def test_ink_is_that_of_the_colour_bars_of_bt601(colour, expected):
    assert Canvas.of(plain(8, 8)).ink(colour) == expected


def test_what_a_label_says():
    assert label_of(thing((0, 0, 1, 1), track=12)) == "person #12 0.87"
    assert label_of(thing((0, 0, 1, 1), track=None, score=0.5)) == "person 0.50"
