"""Polygons of a picture in which changes do not count, as tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from framegate.models.gate.cells import BoolArray, Grid

FloatArray = npt.NDArray[np.float64]


def ignored_tiles(polygons: Sequence[Sequence[Sequence[float]]], grid: Grid) -> BoolArray:
    """Tiles that lie wholly inside one of the polygons: bool (tile_rows, tile_columns).

    Each is three or more points (x, y) in source pixels, closed by itself; where it crosses itself
    the even-odd rule holds. A tile at the picture's end counts as far as the picture goes.
    """
    left = np.arange(grid.tile_columns) * grid.tile_px
    top = np.arange(grid.tile_rows) * grid.tile_px
    right = np.minimum(left + grid.tile_px, grid.width)
    bottom = np.minimum(top + grid.tile_px, grid.height)
    x = np.stack(np.broadcast_arrays(left, right)).astype(np.float64)[:, None, :]
    y = np.stack(np.broadcast_arrays(top, bottom)).astype(np.float64)[:, :, None]
    ignored: BoolArray = np.zeros(grid.tiles, np.bool_)
    for polygon in polygons:
        points = np.array(polygon, np.float64)
        inside = np.zeros(grid.tiles, np.bool_)
        crossed = np.zeros(grid.tiles, np.bool_)
        for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
            inside ^= _passes_right_of(x.mean(0), y.mean(0), start, end)
            crossed |= _crosses(x, y, start, end)
        ignored |= inside & ~crossed
    return ignored


def _passes_right_of(x: FloatArray, y: FloatArray, start: FloatArray, end: FloatArray) -> BoolArray:
    """Whether a ray to the right from each point meets the edge."""
    spans = (start[1] <= y) != (end[1] <= y)
    rise = end[1] - start[1]
    meets = start[0] + (y - start[1]) / (rise if rise else 1) * (end[0] - start[0])
    passes: BoolArray = np.logical_and(spans, x < meets)
    return passes


def _crosses(x: FloatArray, y: FloatArray, start: FloatArray, end: FloatArray) -> BoolArray:
    """Whether an edge enters each open rectangle: no axis separates the two."""
    apart_x = (max(start[0], end[0]) <= x[0]) | (min(start[0], end[0]) >= x[1])
    apart_y = (max(start[1], end[1]) <= y[0]) | (min(start[1], end[1]) >= y[1])
    sides = np.array(
        [
            (end[0] - start[0]) * (down - start[1]) - (end[1] - start[1]) * (across - start[0])
            for across in x
            for down in y
        ]
    )
    one_side = (sides >= 0).all(0) | (sides <= 0).all(0)
    crosses: BoolArray = ~(apart_x | apart_y | one_side)
    return crosses
