"""The rival of a gate: look at every n-th frame, and keep or move the boxes in between.

Both rivals look at frames evenly spaced in a share of the clip that need not be one in a whole
number. Tracks and calm rule go on with each frame that is looked at; in between the boxes that were
shown stay where they are (`carried`), or go with sparse optical flow (`moved`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness.agreement import Tracked
from framegate.models.boxes import Boxes
from framegate.models.picture import Picture

Array = npt.NDArray[Any]
# What comes after the network: boxes, which of them are fresh evidence, seconds -> what is shown.
Answering = Callable[[Boxes, Array, float], Tracked]

PHASES: Final = (0.0, 0.25, 0.5, 0.75)
_LONG_SIDE: Final = 416  # pictures are followed at no more than the detector's own size
_PER_SIDE: Final = 4  # points across and down a box
_INSIDE: Final = 0.8  # of a box; what is at its edge is more often background
_BACK_PX: Final = 1.0  # a point must come back so near to where it began
_ENOUGH: Final = 0.6  # share of a box's points that must be found again
_WINDOW: Final = (11, 11)
_LEVELS: Final = 3
_ENDS: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)


def looks(n_frames: int, share: float, phase: float) -> npt.NDArray[np.bool_]:
    """bool (F,): which frames a uniform subsampling looks at; the first one always.

    share  0..1 of the frames; phase  0..1, where in its first interval it begins
    """
    steps = np.floor(np.arange(-1, n_frames) * min(1.0, max(0.0, share)) + phase)
    chosen: npt.NDArray[np.bool_] = np.diff(steps) > 0
    chosen[:1] = True
    return chosen


def carried(
    dense: Sequence[Boxes], stamps: Sequence[float], chosen: Array, answering: Answering
) -> list[Tracked]:
    """What is shown when boxes stay until the next look.

    dense  the boxes of every frame, as the whole pass finds them; stamps  seconds of each frame
    """
    shown: list[Tracked] = []
    for boxes, pts, looked in zip(dense, stamps, chosen, strict=True):
        if looked:
            shown.append(answering(boxes, np.ones(len(boxes), bool), pts))
        else:
            shown.append(Tracked(pts, shown[-1].boxes, shown[-1].ids))
    return shown


@dataclass(frozen=True, slots=True, eq=False)
class Subsampling:
    """One run of the rival that moves boxes: bool (F,) of the frames it looks at, and its state."""

    chosen: Array
    answering: Answering


def moved(
    pictures: Iterable[Picture],
    dense: Sequence[Boxes],
    stamps: Sequence[float],
    runs: Sequence[Subsampling],
) -> list[list[Tracked]]:
    """What each run shows when its boxes go with the flow between two looks.

    All runs go through the clip together, so that it is decoded and followed once.
    """
    shown: list[list[Tracked]] = [[] for _ in runs]
    before: Array | None = None
    frames = zip(pictures, dense, stamps, strict=True)
    for number, (picture, boxes, pts) in enumerate(frames):
        after = small_luma(picture)
        waiting = [i for i, run in enumerate(runs) if not run.chosen[number]]
        last = [shown[i][-1] for i in waiting]
        if before is not None and last:
            size = (picture.width, picture.height)
            for i, there in zip(waiting, followed(before, after, last, size), strict=True):
                shown[i].append(Tracked(pts, there.boxes, there.ids))
        for i, run in enumerate(runs):
            if run.chosen[number]:
                shown[i].append(run.answering(boxes, np.ones(len(boxes), bool), pts))
        before = after
    return shown


def small_luma(picture: Picture) -> Array:
    """uint8 (h, w): the luma plane, its longer side at most that of the detector's input."""
    scale = _LONG_SIDE / max(picture.width, picture.height)
    if scale >= 1:
        return np.array(picture.y)
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(cv2.resize(picture.y, size, interpolation=cv2.INTER_AREA))


def followed(
    before: Array, after: Array, shown: Sequence[Tracked], size: tuple[int, int]
) -> list[Tracked]:
    """Each of `shown` with its boxes moved from one picture to the next.

    before, after  uint8 (h, w), of `small_luma`; size  width and height of the source picture
    """
    ends = np.cumsum([len(each.ids) for each in shown])[:-1]
    xyxy = np.concatenate([each.boxes.xyxy for each in shown])
    scale = np.array([before.shape[1] / size[0], before.shape[0] / size[1]], np.float32)
    shifts = box_shifts(before, after, xyxy * np.tile(scale, 2)) / scale
    there = np.clip(xyxy + np.tile(shifts, 2), 0, np.array(size * 2, np.float32))
    return [
        _still_inside(each, at.astype(np.float32))
        for each, at in zip(shown, np.split(there, ends), strict=True)
    ]


def _still_inside(each: Tracked, xyxy: Array) -> Tracked:
    inside = np.flatnonzero((xyxy[:, 2] - xyxy[:, 0] >= 1) & (xyxy[:, 3] - xyxy[:, 1] >= 1))
    boxes = Boxes(xyxy[inside], each.boxes.scores[inside], each.boxes.class_ids[inside])
    return Tracked(each.pts, boxes, each.ids[inside])


def box_shifts(before: Array, after: Array, xyxy: Array) -> Array:
    """float32 (N, 2): how far each box's content went, in pixels of these pictures.

    Sparse Lucas-Kanade on a grid of points in each box, checked forward and backward (Kalal et
    al., "Forward-Backward Error", ICPR 2010): the median of the points that come back. A box of
    which too few come back stays.
    """
    n = len(xyxy)
    if not n:
        return np.zeros((0, 2), np.float32)
    points = _grid(xyxy)
    there, found = _flow(before, after, points)
    back, again = _flow(after, before, there)
    near = np.abs(back - points).max(axis=1) < _BACK_PX
    good = (near & found & again).reshape(n, -1)
    step = np.where(good[..., None], (there - points).reshape(n, -1, 2), np.nan)
    shifts = np.zeros((n, 2), np.float32)
    sure = good.mean(axis=1) >= _ENOUGH
    shifts[sure] = np.nanmedian(step[sure], axis=1)
    return shifts


def _flow(before: Array, after: Array, points: Array) -> tuple[Array, Array]:
    """Where each point went, float32 (P, 2), and bool (P,) whether it was found."""
    there = np.empty_like(points)
    _, found, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points, there, winSize=_WINDOW, maxLevel=_LEVELS, criteria=_ENDS
    )
    return there, np.asarray(found)[:, 0] > 0


def _grid(xyxy: Array) -> Array:
    """float32 (N * 16, 2): points spread over the inner part of each box."""
    places = 0.5 + _INSIDE * (np.arange(_PER_SIDE) / (_PER_SIDE - 1) - 0.5)
    across, down = (axis.ravel() for axis in np.meshgrid(places, places))
    sides = xyxy[:, 2:] - xyxy[:, :2]
    points = np.stack([xyxy[:, :1] + sides[:, :1] * across, xyxy[:, 1:2] + sides[:, 1:] * down], -1)
    return np.ascontiguousarray(points.reshape(-1, 2), np.float32)
