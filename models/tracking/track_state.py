"""What a tracker remembers between two frames, as arrays and as bytes."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import read_only
from framegate.models.errors import ModelError

_VERSION: Final = 2
_HEAD: Final = struct.Struct("<BIHd")  # version, next id, tracks, pts (NaN where unknown)
_COLUMNS: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("mean", "<f4", (8,)),
    ("covariance", "<f4", (3,)),
    ("lost_s", "<f4", ()),
    ("ids", "<i4", ()),
    ("hits", "u1", ()),
    ("class_ids", "u1", ()),
)
MAX_TRACKS: Final = 0xFFFF


class StateUnreadable(ModelError, ValueError):
    """Bytes that are no track state, or one of a version that this program does not know."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"track state: expected {expected}, found {found}")
        self.expected, self.found = expected, found


@dataclass(frozen=True, slots=True, eq=False)
class TrackState:
    """One row a track, oldest first; read-only arrays, safe to share between threads.

    next_id     id that the next confirmed track will get, >= 1
    pts         latest time stamp seen, seconds; None before the first
    mean        float32 (T, 8)  left, top, right, bottom in pixels, then their change per step
    covariance  float32 (T, 3)  variance of place, covariance with speed, variance of speed; the
                four edges are independent with equal noise, so one 2x2 matrix serves them all
    lost_s      float32 (T,)    seconds since the last match, 0 where the last frame matched
    ids         int32 (T,)      0 while unconfirmed
    hits        uint8 (T,)      frames matched in a row, saturating
    class_ids   uint8 (T,)      class of the box that began it

    Everything is kept in the precision in which it is stored, so a state that was written and read
    again goes on to the same bits. Raises ArrayMismatch.
    """

    next_id: int
    pts: float | None
    mean: npt.NDArray[np.float32]
    covariance: npt.NDArray[np.float32]
    lost_s: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    hits: npt.NDArray[np.uint8]
    class_ids: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        for name, kind, tail in _COLUMNS:
            value = getattr(self, name)
            checked = read_only(name, value, np.dtype(kind), (len(self.ids), *tail))
            object.__setattr__(self, name, checked)

    def __len__(self) -> int:
        return len(self.ids)

    def to_bytes(self) -> bytes:
        """Return the state in 15 + 54 T bytes, the same on every machine."""
        pts = math.nan if self.pts is None else self.pts
        columns = (
            np.ascontiguousarray(getattr(self, name), np.dtype(kind)).tobytes()
            for name, kind, _ in _COLUMNS
        )
        return _HEAD.pack(_VERSION, self.next_id, len(self), pts) + b"".join(columns)

    @staticmethod
    def from_bytes(data: bytes) -> TrackState:
        """Return the state that `to_bytes` wrote; StateUnreadable for anything else."""
        if len(data) < _HEAD.size:
            raise StateUnreadable(f"at least {_HEAD.size} bytes", f"{len(data)}")
        version, next_id, tracks, pts = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise StateUnreadable(f"version {_VERSION}", f"version {version}")
        columns: dict[str, npt.NDArray[Any]] = {}
        at = _HEAD.size
        for name, kind, tail in _COLUMNS:
            count = tracks * math.prod(tail)
            end = at + count * np.dtype(kind).itemsize
            if end > len(data):
                raise StateUnreadable(f"{tracks} tracks", f"{len(data)} bytes")
            columns[name] = np.frombuffer(data, kind, count, at).reshape(tracks, *tail)
            at = end
        if at != len(data):
            raise StateUnreadable(f"{at} bytes for {tracks} tracks", f"{len(data)}")
        return TrackState(next_id, None if math.isnan(pts) else pts, **columns)


def no_tracks() -> TrackState:
    """Return the state before the first frame of a source."""
    columns = {name: np.zeros((0, *tail), kind) for name, kind, tail in _COLUMNS}
    return TrackState(1, None, **columns)
