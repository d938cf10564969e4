"""What a look sees as the gate sees it, and the bytes by which it is found and compared again."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

from models.boxes import Boxes, FloatArray
from models.cells import Cells, Grid, planes
from models.crops import Look, looked_at
from models.picture import ByteArray

MOST_ON_SHELF: Final = 256
_POOLED: Final = (10, 6)  # columns, rows: to rank by, not to decide by
_ROW: Final = np.dtype([("pooled", np.uint8, _POOLED[0] * _POOLED[1]), ("key", "V16")])
_PLACE: Final = struct.Struct("<6i")
_HEAD: Final = struct.Struct("<8sdi")  # digest of what follows, UNIX seconds, bytes of cells
_CHECK: Final = 8
_REACH: Final = 2  # pixels of the network's input that its edge may see beyond it


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """All cells that a look sees.

    cells   of that part of the picture
    pooled  uint8 (60,)  means of 10x6 parts of it
    shelf   names the same look at pictures of the same size
    """

    cells: Cells
    pooled: ByteArray
    shelf: bytes

    @property
    def key(self) -> bytes:
        """Names what is seen."""
        return xxhash.xxh3_128_digest(self.shelf + self.cells.levels.tobytes())


@dataclass(frozen=True, slots=True, eq=False)
class NearEntry:
    """What a look once saw, and what the network found there.

    made  UNIX seconds
    """

    made: float
    levels: ByteArray
    boxes: Boxes

    def to_bytes(self) -> bytes:
        """All of it, for `entry_of`."""
        rest = self.levels.tobytes() + self.boxes.to_bytes()
        head = _HEAD.pack(bytes(_CHECK), self.made, len(self.levels))[_CHECK:]
        return xxhash.xxh3_64_digest(head + rest) + head + rest


def view_of(cells: Cells, look: Look, long_side: int, facts: bytes) -> View:
    """The view of a look at a picture with these cells; `facts` decide what is found there."""
    grid = cells.grid
    size = grid.width, grid.height
    reach = _REACH * max(size) / long_side
    area, step = looked_at(look, size, long_side), 2 * grid.cell
    left, top = (max(0, math.floor((edge - reach) / step)) for edge in area[:2].tolist())
    right, bottom = (math.ceil((edge + reach) / step) * step for edge in area[2:].tolist())
    part = Grid(min(right, size[0]) - left * step, min(bottom, size[1]) - top * step, grid.cell)
    y, u, v = planes(cells.levels, grid)
    (rows, columns), (half_rows, half_columns) = part.luma, part.colour
    luma = y[2 * top : 2 * top + rows, 2 * left : 2 * left + columns]
    colours = [c[top : top + half_rows, left : left + half_columns].ravel() for c in (u, v)]
    pooled = cv2.resize(np.ascontiguousarray(luma), _POOLED, interpolation=cv2.INTER_AREA)
    levels = np.concatenate([luma.ravel(), *colours])
    place = _PLACE.pack(*size, *look.rect)
    shelf = xxhash.xxh3_128_digest(b"near" + facts + place)
    return View(Cells(part, levels), pooled.ravel().astype(np.uint8, copy=False), shelf)


def entry_of(data: bytes, grid: Grid, classes: Collection[int] = range(256)) -> NearEntry | None:
    """What `to_bytes` wrote of a view with this grid and these classes; None for anything else."""
    if len(data) < _HEAD.size or xxhash.xxh3_64_digest(data[_CHECK:]) != data[:_CHECK]:
        return None
    _, made, cells = _HEAD.unpack_from(data)
    if cells != grid.cells or len(data) < _HEAD.size + cells:
        return None
    boxes = Boxes.read(data[_HEAD.size + cells :], classes)
    if boxes is None:
        return None
    return NearEntry(made, np.frombuffer(data, np.uint8, cells, _HEAD.size), boxes)


def with_row(shelf: bytes, view: View) -> bytes:
    """The shelf with a view in front; the oldest go."""
    row = np.zeros(1, _ROW)
    row["pooled"], row["key"] = view.pooled, np.void(view.key)
    return (row.tobytes() + shelf)[: MOST_ON_SHELF * _ROW.itemsize]


def nearest(shelf: bytes, view: View, most: int) -> list[bytes]:
    """Keys of the views on a shelf that look most like this one, whatever their mean brightness."""
    if not shelf or len(shelf) % _ROW.itemsize:
        return []
    rows = np.frombuffer(shelf, _ROW)
    difference = _centred(rows["pooled"]) - _centred(view.pooled[None])
    apart = np.square(difference, out=difference).sum(axis=1)
    best: npt.NDArray[np.intp] = np.argsort(apart, kind="stable")[:most]
    return [rows["key"][row].tobytes() for row in best]


def _centred(pooled: ByteArray) -> FloatArray:
    levels = pooled.astype(np.float32)
    levels -= levels.mean(axis=1, keepdims=True)
    return levels
