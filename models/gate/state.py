"""What the gate remembers between two frames, and how old things may get."""

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
from framegate.models.gate.camera_motion import STILL, CameraMotion
from framegate.models.gate.cells import Grid
from framegate.models.gate.exposure import SAME, Exposure
from framegate.models.gate.settings import GateSettings
from framegate.models.picture import ByteArray

NEVER: Final = 255  # `age` of a tile that no network has looked at
HOT: Final = 2  # `above` from which on a tile is hot
AT_ONCE: Final = 100  # `above` of a tile that changed by so much that it was hot at once
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<BIIIddI?BB?ddd")
_MIDDLE: Final = np.uint8(8)  # how an offset of 0 is written in four bits


class GateStateUnreadable(ModelError, ValueError):
    """Bytes that are no gate state, or one of a version that this program does not know."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"gate state: expected {expected}, found {found}")
        self.expected, self.found = expected, found


@dataclass(frozen=True, slots=True, eq=False)
class TileLevels:
    """What thresholds mean for the largest difference of a cell in each tile, in whole levels.

    int16 (2, tile_rows, tile_columns), for luma and colour
    over     from which on it is over its threshold
    at_once  from which on it is hot at once
    calm     below which a change is forgotten
    counts   bool, same shape: there is a threshold; without one all is over it, changed or not
    lowest   the least of `over`, for luma and colour
    """

    settings: GateSettings
    over: npt.NDArray[np.int16]
    at_once: npt.NDArray[np.int16]
    calm: npt.NDArray[np.int16]
    counts: BoolArray
    lowest: tuple[int, int]


@dataclass(frozen=True, eq=False)
class GateState:
    """Arrays are read-only and may be shared between states; safe to share between threads.

    grid       where cells and tiles lie
    origin     uint8 (grid.cells,)  levels at each cell's last inference, in the exposure that the
               last inference of the whole picture had
    reference  uint8 (grid.cells,)  the same less noise and key-frame pops: within 7 of `origin`
    tau        float32 (2, tile_rows, tile_columns)  learned by each tile, in levels: luma, colour
    floor      the same learned by the picture: luma, colour
    above      uint8 (2, tile_rows, tile_columns)  looks over the threshold: HOT, AT_ONCE
    age        uint8 (tile_rows, tile_columns)  looks since the reference was renewed, saturating
               at 7; NEVER
    looks      since the last inference
    motion     of the camera
    exposure   of the last look

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
        """Stated bounds for luma and colour, float32 (2, tile_rows, tile_columns), in levels."""
        floor = np.array(self.floor, np.float32).reshape(2, 1, 1)
        return np.maximum(self.tau, floor)

    def levels(self, settings: GateSettings) -> TileLevels:
        """Return what the thresholds mean for differences of cells.

        They leave room for what rounding and the anchor may hide, so that the stated bound holds.
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
        """Return how dark and how bright a reference may become: so many levels from the origin."""
        known: tuple[int, ByteArray, ByteArray] | None = self.__dict__.get("_reach")
        if known is None or known[0] != anchor:
            by = np.full_like(self.origin, anchor)
            least, most = np.empty_like(by), np.empty_like(by)
            cv2.subtract(self.origin, by, least)  # saturates, as what follows
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
        """Return the state one look later.

        Arrays as the fields have them; they become read-only, and are not checked again. What was
        worked out of thresholds and origin is kept, as these stay.
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
        offset = self.reference - self.origin  # wraps round, as it should
        offset += _MIDDLE
        half = _half(grid)
        packed = offset[:half]
        packed[: grid.cells - half] += offset[half:] << np.uint8(4)
        origin, tau = self._learned_bytes
        rest = packed.tobytes(), tau, self.above.tobytes(), self.age.tobytes()
        return b"".join([head, origin, *rest])

    @cached_property
    def _learned_bytes(self) -> tuple[bytes, bytes]:
        """What no look changes, as bytes: the origin, and thresholds."""
        return self.origin.tobytes(), self.tau.astype("<f4", copy=False).tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> GateState:
        """Return the state that `to_bytes` wrote; GateStateUnreadable for anything else."""
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
    """Return bytes of a state for this grid: 1.5 a cell and 11 a tile."""
    return _HEAD.size + grid.cells + _half(grid) + 11 * grid.tile_rows * grid.tile_columns


def _half(grid: Grid) -> int:
    return (grid.cells + 1) // 2


# -- How old something may get before it is looked at again, so that nothing falls into step.


_JITTER: Final = 0.2  # to both sides of the mean limit
SHORTEST: Final = (1 - _JITTER) / (1 + _JITTER)  # of the limit: less is never drawn
_KEY_BYTES: Final = 64  # what BLAKE2b takes


def age_limit(seconds: float, key: bytes, position: tuple[int, ...]) -> float:
    """A limit around 5/6 of `seconds`, give or take 20 % of that, never above `seconds`.

    key       at most 64 bytes; of a source, so that several do not look at the same time
    position  whole numbers (64 bits) that name what ages: the same ones draw the same limit

    A keyed hash and no clock or dice, so that a restarted stage decides as it would have. Raises
    ValueError for a longer key.
    """
    if len(key) > _KEY_BYTES:
        raise ValueError(f"key: expected at most {_KEY_BYTES} bytes, found {len(key)}")
    named = struct.pack(f"<{len(position)}q", *position)
    digest = hashlib.blake2b(named, digest_size=8, key=key).digest()
    drawn = int.from_bytes(digest, "little")
    return seconds * (1 - (1 - SHORTEST) * (drawn / 2**64))
