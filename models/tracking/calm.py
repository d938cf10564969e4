"""Score smoothing with explicit state: publish a box while the mean score of its object is high.

A box with a score near the threshold appears and disappears with the noise of the camera. The mean
score over many looks at an object varies far less, so an object is published from the look at which
this mean is above the threshold. An object with a track then stays published while its mean is
above a second, lower threshold. A mean between the two never makes an object appear. It also keeps
no box that lies on a better one, because such a box is often a second box of the same objects.

An object is recognised by its track, and before it has one by its position, regardless of its
class.
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
    area,
    iou,
    read_only,
    suppress,
    unchecked,
)
from framegate.models.errors import ModelError

# -- The state of the smoothing between two frames, as arrays and as bytes.


_VERSION: Final = 3
_HEAD: Final = struct.Struct("<BHd")  # version, objects, pts (NaN if unknown)
_FLOAT, _INT, _FLAG = np.dtype("<f4"), np.dtype("<i4"), np.dtype("?")
_COLUMNS: Final[tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]] = (
    ("xyxy", _FLOAT, (4,)),
    ("means", _FLOAT, ()),
    ("lost_s", _FLOAT, ()),
    ("looks", _FLOAT, ()),
    ("ids", _INT, ()),
    ("shown", _FLAG, ()),
)
_ROW_BYTES: Final = sum(kind.itemsize * math.prod(tail) for _, kind, tail in _COLUMNS)


class CalmStateUnreadable(ModelError, ValueError):
    """Bytes that are not a state of the smoothing, or a state of an unknown version."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"calm state: expected {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


@dataclass(frozen=True, eq=False)
class CalmState:
    """The smoothed objects, one per row. Arrays are read-only and safe to share between threads.

    pts        latest time stamp, seconds; None before the first
    xyxy       float32 (T, 4)  last box, pixels
    means      float32 (T,)    0..1, mean score over the looks at the object
    lost_s     float32 (T,)    seconds since the object had a box, 0 if the last frame had one
    looks      float32 (T,)    number of looks in the mean; looks at other positions count less
    ids        int32 (T,)      last track, 0: none
    shown      bool (T,)       the last mean was high enough to be published

    All values have the precision in which they are stored, so a state that was written and read
    continues with the same bits. Raises ArrayMismatch.
    """

    pts: float | None
    xyxy: FloatArray
    means: FloatArray
    lost_s: FloatArray
    looks: FloatArray
    ids: IntArray
    shown: BoolArray

    def __post_init__(self) -> None:
        for name, kind, tail in _COLUMNS:
            value = getattr(self, name)
            checked = read_only(name, value, kind, (len(self.means), *tail))
            object.__setattr__(self, name, checked)

    def __len__(self) -> int:
        return len(self.means)

    def at(self, pts: float | None) -> CalmState:
        """Return the same objects with another time stamp."""
        return unchecked(self, pts=pts)

    def to_bytes(self) -> bytes:
        """Return the state in 11 + 33 T bytes, the same on every machine."""
        pts = self.pts
        if pts is None:
            pts = math.nan
        return _HEAD.pack(_VERSION, len(self), pts) + self._column_bytes

    @cached_property
    def _column_bytes(self) -> bytes:
        columns = (
            np.ascontiguousarray(getattr(self, name), kind).tobytes() for name, kind, _ in _COLUMNS
        )
        return b"".join(columns)

    @staticmethod
    def from_bytes(data: bytes) -> CalmState:
        """Return the state that `to_bytes` wrote. Raises CalmStateUnreadable for other bytes."""
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
        if math.isnan(pts):
            pts = None
        return CalmState(pts, **columns)


def not_calmed() -> CalmState:
    """Return the state before the first frame of a source."""
    columns = {name: np.zeros((0, *tail), kind) for name, kind, tail in _COLUMNS}
    return CalmState(None, **columns)


Column = npt.NDArray[Any]

_ROUNDING_S: Final = 0.0005
MAX_OBJECTS: Final = 512  # or the number of boxes of a frame, if it is larger
_DOUBLE: Final = 0.5  # share of the smaller of two boxes
_SURE: Final = 2.0  # worth of a common track; an overlap is worth at most 1


@dataclass(frozen=True, slots=True)
class CalmSettings:
    """Parameters of the smoothing, chosen on three clips, by F1 and by agreement under noise.

    shown       0..1, threshold of the mean score; slightly below the threshold of single looks,
                because a mean reaches a value less often than the best look does
    kept        0..1, the same for an object that is published already and has a track
    candidate   0..1, lowest score of an input box, which is evidence although it is not published
    candidate_share  0..1, share of `shown` and of `kept` above which a tracked object may appear
                and stay for other reasons than its score
    own         (class id, shown, kept), both thresholds of single classes, at least the common ones
    first       0..1, margin above `shown` that a first look needs; otherwise a second look decides
    looks       at least 1, number of looks in a mean; older looks are forgotten exponentially
    min_iou     0..1, smallest overlap of a box without a track with the last box of its object
    max_lost_s  seconds of pts after which an object without a box is forgotten (see TrackSettings)
    """

    shown: float = 0.415
    kept: float = 0.415
    candidate: float = 0.2
    first: float = 0.05
    looks: float = 8
    min_iou: float = 0.4
    max_lost_s: float = 1.0
    candidate_share: float = 0.7
    own: tuple[tuple[int, float, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.looks >= 1:
            raise ValueError(f"looks must be at least 1, got {self.looks}")
        if not self.kept <= self.shown:
            raise ValueError(f"kept must be at most shown, {self.shown}, got {self.kept}")


_DEFAULT: Final = CalmSettings()


def step(
    state: CalmState,
    boxes: Boxes,
    ids: IntArray,
    looked: BoolArray,
    pts: float | None,
    settings: CalmSettings = _DEFAULT,
    own_least: FloatArray | None = None,
) -> tuple[CalmState, Boxes, IndexArray]:
    """Advance by one frame; return the new state, the boxes to publish, and their rows in `boxes`.

    boxes    all boxes with a score of at least `settings.candidate`
    ids      int32 (N,)  track of each box from `bytetrack.step`, 0: none
    looked   bool (N,)   False: a carried or moved box, which is no new evidence
    pts      seconds, or None if unknown (then no object is forgotten for its age)
    own_least  float32 (N,)  0..1, thresholds of single boxes where these are higher than those of
             `settings`; None: none

    Published boxes have the mean score, highest first. Overlapping boxes are suppressed, and after
    its first look an object needs a track. Earlier looks weigh less if the object has moved since,
    so the mean does not lag behind a change of the view. A look without a candidate changes no
    mean. A pure function: equal input gives equal bits.
    """
    now_s, lost_s = _times(state, pts)
    absent = lost_s <= settings.max_lost_s + _ROUNDING_S
    place, overlap = _continued(state, absent, boxes, ids, settings.min_iou)
    absent[place[place >= 0]] = False
    looks = _at(place, state.looks)
    means = _at(place, state.means)
    fresh = looked | (place < 0)
    earlier = np.minimum(looks * overlap**2, np.float32(settings.looks - 1))
    looks[fresh] = earlier[fresh] + 1
    means[fresh] += (boxes.scores[fresh] - means[fresh]) / looks[fresh]
    least, kept = _least_of(boxes.class_ids, settings)
    if own_least is not None:
        least = np.maximum(least, own_least)
    is_first = looks <= 1
    appears = means > least + np.float32(settings.first) * is_first
    stays = _at(place, state.shown) & (ids > 0) & (means > kept)
    sure = appears | stays
    shown = np.flatnonzero(sure & (is_first | (ids > 0)))
    shown = shown[suppress(boxes.xyxy[shown], means[shown])]
    shown = shown[~_doubles(boxes.xyxy[shown], appears[shown])]
    calmed = Boxes(boxes.xyxy[shown], means[shown], boxes.class_ids[shown])
    known = (place >= 0) | (means > least)
    tracks = np.where(ids > 0, ids, _at(place, state.ids))
    now = (boxes.xyxy, means, np.zeros_like(means), looks, tracks, sure)
    return _remembered(now_s, state, lost_s, absent, now, known), calmed, shown


def _least_of(class_ids: IntArray, settings: CalmSettings) -> tuple[FloatArray, FloatArray]:
    """Return both thresholds of the mean score for each box, float32 (N,): shown and kept."""
    least = np.full(len(class_ids), settings.shown, np.float32)
    kept = np.full(len(class_ids), settings.kept, np.float32)
    for class_id, own_shown, own_kept in settings.own:
        least[class_ids == class_id] = own_shown
        kept[class_ids == class_id] = own_kept
    return least, kept


def least_of_candidates(class_ids: IntArray, settings: CalmSettings) -> FloatArray:
    """Return the score above which a tracked object is a candidate, float32 (N,). To appear, it
    needs that of `candidate_score`.

    Where a published object needs the same score as one that appears, a user has set it; then
    nothing below it may be published.
    """
    shown, kept = _least_of(class_ids, settings)
    least: FloatArray = np.where(kept < shown, kept * np.float32(settings.candidate_share), shown)
    return least


def candidate_score(class_id: int, settings: CalmSettings) -> float:
    """Return the score above which a candidate may appear, of a class."""
    own = {each: shown for each, shown, _ in settings.own}
    return round(own.get(class_id, settings.shown) * settings.candidate_share, 4)


def sure_score(class_id: int, settings: CalmSettings) -> float:
    """Return the score from which a first look publishes an object of a class; 0 if a user has set
    the lowest score of the class, see `least_of_candidates`.
    """
    own = {each: (shown, kept) for each, shown, kept in settings.own}
    shown, kept = own.get(class_id, (settings.shown, settings.kept))
    if kept >= shown:
        return 0.0
    return round(shown + settings.first, 4)


def _doubles(xyxy: FloatArray, appears: BoolArray) -> BoolArray:
    """Return which boxes only the lower threshold keeps although they lie on a better one.

    xyxy     float32 (N, 4), highest mean first
    appears  bool (N,), False: the mean is between the thresholds

    One box lies on another if they share more than half of the smaller one.
    """
    first = np.maximum(xyxy[:, None, :2], xyxy[None, :, :2])
    last = np.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    shared = np.maximum(last - first, 0).prod(axis=2)
    areas = area(xyxy)
    lies_on = np.tril(shared > _DOUBLE * np.minimum(areas[:, None], areas[None, :]), -1)
    doubles: BoolArray = lies_on.any(axis=1) & ~appears
    return doubles


def _times(state: CalmState, pts: float | None) -> tuple[float | None, FloatArray]:
    """Return the latest time stamp, and the seconds for which each object has had no box."""
    known = [time for time in (state.pts, pts) if time is not None]
    elapsed = 0.0
    if len(known) == 2:
        elapsed = max(known[1] - known[0], 0.0)
    return max(known, default=None), state.lost_s + np.float32(elapsed)


def _continued(
    state: CalmState, possible: BoolArray, boxes: Boxes, ids: IntArray, min_iou: float
) -> tuple[IndexArray, FloatArray]:
    """Return the row in `state` of the object that each box continues, or -1, and their overlap.

    possible  bool (T,)  objects that may continue

    An object is assigned to the box of its track, otherwise to the box with the largest overlap.
    """
    same_track = possible & (ids[:, None] == state.ids[None, :]) & (ids[:, None] > 0)
    overlap = np.where(possible, iou(boxes.xyxy, state.xyxy), np.float32(0))
    worth = np.where(same_track, _SURE, np.where(overlap >= min_iou, overlap, 0))
    place = np.full(len(boxes), -1, np.intp)
    free = possible.copy()
    rows, columns = np.nonzero(worth)
    for pair in np.argsort(-worth[rows, columns], kind="stable"):
        row, column = rows[pair], columns[pair]
        if place[row] < 0 and free[column]:
            place[row] = column
            free[column] = False
    chosen = np.zeros(len(boxes), np.float32)
    chosen[place >= 0] = overlap[place >= 0, place[place >= 0]]
    return place, chosen


def _at(place: IndexArray, column: Column) -> Column:
    """Return the values of the column at these rows, 0 for row -1."""
    values = np.zeros(len(place), column.dtype)
    values[place >= 0] = column[place[place >= 0]]
    return values


def _remembered(
    pts: float | None,
    state: CalmState,
    lost_s: Column,
    absent: BoolArray,
    now: Sequence[Column],
    known: BoolArray,
) -> CalmState:
    """Return the absent and the present objects within the bound; the longest absent go first."""
    before: Sequence[Column] = (
        state.xyxy,
        state.means,
        lost_s,
        state.looks,
        state.ids,
        state.shown,
    )
    rows = np.flatnonzero(absent)
    max_rows = max(MAX_OBJECTS - int(known.sum()), 0)
    if len(rows) > max_rows:
        rows = np.sort(rows[np.argsort(lost_s[rows], kind="stable")[:max_rows]])
    columns = [
        np.concatenate([old[rows], new[known].astype(old.dtype)])
        for old, new in zip(before, now, strict=True)
    ]
    return CalmState(pts, *columns)
