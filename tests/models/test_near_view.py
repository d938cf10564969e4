"""Whether two pictures are nearly the same: every cell decides; what is kept of one, as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import crops, gate
from models.boxes import Boxes
from models.cells import Cells, cells_of, grid_of
from models.crops import Look
from models.gate import GateSettings
from models.near_view import MOST_ON_SHELF, NearEntry, entry_of, nearest, view_of, with_row
from models.picture import Picture
from tests.models.gate_scenes import GRID, changed, scene

USING = GateSettings()
WHOLE = crops.whole(320, 192, 416)
PART = Look((64, 32, 224, 192))
THING = Boxes(
    np.array([(40, 40, 90, 120)], np.float32), np.full(1, 0.8, np.float32), np.zeros(1, np.int32)
)


# -- every cell decides


@given(st.integers(0, 2), st.floats(0, 1), st.floats(0, 1), st.integers(10, 60), st.booleans())
def test_one_cell_that_differs_by_the_bound_is_told(
    plane: int, down: float, across: float, by: int, brighter: bool
) -> None:
    """In levels of rounded means: what is below the bound by their rounding is told as well."""
    rows, columns = GRID.luma if plane == 0 else GRID.colour
    row, column = int(down * (rows - 1)), int(across * (columns - 1))
    then = scene()
    now = changed(then, plane, row, column, by if brighter else -by)
    assert not gate.alike(then.levels, now, USING)
    assert not gate.alike(now.levels, then, USING)


@given(st.integers(0, 100))
def test_noise_below_the_bound_is_alike(seed: int) -> None:
    then = scene()
    noise = np.random.default_rng(seed).integers(-2, 3, GRID.cells)
    assert gate.alike(then.levels, Cells(GRID, (then.levels + noise).astype(np.uint8)), USING)


@pytest.mark.parametrize(
    ("gain", "shift", "is_alike"), [(1, 6, True), (1.03, 2, True), (1, 12, False), (1.2, 0, False)]
)
def test_another_exposure_is_explained_up_to_its_bound(
    gain: float, shift: float, is_alike: bool
) -> None:
    then, now = scene(), scene(gain=gain, shift=shift)
    assert gate.alike(then.levels, now, USING) == is_alike
    assert not gate.alike(then.levels, changed(now, 0, 7, 9, 12), USING)


def test_thresholds_of_zero_are_never_alike() -> None:
    never = GateSettings(tau_first=0, tau_least=0, tau_most=0)
    assert not gate.alike(scene().levels, scene(), never)


@given(
    st.sampled_from([(640, 360), (333, 201), (1920, 1080)]),
    st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(1, 8), st.integers(1, 8)),
    st.integers(0, 10**6),
)
def test_a_view_has_every_pixel_that_its_look_shows(
    size: tuple[int, int], at: tuple[int, int, int, int], seed: int
) -> None:
    """By trial: a square of one cell anywhere inside the look changes what the view shows."""
    full = crops.whole(*size, 416).rect[2:]
    left, top = min(32 * at[0], full[0] - 32), min(32 * at[1], full[1] - 32)
    rect = left, top, min(left + 32 * at[2], full[0]), min(top + 32 * at[3], full[1])
    look = Look(rect)
    area = crops.looked_at(look, size, 416)
    if (area[2:] - area[:2] < 1).any():
        return  # all padding
    grid = grid_of(*size)
    x = int(area[0] + (seed % 997) / 997 * (area[2] - area[0]))
    y = int(area[1] + (seed % 991) / 991 * (area[3] - area[1]))
    side = 2 * grid.cell
    luma = np.full((size[1], size[0]), 50, np.uint8)
    half = np.full(((size[1] + 1) // 2, (size[0] + 1) // 2), 128, np.uint8)
    without = view_of(cells_of(Picture(luma, half, half), grid), look, 416, b"")
    luma = luma.copy()
    luma[y : y + side, x : x + side] = 200
    with_it = view_of(cells_of(Picture(luma, half, half), grid), look, 416, b"")
    assert (with_it.cells.levels != without.cells.levels).any()
    assert with_it.cells.grid == without.cells.grid


def test_a_view_of_the_whole_is_all_cells() -> None:
    view = view_of(scene(), WHOLE, 416, b"")
    assert view.cells.grid == GRID
    assert (view.cells.levels == scene().levels).all()


# -- bytes


@given(st.binary(max_size=80))
def test_other_bytes_are_no_entry(data: bytes) -> None:
    assert entry_of(data, GRID) is None


def test_an_entry_survives_its_bytes_and_nothing_else() -> None:
    data = NearEntry(1234.5, scene().levels, THING).to_bytes()
    back = entry_of(data, GRID)
    assert back is not None
    assert (back.made, back.boxes.xyxy.tolist()) == (1234.5, THING.xyxy.tolist())
    assert (back.levels == scene().levels).all()
    assert entry_of(data, grid_of(640, 360)) is None
    for at in (0, 9, 20, 100, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 1
        assert entry_of(bytes(damaged), GRID) is None


def test_a_shelf_holds_the_last_views_and_ranks_them() -> None:
    views = [view_of(scene(seed), WHOLE, 416, b"") for seed in range(MOST_ON_SHELF + 9)]
    shelf = b""
    for view in views:
        shelf = with_row(shelf, view)
    assert nearest(shelf, views[-1], 3)[0] == views[-1].key
    bright = view_of(scene(100, shift=7), WHOLE, 416, b"")
    assert nearest(shelf, bright, 1) == [views[100].key]
    every = set(nearest(shelf, views[0], 10**6))
    assert every == {view.key for view in views[-MOST_ON_SHELF:]}
    assert nearest(shelf + b"x", views[0], 3) == []


def test_a_shelf_is_of_one_place_one_size_and_one_detector() -> None:
    shelves = {
        view_of(scene(), look, side, facts).shelf
        for look in (WHOLE, PART)
        for side, facts in ((416, b""), (416, b"other weights"))
    }
    assert len(shelves) == 4
