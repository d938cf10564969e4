"""The state of the gate between two frames, and the age limits of evidence."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import BoolArray, FloatArray, read_only, unchecked
from framegate.models.errors import ModelError
from framegate.models.gate.cells import Grid
from framegate.models.gate.global_changes import SAME, STILL, CameraMotion, Exposure
from framegate.models.gate.settings import GateSettings
from framegate.models.picture import ByteArray

NEVER: Final = 255  # `age` of a tile that no network has looked at
HOT: Final = 2  # value of `above` from which a tile is hot
AT_ONCE: Final = 100  # value of `above` after a change so large that the tile is hot at once
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<BIIIddI?BB?ddd")
_MIDDLE: Final = np.uint8(8)  # an offset of 0, stored in four bits


class GateStateUnreadable(ModelError, ValueError):
    """Bytes that are not a gate state, or a state of an unknown version."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"gate state: expected {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


@dataclass(frozen=True, slots=True, eq=False)
class TileLevels:
    """Thresholds for the largest difference of a cell in each tile, in whole levels.

    over     int16 (2, tile_rows, tile_columns), luma and colour: from here over the threshold
    at_once  the same shape: from here hot at once
    calm     the same shape: a smaller change is forgotten
    counts   bool, the same shape: the tile has a threshold above 0
    lowest   minimum of `over`, for luma and for colour

    Raises ArrayMismatch.
    """

    settings: GateSettings
    over: npt.NDArray[np.int16]
    at_once: npt.NDArray[np.int16]
    calm: npt.NDArray[np.int16]
    counts: BoolArray
    lowest: tuple[int, int]

    def __post_init__(self) -> None:
        over = read_only("over", self.over, np.int16, (2, None, None))
        object.__setattr__(self, "over", over)
        for name, dtype in (("at_once", np.int16), ("calm", np.int16), ("counts", np.bool_)):
            value = read_only(name, getattr(self, name), dtype, over.shape)
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class GateState:
    """The state of the gate. Arrays are read-only and safe to share between states and threads.

    grid       positions of cells and tiles
    origin     uint8 (grid.cells,)  levels at the last inference on each cell, at the exposure of
               the last inference on the whole picture
    reference  uint8 (grid.cells,)  `origin`, corrected for noise and key frames by at most 7 levels
    tau        float32 (2, tile_rows, tile_columns)  learned thresholds in levels: luma, colour
    floor      thresholds learned by the whole picture: luma, colour
    above      uint8 (2, tile_rows, tile_columns)  looks over the threshold: HOT, AT_ONCE
    age        uint8 (tile_rows, tile_columns)  looks since the reference was renewed, saturating
               at 7; NEVER if no network looked
    looks      looks since the last inference
    motion     state of the camera's motion
    exposure   exposure at the last look

    Raises ArrayMismatch.
    """

    grid: Grid
    origin: ByteArray
    reference: ByteArray
    tau: FloatArray
    above: ByteArray
    age: ByteArray
    floor: tuple[float, float]
    looks: int = 0
    motion: CameraMotion = STILL
    exposure: Exposure = SAME

    def __post_init__(self) -> None:
        cells, tiles = self.grid.cells, self.grid.tiles
        for name, kind, shape in (
            ("origin", np.uint8, (cells,)),
            ("reference", np.uint8, (cells,)),
            ("tau", np.float32, (2, *tiles)),
            ("above", np.uint8, (2, *tiles)),
            ("age", np.uint8, tiles),
        ):
            object.__setattr__(self, name, read_only(name, getattr(self, name), kind, shape))

    @cached_property
    def bound(self) -> FloatArray:
        """Stated bound for luma and colour, float32 (2, tile_rows, tile_columns), in levels."""
        floor = np.array(self.floor, np.float32).reshape(2, 1, 1)
        return np.maximum(self.tau, floor)

    def levels(self, settings: GateSettings) -> TileLevels:
        """Return the thresholds for differences of cells.

        They are lower than the stated bound by the error of rounding and of the anchor, so that
        every change of the size of the bound is detected.
        """
        known: TileLevels | None = self.__dict__.get("_levels")
        if known is None or known.settings is not settings:
            hidden = np.float32(self.grid.rounding + settings.anchor)
            least = np.maximum(self.bound - hidden, np.float32(0))
            factors = np.array([1, settings.at_once, settings.calm], np.float32)
            # Differences are whole numbers up to 255.
            whole = np.ceil(np.minimum(np.multiply.outer(factors, least), np.float32(256)))
            over, at_once, calm = whole.astype(np.int16)
            lowest = int(over[0].min()), int(over[1].min())
            known = TileLevels(settings, over, at_once, calm, least > 0, lowest)
            self.__dict__["_levels"] = known
        return known

    def reach(self, anchor: int) -> tuple[ByteArray, ByteArray]:
        """Return the lowest and highest reference: `anchor` levels from the origin, uint8 each."""
        known: tuple[int, ByteArray, ByteArray] | None = self.__dict__.get("_reach")
        if known is None or known[0] != anchor:
            by = np.full_like(self.origin, anchor)
            least, most = np.empty_like(by), np.empty_like(by)
            cv2.subtract(self.origin, by, least)  # saturates, and so does the next line
            cv2.add(self.origin, by, most)
            known = self.__dict__["_reach"] = anchor, least, most
        return known[1:]

    def looked(
        self,
        reference: ByteArray,
        above: ByteArray,
        age: ByteArray,
        motion: CameraMotion,
        exposure: Exposure,
    ) -> GateState:
        """Return the state after one more look.

        The arrays become read-only and are not checked again. Values that were derived from
        thresholds and origin are kept, because a look does not change these.
        """
        for array in (reference, above, age):
            array.flags.writeable = False
        changed = {"reference": reference, "above": above, "age": age, "looks": self.looks + 1}
        return unchecked(self, **changed, motion=motion, exposure=exposure)

    def to_bytes(self) -> bytes:
        """Return the state in `nbytes(grid)` bytes, the same on every machine."""
        grid, exposure = self.grid, self.exposure
        motion = self.motion.moving, self.motion.restless, self.motion.restful, self.motion.noisy
        line = exposure.gain, exposure.shift, exposure.level
        head = _HEAD.pack(
            _VERSION, grid.width, grid.height, grid.cell, *self.floor, self.looks, *motion, *line
        )
        offset = self.reference - self.origin  # wraps around on purpose
        offset += _MIDDLE
        half = _half(grid)
        packed = offset[:half]
        packed[: grid.cells - half] += offset[half:] << np.uint8(4)
        origin, tau = self._learned_bytes
        rest = packed.tobytes(), tau, self.above.tobytes(), self.age.tobytes()
        return b"".join([head, origin, *rest])

    @cached_property
    def _learned_bytes(self) -> tuple[bytes, bytes]:
        """The origin and the thresholds as bytes; a look does not change them."""
        return self.origin.tobytes(), self.tau.astype("<f4", copy=False).tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> GateState:
        """Return the state that `to_bytes` wrote. Raises GateStateUnreadable for other bytes."""
        if len(data) < _HEAD.size:
            raise GateStateUnreadable(f"at least {_HEAD.size} bytes", f"{len(data)}")
        version, width, height, cell, *head = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise GateStateUnreadable(f"version {_VERSION}", f"version {version}")
        grid = Grid(width, height, cell)
        if len(data) != nbytes(grid):
            raise GateStateUnreadable(f"{nbytes(grid)} bytes for {grid}", f"{len(data)}")
        tiles, half = grid.tile_rows * grid.tile_columns, _half(grid)
        origin = np.frombuffer(data, np.uint8, grid.cells, _HEAD.size)
        packed = np.frombuffer(data, np.uint8, half, _HEAD.size + grid.cells)
        at = _HEAD.size + grid.cells + half
        offset = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)])[: grid.cells]
        tau = np.frombuffer(data, "<f4", 2 * tiles, at).reshape(2, *grid.tiles)
        rest = np.frombuffer(data, np.uint8, 3 * tiles, at + 8 * tiles).reshape(3, *grid.tiles)
        return GateState(
            grid,
            origin,
            origin + offset - _MIDDLE,
            tau.astype(np.float32, copy=False),
            rest[:2],
            rest[2],
            floor=(head[0], head[1]),
            looks=head[2],
            motion=CameraMotion(*head[3:7]),
            exposure=Exposure(*head[7:]),
        )


def nbytes(grid: Grid) -> int:
    """Return the size of a stored state: 1.5 bytes per cell and 11 bytes per tile."""
    return _HEAD.size + grid.cells + _half(grid) + 11 * grid.tile_rows * grid.tile_columns


def _half(grid: Grid) -> int:
    return (grid.cells + 1) // 2


# -- Age limits, drawn so that sources do not all look at the same time.


_JITTER: Final = 0.2  # relative, to both sides of the mean limit
SHORTEST: Final = (1 - _JITTER) / (1 + _JITTER)  # shortest limit, as a share of the longest
_KEY_BYTES: Final = 64  # longest key of BLAKE2b


def age_limit(seconds: float, key: bytes, position: tuple[int, ...]) -> float:
    """Return an age limit: 5/6 of `seconds`, varied by up to 20 %, never above `seconds`.

    key       at most 64 bytes, different for each source
    position  whole numbers (64 bits) that identify the thing that ages; equal numbers give an
              equal limit

    The limit comes from a keyed hash, not from a clock or a random number, so a restarted stage
    decides as before. Raises ValueError for a longer key.
    """
    if len(key) > _KEY_BYTES:
        raise ValueError(f"key must have at most {_KEY_BYTES} bytes, got {len(key)}")
    named = struct.pack(f"<{len(position)}q", *position)
    digest = hashlib.blake2b(named, digest_size=8, key=key).digest()
    drawn = int.from_bytes(digest, "little")
    return seconds * (1 - (1 - SHORTEST) * (drawn / 2**64))
