"""What a window keeps of each frame that was looked at: its boxes, what they look like, its tiles.

A row is written once and never changes, so a window is extended by one row a frame, whatever its
length and stride. Carried boxes and tiles stand in the new row as they stood in the one before:
nothing of them is computed again. Which frames a window has is said from outside; this module knows
only how many rows the network reads.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import FloatArray, IntArray, read_only
from framegate.models.errors import ModelError
from framegate.models.preprocess import inner_size, padded
from framegate.models.window.features import LENGTH, TILE, HalfArray, RegionFeatures

ROWS: Final = 32  # that the network reads, the newest included
MOST: Final = 32  # boxes of a row
WIDTH: Final = 64  # numbers of a key, and of a value
_VERSION: Final = 2
_HEAD: Final = struct.Struct("<BBHHq")  # version, boxes, tile rows, tile columns, seq
_COLUMNS: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("xyxy", "<f4", (4,)),
    ("scores", "<f4", ()),
    ("class_ids", "<i4", ()),
    ("ids", "<i4", ()),
    ("features", "<f2", (LENGTH,)),
    ("keys", "<f4", (WIDTH,)),
    ("values", "<f4", (WIDTH,)),
    ("things", "<f4", ()),
    ("refined", "<f4", ()),
)


class RowUnreadable(ModelError, ValueError):
    """Bytes that are no row of a window, or one of a version that this program does not know."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"row of a window: expected {expected}, found {found}")
        self.expected, self.found = expected, found


@dataclass(frozen=True, slots=True, eq=False)
class FrameRow:
    """One looked-at frame; read-only arrays, one row a box, at most 32.

    seq           counts the frames of its epoch
    xyxy          float32 (N, 4)    pixels of the source
    scores        float32 (N,)      the detector's, 0..1
    class_ids     int32 (N,)
    ids           int32 (N,)        tracks, 0: none
    features      float16 (N, 256)  of `region_features`
    keys, values  float32 (N, 64)   what later frames attend to
    things        float32 (N,)      0..1, that there is an object at all
    refined       float32 (N,)      0..1, the score after the head
    tiles         float16 (rows, columns, 256)  of the whole picture at the detector's size; zeros
                  where a tile was never looked at
    scene         float32 (256,)    mean of the tiles, made of them

    Raises ArrayMismatch. Safe to share between threads.
    """

    seq: int
    xyxy: FloatArray
    scores: FloatArray
    class_ids: IntArray
    ids: IntArray
    features: HalfArray
    keys: FloatArray
    values: FloatArray
    things: FloatArray
    refined: FloatArray
    tiles: HalfArray
    scene: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.scores)
        for name, kind, tail in _COLUMNS:
            checked = read_only(name, getattr(self, name), np.dtype(kind), (n, *tail))
            object.__setattr__(self, name, checked)
        tiles = read_only("tiles", self.tiles, np.float16, (None, None, LENGTH))
        object.__setattr__(self, "tiles", tiles)
        object.__setattr__(self, "scene", tiles.mean(axis=(0, 1), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.scores)

    def to_bytes(self) -> bytes:
        """Return the row in 14 + 1060 N + 512 tiles bytes, the same on every machine."""
        head = _HEAD.pack(_VERSION, len(self), *self.tiles.shape[:2], self.seq)
        columns = (
            np.ascontiguousarray(getattr(self, name), np.dtype(kind)).tobytes()
            for name, kind, _ in _COLUMNS
        )
        return head + b"".join(columns) + np.ascontiguousarray(self.tiles, "<f2").tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> FrameRow:
        """Return the row that `to_bytes` wrote. Raises RowUnreadable for anything else."""
        if len(data) < _HEAD.size:
            raise RowUnreadable(f"at least {_HEAD.size} bytes", f"{len(data)}")
        version, n, rows, columns, seq = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise RowUnreadable(f"version {_VERSION}", f"version {version}")
        if len(data) != (expected := _nbytes(n, rows * columns)):
            raise RowUnreadable(f"{expected} bytes for {n} boxes", f"{len(data)}")
        at = _HEAD.size
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, kind, tail in (*_COLUMNS, ("tiles", "<f2", (columns, LENGTH))):
            shape = (rows if name == "tiles" else n, *tail)
            arrays[name] = np.frombuffer(data, kind, math.prod(shape), at).reshape(shape)
            at += arrays[name].nbytes
        return FrameRow(seq, **arrays)


@dataclass(frozen=True, slots=True, eq=False)
class WindowRows:
    """The rows of a window, oldest first, at most 32; empty where a window begins.

    A row shows the frame that was looked at, and the frames after it at which nobody looked.
    """

    rows: tuple[FrameRow, ...] = ()

    @staticmethod
    def from_bytes(rows: Sequence[bytes]) -> WindowRows:
        """Return the rows that `FrameRow.to_bytes` wrote. Raises RowUnreadable."""
        return WindowRows(tuple(FrameRow.from_bytes(row) for row in rows))

    def since(self, first: int) -> WindowRows:
        """Return those that show a frame from seq `first` on: older ones left with their frames."""
        shown = [n for n, row in enumerate(self.rows) if row.seq <= first]
        return WindowRows(self.rows[shown[-1] :]) if shown else self

    def after(self, row: FrameRow) -> WindowRows:
        """Return the rows with a newer one; beyond 32 the oldest goes."""
        return WindowRows((*self.rows, row)[-ROWS:])


def row_bytes(width: int, height: int, long_side: int) -> int:
    """Return the most bytes that a row of a (width, height) source takes."""
    rows, columns = tile_grid(width, height, long_side)
    return _nbytes(MOST, rows * columns)


def tile_grid(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Return rows and columns of tiles of a (width, height) source at the detector's size."""
    inner = inner_size(width, height, long_side)
    return padded(inner[1]) // TILE, padded(inner[0]) // TILE


def tiles_after(before: HalfArray, looks: Sequence[RegionFeatures]) -> HalfArray:
    """Return the picture's tiles after these looks: what a look covers is renewed, the rest stays.

    before  float16 (rows, columns, 256) of `tile_grid`
    """
    tiles = before.copy()
    for look in looks:
        left, top = (edge // TILE for edge in look.offset)
        rows, columns = look.tiles.shape[:2]
        place = tiles[top : top + rows, left : left + columns]
        place[...] = look.tiles[: place.shape[0], : place.shape[1]]
    return tiles


def _nbytes(n: int, tiles: int) -> int:
    each = sum(np.dtype(kind).itemsize * math.prod(tail) for _, kind, tail in _COLUMNS)
    return _HEAD.size + each * n + 2 * LENGTH * tiles
