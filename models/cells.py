"""Cells: the means of small squares of a picture, the gate's view of it; tiles are 4x4 of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from models.arrays import read_only
from models.errors import ArrayMismatch
from models.picture import ByteArray, Picture

BoolArray = npt.NDArray[np.bool_]

CELLS_OF_A_TILE: Final = 4  # along a side
_TILE: Final = np.ones((CELLS_OF_A_TILE, CELLS_OF_A_TILE), np.uint8)
_LEAST_CELL: Final = 4
_MOST_COLUMNS: Final = 250  # along the longer side
_WRONG_BY: Final = 0.75  # most that one halving adds to the error of a difference of two means


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the cells and tiles of a picture of one size lie.

    width, height  of the picture in pixels, >= 1
    cell           side of a cell in pixels: 4, 8, 16, ...

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

    @property
    def columns(self) -> int:
        """Cells in a row."""
        return -(-self.width // self.cell)

    @property
    def rows(self) -> int:
        """Cells in a column."""
        return -(-self.height // self.cell)

    @property
    def tile_columns(self) -> int:
        """Tiles in a row."""
        return -(-self.columns // CELLS_OF_A_TILE)

    @property
    def tile_rows(self) -> int:
        """Tiles in a column."""
        return -(-self.rows // CELLS_OF_A_TILE)

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""
        return self.cell * CELLS_OF_A_TILE

    @property
    def tiles(self) -> tuple[int, int]:
        """Shape of an array with one entry a tile: (tile_rows, tile_columns)."""
        return self.tile_rows, self.tile_columns

    @property
    def rounding(self) -> float:
        """Most by which the difference of two uint8 cell means may miss the true one, in levels."""
        return _WRONG_BY * (self.cell.bit_length() - 1)

    @property
    def colour_rounding(self) -> float:
        """The same for Cb and Cr, of which a cell has half as many samples along a side."""
        return _WRONG_BY * (self.cell.bit_length() - 2)


def grid_of(width: int, height: int) -> Grid:
    """The grid for pictures of this size: the smallest cells of which at most 250 lie in a line.

    4 px up to 1000 pixels, 8 px up to 2000. Raises ArrayMismatch for an empty picture.
    """
    cell = _LEAST_CELL
    while -(-max(width, height) // cell) > _MOST_COLUMNS:
        cell *= 2
    return Grid(width, height, cell)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cell means of a picture's planes; read-only, safe to share between threads.

    planes  uint8 (3, rows, columns)  Y, Cb, Cr; C-contiguous, in the levels of the picture

    Raises ArrayMismatch.
    """

    planes: ByteArray

    def __post_init__(self) -> None:
        planes = read_only("planes", self.planes, np.uint8, (3, None, None))
        if not planes.flags.c_contiguous:
            raise ArrayMismatch("planes", "C-contiguous", f"strides {planes.strides}")
        object.__setattr__(self, "planes", planes)

    @property
    def luma(self) -> ByteArray:
        """Means of Y, uint8 (rows, columns)."""
        plane: ByteArray = self.planes[0]
        return plane

    @property
    def u(self) -> ByteArray:
        """Means of Cb, uint8 (rows, columns)."""
        plane: ByteArray = self.planes[1]
        return plane

    @property
    def v(self) -> ByteArray:
        """Means of Cr, uint8 (rows, columns)."""
        plane: ByteArray = self.planes[2]
        return plane


def cells_of(picture: Picture, grid: Grid) -> Cells:
    """The cells of `picture`, by halving its planes again and again, as the fastest exact way.

    Each halving rounds, so a mean is wrong by -0.25 to +0.5 levels for each (see `rounding`).
    Raises ArrayMismatch when the picture has another size than the grid.
    """
    if (picture.width, picture.height) != (grid.width, grid.height):
        wanted = f"{grid.width}x{grid.height}"
        raise ArrayMismatch("picture", wanted, f"{picture.width}x{picture.height}")
    planes = np.empty((3, grid.rows, grid.columns), np.uint8)
    _means(picture.y, grid.cell, planes[0])
    _means(picture.u, grid.cell // 2, planes[1])
    _means(picture.v, grid.cell // 2, planes[2])
    return Cells(planes)


def tiles_of(xyxy: npt.NDArray[np.float32], grid: Grid, grow_px: float = 0) -> BoolArray:
    """Which tiles each rectangle touches: bool (N, tile_rows, tile_columns).

    xyxy  float32 (N, 4)  left, top, right, bottom in source pixels, grown by `grow_px` on each side

    A rectangle outside the picture touches nothing.
    """
    low = np.floor((xyxy[:, :2] - grow_px) / grid.tile_px)
    high = np.ceil((xyxy[:, 2:] + grow_px) / grid.tile_px)
    across, down = np.arange(grid.tile_columns), np.arange(grid.tile_rows)
    columns = (across >= low[:, :1]) & (across < high[:, :1])
    rows = (down >= low[:, 1:]) & (down < high[:, 1:])
    touched: BoolArray = rows[:, :, None] & columns[:, None, :]
    return touched


def tile_maxima(planes: ByteArray, grid: Grid) -> npt.NDArray[np.float32]:
    """Largest value in each tile: float32 (2, tile_rows, tile_columns), of Y, and of Cb and Cr.

    planes  uint8 (3, rows, columns)
    """
    maxima = np.empty((2, *grid.tiles), np.float32)
    for out, cells in zip(maxima, (planes[0], np.maximum(planes[1], planes[2])), strict=True):
        largest = cv2.dilate(cells, _TILE, anchor=(0, 0))  # of the cell and those right and below
        out[:] = largest[::CELLS_OF_A_TILE, ::CELLS_OF_A_TILE]
    return maxima


def cells_of_tiles(tiles: BoolArray, grid: Grid) -> ByteArray:
    """uint8 (rows, columns): 1 in the cells of `tiles`, bool (tile_rows, tile_columns), or 0."""
    size = grid.tile_columns * CELLS_OF_A_TILE, grid.tile_rows * CELLS_OF_A_TILE
    spread = cv2.resize(tiles.view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return spread[: grid.rows, : grid.columns].astype(np.uint8, copy=False)


def _means(plane: ByteArray, side: int, out: ByteArray) -> None:
    """Write the means of `side` x `side` pixels; the last ones are taken from the plane's end."""
    height, width = plane.shape
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
            out[there, over] = _halved(plane[here, across], side)


def _halved(plane: ByteArray, side: int) -> npt.NDArray[np.uint8]:
    while side > 1:
        size = plane.shape[1] // 2, plane.shape[0] // 2
        smaller = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        plane = smaller.reshape(size[::-1]).astype(np.uint8, copy=False)
        side //= 2
    return plane
