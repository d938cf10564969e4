"""Cells are the means of small squares, wherever a picture ends, and tiles are four by four."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cells import Cells, Grid, cells_of, cells_of_tiles, grid_of, tile_maxima, tiles_of
from models.errors import ArrayMismatch
from models.picture import Picture

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
    assert cells.luma.shape == (grid.rows, grid.columns)
    for mean, plane, side, rounding in (
        (cells.luma, picture.y, cell, grid.rounding),
        (cells.u, picture.u, cell // 2, grid.colour_rounding),
        (cells.v, picture.v, cell // 2, grid.colour_rounding),
    ):
        wrong = mean - plain_means(plane, side)
        assert np.ptp(np.append(wrong, 0)) <= rounding


def test_rows_may_lie_apart_in_memory() -> None:
    wide = noise(96, 64)
    apart = Picture(wide.y[:, :62], wide.u[:, :31], wide.v[:, :31])
    packed = Picture(apart.y.copy(), apart.u.copy(), apart.v.copy())
    grid = grid_of(62, 64)
    assert (cells_of(apart, grid).planes == cells_of(packed, grid).planes).all()


@pytest.mark.parametrize(
    ("size", "cell", "cells", "tiles"),
    [
        ((768, 432), 4, (108, 192), (27, 48)),
        ((640, 360), 4, (90, 160), (23, 40)),
        ((1920, 1080), 8, (135, 240), (34, 60)),
        ((1080, 1920), 8, (240, 135), (60, 34)),
        ((3840, 2160), 16, (135, 240), (34, 60)),
        ((1, 1), 4, (1, 1), (1, 1)),
    ],
)
def test_a_grid_has_a_bounded_number_of_cells(
    size: tuple[int, int], cell: int, cells: tuple[int, int], tiles: tuple[int, int]
) -> None:
    grid = grid_of(*size)
    assert (grid.cell, (grid.rows, grid.columns), grid.tiles) == (cell, cells, tiles)


def test_faults_are_said() -> None:
    with pytest.raises(ArrayMismatch, match="768x432"):
        cells_of(noise(20, 10), grid_of(768, 432))
    with pytest.raises(ArrayMismatch, match="4, 8, 16"):
        Grid(20, 10, 6)
    with pytest.raises(ArrayMismatch, match="0x10"):
        grid_of(0, 10)
    with pytest.raises(ArrayMismatch, match="contiguous"):
        Cells(np.zeros((3, 8, 8), np.uint8)[:, ::2])


@settings(max_examples=30, deadline=None)
@given(width=sides, height=sides, seed=st.integers(0, 99))
def test_a_tile_has_the_largest_value_of_its_cells(width: int, height: int, seed: int) -> None:
    grid = Grid(width, height, 4)
    shape = (3, grid.rows, grid.columns)
    planes = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    found = tile_maxima(planes, grid)
    owners = cells_of_tiles(np.ones(grid.tiles, np.bool_), grid)
    assert owners.shape == shape[1:]
    assert owners.all()
    for row, column in np.ndindex(grid.tiles):
        tile = planes[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert found[:, row, column].tolist() == [tile[0].max(), tile[1:].max()]
        only = np.zeros(grid.tiles, np.bool_)
        only[row, column] = True
        assert cells_of_tiles(only, grid).sum() == tile[0].size


def test_which_tiles_a_box_touches() -> None:
    grid = grid_of(64, 64)
    boxes = np.array(
        [[0, 0, 16, 16], [15, 0, 17, 1], [40, 40, 40, 60], [70, 70, 90, 90], [-9, -9, 99, 99]],
        np.float32,
    )
    touched = tiles_of(boxes, grid)
    assert touched.sum((1, 2)).tolist() == [1, 2, 2, 0, 16]
    assert touched[0, 0, 0]
    assert touched[1, 0, :2].all()
    assert tiles_of(boxes[:1], grid, grow_px=1).sum() == 4
    assert tiles_of(boxes[:0], grid).shape == (0, 4, 4)
