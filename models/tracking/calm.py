"""The calm rule: which boxes are shown, from all the looks at their objects; explicit state.

A box whose score lies near the threshold comes and goes with the noise of the camera. An object was
looked at many times, and the mean of its scores moves far less than each of them: a box is shown
while that mean is above the threshold. A second, lower threshold for what is already shown does
not do this: it keeps what is false.

An object is known again by its track, and before it has one by its place; whatever it was taken
for: its name is its track's matter.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import (
    BoolArray,
    Boxes,
    FloatArray,
    IndexArray,
    IntArray,
    iou,
    read_only,
    suppress,
    unchecked,
)
from framegate.models.errors import ModelError

# -- What the calm rule remembers of each object between two frames, as arrays and as bytes.


_VERSION: Final = 2
_HEAD: Final = struct.Struct("<BHd")  # version, objects, pts (NaN where unknown)
_FLOAT, _INT = np.dtype("<f4"), np.dtype("<i4")
_COLUMNS: Final[tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]] = (
    ("xyxy", _FLOAT, (4,)),
    ("means", _FLOAT, ()),
    ("lost_s", _FLOAT, ()),
    ("looks", _FLOAT, ()),
    ("ids", _INT, ()),
)
_ROW_BYTES: Final = sum(kind.itemsize * math.prod(tail) for _, kind, tail in _COLUMNS)


class CalmStateUnreadable(ModelError, ValueError):
    """Bytes that are no state of the calm rule, or of a version this program does not know."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"calm state: expected {expected}, found {found}")
        self.expected, self.found = expected, found


@dataclass(frozen=True, eq=False)
class CalmState:
    """One row an object; read-only arrays, safe to share between threads.

    pts        latest time stamp seen, seconds; None before the first
    xyxy       float32 (T, 4)  its last box, pixels
    means      float32 (T,)    0..1, its mean score over the looks at it
    lost_s     float32 (T,)    seconds since it last had a box, 0 where the last frame had one
    looks      float32 (T,)    how many looks the mean is over, those elsewhere counted less
    ids        int32 (T,)      its last track, 0 where it never had one

    Kept in the precision in which it is stored: a state written and read goes on to the same bits.
    Raises ArrayMismatch.
    """

    pts: float | None
    xyxy: FloatArray
    means: FloatArray
    lost_s: FloatArray
    looks: FloatArray
    ids: IntArray

    def __post_init__(self) -> None:
        for name, kind, tail in _COLUMNS:
            value = getattr(self, name)
            checked = read_only(name, value, kind, (len(self.means), *tail))
            object.__setattr__(self, name, checked)

    def __len__(self) -> int:
        return len(self.means)

    def at(self, pts: float | None) -> CalmState:
        """Return the same at another time."""
        return unchecked(self, pts=pts)

    def to_bytes(self) -> bytes:
        """Return the state in 11 + 32 T bytes, the same on every machine."""
        pts = math.nan if self.pts is None else self.pts
        return _HEAD.pack(_VERSION, len(self), pts) + self._column_bytes

    @cached_property
    def _column_bytes(self) -> bytes:
        columns = (
            np.ascontiguousarray(getattr(self, name), kind).tobytes() for name, kind, _ in _COLUMNS
        )
        return b"".join(columns)

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
            at += count * kind.itemsize
        return CalmState(None if math.isnan(pts) else pts, **columns)


def not_calmed() -> CalmState:
    """Return the state before the first frame of a source."""
    columns = {name: np.zeros((0, *tail), kind) for name, kind, tail in _COLUMNS}
    return CalmState(None, **columns)


Column = npt.NDArray[Any]

_ROUNDING_S: Final = 0.0005
MAX_OBJECTS: Final = 512  # or as many as a frame has boxes
_SURE: Final = 2.0  # what a common track is worth beside overlap


@dataclass(frozen=True, slots=True)
class CalmSettings:
    """Numbers of the rule, chosen with `benchmarks.calm` on three clips and frozen.

    shown       0..1, a box is shown when its object's mean score is above it; it is a little below
                the least score of single looks, which a mean reaches less often than their best
    candidate   0..1, least score of a box that the rule is given: evidence, if never shown
    own         (class id, 0..1) of classes with a threshold of their own, at or above `shown`
    first       0..1, how far above `shown` a first look must be; then one more look decides
    looks       at least 1, looks that a mean is over; what was before is forgotten, exponentially
    min_iou     0..1, smallest overlap of a box without a track with its object's last one
    max_lost_s  seconds of pts after which an object without a box is forgotten, as in TrackSettings
    """

    shown: float = 0.415
    candidate: float = 0.2
    first: float = 0.05
    looks: float = 8
    min_iou: float = 0.4
    max_lost_s: float = 1.0
    own: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.looks >= 1:
            raise ValueError(f"looks: {self.looks}; allowed: 1 and more")


_DEFAULT: Final = CalmSettings()


def step(
    state: CalmState,
    boxes: Boxes,
    ids: IntArray,
    looked: BoolArray,
    pts: float | None,
    settings: CalmSettings = _DEFAULT,
) -> tuple[CalmState, Boxes, IndexArray]:
    """Take in one frame; return the new state, the boxes to show, and their rows in `boxes`.

    boxes    all with a score of at least `settings.candidate`
    ids      int32 (N,)  track of each from `bytetrack.step`, 0: none
    looked   bool (N,)   False: carried or moved along, which is no new evidence
    pts      seconds, or None where unknown (then nothing is forgotten for its age)

    Shown boxes carry the mean score, highest first; none lies on a surer one, and after its first
    look each has a track. Earlier looks weigh less the farther an object
    has moved since: its mean is of the same sight, and does not lag behind what changes.
    A look that finds no candidate changes no mean: without a box there is nothing to show.
    A pure function, the same bits from equal input.
    """
    now_s, lost_s = _times(state, pts)
    away = lost_s <= settings.max_lost_s + _ROUNDING_S
    place, overlap = _continued(state, away, boxes, ids, settings.min_iou)
    away[place[place >= 0]] = False
    looks, means = _at(place, state.looks), _at(place, state.means)
    fresh = looked | (place < 0)
    earlier = np.minimum(looks * overlap**2, np.float32(settings.looks - 1))
    looks[fresh] = earlier[fresh] + 1
    means[fresh] += (boxes.scores[fresh] - means[fresh]) / looks[fresh]
    least = _least_of(boxes.class_ids, settings)
    is_first = looks <= 1
    sure = means > least + np.float32(settings.first) * is_first
    shown = np.flatnonzero(sure & (is_first | (ids > 0)))
    shown = shown[suppress(boxes.xyxy[shown], means[shown])]
    calmed = Boxes(boxes.xyxy[shown], means[shown], boxes.class_ids[shown])
    known = (place >= 0) | (means > least)
    tracks = np.where(ids > 0, ids, _at(place, state.ids))
    now = (boxes.xyxy, means, np.zeros_like(means), looks, tracks)
    return _remembered(now_s, state, lost_s, away, now, known), calmed, shown


def _least_of(class_ids: IntArray, settings: CalmSettings) -> FloatArray:
    """Return the mean score above which a box of each class is shown, float32 (N,)."""
    least = np.full(len(class_ids), settings.shown, np.float32)
    for class_id, own in settings.own:
        least[class_ids == class_id] = own
    return least


def _times(state: CalmState, pts: float | None) -> tuple[float | None, FloatArray]:
    """Return the latest time stamp, and for how long each object has had no box."""
    both = [t for t in (state.pts, pts) if t is not None]
    elapsed = max(both[1] - both[0], 0.0) if len(both) == 2 else 0.0
    return max(both, default=None), state.lost_s + np.float32(elapsed)


def _continued(
    state: CalmState, there: BoolArray, boxes: Boxes, ids: IntArray, min_iou: float
) -> tuple[IndexArray, FloatArray]:
    """Row in `state` of the object that each box continues, -1 for none, and their overlap.

    Objects that are `there` go to the box of their track, and what is left to the box that overlaps
    most.
    """
    same_track = there & (ids[:, None] == state.ids[None, :]) & (ids[:, None] > 0)
    overlap = np.where(there, iou(boxes.xyxy, state.xyxy), np.float32(0))
    worth = np.where(same_track, _SURE, np.where(overlap >= min_iou, overlap, 0))
    place = np.full(len(boxes), -1, np.intp)
    free = there.copy()
    rows, columns = np.nonzero(worth)
    for pair in np.argsort(-worth[rows, columns], kind="stable"):
        row, column = rows[pair], columns[pair]
        if place[row] < 0 and free[column]:
            place[row], free[column] = column, False
    chosen = np.zeros(len(boxes), np.float32)
    chosen[place >= 0] = overlap[place >= 0, place[place >= 0]]
    return place, chosen


def _at(place: IndexArray, column: Column) -> Column:
    """Return the column's values at these rows, 0 where there is none."""
    values = np.zeros(len(place), column.dtype)
    values[place >= 0] = column[place[place >= 0]]
    return values


def _remembered(
    pts: float | None,
    state: CalmState,
    lost_s: Column,
    away: BoolArray,
    now: Sequence[Column],
    known: BoolArray,
) -> CalmState:
    """Return what is away and what is here, within the bound: those away for longest go first."""
    before: Sequence[Column] = (
        state.xyxy,
        state.means,
        lost_s,
        state.looks,
        state.ids,
    )
    rows = np.flatnonzero(away)
    room = max(MAX_OBJECTS - int(known.sum()), 0)
    if len(rows) > room:
        rows = np.sort(rows[np.argsort(lost_s[rows], kind="stable")[:room]])
    columns = [
        np.concatenate([old[rows], new[known].astype(old.dtype)])
        for old, new in zip(before, now, strict=True)
    ]
    return CalmState(pts, *columns)
