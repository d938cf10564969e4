"""What the calm rule remembers of each object between two frames, as arrays and as bytes."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import read_only
from framegate.models.errors import ModelError

_VERSION: Final = 1
_HEAD: Final = struct.Struct("<BHd")  # version, objects, pts (NaN where unknown)
_COLUMNS: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("xyxy", "<f4", (4,)),
    ("means", "<f4", ()),
    ("lost_s", "<f4", ()),
    ("looks", "<f4", ()),
    ("ids", "<i4", ()),
    ("class_ids", "u1", ()),
)
_ROW_BYTES: Final = sum(np.dtype(kind).itemsize * math.prod(tail) for _, kind, tail in _COLUMNS)


class CalmStateUnreadable(ModelError, ValueError):
    """Bytes that are no state of the calm rule, or of a version this program does not know."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"calm state: expected {expected}, found {found}")
        self.expected, self.found = expected, found


@dataclass(frozen=True, slots=True, eq=False)
class CalmState:
    """One row an object; read-only arrays, safe to share between threads.

    pts        latest time stamp seen, seconds; None before the first
    xyxy       float32 (T, 4)  its last box, pixels
    means      float32 (T,)    0..1, its mean score over the looks at it
    lost_s     float32 (T,)    seconds since it last had a box, 0 where the last frame had one
    looks      float32 (T,)    how many looks the mean is over, those elsewhere counted less
    ids        int32 (T,)      its last track, 0 where it never had one
    class_ids  uint8 (T,)      index into `coco.LABELS`

    Kept in the precision in which it is stored: a state written and read goes on to the same bits.
    Raises ArrayMismatch.
    """

    pts: float | None
    xyxy: npt.NDArray[np.float32]
    means: npt.NDArray[np.float32]
    lost_s: npt.NDArray[np.float32]
    looks: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    class_ids: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        for name, kind, tail in _COLUMNS:
            value = getattr(self, name)
            checked = read_only(name, value, np.dtype(kind), (len(self.means), *tail))
            object.__setattr__(self, name, checked)

    def __len__(self) -> int:
        return len(self.means)

    def to_bytes(self) -> bytes:
        """Return the state in 11 + 33 T bytes, the same on every machine."""
        pts = math.nan if self.pts is None else self.pts
        columns = (
            np.ascontiguousarray(getattr(self, name), np.dtype(kind)).tobytes()
            for name, kind, _ in _COLUMNS
        )
        return _HEAD.pack(_VERSION, len(self), pts) + b"".join(columns)

    @staticmethod
    def from_bytes(data: bytes) -> CalmState:
        """Return the state that `to_bytes` wrote; CalmStateUnreadable for anything else."""
        if len(data) < _HEAD.size:
            raise CalmStateUnreadable(f"at least {_HEAD.size} bytes", f"{len(data)}")
        version, objects, pts = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise CalmStateUnreadable(f"version {_VERSION}", f"version {version}")
        size = _HEAD.size + objects * _ROW_BYTES
        if len(data) != size:
            raise CalmStateUnreadable(f"{size} bytes for {objects} objects", f"{len(data)}")
        columns: dict[str, npt.NDArray[Any]] = {}
        at = _HEAD.size
        for name, kind, tail in _COLUMNS:
            count = objects * math.prod(tail)
            columns[name] = np.frombuffer(data, kind, count, at).reshape(objects, *tail)
            at += count * np.dtype(kind).itemsize
        return CalmState(None if math.isnan(pts) else pts, **columns)


def not_calmed() -> CalmState:
    """Return the state before the first frame of a source."""
    columns = {name: np.zeros((0, *tail), kind) for name, kind, tail in _COLUMNS}
    return CalmState(None, **columns)
