"""ByteTrack with explicit state: assign the boxes of each frame to tracks.

The method is Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box"
(ECCV 2022). Boxes with a high score are matched to the predicted tracks first. Boxes with a low
score may then continue the remaining tracks, because such a box is more often an occluded object
than a mistake. Only high boxes begin tracks. Details that the paper leaves open follow the package
`trackers` 2.6, and the tests compare both: the state is the four edges and their speeds, overlap is
plain IoU with a floor of 0.1, the variance of an edge is 0.1 and that of a step 0.01 (square
pixels), and a track gets its id at its second match in a row.

Two rules are additions. A box of another class continues a track only if the overlap is larger
(`other_iou`), so that a bicycle does not take the track of its rider. The class of a track is the
class with the largest sum of scores, so that a van that is sometimes detected as a truck keeps one
label.
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

# -- The state of a tracker between two frames, as arrays and as bytes.


_VERSION: Final = 3
_NAMES: Final = 3  # classes whose votes a track keeps: those with the most votes
_HEAD: Final = struct.Struct("<BIHd")  # version, next id, tracks, pts (NaN if unknown)
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
        """Return the state in 15 + 68 T bytes, the same on every machine."""
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
        if math.isnan(pts):
            pts = None
        return TrackState(next_id, pts, **columns)


def no_tracks() -> TrackState:
    """Return the state before the first frame of a source."""
    columns = {name: np.zeros((0, *tail), kind) for name, kind, tail in _COLUMNS}
    return TrackState(1, None, **columns)


_BOX_NOISE: Final = 0.1
_STEP_NOISE: Final = 0.01
_NOMINAL_S: Final = 0.004  # a step this close to one period counts as one: time stamps jitter
_FIRST_COVARIANCE: Final = (1.0, 0.0, 1.0)
_UNKNOWN_RATE: Final = 30.0
_LEAST_S: Final = 0.001
_ROUNDING_S: Final = 0.0005
_UNSEEN: Final = 0.1  # share of its duration that a frame without a look adds to `lost_s`


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """Parameters of the method. Defaults are those of `trackers` 2.6, except where noted.

    high, low     0..1, boxes with a score of at least `high` are matched first, then boxes of at
                  least `low`; others are ignored (the paper's code has 0.1, `trackers` no floor)
    start         0..1, score from which an unmatched box begins a track
    min_iou       0..1, smallest overlap of a match
    min_hits      1..255, matches in a row after which a track gets its id
    max_lost_s    seconds of pts for which an unmatched track can still be continued
    frame_rate    None: each call is one step of motion, right if every frame is passed in. A rate:
                  motion follows pts in units of this period, right if frames are dropped
    max_tracks    1..65535, beyond it the tracks unmatched for longest are removed
    other_iou     0..1, smallest overlap of a match with a box of another class
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
            raise ValueError(f"min_hits must be 1 to 255, got {self.min_hits}")
        if not 1 <= self.max_tracks <= MAX_TRACKS:
            raise ValueError(f"max_tracks must be 1 to {MAX_TRACKS}, got {self.max_tracks}")
        if self.frame_rate is not None and not self.frame_rate > 0:
            raise ValueError(f"frame_rate must be above 0 or None, got {self.frame_rate}")


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

    seen  bool (N,), boxes that were detected in this frame, so that their classes get a vote;
          None: all

    A pure function without clock or randomness: equal input gives equal bits. Ids count up from 1
    and are never reused. If `pts` (seconds) is missing, a frame lasts 1/30 s or one period of
    `frame_rate`; if it does not rise, a frame lasts 1 ms. A jump forward drops lost tracks.
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
        voting = np.ones(len(chosen), np.bool_)
        if seen is not None:
            voting = seen[chosen]
        _vote(tracks, matched[voting], boxes.take(chosen[voting]))
        next_id = _confirm(tracks, matched, next_id, settings.min_hits)
        ids[chosen] = tracks.ids[matched]
        free = _without(free, rows)
        if candidates is high:
            unmatched = _without(high, columns)
    is_matched = tracks.lost_s == 0
    tracks.keep(is_matched | (tracks.ids > 0) | (tracks.hits >= settings.min_hits))
    _begin(tracks, boxes.take(unmatched[boxes.scores[unmatched] >= settings.start]))
    latest = max((t for t in (state.pts, pts) if t is not None), default=None)
    return _rounded(tracks, next_id, latest, settings), ids


def coast(
    state: TrackState,
    moved: BoolArray | None,
    pts: float | None,
    settings: TrackSettings = _DEFAULT,
) -> TrackState:
    """Advance by one frame without a look. Such a frame is no evidence and loses no track.

    Tracks in `moved`, bool (T,) or None, continue with their speed and become less certain; the
    others stay. A track that is already lost ages by a tenth of the frame's duration, so it ends
    after ten times `max_lost_s`.
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
    return max(now - before, _LEAST_S)  # lost tracks must age although the time does not rise


def _predicted(state: TrackState, elapsed: float, settings: TrackSettings) -> _TrackRows:
    """Return every track after one step of motion."""
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
    """Return the step in periods, and its noise: of position, mixed, of speed.

    A step that is not one period gets the noise of a random acceleration that is constant in it.
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


def _iou(tracked: DoubleArray, detected: FloatArray) -> DoubleArray:
    """Return float64 (T, N) intersection over union, 0 where it is not defined."""
    a = tracked.T[:, :, None]
    b = detected.T[:, None, :].astype(np.float64)
    wide = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), 0)
    high = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), 0)
    both = wide * high
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    overlap = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    # Single precision, as in `trackers`, so that nearly equal pairs tie in both.
    single: DoubleArray = overlap.astype(np.float32).astype(np.float64)
    single[~np.isfinite(single)] = 0
    return single


def _assign(overlap: DoubleArray, min_iou: float) -> tuple[IndexArray, IndexArray]:
    """Return rows and columns of the pairing with the largest total overlap, weak pairs removed."""
    rows, columns = assigned(overlap)
    strong = overlap[rows, columns] >= min_iou
    return rows[strong], columns[strong]


def _correct(tracks: _TrackRows, rows: IndexArray, seen: FloatArray) -> None:
    """Apply the Kalman update in Joseph's form to the matched tracks."""
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
    """Add the score of each box to the votes for its class.

    A class that the track does not know yet replaces the class with the fewest votes.
    """
    known = (tracks.class_ids[rows] == seen.class_ids[:, None]) & (tracks.votes[rows] > 0)
    column = np.where(known.any(axis=1), known.argmax(axis=1), _NAMES - 1)
    counted = np.where(known.any(axis=1), tracks.votes[rows, column], np.float32(0))
    tracks.class_ids[rows, column] = seen.class_ids
    tracks.votes[rows, column] = counted + seen.scores
    order = np.argsort(-tracks.votes[rows], axis=1, kind="stable")
    tracks.class_ids[rows] = tracks.class_ids[rows[:, None], order]
    tracks.votes[rows] = tracks.votes[rows[:, None], order]


def _first_votes(class_ids: IntArray, scores: FloatArray) -> dict[str, npt.NDArray[Any]]:
    """Return the columns `class_ids` and `votes` of tracks with one matched box each."""
    classes = np.zeros((len(scores), _NAMES), np.uint8)
    votes = np.zeros((len(scores), _NAMES), "<f4")
    classes[:, 0] = class_ids
    votes[:, 0] = scores
    return {"class_ids": classes, "votes": votes}


def _confirm(tracks: _TrackRows, matched: IndexArray, next_id: int, min_hits: int) -> int:
    """Give ids to matched tracks that have enough hits; return the next free id."""
    confirmed = matched[(tracks.ids[matched] == 0) & (tracks.hits[matched] >= min_hits)]
    tracks.ids[confirmed] = next_id + np.arange(len(confirmed))
    return next_id + len(confirmed)


def _begin(tracks: _TrackRows, seen: Boxes) -> None:
    """Append one unconfirmed track per box, with speed 0 and unit variances."""
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
    """Return the state in stored precision, with at most `max_tracks` tracks."""
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
