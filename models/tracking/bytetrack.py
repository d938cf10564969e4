"""ByteTrack with explicit state: assign the boxes of each frame to tracks.

The method is Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box"
(ECCV 2022). Boxes with a high score are matched to the predicted tracks first. Boxes with a low
score may then continue the remaining tracks, because such a box is more often an occluded object
than a mistake. Only high boxes begin tracks. Details that the paper leaves open follow the package
`trackers` 2.6, and the tests compare both: the state is the four edges and their speeds, overlap is
plain IoU with a floor of 0.1, the variance of an edge is 0.1 and that of a step 0.01 (square
pixels), and a track gets its id at its second match in a row.

Four rules are additions. A box of another class continues a track only if the overlap is larger
(`other_iou`), so that a bicycle does not take the track of its rider. The class of a track is the
class with the largest sum of scores, so that a van that is sometimes detected as a truck keeps one
label. A lost object at rest is recognised by its place only, see `resting`. Soon after its last
box, an object with an id cannot be far from where it is expected, so the overlap must be larger
(`soon_iou`); otherwise a number jumps to the next parked car in the frame in which its own car is
not detected. A track without an id has no speed, so its object may be further away.
"""

from __future__ import annotations

from dataclasses import dataclass
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
)
from framegate.models.matching import assigned
from framegate.models.tracking.resting import is_resting, settled
from framegate.models.tracking.track_state import MAX_TRACKS, NAMES, TrackState

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
    rest_s        seconds in one place after which an object is at rest; None: none is
    rest_iou      0..1, smallest overlap of a box with the place of a lost object at rest
    soon_s        seconds after its last box in which an object with an id cannot move far; 0: none
    soon_iou      0..1, smallest overlap of a match in this time
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
    rest_s: float | None = None
    rest_iou: float = 0.3
    soon_s: float = 0.0
    soon_iou: float = 0.1

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
    place: DoubleArray
    rest_from: DoubleArray

    def keep(self, rows: BoolArray | IndexArray) -> None:
        self.mean, self.covariance = self.mean[rows], self.covariance[rows]
        self.lost_s, self.ids, self.hits = self.lost_s[rows], self.ids[rows], self.hits[rows]
        self.class_ids, self.votes = self.class_ids[rows], self.votes[rows]
        self.place, self.rest_from = self.place[rows], self.rest_from[rows]


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
    latest = max((t for t in (state.pts, pts) if t is not None), default=None)
    tracks = _predicted(state, elapsed, settings)
    resting = is_resting(tracks.rest_from, tracks.lost_s, latest, settings.rest_s)
    resting &= tracks.lost_s > elapsed  # a box close to the last one continues a seen track
    remains = tracks.lost_s <= settings.max_lost_s + _ROUNDING_S
    tracks.keep(remains)
    resting = resting[remains]
    ids = np.zeros(len(boxes), np.int32)
    next_id = state.next_id
    free = np.arange(len(tracks.ids))
    high = np.flatnonzero(boxes.scores >= settings.high)
    low = np.flatnonzero((boxes.scores < settings.high) & (boxes.scores >= settings.low))
    unmatched = high
    for candidates in (high, low):
        if not (len(free) and len(candidates)):
            continue
        overlap = _overlap(tracks, resting, free, boxes.xyxy[candidates], settings)
        is_other = tracks.class_ids[free, :1] != boxes.class_ids[None, candidates]
        overlap[is_other & (overlap < settings.other_iou)] = 0
        rows, columns = _assign(overlap, settings.min_iou)
        matched, chosen = free[rows], candidates[columns]
        _correct(tracks, matched, boxes.xyxy[chosen])
        _settle(tracks, matched, boxes.xyxy[chosen], latest, settings)
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
    _begin(tracks, boxes.take(unmatched[boxes.scores[unmatched] >= settings.start]), latest)
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
    same = state.ids, state.hits, state.class_ids, state.votes, state.place, state.rest_from
    return TrackState(state.next_id, latest, mean, covariance, lost_s, *same)


def _elapsed_s(before: float | None, now: float | None, settings: TrackSettings) -> float:
    if before is None or now is None:
        return 1 / (settings.frame_rate or _UNKNOWN_RATE)
    return max(now - before, _LEAST_S)  # lost tracks must age although the time does not rise


def _predicted(state: TrackState, elapsed: float, settings: TrackSettings) -> _TrackRows:
    """Return every track after one step of motion."""
    mean, covariance = _ahead(state.mean, state.covariance, elapsed, settings)
    hits = np.where(state.lost_s > 0, 0, state.hits.astype(np.int64))
    lost_s = state.lost_s.astype(np.float64) + elapsed
    votes = state.class_ids.copy(), state.votes.copy()
    place = state.place.astype(np.float64)
    rows = mean, covariance, lost_s, state.ids.copy(), hits, *votes, place, state.rest_from.copy()
    return _TrackRows(*rows)


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


def _overlap(
    tracks: _TrackRows,
    resting: BoolArray,
    rows: IndexArray,
    detected: FloatArray,
    settings: TrackSettings,
) -> DoubleArray:
    """Return float64 (T, N) IoU of tracks with boxes; an object at rest is in its place."""
    at_rest = resting[rows]
    expected = np.where(at_rest[:, None], tracks.place[rows], tracks.mean[rows, :4])
    overlap = _iou(expected, detected)
    overlap[at_rest[:, None] & (overlap < settings.rest_iou)] = 0
    is_soon = (tracks.lost_s[rows] <= settings.soon_s) & (tracks.ids[rows] > 0)
    overlap[is_soon[:, None] & (overlap < settings.soon_iou)] = 0
    return overlap


def _settle(
    tracks: _TrackRows,
    rows: IndexArray,
    seen: FloatArray,
    now: float | None,
    settings: TrackSettings,
) -> None:
    """Update the places of the matched tracks; an object at rest has no speed."""
    if now is None or settings.rest_s is None:
        return
    place, rest_from = settled(tracks.place[rows], tracks.rest_from[rows], seen, now)
    tracks.place[rows], tracks.rest_from[rows] = place, rest_from
    resting = is_resting(rest_from, tracks.lost_s[rows], now, settings.rest_s)
    tracks.mean[rows[resting], 4:] = 0


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
    column = np.where(known.any(axis=1), known.argmax(axis=1), NAMES - 1)
    counted = np.where(known.any(axis=1), tracks.votes[rows, column], np.float32(0))
    tracks.class_ids[rows, column] = seen.class_ids
    tracks.votes[rows, column] = counted + seen.scores
    order = np.argsort(-tracks.votes[rows], axis=1, kind="stable")
    tracks.class_ids[rows] = tracks.class_ids[rows[:, None], order]
    tracks.votes[rows] = tracks.votes[rows[:, None], order]


def _first_votes(class_ids: IntArray, scores: FloatArray) -> dict[str, npt.NDArray[Any]]:
    """Return the columns `class_ids` and `votes` of tracks with one matched box each."""
    classes = np.zeros((len(scores), NAMES), np.uint8)
    votes = np.zeros((len(scores), NAMES), "<f4")
    classes[:, 0] = class_ids
    votes[:, 0] = scores
    return {"class_ids": classes, "votes": votes}


def _confirm(tracks: _TrackRows, matched: IndexArray, next_id: int, min_hits: int) -> int:
    """Give ids to matched tracks that have enough hits; return the next free id."""
    confirmed = matched[(tracks.ids[matched] == 0) & (tracks.hits[matched] >= min_hits)]
    tracks.ids[confirmed] = next_id + np.arange(len(confirmed))
    return next_id + len(confirmed)


def _begin(tracks: _TrackRows, seen: Boxes, now: float | None) -> None:
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
    tracks.place = np.concatenate([tracks.place, seen.xyxy.astype(np.float64)])
    tracks.rest_from = np.concatenate([tracks.rest_from, np.full(n, now or 0.0)])


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
        tracks.place.astype(np.float32),
        tracks.rest_from,
    )
