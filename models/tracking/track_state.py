"""The state of a tracker between two frames, as arrays and as bytes."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import (
    BoolArray,
    DoubleArray,
    FloatArray,
    IntArray,
    read_only,
    unchecked,
)
from framegate.models.errors import ModelError

_VERSION: Final = 4
NAMES: Final = 3  # classes whose votes a track keeps: those with the most votes
_HEAD: Final = struct.Struct("<BIHd")  # version, next id, tracks, pts (NaN if unknown)
_FLOAT, _INT, _BYTE = np.dtype("<f4"), np.dtype("<i4"), np.dtype("u1")
_TIME = np.dtype("<f8")
_COLUMNS: Final[tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]] = (
    ("mean", _FLOAT, (8,)),
    ("covariance", _FLOAT, (3,)),
    ("lost_s", _FLOAT, ()),
    ("ids", _INT, ()),
    ("hits", _BYTE, ()),
    ("class_ids", _BYTE, (NAMES,)),
    ("votes", _FLOAT, (NAMES,)),
    ("place", _FLOAT, (4,)),
    ("rest_from", _TIME, ()),
)
_WITHOUT_PLACE: Final = 3  # the version before `place` and `rest_from`
MAX_TRACKS: Final = 0xFFFF


class StateUnreadable(ModelError, ValueError):
    """Bytes that are not a track state, or a state of an unknown version."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"track state: expected {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


@dataclass(frozen=True, eq=False)
class TrackState:
    """The tracks of a source, oldest first. Arrays are read-only and safe to share between threads.

    next_id     id of the next confirmed track, at least 1
    pts         latest time stamp, seconds; None before the first
    mean        float32 (T, 8)  left, top, right, bottom in pixels, then their change per step
    covariance  float32 (T, 3)  variance of position, covariance with speed, variance of speed; the
                four edges are independent with equal noise, so one 2x2 matrix serves all of them
    lost_s      float32 (T,)    seconds since the last match, 0 if the last frame matched
    ids         int32 (T,)      0 for an unconfirmed track
    hits        uint8 (T,)      frames matched in a row, saturating
    class_ids   uint8 (T, 3)    classes of the matched boxes, the class with the most votes first
    votes       float32 (T, 3)  sum of the scores of each class, descending; 0 for an unused column
    place       float32 (T, 4)  where the object is or was last; the same edges as in `mean`
    rest_from   float64 (T,)    time stamp of the first box in this place, seconds

    All values have the precision in which they are stored, so a state that was written and read
    continues with the same bits. Raises ArrayMismatch.
    """

    next_id: int
    pts: float | None
    mean: FloatArray
    covariance: FloatArray
    lost_s: FloatArray
    ids: IntArray
    hits: npt.NDArray[np.uint8]
    class_ids: npt.NDArray[np.uint8]
    votes: FloatArray
    place: FloatArray
    rest_from: DoubleArray

    def __post_init__(self) -> None:
        for name, kind, tail in _COLUMNS:
            value = getattr(self, name)
            checked = read_only(name, value, kind, (len(self.ids), *tail))
            object.__setattr__(self, name, checked)

    def __len__(self) -> int:
        return len(self.ids)

    def named(self, ids: IntArray, class_ids: IntArray) -> IntArray:
        """Return the class of each box, int32 (N,): that of its track, or its own without a track.

        ids        int32 (N,)  track of each box, 0: no track
        class_ids  int32 (N,)  class of each box
        """
        class_of_track = dict(zip(self.ids.tolist(), self.class_ids[:, 0].tolist(), strict=True))
        class_of_track.pop(0, None)
        each = zip(ids.tolist(), class_ids.tolist(), strict=True)
        return np.array([class_of_track.get(track, own) for track, own in each], np.int32)

    def to_bytes(self) -> bytes:
        """Return the state in 15 + 92 T bytes, the same on every machine."""
        pts = self.pts
        if pts is None:
            pts = math.nan
        return _HEAD.pack(_VERSION, self.next_id, len(self), pts) + self._column_bytes

    @cached_property
    def _column_bytes(self) -> bytes:
        columns = (
            np.ascontiguousarray(getattr(self, name), kind).tobytes() for name, kind, _ in _COLUMNS
        )
        return b"".join(columns)

    @cached_property
    def are_named(self) -> bool:
        """True if every track has an id."""
        return bool(np.count_nonzero(self.ids) == len(self.ids))

    @cached_property
    def are_seen(self) -> bool:
        """True if no track is lost."""
        return not np.count_nonzero(self.lost_s)

    def take(self, rows: BoolArray) -> TrackState:
        """Return the tracks of a mask."""
        columns = {name: getattr(self, name)[rows] for name, _, _ in _COLUMNS}
        return TrackState(self.next_id, self.pts, **columns)

    def at(self, pts: float | None) -> TrackState:
        """Return the same tracks with another time stamp."""
        return unchecked(self, pts=pts)

    @staticmethod
    def from_bytes(data: bytes) -> TrackState:
        """Return the state that `to_bytes` wrote. Raises StateUnreadable for other bytes."""
        if len(data) < _HEAD.size:
            raise StateUnreadable(f"at least {_HEAD.size} bytes", f"{len(data)}")
        version, next_id, tracks, pts = _HEAD.unpack_from(data)
        if version not in (_WITHOUT_PLACE, _VERSION):
            raise StateUnreadable(f"version {_VERSION}", f"version {version}")
        stored = _COLUMNS
        if version == _WITHOUT_PLACE:
            stored = _COLUMNS[:-2]
        columns: dict[str, npt.NDArray[Any]] = {}
        at = _HEAD.size
        for name, kind, tail in stored:
            count = tracks * math.prod(tail)
            end = at + count * kind.itemsize
            if end > len(data):
                raise StateUnreadable(f"{tracks} tracks", f"{len(data)} bytes")
            columns[name] = np.frombuffer(data, kind, count, at).reshape(tracks, *tail)
            at = end
        if at != len(data):
            raise StateUnreadable(f"{at} bytes for {tracks} tracks", f"{len(data)}")
        if math.isnan(pts):
            pts = None
        if version == _WITHOUT_PLACE:
            columns["place"] = columns["mean"][:, :4]
            columns["rest_from"] = np.full(tracks, pts or 0.0)
        return TrackState(next_id, pts, **columns)


def no_tracks() -> TrackState:
    """Return the state before the first frame of a source."""
    columns = {name: np.zeros((0, *tail), kind) for name, kind, tail in _COLUMNS}
    return TrackState(1, None, **columns)
