"""ByteTrack: give the boxes of a frame the ids of the tracks that they continue; explicit state.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (ECCV 2022):
boxes with a high score are matched to predicted tracks first; the tracks left over may then be
continued by boxes with a low score, which are more often an occluded object than a mistake; only
high boxes begin tracks. What the paper leaves open follows the package `trackers` 2.6, which the
tests hold this module to: the state is the four edges and their speeds, overlap is plain IoU with a
floor of 0.1, the noise of an edge has the variance 0.1 and that of a step 0.01 (square pixels), and
a track gets its id at its second match in a row.

Two things are ours. A box of another class than a track's continues it only from a larger overlap
on (`other_iou`): a bicycle does not take its rider's track. And a track has votes: its class is the
one for which the scores of its sightings add up to most, so that a van that is now and then taken
for a truck has one name.
"""

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
    Boxes,
    DoubleArray,
    FloatArray,
    IndexArray,
    IntArray,
    read_only,
    unchecked,
)
from framegate.models.errors import ModelError
from framegate.models.matching import assigned

# -- What a tracker remembers between two frames, as arrays and as bytes.


_VERSION: Final = 3
_NAMES: Final = 3  # classes of a track whose votes are kept: those with most
_HEAD: Final = struct.Struct("<BIHd")  # version, next id, tracks, pts (NaN where unknown)
_FLOAT, _INT, _BYTE = np.dtype("<f4"), np.dtype("<i4"), np.dtype("u1")
_COLUMNS: Final[tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]] = (
    ("mean", _FLOAT, (8,)),
    ("covariance", _FLOAT, (3,)),
    ("lost_s", _FLOAT, ()),
    ("ids", _INT, ()),
    ("hits", _BYTE, ()),
    ("class_ids", _BYTE, (_NAMES,)),
    ("votes", _FLOAT, (_NAMES,)),
)
MAX_TRACKS: Final = 0xFFFF


class StateUnreadable(ModelError, ValueError):
    """Bytes that are no track state, or one of a version that this program does not know."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"track state: expected {expected}, found {found}")
        self.expected, self.found = expected, found


@dataclass(frozen=True, eq=False)
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
    class_ids   uint8 (T, 3)    classes that its sightings were of, the one with most votes first
    votes       float32 (T, 3)  sum of their scores, falling; 0 where there is no such class

    Everything is kept in the precision in which it is stored, so a state that was written and read
    again goes on to the same bits. Raises ArrayMismatch.
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

    def __post_init__(self) -> None:
        for name, kind, tail in _COLUMNS:
            value = getattr(self, name)
            checked = read_only(name, value, kind, (len(self.ids), *tail))
            object.__setattr__(self, name, checked)

    def __len__(self) -> int:
        return len(self.ids)

    def named(self, ids: IntArray, class_ids: IntArray) -> IntArray:
        """Return the class of each box, int32 (N,): that of its track; without one (0) its own."""
        names = dict(zip(self.ids.tolist(), self.class_ids[:, 0].tolist(), strict=True)) | {0: None}
        each = zip(ids.tolist(), class_ids.tolist(), strict=True)
        found = [own if (name := names.get(track)) is None else name for track, own in each]
        return np.array(found, np.int32)

    def to_bytes(self) -> bytes:
        """Return the state in 15 + 68 T bytes, the same on every machine."""
        pts = math.nan if self.pts is None else self.pts
        return _HEAD.pack(_VERSION, self.next_id, len(self), pts) + self._column_bytes

    @cached_property
    def _column_bytes(self) -> bytes:
        columns = (
            np.ascontiguousarray(getattr(self, name), kind).tobytes() for name, kind, _ in _COLUMNS
        )
        return b"".join(columns)

    @cached_property
    def are_named(self) -> bool:
        """Whether all have an id."""
        return bool(np.count_nonzero(self.ids) == len(self.ids))

    @cached_property
    def are_seen(self) -> bool:
        """Whether none is lost."""
        return not np.count_nonzero(self.lost_s)

    def at(self, pts: float | None) -> TrackState:
        """Return the same at another time."""
        return unchecked(self, pts=pts)

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
            end = at + count * kind.itemsize
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


_BOX_NOISE: Final = 0.1
_STEP_NOISE: Final = 0.01
_NOMINAL_S: Final = 0.004  # steps this near to one period count as one: clocks round and jitter
_FIRST_COVARIANCE: Final = (1.0, 0.0, 1.0)
_UNKNOWN_RATE: Final = 30.0
_LEAST_S: Final = 0.001
_ROUNDING_S: Final = 0.0005
_UNSEEN: Final = 0.1  # of its time, what a frame that nobody looks at adds to how long one is lost


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """Numbers of the method; defaults are those of `trackers` 2.6 unless said otherwise.

    high, low     scores 0..1: boxes from `high` on are matched first, from `low` on second, others
                  not at all (low: 0.1 in the paper's code, `trackers` has no such floor)
    start         score from which an unmatched box begins a track
    min_iou       0..1, smallest overlap of a match
    min_hits      1..255, matches in a row after which a track gets its id
    max_lost_s    seconds of pts for which an unseen track may still be continued
    frame_rate    None: each call is one step of motion, right where every frame is given. A rate:
                  motion goes by pts in units of this period, right where frames are dropped
    max_tracks    1..65535, beyond it the tracks unseen for longest go
    other_iou     0..1, smallest overlap of a match with a box of another class than the track's
    """

    high: float = 0.6
    low: float = 0.1
    start: float = 0.7
    min_iou: float = 0.1
    min_hits: int = 2
    max_lost_s: float = 1.0
    frame_rate: float | None = None
    max_tracks: int = 512
    other_iou: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.min_hits <= 255:
            raise ValueError(f"min_hits: {self.min_hits}; allowed: 1 to 255")
        if not 1 <= self.max_tracks <= MAX_TRACKS:
            raise ValueError(f"max_tracks: {self.max_tracks}; allowed: 1 to {MAX_TRACKS}")
        if self.frame_rate is not None and not self.frame_rate > 0:
            raise ValueError(f"frame_rate: {self.frame_rate}; allowed: above 0, or None")


_DEFAULT: Final = TrackSettings()


@dataclass(slots=True)
class _TrackRows:
    """The rows of a state while a step works on them, in double precision."""

    mean: DoubleArray
    covariance: DoubleArray
    lost_s: DoubleArray
    ids: IntArray
    hits: npt.NDArray[np.int64]
    class_ids: npt.NDArray[np.uint8]
    votes: FloatArray

    def keep(self, rows: BoolArray | IndexArray) -> None:
        self.mean, self.covariance = self.mean[rows], self.covariance[rows]
        self.lost_s, self.ids, self.hits = self.lost_s[rows], self.ids[rows], self.hits[rows]
        self.class_ids, self.votes = self.class_ids[rows], self.votes[rows]


def step(
    state: TrackState,
    boxes: Boxes,
    pts: float | None,
    settings: TrackSettings = _DEFAULT,
    seen: BoolArray | None = None,
) -> tuple[TrackState, IntArray]:
    """Advance by one frame; return the new state and int32 (N,) ids, 0 for a box without a track.

    seen  bool (N,), which boxes are sightings, whose classes have a vote; None: all

    A pure function: no clock, no randomness, the same bits from equal input. Ids count up from 1
    and are never given twice. `pts` (s) may be missing (then a frame lasts 1/30 s or a period of
    `frame_rate`) or not rise (then it lasts 1 ms); after a jump forward lost tracks are dropped.
    """
    elapsed = _elapsed_s(state.pts, pts, settings)
    tracks = _predicted(state, elapsed, settings)
    tracks.keep(tracks.lost_s <= settings.max_lost_s + _ROUNDING_S)
    ids = np.zeros(len(boxes), np.int32)
    next_id = state.next_id
    free = np.arange(len(tracks.ids))
    high = np.flatnonzero(boxes.scores >= settings.high)
    low = np.flatnonzero((boxes.scores < settings.high) & (boxes.scores >= settings.low))
    unmatched = high
    for candidates in (high, low):
        if not (len(free) and len(candidates)):
            continue
        overlap = _iou(tracks.mean[free, :4], boxes.xyxy[candidates])
        is_other = tracks.class_ids[free, :1] != boxes.class_ids[None, candidates]
        overlap[is_other & (overlap < settings.other_iou)] = 0
        rows, columns = _assign(overlap, settings.min_iou)
        matched, chosen = free[rows], candidates[columns]
        _correct(tracks, matched, boxes.xyxy[chosen])
        voting = slice(None) if seen is None else seen[chosen]
        _vote(tracks, matched[voting], boxes.take(chosen[voting]))
        next_id = _confirm(tracks, matched, next_id, settings.min_hits)
        ids[chosen] = tracks.ids[matched]
        free = _without(free, rows)
        if candidates is high:
            unmatched = _without(high, columns)
    seen = tracks.lost_s == 0
    tracks.keep(seen | (tracks.ids > 0) | (tracks.hits >= settings.min_hits))
    _begin(tracks, boxes.take(unmatched[boxes.scores[unmatched] >= settings.start]))
    latest = max((t for t in (state.pts, pts) if t is not None), default=None)
    return _rounded(tracks, next_id, latest, settings), ids


def coast(
    state: TrackState,
    moved: BoolArray | None,
    pts: float | None,
    settings: TrackSettings = _DEFAULT,
) -> TrackState:
    """Advance by one frame that nobody looked at; it is no evidence, and no track is lost by it.

    Tracks of `moved`, bool (T,) or None, go on with their speed and become less certain; others
    stay. What was lost before is so for a tenth of the frame longer: it ends after ten times
    `max_lost_s`.
    """
    latest = max((t for t in (state.pts, pts) if t is not None), default=None)
    elapsed = _elapsed_s(state.pts, pts, settings)
    if moved is not None and not np.count_nonzero(moved):
        moved = None
    if moved is None and state.are_seen:
        return state.at(latest)
    mean, covariance, lost_s = state.mean, state.covariance, state.lost_s
    if not state.are_seen:
        longer = lost_s + np.float32(_UNSEEN * elapsed) * (lost_s > 0)
        lost_s = longer.astype(np.float32, copy=False)
    if moved is not None:
        ahead = _ahead(mean[moved], covariance[moved], elapsed, settings)
        mean, covariance = mean.copy(), covariance.copy()
        mean[moved], covariance[moved] = ahead
    rest = state.ids, state.hits, state.class_ids, state.votes
    return TrackState(state.next_id, latest, mean, covariance, lost_s, *rest)


def _elapsed_s(before: float | None, now: float | None, settings: TrackSettings) -> float:
    if before is None or now is None:
        return 1 / (settings.frame_rate or _UNKNOWN_RATE)
    return max(now - before, _LEAST_S)  # time that stands still must still age what is lost


def _predicted(state: TrackState, elapsed: float, settings: TrackSettings) -> _TrackRows:
    """Move every track on by one step."""
    mean, covariance = _ahead(state.mean, state.covariance, elapsed, settings)
    hits = np.where(state.lost_s > 0, 0, state.hits.astype(np.int64))
    lost_s = state.lost_s.astype(np.float64) + elapsed
    return _TrackRows(
        mean, covariance, lost_s, state.ids.copy(), hits, state.class_ids.copy(), state.votes.copy()
    )


def _ahead(
    mean: FloatArray, covariance: FloatArray, elapsed: float, settings: TrackSettings
) -> tuple[DoubleArray, DoubleArray]:
    """Return means and covariances after one step of a constant-velocity Kalman filter."""
    dt, place_noise, mixed_noise, speed_noise = _motion(elapsed, settings)
    moved, grown = mean.astype(np.float64), covariance.astype(np.float64)
    moved[:, :4] += dt * moved[:, 4:]
    place, mixed, speed = grown.T.copy()
    grown[:, 0] = place + 2 * dt * mixed + dt * dt * speed + place_noise
    grown[:, 1] = mixed + dt * speed + mixed_noise
    grown[:, 2] = speed + speed_noise
    return moved, grown


def _motion(elapsed: float, settings: TrackSettings) -> tuple[float, float, float, float]:
    """Return the step in periods and its noise: of place, mixed, of speed.

    A step that is not one period gets the noise of a random acceleration constant during it.
    """
    if settings.frame_rate is None:
        return 1.0, _STEP_NOISE, 0.0, _STEP_NOISE
    dt = elapsed * settings.frame_rate
    if abs(dt - 1) <= _NOMINAL_S * settings.frame_rate:
        return dt, _STEP_NOISE, 0.0, _STEP_NOISE
    return dt, _STEP_NOISE * dt**4 / 4, _STEP_NOISE * dt**3 / 2, _STEP_NOISE * dt**2


def _without(indices: IndexArray, places: IndexArray) -> IndexArray:
    left = np.ones(len(indices), np.bool_)
    left[places] = False
    return indices[left]


def _iou(tracked: DoubleArray, found: FloatArray) -> DoubleArray:
    """Return float64 (T, N) intersection over union, 0 where it is not defined."""
    a, b = tracked.T[:, :, None], found.T[:, None, :].astype(np.float64)
    wide = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0)
    high = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0)
    both = wide * high
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    overlap = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    # Single precision, as `trackers` has it: nearly equal pairs then tie in both.
    single: DoubleArray = overlap.astype(np.float32).astype(np.float64)
    single[~np.isfinite(single)] = 0
    return single


def _assign(overlap: DoubleArray, min_iou: float) -> tuple[IndexArray, IndexArray]:
    """Return rows and columns of the pairing with the largest total overlap, weak pairs removed."""
    rows, columns = assigned(overlap)
    strong = overlap[rows, columns] >= min_iou
    return rows[strong], columns[strong]


def _correct(tracks: _TrackRows, rows: IndexArray, seen: FloatArray) -> None:
    """Put the matched boxes into their tracks: the Kalman update in Joseph's form."""
    place, mixed, speed = tracks.covariance[rows].T
    gain, gain_speed = place / (place + _BOX_NOISE), mixed / (place + _BOX_NOISE)
    error = seen - tracks.mean[rows, :4]
    tracks.mean[rows, :4] += gain[:, None] * error
    tracks.mean[rows, 4:] += gain_speed[:, None] * error
    rest = 1 - gain
    after = np.empty((len(rows), 3))
    after[:, 0] = rest * rest * place + gain * gain * _BOX_NOISE
    after[:, 1] = rest * (mixed - gain_speed * place) + gain * gain_speed * _BOX_NOISE
    after[:, 2] = speed - 2 * gain_speed * mixed + gain_speed * gain_speed * (place + _BOX_NOISE)
    tracks.covariance[rows] = after
    tracks.lost_s[rows] = 0
    tracks.hits[rows] += 1


def _vote(tracks: _TrackRows, rows: IndexArray, seen: Boxes) -> None:
    """Add each sighting's score to the votes for its class; the fewest give way to a new class."""
    known = (tracks.class_ids[rows] == seen.class_ids[:, None]) & (tracks.votes[rows] > 0)
    place = np.where(known.any(axis=1), known.argmax(axis=1), _NAMES - 1)
    counted = np.where(known.any(axis=1), tracks.votes[rows, place], np.float32(0))
    tracks.class_ids[rows, place] = seen.class_ids
    tracks.votes[rows, place] = counted + seen.scores
    order = np.argsort(-tracks.votes[rows], axis=1, kind="stable")
    tracks.class_ids[rows] = tracks.class_ids[rows[:, None], order]
    tracks.votes[rows] = tracks.votes[rows[:, None], order]


def _first_votes(class_ids: IntArray, scores: FloatArray) -> dict[str, npt.NDArray[Any]]:
    """Return the columns `class_ids` and `votes` of tracks after one sighting each."""
    names, votes = np.zeros((len(scores), _NAMES), np.uint8), np.zeros((len(scores), _NAMES), "<f4")
    names[:, 0], votes[:, 0] = class_ids, scores
    return {"class_ids": names, "votes": votes}


def _confirm(tracks: _TrackRows, matched: IndexArray, next_id: int, min_hits: int) -> int:
    """Give ids to matched tracks that have earned one; return the next free id."""
    earned = matched[(tracks.ids[matched] == 0) & (tracks.hits[matched] >= min_hits)]
    tracks.ids[earned] = next_id + np.arange(len(earned))
    return next_id + len(earned)


def _begin(tracks: _TrackRows, seen: Boxes) -> None:
    """Append one unconfirmed track a box, standing still, with unit variances."""
    n = len(seen)
    if n == 0:
        return
    mean = np.concatenate([seen.xyxy.astype(np.float64), np.zeros((n, 4))], axis=1)
    tracks.mean = np.concatenate([tracks.mean, mean])
    tracks.covariance = np.concatenate([tracks.covariance, [_FIRST_COVARIANCE] * n])
    tracks.lost_s = np.concatenate([tracks.lost_s, np.zeros(n)])
    tracks.ids = np.concatenate([tracks.ids, np.zeros(n, np.int32)])
    tracks.hits = np.concatenate([tracks.hits, np.ones(n, np.int64)])
    first = _first_votes(seen.class_ids, seen.scores)
    tracks.class_ids = np.concatenate([tracks.class_ids, first["class_ids"]])
    tracks.votes = np.concatenate([tracks.votes, first["votes"]])


def _rounded(
    tracks: _TrackRows, next_id: int, pts: float | None, settings: TrackSettings
) -> TrackState:
    """Return the state in stored precision, within its bound."""
    if len(tracks.ids) > settings.max_tracks:
        freshest = np.argsort(tracks.lost_s, kind="stable")[: settings.max_tracks]
        tracks.keep(np.sort(freshest))
    tracks.keep(np.abs(tracks.mean).max(axis=1, initial=0) < np.finfo(np.float32).max)
    return TrackState(
        next_id,
        pts,
        tracks.mean.astype(np.float32),
        tracks.covariance.astype(np.float32),
        tracks.lost_s.astype(np.float32),
        tracks.ids.astype(np.int32),
        np.minimum(tracks.hits, 255).astype(np.uint8),
        tracks.class_ids,
        tracks.votes,
    )
