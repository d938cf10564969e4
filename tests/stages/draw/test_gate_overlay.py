"""What the gate saw stands where it was seen, at any size, in any picture; nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.models.picture import Picture
from framegate.pipeline.contracts.results import GateView, Object
from framegate.stages.draw.gate_overlay import (
    FADING,
    GateOverlay,
    draw,
    draw_sensitivity,
    hot_tiles,
    words_of,
)
from tests.stages.draw.test_objects import plain

SIZE = (320, 200)  # 20 x 12.5 tiles of 16 pixels


def gate(hot=(), looked=(), tenths: int | None = None, size=SIZE, tile: int = 16) -> GateView:
    columns, rows = -(-size[0] // tile), -(-size[1] // tile)
    tiles = np.zeros((rows, columns), np.bool_)
    for row, column in hot:
        tiles[row, column] = True
    levels = b"" if tenths is None else bytes([tenths]) * (rows * columns)
    return GateView(columns, rows, tile, np.packbits(tiles).tobytes(), tuple(looked), levels)


def changed(before: Picture, after: Picture) -> np.ndarray:
    return before.y != after.y


def test_tiles_that_changed_are_tinted_and_edged():
    before = plain(160, 100)  # half of the source's size: tiles of 8 pixels
    look = GateOverlay(gate(hot=[(2, 3), (2, 4)]), "no", "waiting", SIZE)
    assert list(zip(*np.nonzero(hot_tiles(look.gate)), strict=True)) == [(2, 3), (2, 4)]
    after = draw(before, [], look)
    expected = np.zeros((100, 160), np.bool_)
    expected[16:24, 24:40] = True
    assert (changed(before, after) == expected).all()
    edge, inside = after.y[16, 30], after.y[20, 32]  # between the two tiles there is no edge
    assert edge > inside > before.y[0, 0]
    assert after.v[10, 14] > 128 > after.u[10, 14]  # amber
    assert (before.y == 100).all()


def test_what_changed_before_fades():
    before = plain(*SIZE)
    first, other_grid = gate(hot=[(2, 3)]), gate(hot=[(0, 0)], tile=32)
    seen = [
        draw(before, [], GateOverlay(gate(), "no", "unchanged", SIZE, (*[other_grid] * n, first)))
        for n in range(FADING)
    ]
    tints = [int(picture.y[40, 56]) - 100 for picture in seen]
    assert tints == sorted(tints, reverse=True)
    assert tints[0] > tints[-1] > 0
    assert [changed(before, picture)[:100].sum() for picture in seen] == [16 * 16] * FADING


def test_what_was_looked_at_is_framed_and_the_whole_picture_at_its_border():
    before = plain(160, 100)
    part = draw(before, [], GateOverlay(gate(looked=[(64, 64, 192, 128)]), "part", "changed", SIZE))
    rows, columns = np.nonzero(changed(before, part))
    around = 1  # the shadow of a corner
    assert (rows.min(), rows.max()) == (32 - around, 64 - 1 + around)
    assert (columns.min(), columns.max()) == (32 - around, 96 - 1 + around)
    assert not changed(before, part)[40:56, 40:88].any()
    whole = draw(before, [], GateOverlay(gate(), "whole", "frame_age", SIZE))
    assert not changed(before, whole).any()  # a frame around everything points at nothing


def test_a_first_picture_is_not_tinted_all_over_nor_those_after_it():
    before = plain(160, 100)
    everything = gate(hot=[(row, column) for row in range(13) for column in range(20)])
    first = draw(before, [], GateOverlay(everything, "whole", "first", SIZE))
    assert not changed(before, first).any()
    after = draw(before, [], GateOverlay(gate(), "no", "unchanged", SIZE, (everything,)))
    assert not changed(before, after).any()


@pytest.mark.parametrize("size", [(320, 240), (640, 272), (1920, 1080)])
def test_a_legend_stands_at_the_lower_left_and_labels_leave_it_free(size):
    width, height = size
    before = plain(*size)
    look = GateOverlay(gate(tenths=40), "no", "unchanged", SIZE)
    drawn = draw(before, [], look)
    rows, columns = np.nonzero(changed(before, drawn)[:, : width // 2])
    panel = rows.min(), columns.max() + 1
    assert (rows.min() > height / 2, columns.max() < width / 2) == (True, True)
    teal = drawn.u[panel[0] // 2 :, : panel[1] // 2].astype(int)
    amber = drawn.v[panel[0] // 2 :, : panel[1] // 2].astype(int)
    assert (teal.max() > 134, amber.max() > 140) == (True, True)
    crowd = [
        Object(n, "person", 0, 0.5, (4.0 * n, height - 60.0, 4.0 * n + 30, height - 2.0), "carried")
        for n in range(1, 20)
    ]
    with_crowd = draw(before, crowd, look)
    text = np.s_[panel[0] + 2 : height - 8, 8 : panel[1] - 8]
    inside = changed(drawn, with_crowd)[text]
    assert inside.mean() < 0.35  # boxes go on under the glass; no label is over it


@pytest.mark.parametrize(("origin", "dashed"), [("detected", False), ("carried", True)])
def test_objects_that_were_not_looked_at_are_dashed(origin, dashed):
    before = plain(160, 100)
    thing = Object(1, "car", 2, 0.5, (40.0, 40.0, 140.0, 90.0), origin)
    after = draw(before, [thing], GateOverlay(gate(), "no", "unchanged", SIZE))
    line = changed(before, after)[89, 40:140]
    assert line.all() != dashed
    assert line[[0, -1]].all()
    if not dashed:
        assert (after.y == draw(before, [thing]).y).all()


@pytest.mark.parametrize(
    ("looked", "reason", "words"),
    [
        ("no", "unchanged", "not looked at: unchanged"),
        ("whole", "frame_age", "looked at everything: frame age"),
        ("part", "changed", "looked at 25%: changed"),
    ],
)
def test_words(looked, reason, words):
    rects = [(0, 0, 160, 100), (80, 0, 160, 100)] if looked == "part" else []
    assert words_of(GateOverlay(gate(looked=rects), looked, reason, SIZE)) == words


def test_the_map_is_dark_where_little_is_seen_and_has_its_place():
    before = plain(640, 400)
    dark, bright = (draw_sensitivity(before, gate(tenths=n), SIZE).y[:200] for n in (40, 200))
    assert dark.max() < before.y[0, 0] < bright.min()
    assert (draw_sensitivity(before, gate(), SIZE).y == before.y).all()
    shown = [
        draw(before, [], GateOverlay(gate(tenths=n), "no", "unchanged", SIZE)) for n in (40, 200)
    ]
    rows, columns = np.nonzero(changed(*shown))
    assert (rows.min() > 200, columns.min() > 440) == (True, True)


def test_a_small_picture_has_no_map_in_it():
    shown = [
        draw(plain(*SIZE), [], GateOverlay(gate(tenths=n), "no", "unchanged", SIZE))
        for n in (40, 200)
    ]
    assert not changed(*shown).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 300), st.booleans(), st.data())
def test_any_size_can_be_drawn(width, height, full, data):
    edge = st.integers(-50, 700)
    rects = data.draw(st.lists(st.tuples(edge, edge, edge, edge), max_size=3))
    seen = gate(hot=[(0, 0), (5, 7)], looked=rects, tenths=255)
    picture = plain(width, height, full_range=full)
    drawn = draw(picture, [], GateOverlay(seen, "part", "changed", SIZE))
    assert drawn.y.shape == draw_sensitivity(picture, seen, SIZE).y.shape == (height, width)
