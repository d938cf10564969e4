"""Cells are the means of small squares, wherever a picture ends, and tiles are four by four."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.models.errors import ArrayMismatch
from framegate.models.gate.cells import (
    Cells,
    Grid,
    cells_of,
    cells_of_tiles,
    grid_of,
    planes,
    tile_maxima,
    tile_spans,
    tiles_of,
)
from framegate.models.picture import Picture

sides = st.integers(1, 70)


def noise(width: int, height: int, seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    half = (height + 1) // 2, (width + 1) // 2
    y, u, v = (rng.integers(0, 256, shape, np.uint8) for shape in ((height, width), half, half))
    return Picture(y, u, v)


def plain_means(plane: np.ndarray, side: int) -> np.ndarray:
    """Float means, each last square ending with the plane, which is repeated where too small."""
    missing = [(0, max(0, side - length)) for length in plane.shape]
    plane = np.pad(plane, missing, "edge").astype(float)
    starts = [[min(at, length - side) for at in range(0, length, side)] for length in plane.shape]
    return np.array(
        [[plane[y : y + side, x : x + side].mean() for x in starts[1]] for y in starts[0]]
    )


@settings(max_examples=40, deadline=None)
@given(width=sides, height=sides, cell=st.sampled_from([4, 8, 16]), seed=st.integers(0, 99))
def test_cells_are_means_that_miss_by_no_more_than_is_said(
    width: int, height: int, cell: int, seed: int
) -> None:
    picture, grid = noise(width, height, seed), Grid(width, height, cell)
    cells = cells_of(picture, grid)
    assert (cells.y.shape, cells.u.shape, cells.v.shape) == (grid.luma, grid.colour, grid.colour)
    for mean, plane in ((cells.y, picture.y), (cells.u, picture.u), (cells.v, picture.v)):
        wrong = mean - plain_means(plane, cell)
        assert np.ptp(np.append(wrong, 0)) <= grid.rounding


def test_rows_may_lie_apart_in_memory() -> None:
    wide = noise(96, 64)
    apart = Picture(wide.y[:, :62], wide.u[:, :31], wide.v[:, :31])
    packed = Picture(apart.y.copy(), apart.u.copy(), apart.v.copy())
    grid = grid_of(62, 64)
    assert (cells_of(apart, grid).levels == cells_of(packed, grid).levels).all()


@pytest.mark.parametrize(
    ("size", "cell", "luma", "colour", "tiles"),
    [
        ((768, 432), 4, (108, 192), (54, 96), (27, 48)),
        ((640, 360), 4, (90, 160), (45, 80), (23, 40)),
        ((1920, 1080), 8, (135, 240), (68, 120), (34, 60)),
        ((1080, 1920), 8, (240, 135), (120, 68), (60, 34)),
        ((3840, 2160), 16, (135, 240), (68, 120), (34, 60)),
        ((1, 1), 4, (1, 1), (1, 1), (1, 1)),
    ],
)
def test_a_grid_has_a_bounded_number_of_cells(
    size: tuple[int, int],
    cell: int,
    luma: tuple[int, int],
    colour: tuple[int, int],
    tiles: tuple[int, int],
) -> None:
    grid = grid_of(*size)
    assert (grid.cell, grid.luma, grid.colour, grid.tiles) == (cell, luma, colour, tiles)
    assert grid.cells == luma[0] * luma[1] + 2 * colour[0] * colour[1]


def test_faults_are_said() -> None:
    with pytest.raises(ArrayMismatch, match="768x432"):
        cells_of(noise(20, 10), grid_of(768, 432))
    with pytest.raises(ArrayMismatch, match="4, 8, 16"):
        Grid(20, 10, 6)
    with pytest.raises(ArrayMismatch, match="0x10"):
        grid_of(0, 10)
    with pytest.raises(ArrayMismatch, match="24"):
        Cells(Grid(16, 16, 4), np.zeros(23, np.uint8))


@settings(max_examples=30, deadline=None)
@given(width=sides, height=sides, seed=st.integers(0, 99))
def test_a_tile_has_the_largest_value_of_its_cells(width: int, height: int, seed: int) -> None:
    grid = Grid(width, height, 4)
    levels = np.random.default_rng(seed).integers(0, 256, grid.cells, np.uint8)
    y, u, v = planes(levels, grid)
    found = tile_maxima(levels, grid)
    assert cells_of_tiles(np.ones(grid.tiles, np.bool_), grid).all()
    for row, column in np.ndindex(grid.tiles):
        luma = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
        colour = slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)
        largest = [y[luma].max(), max(u[colour].max(), v[colour].max())]
        assert found[:, row, column].tolist() == largest
        only = np.zeros(grid.tiles, np.bool_)
        only[row, column] = True
        ones = planes(cells_of_tiles(only, grid), grid)
        assert ones[0][luma].all()
        assert ones[1][colour].all()
        assert ones[2][colour].all()
        assert sum(int(plane.sum()) for plane in ones) == y[luma].size + 2 * u[colour].size


def test_which_tiles_a_box_touches() -> None:
    grid = grid_of(64, 64)
    boxes = np.array(
        [[0, 0, 16, 16], [15, 0, 17, 1], [40, 40, 40, 60], [70, 70, 90, 90], [-9, -9, 99, 99]],
        np.float32,
    )
    touched = [tiles_of(boxes[[row]], grid) for row in range(len(boxes))]
    assert [tiles.sum() for tiles in touched] == [1, 2, 2, 0, 16]
    assert touched[0][0, 0]
    assert touched[1][0, :2].all()
    for span, tiles in zip(tile_spans(boxes, grid), touched, strict=True):
        assert tiles[span].sum() == tiles.sum()
        assert tiles[span].all()
    assert tiles_of(boxes[1:3], grid).tolist() == (touched[1] | touched[2]).tolist()
    assert tiles_of(boxes[:1], grid, grow_px=1).sum() == 4
    assert tiles_of(boxes[:0], grid).shape == (4, 4)
    assert not tiles_of(boxes[:0], grid).any()
