"""What the gate remembers between two frames, as arrays and as bytes."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.arrays import read_only
from models.cells import Grid
from models.errors import ModelError
from models.picture import ByteArray

NEVER: Final = 255  # `age` of a tile that no network has looked at
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<BIIIIBBB")


class GateStateUnreadable(ModelError, ValueError):
    """Bytes that are no gate state, or one of a version that this program does not know."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"gate state: expected {expected}, found {found}")
        self.expected, self.found = expected, found


@dataclass(frozen=True, slots=True, eq=False)
class GateState:
    """Arrays are read-only and may be shared between states; safe to share between threads.

    grid       where cells and tiles lie
    origin     uint8 (3, rows, columns)  cells at each tile's last inference: Y, Cb, Cr
    reference  uint8 (3, rows, columns)  the same less noise and key-frame pops, near `origin`
    tau        float32 (2, tile_rows, tile_columns)  stated bound in levels: luma, colour
    above      uint8 (2, tile_rows, tile_columns)  looks over the threshold, 2: hot, saturating
    age        uint8 (tile_rows, tile_columns)  looks since the last inference, saturating; NEVER
    looks      since tau was last relaxed
    restless   looks in a row at which much of the picture had changed, saturating
    restful    looks in a row at which little had, saturating
    moving     the camera moves or refocuses

    Raises ArrayMismatch.
    """

    grid: Grid
    origin: ByteArray
    reference: ByteArray
    tau: npt.NDArray[np.float32]
    above: ByteArray
    age: ByteArray
    looks: int = 0
    restless: int = 0
    restful: int = 0
    moving: bool = False

    def __post_init__(self) -> None:
        for name, kind, shape in _arrays(self.grid):
            checked = read_only(name, getattr(self, name), np.dtype(kind), shape)
            object.__setattr__(self, name, checked)

    def to_bytes(self) -> bytes:
        """Return the state in `nbytes(grid)` bytes, the same on every machine."""
        grid = self.grid
        head = _HEAD.pack(
            _VERSION,
            grid.width,
            grid.height,
            grid.cell,
            self.looks,
            self.restless,
            self.restful,
            self.moving,
        )
        columns = (
            np.ascontiguousarray(getattr(self, name), np.dtype(kind)).data
            for name, kind, _ in _arrays(grid)
        )
        return b"".join((head, *columns))

    @staticmethod
    def from_bytes(data: bytes) -> GateState:
        """Return the state that `to_bytes` wrote; GateStateUnreadable for anything else."""
        if len(data) < _HEAD.size:
            raise GateStateUnreadable(f"at least {_HEAD.size} bytes", f"{len(data)}")
        version, width, height, cell, looks, restless, restful, moving = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise GateStateUnreadable(f"version {_VERSION}", f"version {version}")
        grid = Grid(width, height, cell)
        if len(data) != nbytes(grid):
            raise GateStateUnreadable(f"{nbytes(grid)} bytes for {grid}", f"{len(data)}")
        columns: dict[str, Any] = {}
        at = _HEAD.size
        for name, kind, shape in _arrays(grid):
            columns[name] = np.frombuffer(data, kind, math.prod(shape), at).reshape(shape)
            at += columns[name].nbytes
        columns |= {"looks": looks, "restless": restless, "restful": restful}
        return GateState(grid, **columns, moving=bool(moving))


def nbytes(grid: Grid) -> int:
    """Bytes of a state for this grid."""
    return _HEAD.size + sum(
        np.dtype(kind).itemsize * math.prod(shape) for _, kind, shape in _arrays(grid)
    )


def _arrays(grid: Grid) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    cells, tiles = (3, grid.rows, grid.columns), (grid.tile_rows, grid.tile_columns)
    return (
        ("origin", "u1", cells),
        ("reference", "u1", cells),
        ("tau", "<f4", (2, *tiles)),
        ("above", "u1", (2, *tiles)),
        ("age", "u1", tiles),
    )
