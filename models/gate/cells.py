"""Cells: means of small squares of a picture, as the gate sees it; tiles are 4x4 of them; masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import BoolArray, DoubleArray, read_only
from framegate.models.errors import ArrayMismatch
from framegate.models.picture import ByteArray, Picture

_IN_TILE: Final = 4  # cells along a side of a tile
_COLOURS_IN_TILE: Final = _IN_TILE // 2
_LEAST_CELL: Final = 4
_MOST_COLUMNS: Final = 250  # along the longer side
_SQUARE: Final = np.ones((_IN_TILE, _IN_TILE), np.uint8)
_WRONG_BY: Final = 0.75  # most that one halving adds to the error of a difference of two means


@dataclass(frozen=True)
class Grid:
    """Where the cells and tiles of a picture of one size lie.

    width, height  of the picture in pixels, >= 1
    cell           side of a cell in samples of its plane: 4, 8, 16, ...; a cell of Y spans as many
                   pixels, one of Cb or Cr, which have half as many samples a line, twice as many

    A cell in the last column (row) ends with the picture and so may overlap the one before. Tiles
    are counted from the top left; those of the last column (row) may hold fewer cells.
    """

    width: int
    height: int
    cell: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ArrayMismatch("size", "at least one pixel", f"{self.width}x{self.height}")
        if self.cell < _LEAST_CELL or self.cell & (self.cell - 1):
            raise ArrayMismatch("cell", "4, 8, 16, ...", f"{self.cell}")

    @cached_property
    def luma(self) -> tuple[int, int]:
        """(rows, columns) of cells of Y."""
        return -(-self.height // self.cell), -(-self.width // self.cell)

    @cached_property
    def colour(self) -> tuple[int, int]:
        """(rows, columns) of cells of Cb, and of Cr."""
        return -(-self.height // (2 * self.cell)), -(-self.width // (2 * self.cell))

    @cached_property
    def cells(self) -> int:
        """How many cells the three planes have."""
        luma, colour = self.luma, self.colour
        return luma[0] * luma[1] + 2 * colour[0] * colour[1]

    @cached_property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""
        return self.cell * _IN_TILE

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """(tile_rows, tile_columns)."""
        return self.tile_rows, self.tile_columns

    @cached_property
    def tile_rows(self) -> int:
        """Tiles in a column."""
        return -(-self.height // self.tile_px)

    @cached_property
    def tile_columns(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_px)

    @cached_property
    def rounding(self) -> float:
        """Most by which the difference of two uint8 cell means may miss the true one, in levels."""
        return _WRONG_BY * (self.cell.bit_length() - 1)


@lru_cache(64)
def grid_of(width: int, height: int) -> Grid:
    """Return the grid for pictures of this size, with the smallest cells of which 250 fill a line.

    So a cell is 4 px up to 1000 pixels of the longer side, and twice that with each doubling: 8 up
    to 2000, 16 up to 4000, 32 up to 8000. A network shrinks pictures as well: above 1000
    pixels a cell is 1.6 to 3.4 pixels of an input of 416.

    Raises ArrayMismatch for an empty picture.
    """
    cell = _LEAST_CELL
    while -(-max(width, height) // cell) > _MOST_COLUMNS:
        cell *= 2
    return Grid(width, height, cell)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cell means of a picture; read-only, safe to share between threads.

    levels  uint8 (grid.cells,)  those of Y row by row, then of Cb, then of Cr

    Raises ArrayMismatch.
    """

    grid: Grid
    levels: ByteArray

    def __post_init__(self) -> None:
        levels = read_only("levels", self.levels, np.uint8, (self.grid.cells,))
        object.__setattr__(self, "levels", levels)

    @property
    def y(self) -> ByteArray:
        """Means of Y, uint8 (rows, columns)."""
        return luma_of(self.levels, self.grid)

    @property
    def u(self) -> ByteArray:
        """Means of Cb, uint8 (rows, columns) of colour."""
        return planes(self.levels, self.grid)[1]

    @property
    def v(self) -> ByteArray:
        """Means of Cr, uint8 (rows, columns) of colour."""
        return planes(self.levels, self.grid)[2]


def luma_of(levels: ByteArray, grid: Grid) -> ByteArray:
    """Return a view of the plane Y alone, of those that `planes` gives."""
    rows, columns = grid.luma
    return levels[: rows * columns].reshape(rows, columns)


def planes(levels: ByteArray, grid: Grid) -> tuple[ByteArray, ByteArray, ByteArray]:
    """Return views of one value a cell, uint8 (grid.cells,), as planes Y, Cb, Cr."""
    luma, colour = grid.luma, grid.colour
    first, size = luma[0] * luma[1], colour[0] * colour[1]
    return (
        levels[:first].reshape(luma),
        levels[first : first + size].reshape(colour),
        levels[first + size :].reshape(colour),
    )


def cells_of(picture: Picture, grid: Grid) -> Cells:
    """Return the cells of `picture`, by halving its planes again and again, as that is fastest.

    Each halving rounds, so a mean is wrong by -0.25 to +0.5 levels for each (see `rounding`).
    Raises ArrayMismatch when the picture has another size than the grid.
    """
    if (picture.width, picture.height) != (grid.width, grid.height):
        wanted = f"{grid.width}x{grid.height}"
        raise ArrayMismatch("picture", wanted, f"{picture.width}x{picture.height}")
    levels = np.empty(grid.cells, np.uint8)
    for plane, out in zip((picture.y, picture.u, picture.v), planes(levels, grid), strict=True):
        _means(plane, grid.cell, out)
    return Cells(grid, levels)


TileSpan = tuple[slice, slice]  # rows and columns of tiles


def tile_spans(xyxy: npt.NDArray[np.float32], grid: Grid, grow_px: float = 0) -> list[TileSpan]:
    """Return the tiles that each rectangle touches.

    xyxy  float32 (N, 4)  left, top, right, bottom in source pixels, grown by `grow_px` on each side

    A rectangle outside the picture touches nothing.
    """
    # Slices, not a mask each: at a live pace each of numpy's functions waits for memory.
    low = np.floor((xyxy[:, :2] - grow_px) / grid.tile_px).tolist()
    high = np.ceil((xyxy[:, 2:] + grow_px) / grid.tile_px).tolist()
    return [
        (slice(max(int(top), 0), max(int(bottom), 0)), slice(max(int(left), 0), max(int(right), 0)))
        for (left, top), (right, bottom) in zip(low, high, strict=True)
    ]


def tiles_of(xyxy: npt.NDArray[np.float32], grid: Grid, grow_px: float = 0) -> BoolArray:
    """Return the tiles that any of the rectangles touches: bool (tile_rows, tile_columns); as
    `tile_spans`.
    """
    touched: BoolArray = np.zeros(grid.tiles, np.bool_)
    for span in tile_spans(xyxy, grid, grow_px):
        touched[span] = True
    return touched


def tiles_inside(areas: npt.NDArray[np.float32], grid: Grid) -> BoolArray:
    """Return the tiles that lie in one of the rectangles: bool (tile_rows, tile_columns).

    areas  float32 (K, 4)  left, top, right, bottom in source pixels

    A tile at the picture's end counts as far as the picture goes.
    """
    px = grid.tile_px
    left, top = np.arange(grid.tile_columns) * px, np.arange(grid.tile_rows) * px
    right, bottom = np.minimum(left + px, grid.width), np.minimum(top + px, grid.height)
    inside: BoolArray = np.zeros(grid.tiles, np.bool_)
    for area in areas:
        across = (left >= area[0]) & (right <= area[2] + 0.5)
        down = (top >= area[1]) & (bottom <= area[3] + 0.5)
        inside |= down[:, None] & across
    return inside


def tile_maxima(levels: ByteArray, grid: Grid) -> npt.NDArray[np.int16]:
    """Return the largest value in each tile, of Y, and of Cb and Cr: int16 (2, *grid.tiles).

    levels  uint8 (grid.cells,)
    """
    y, u, v = planes(levels, grid)
    maxima = np.empty((2, *grid.tiles), np.int16)
    maxima[0] = _maxima(y, _IN_TILE, grid)
    maxima[1] = _maxima(np.maximum(u, v), _COLOURS_IN_TILE, grid)
    return maxima


def _maxima(plane: ByteArray, side: int, grid: Grid) -> ByteArray:
    """Return the largest value in each square of so many cells, uint8 grid.tiles."""
    rows, columns = grid.tiles
    if plane.shape != (rows * side, columns * side):
        missing = rows * side - plane.shape[0], columns * side - plane.shape[1]
        plane = np.pad(plane, ((0, missing[0]), (0, missing[1])))
    # One function over and over: at a live pace the first call of each waits for memory.
    most = np.maximum(plane[::side], plane[1::side])
    for at in range(2, side):
        np.maximum(most, plane[at::side], out=most)
    largest = np.maximum(most[:, ::side], most[:, 1::side])
    for at in range(2, side):
        np.maximum(largest, most[:, at::side], out=largest)
    return largest


def contrasts(plane: ByteArray) -> ByteArray:
    """From the darkest to the brightest cell of Y in each tile: uint8 (tile_rows, tile_columns).

    plane  uint8 (rows, columns)
    """
    brightest = cv2.dilate(plane, _SQUARE, anchor=(0, 0))
    darkest = cv2.erode(plane, _SQUARE, anchor=(0, 0))
    return cv2.subtract(brightest, darkest)[::_IN_TILE, ::_IN_TILE].astype(np.uint8, copy=False)


def cells_of_tiles(tiles: BoolArray, grid: Grid) -> ByteArray:
    """uint8 (grid.cells,): 1 in the cells of `tiles`, bool (tile_rows, tile_columns), or 0."""
    spread = np.empty(grid.cells, np.uint8)
    y, u, v = planes(spread, grid)
    y[:] = _spread(tiles, _IN_TILE)[: y.shape[0], : y.shape[1]]
    u[:] = v[:] = _spread(tiles, _COLOURS_IN_TILE)[: u.shape[0], : u.shape[1]]
    return spread


def _spread(tiles: BoolArray, side: int) -> npt.NDArray[np.generic]:
    size = tiles.shape[1] * side, tiles.shape[0] * side
    return cv2.resize(tiles.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).reshape(
        size[::-1]
    )


def _means(plane: ByteArray, side: int, out: ByteArray) -> None:
    """Write the means of `side` x `side` samples; the last ones are taken from the plane's end."""
    height, width = plane.shape
    if not (height % side or width % side):
        _halve(plane, side, out)
        return
    if height < side or width < side:
        missing = max(0, side - height), max(0, side - width)
        plane = np.pad(plane, ((0, missing[0]), (0, missing[1])), "edge")
        height, width = plane.shape
    rows, columns = height // side, width // side
    bands = [(slice(rows), slice(rows * side))]
    stripes = [(slice(columns), slice(columns * side))]
    if rows * side < height:
        bands.append((slice(rows, None), slice(height - side, None)))
    if columns * side < width:
        stripes.append((slice(columns, None), slice(width - side, None)))
    for there, here in bands:
        for over, across in stripes:
            part = plane[here, across]
            means = np.empty((part.shape[0] // side, part.shape[1] // side), np.uint8)
            _halve(part, side, means)
            out[there, over] = means


def _halve(plane: ByteArray, side: int, out: ByteArray) -> None:
    while side > 2:
        smaller = np.empty((plane.shape[0] // 2, plane.shape[1] // 2), np.uint8)
        cv2.resize(plane, smaller.shape[::-1], smaller, 0, 0, cv2.INTER_AREA)
        plane, side = smaller, side // 2
    cv2.resize(plane, out.shape[::-1], out, 0, 0, cv2.INTER_AREA)


# -- Polygons of a picture in which changes do not count, as tiles.


def ignored_tiles(polygons: Sequence[Sequence[Sequence[float]]], grid: Grid) -> BoolArray:
    """Return the tiles that lie wholly inside one of the polygons: bool (tile_rows, tile_columns).

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


def _passes_right_of(
    x: DoubleArray, y: DoubleArray, start: DoubleArray, end: DoubleArray
) -> BoolArray:
    """Return whether a ray to the right from each point meets the edge."""
    spans = (start[1] <= y) != (end[1] <= y)
    rise = end[1] - start[1]
    meets = start[0] + (y - start[1]) / (rise if rise else 1) * (end[0] - start[0])
    passes: BoolArray = np.logical_and(spans, x < meets)
    return passes


def _crosses(x: DoubleArray, y: DoubleArray, start: DoubleArray, end: DoubleArray) -> BoolArray:
    """Return whether an edge enters each open rectangle: no axis separates the two."""
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
