"""Cells (means of small squares of a picture), tiles of 4x4 cells, and masks of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
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
_WRONG_BY: Final = 0.75  # largest error that one halving adds to the difference of two means


@dataclass(frozen=True)
class Grid:
    """The positions of cells and tiles in a picture of one size.

    width, height  size of the picture in pixels, at least 1
    cell           side of a cell in samples of its plane: 4, 8, 16, ...; a cell of Cb or Cr covers
                   twice as many pixels, because these planes have half the resolution

    A cell in the last column (row) ends with the picture, so it may overlap its neighbour. Tiles
    are counted from the top left; tiles in the last column (row) may have fewer cells.
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
        """Number of cells in the three planes."""
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
        """Number of rows of tiles."""
        return -(-self.height // self.tile_px)

    @cached_property
    def tile_columns(self) -> int:
        """Number of columns of tiles."""
        return -(-self.width // self.tile_px)

    @cached_property
    def rounding(self) -> float:
        """Largest rounding error of the difference of two cell means, in levels."""
        return _WRONG_BY * (self.cell.bit_length() - 1)


@lru_cache(64)
def grid_of(width: int, height: int) -> Grid:
    """Return the grid for pictures of this size: at most 250 cells along the longer side.

    A cell has 4 pixels for a longer side of up to 1000 pixels, 8 up to 2000, 16 up to 4000, 32 up
    to 8000. Above 1000 pixels, a cell is 1.6 to 3.4 pixels of a network input of 416.

    Raises ArrayMismatch for an empty picture.
    """
    cell = _LEAST_CELL
    while -(-max(width, height) // cell) > _MOST_COLUMNS:
        cell *= 2
    return Grid(width, height, cell)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cell means of a picture. Read-only and safe to share between threads.

    levels  uint8 (grid.cells,)  means of Y row by row, then of Cb, then of Cr

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
    """Return a view of the plane Y, as the first of `planes`."""
    rows, columns = grid.luma
    return levels[: rows * columns].reshape(rows, columns)


def planes(levels: ByteArray, grid: Grid) -> tuple[ByteArray, ByteArray, ByteArray]:
    """Return views of one value per cell, uint8 (grid.cells,), as planes Y, Cb and Cr."""
    luma, colour = grid.luma, grid.colour
    first, size = luma[0] * luma[1], colour[0] * colour[1]
    return (
        levels[:first].reshape(luma),
        levels[first : first + size].reshape(colour),
        levels[first + size :].reshape(colour),
    )


def cells_of(picture: Picture, grid: Grid) -> Cells:
    """Return the cells of `picture`. Repeated halving of its planes is the fastest method.

    Each halving adds a rounding error of -0.25 to +0.5 levels (see `Grid.rounding`). Raises
    ArrayMismatch if the picture does not have the size of the grid.
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
    """Return the tiles that each rectangle touches; none for a rectangle outside the picture.

    xyxy     float32 (N, 4)  left, top, right, bottom in source pixels
    grow_px  pixels by which each rectangle grows on each side
    """
    # Slices are cheaper than masks: at a live pace, each numpy call starts with cold caches.
    low = np.floor((xyxy[:, :2] - grow_px) / grid.tile_px).tolist()
    high = np.ceil((xyxy[:, 2:] + grow_px) / grid.tile_px).tolist()
    return [
        (slice(max(int(top), 0), max(int(bottom), 0)), slice(max(int(left), 0), max(int(right), 0)))
        for (left, top), (right, bottom) in zip(low, high, strict=True)
    ]


def tiles_of(xyxy: npt.NDArray[np.float32], grid: Grid, grow_px: float = 0) -> BoolArray:
    """Return a mask of the tiles in `tile_spans`, bool (tile_rows, tile_columns)."""
    touched: BoolArray = np.zeros(grid.tiles, np.bool_)
    for span in tile_spans(xyxy, grid, grow_px):
        touched[span] = True
    return touched


def tiles_inside(areas: npt.NDArray[np.float32], grid: Grid) -> BoolArray:
    """Return the tiles that lie inside one of the rectangles, bool (tile_rows, tile_columns).

    areas  float32 (K, 4)  left, top, right, bottom in source pixels

    The part of a tile outside the picture does not count.
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
    """Return the largest value in each tile: int16 (2, *grid.tiles), for Y, and for Cb with Cr.

    levels  uint8 (grid.cells,)
    """
    y, u, v = planes(levels, grid)
    maxima = np.empty((2, *grid.tiles), np.int16)
    maxima[0] = _maxima(y, _IN_TILE, grid)
    maxima[1] = _maxima(np.maximum(u, v), _COLOURS_IN_TILE, grid)
    return maxima


def _maxima(plane: ByteArray, side: int, grid: Grid) -> ByteArray:
    """Return the largest value in each square of `side` cells, uint8 grid.tiles."""
    rows, columns = grid.tiles
    if plane.shape != (rows * side, columns * side):
        missing = rows * side - plane.shape[0], columns * side - plane.shape[1]
        plane = np.pad(plane, ((0, missing[0]), (0, missing[1])))
    # Only one numpy function: at a live pace, the first call of each starts with cold caches.
    of_rows = np.maximum(plane[::side], plane[1::side])
    for row in range(2, side):
        np.maximum(of_rows, plane[row::side], out=of_rows)
    largest = np.maximum(of_rows[:, ::side], of_rows[:, 1::side])
    for column in range(2, side):
        np.maximum(largest, of_rows[:, column::side], out=largest)
    return largest


def contrasts(plane: ByteArray) -> ByteArray:
    """Return the difference of the brightest and the darkest cell of Y in each tile.

    plane  uint8 (rows, columns)

    The result is uint8 (tile_rows, tile_columns).
    """
    brightest = cv2.dilate(plane, _SQUARE, anchor=(0, 0))
    darkest = cv2.erode(plane, _SQUARE, anchor=(0, 0))
    return cv2.subtract(brightest, darkest)[::_IN_TILE, ::_IN_TILE].astype(np.uint8, copy=False)


def cells_of_tiles(tiles: BoolArray, grid: Grid) -> ByteArray:
    """Return uint8 (grid.cells,): 1 in the cells of `tiles`, else 0.

    tiles  bool (tile_rows, tile_columns)
    """
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
    """Write the means of `side` x `side` samples; the last squares end with the plane."""
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


# -- Polygons in which changes are ignored, as tiles.


def ignored_tiles(polygons: Sequence[Sequence[Sequence[float]]], grid: Grid) -> BoolArray:
    """Return the tiles that lie completely inside a polygon, bool (tile_rows, tile_columns).

    polygons  three or more points (x, y) each, in source pixels; a polygon closes itself, and a
              self-intersection follows the even-odd rule

    The part of a tile outside the picture does not count.
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
    """Return for each point whether a ray from it to the right crosses the edge."""
    spans = (start[1] <= y) != (end[1] <= y)
    rise = end[1] - start[1]
    if rise == 0:  # a horizontal edge spans no point
        rise = 1
    crossing = start[0] + (y - start[1]) / rise * (end[0] - start[0])
    passes: BoolArray = np.logical_and(spans, x < crossing)
    return passes


def _crosses(x: DoubleArray, y: DoubleArray, start: DoubleArray, end: DoubleArray) -> BoolArray:
    """Return for each open rectangle whether the edge enters it (separating-axis test)."""
    apart_x = (max(start[0], end[0]) <= x[0]) | (min(start[0], end[0]) >= x[1])
    apart_y = (max(start[1], end[1]) <= y[0]) | (min(start[1], end[1]) >= y[1])
    along_x, along_y = end - start
    corners = product(x, y)
    sides = np.array([along_x * (b - start[1]) - along_y * (a - start[0]) for a, b in corners])
    one_side = (sides >= 0).all(0) | (sides <= 0).all(0)
    crosses: BoolArray = ~(apart_x | apart_y | one_side)
    return crosses
