"""Boxes and labels are drawn where they belong, in the colour of their track, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from framegate.pipeline.contracts.results import Object
from framegate.stages.draw.canvas import Canvas, capitals_on
from framegate.stages.draw.gate_overlay import draw
from framegate.stages.draw.objects import (
    TRACE_S,
    Trails,
    colour_of,
    letters_on,
    place_labels,
    words_of,
)
from tests.support.drawn import plain, thing

SIZES = [(160, 130), (320, 240), (640, 272), (1280, 720), (1920, 1080), (3840, 2160)]


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


def test_what_a_label_says() -> None:
    texts = words_of(thing((0, 0, 1, 1), track=12))
    assert texts == ("person #12 0.87", "person #12", "person")
    assert words_of(thing((0, 0, 1, 1), track=None, score=0.5))[0] == "person 0.50"


def test_letters_grow_with_the_picture() -> None:
    heights = [capitals_on(plain(*size)) for size in SIZES]
    assert heights == sorted(heights)
    assert heights[0] >= 7  # smaller ones cannot be read
    assert heights[-1] > 5 * heights[1]


@pytest.mark.parametrize("size", SIZES)
def test_a_label_of_one_object_says_all_and_takes_a_small_part(size) -> None:
    width, height = size
    canvas = Canvas.of(plain(*size))
    box = (width * 0.3, height * 0.3, width * 0.6, height * 0.9)
    (label,) = place_labels(canvas, [thing(box, 12)])
    left, top, right, bottom = label.place
    assert label.text == "person #12 0.87"
    assert (right - left) * (bottom - top) < 0.08 * width * height
    assert (left, bottom) == (round(box[0]), round(box[1]))  # on the box's upper edge


def overlap(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_labels_of_a_crowd_cover_neither_each_other_nor_what_is_taken(size, seed) -> None:
    width, height = size
    rng = np.random.default_rng(seed)
    objects = []
    for track in range(1, 31):
        x, y = rng.uniform(-0.1, 1, 2) * size
        wide, high = rng.uniform(0.02, 0.3, 2) * size
        objects.append(thing((x, y, x + wide, y + high), track, "traffic light"))
    taken = [(0, height - height // 5, width // 3, height)]
    labels = place_labels(Canvas.of(plain(*size)), objects, taken)
    places = [label.place for label in labels]
    for n, place in enumerate(places):
        assert not any(overlap(place, other) for other in (*places[:n], *taken))
        assert (place[0] >= 0, place[1] >= 0) == (True, True)
        assert (place[2] <= width, place[3] <= height) == (True, True)
    assert len(labels) > 10 or width < 640


def test_who_has_no_room_says_less() -> None:
    canvas = Canvas.of(plain(320, 240))
    places = [(40 * column, 40 * row) for row in range(6) for column in range(8)]
    crowd = [thing((x, y, x + 38, y + 38), n) for n, (x, y) in enumerate(places)]
    texts = [label.text for label in place_labels(canvas, crowd)]
    assert texts.count("person") > len(texts) / 2 > 10
    far = place_labels(canvas, [crowd[0], crowd[-1]])
    assert [label.text for label in far] == ["person #0 0.87", "person #47 0.87"]


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_letters_have_a_contrast_of_at_least_4_5() -> None:
    for track in (None, *range(1, 200)):
        lights = sorted(luminance(c) for c in (colour_of(track), letters_on(colour_of(track))))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


def walked(trails: Trails, seconds: float, fps: float = 25, per_s: float = 60) -> Object:
    """A person who walks to the right from (20, 200), at `per_s` pixels a second."""
    for n in range(round(seconds * fps) + 1):
        x = 20 + per_s * n / fps
        here = thing((x - 10, 140, x + 10, 200))
        trails.add([here], n / fps)
    return here


def test_a_trace_leads_to_the_object_and_fades() -> None:
    trails = Trails()
    here = walked(trails, 2)
    points = trails.of(here)
    assert points[0].tolist() == pytest.approx([20, 200, 2 / TRACE_S], abs=6)
    assert points[-1].tolist() == [140, 200, 0]
    assert (np.diff(points[:, 2]) < 0).all()
    before = plain(320, 240)
    drawn = draw(before, [here], trails=trails)
    ink = Canvas.of(before).ink(colour_of(1))
    line = np.abs(drawn.y[200, 24:126].astype(int) - before.y[200, 24:126])
    assert line[-8:].mean() > 2 * line[:8].mean() > 0
    assert abs(int(drawn.v[100, 60]) - ink[2]) < abs(128 - ink[2])
    assert (draw(before, [here]).y[200, 24:120] == 100).all()


def test_a_trace_is_of_the_last_seconds_and_bounded() -> None:
    trails = Trails()
    for fps in (5, 25, 120):
        points = trails.of(walked(trails, 10, fps))
        assert points[0, 2] == pytest.approx(1, abs=0.3 / TRACE_S)
        assert len(points) <= 48


def test_what_stands_has_no_trace_and_an_epoch_begins_anew() -> None:
    trails = Trails()
    assert len(trails.of(walked(trails, 3, per_s=0.5))) == 0
    here = walked(trails, 3)
    trails.add([here], 0.0)
    assert len(trails.of(here)) == 0
    assert len(trails.of(thing(here.box, None))) == len(trails.of(thing(here.box, 99))) == 0


@pytest.mark.parametrize("box", [(150, 100, 170, 112), (2, 2, 22, 20), (300, 225, 318, 238)])
def test_a_label_does_not_cover_the_small_object_that_it_names(box) -> None:
    canvas = Canvas.of(plain(320, 240))
    for label in place_labels(canvas, [thing(box, 12)]):
        left, top, right, bottom = label.place
        wide = min(right, box[2]) - max(left, box[0])
        high = min(bottom, box[3]) - max(top, box[1])
        covered = max(0, wide) * max(0, high)
        assert covered <= 0.4 * (box[2] - box[0]) * (box[3] - box[1])
