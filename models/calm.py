"""The calm rule: which boxes are shown, from all the looks at their objects.

A box whose score lies near the threshold comes and goes with the noise of the camera. An object was
looked at many times, and the mean of its scores moves far less than each of them: a box is shown
while that mean is above the threshold. A second, lower threshold for what is already shown does
not do this: it keeps what is false.

An object is of one class. It is known again by its track, and where the tracker has none for it
(which begins tracks from high scores only) by its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.boxes import Boxes
from models.bytetrack import TrackSettings
from models.calm_state import CalmState
from models.nms import iou

IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.intp]

_ROUNDING_S: Final = 0.0005
_MAX_OBJECTS: Final = 512
_SURE: Final = 2.0  # what a common track is worth beside overlap


@dataclass(frozen=True, slots=True)
class CalmSettings:
    """Numbers of the rule, chosen with `benchmarks.calm` on three clips and frozen.

    shown       0..1, a box is shown when its object's mean score is above it
    candidate   0..1, least score of a box that the rule is given: evidence, if never shown
    looks       1..255, looks that a mean is over; what was before is forgotten, exponentially
    min_iou     0..1, smallest overlap of a box without a track with its object's last one
    max_lost_s  seconds of pts after which an object without a box is forgotten, as in TrackSettings
    """

    shown: float = 0.31
    candidate: float = 0.2
    looks: int = 8
    first: float = 0.0
    min_iou: float = 0.4
    max_lost_s: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.looks <= 255:
            raise ValueError(f"looks: {self.looks}; allowed: 1 to 255")


CALM: Final = CalmSettings()
# Tracks begin where the detector is sure; candidates continue them. By class: the light network
# often sees one object as two classes, and their boxes would take each other's track.
TRACKS: Final = TrackSettings(high=0.41, low=CALM.candidate, start=0.46, by_class=True)


def step(
    state: CalmState,
    boxes: Boxes,
    ids: IntArray,
    looked: BoolArray,
    pts: float | None,
    settings: CalmSettings = CALM,
) -> tuple[CalmState, Boxes, IndexArray]:
    """Take in one frame; return the new state, the boxes to show, and their rows in `boxes`.

    boxes    all with a score of at least `settings.candidate`
    ids      int32 (N,)  track of each from `bytetrack.step`, 0: none
    looked   bool (N,)   False: carried or moved along, which is no new evidence
    pts      seconds, or None where unknown (then nothing is forgotten for its age)

    Shown boxes carry the mean score, highest first. A box that begins an object stands for itself.
    A look that finds no candidate changes no mean: without a box there is nothing to show.
    A pure function, the same bits from equal input.
    """
    past = _aged(state, pts, settings.max_lost_s)
    place = _continued(past, boxes, ids, settings.min_iou)
    fresh = looked | (place < 0)
    looks = _at(place, past.looks)
    looks[fresh] = np.minimum(looks[fresh], settings.looks - 1) + 1
    means = _at(place, past.means)
    means[fresh] += (boxes.scores[fresh] - means[fresh]) / looks[fresh].astype(np.float32)
    least = np.float32(settings.shown) + np.float32(settings.first) * (looks == 1)
    shown = np.flatnonzero(means > least)
    shown = shown[np.argsort(-means[shown], kind="stable")]
    known = (place >= 0) | (means > np.float32(settings.shown))
    now = CalmState(
        past.pts,
        boxes.xyxy[known],
        means[known],
        np.zeros(np.count_nonzero(known), np.float32),
        np.where(ids > 0, ids, _at(place, past.ids))[known],
        looks[known],
        boxes.class_ids[known].astype(np.uint8),
    )
    away = np.ones(len(past), np.bool_)
    away[place[place >= 0]] = False
    after = _joined(_rows(past, away), now)
    return after, Boxes(boxes.xyxy[shown], means[shown], boxes.class_ids[shown]), shown


def _aged(state: CalmState, pts: float | None, max_lost_s: float) -> CalmState:
    """The state at `pts`, without what was away for too long."""
    both = [t for t in (state.pts, pts) if t is not None]
    elapsed = max(both[1] - both[0], 0.0) if len(both) == 2 else 0.0
    lost_s = state.lost_s + np.float32(elapsed)
    aged = replace(state, pts=max(both, default=None), lost_s=lost_s)
    return _rows(aged, lost_s <= max_lost_s + _ROUNDING_S)


def _continued(past: CalmState, boxes: Boxes, ids: IntArray, min_iou: float) -> IndexArray:
    """Row in `past` of the object that each box continues, -1 for none; of its class always.

    Objects go to the box of their track, and what is left to the box that overlaps most.
    """
    place = np.full(len(boxes), -1, np.intp)
    same_class = boxes.class_ids[:, None] == past.class_ids[None, :]
    worth = np.where(same_class, iou(boxes.xyxy, past.xyxy), 0)
    worth[worth < min_iou] = 0
    same_track = (ids[:, None] == past.ids[None, :]) & (ids[:, None] > 0)
    worth[same_track & same_class] = _SURE
    rows, columns = np.nonzero(worth)
    free = np.ones(len(past), np.bool_)
    for pair in np.argsort(-worth[rows, columns], kind="stable"):
        row, column = rows[pair], columns[pair]
        if place[row] < 0 and free[column]:
            place[row], free[column] = column, False
    return place


def _at(place: IndexArray, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The column's values at these rows, 0 where there is none."""
    values = np.zeros(len(place), column.dtype)
    values[place >= 0] = column[place[place >= 0]]
    return values


def _rows(state: CalmState, rows: npt.NDArray[Any]) -> CalmState:
    return CalmState(state.pts, *(column[rows] for column in _columns(state)))


def _joined(away: CalmState, here: CalmState) -> CalmState:
    """Both, within the bound: those away for longest go first."""
    both = zip(_columns(away), _columns(here), strict=True)
    joined = CalmState(here.pts, *(np.concatenate(pair) for pair in both))
    if len(joined) <= _MAX_OBJECTS:
        return joined
    return _rows(joined, np.sort(np.argsort(joined.lost_s, kind="stable")[:_MAX_OBJECTS]))


def _columns(state: CalmState) -> tuple[npt.NDArray[Any], ...]:
    return (state.xyxy, state.means, state.lost_s, state.ids, state.looks, state.class_ids)
