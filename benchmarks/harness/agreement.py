"""Agreement of the boxes and tracks of a clip with other boxes and tracks of it.

Everything here is a pure function of lists with one entry a frame, the same frames on both sides;
classes must agree for boxes to match, overlap is IoU at .5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from framegate.models import matching
from framegate.models.boxes import AnyArray, Boxes, iou
from framegate.models.matching import MIN_IOU, overlaps

FrameStatistic = Callable[[AnyArray], float]
_LEAST_S, _WITHIN_S = 0.5, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Tracked:
    """The boxes of one frame: its time in seconds, boxes, int32 (N,) tracks (0: none)."""

    pts: float
    boxes: Boxes
    ids: npt.NDArray[np.int32]

    def in_tracks(self) -> Tracked:
        """Only the boxes that have a track."""
        rows = self.ids > 0
        return Tracked(self.pts, self.boxes.take(rows), self.ids[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """A clip's boxes from the highest score down.

    frame        int64 (D,)  frame of each box
    is_true      bool (D,)   whether it matches a reference box
    n_reference  int64 (F,)  reference boxes of each frame
    """

    frame: AnyArray
    is_true: AnyArray
    n_reference: AnyArray


@dataclass(frozen=True, slots=True)
class Events:
    """How many reference tracks of at least half a second were met soon, of how many."""

    met: int
    total: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over clips with its 95 % interval."""

    mean: float
    low: float
    high: float


def pairs(ours: Boxes, reference: Boxes, classes: bool = True) -> tuple[AnyArray, AnyArray]:
    """Rows of `ours` and of `reference` that match, as many as possible and then as close.

    Without `classes` a box may match one of another class, if none of its own is there to take.
    """
    overlap = iou(ours.xyxy, reference.xyxy)
    same = ours.class_ids[:, None] == reference.class_ids[None, :]
    fits = (overlap >= MIN_IOU) & (same | (not classes))
    return matching.optimal(np.where(fits, overlap + 2 * same, 0))


def rank(ours: Sequence[Boxes], reference: Sequence[Boxes]) -> Ranking:
    """Match from the highest score down, as COCO does, each to the free box it overlaps most."""
    true = [_is_true(a, b) for a, b in zip(ours, reference, strict=True)]
    scores = np.concatenate([np.zeros(0), *(boxes.scores for boxes in ours)])
    frame = np.repeat(np.arange(len(ours)), [len(boxes) for boxes in ours])
    order = np.argsort(-scores, kind="stable")
    is_true = np.concatenate([np.zeros(0, bool), *true])
    n_reference = np.array([len(boxes) for boxes in reference], np.int64)
    return Ranking(frame[order], is_true[order], n_reference)


def _is_true(ours: Boxes, reference: Boxes) -> AnyArray:
    found = np.zeros(len(ours), bool)
    found[matching.by_score(overlaps(ours, reference), ours.scores)[0]] = True
    return found


def average_precision(ranking: Ranking, times: AnyArray | None = None) -> float:
    """Average precision of the boxes of all classes together, frame i taken `times[i]` times.

    The area under the curve of precision, made monotone, over recall. All classes share one curve:
    in a single clip a class with two reference boxes would else weigh as much as one with
    thousands. NaN where the reference has no box.
    """
    each = np.ones(len(ranking.frame), np.int64) if times is None else times[ranking.frame]
    wanted = int(ranking.n_reference.sum() if times is None else times @ ranking.n_reference)
    if not wanted:
        return float("nan")
    true, seen = np.cumsum(each * ranking.is_true), np.cumsum(each)
    precision = np.maximum.accumulate((true / np.maximum(seen, 1))[::-1])[::-1]
    return float(precision @ (each * ranking.is_true) / wanted)


def events(ours: Sequence[Tracked], reference: Sequence[Tracked]) -> Events:
    """Which reference tracks, seen for at least .5 s, a track of ours met in their first .5 s.

    Met: some box of ours that has a track matches one of theirs in the same frame.
    """
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    met: set[int] = set()
    for mine, theirs in zip(ours, reference, strict=True):
        mine, theirs = mine.in_tracks(), theirs.in_tracks()
        for track in theirs.ids.tolist():
            first.setdefault(track, theirs.pts)
            last[track] = theirs.pts
        for track in theirs.ids[pairs(mine.boxes, theirs.boxes)[1]].tolist():
            if theirs.pts <= first[track] + _WITHIN_S:
                met.add(track)
    lasting = {track for track in first if last[track] - first[track] >= _LEAST_S}
    return Events(len(met & lasting), len(lasting))


def paired_bootstrap(
    clips: Sequence[tuple[FrameStatistic, FrameStatistic, int]],
    block: int = 25,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Mean over clips of the first statistic less the second, with its 95 % interval.

    A clip is two statistics of how often each frame counts, and its number of frames. Frames are
    drawn with replacement in blocks of `block`, the same for both sides: neighbours are near
    copies of each other, and drawn one by one would make the interval far too narrow.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(clips), n_resamples))
    for row, (ours, theirs, n_frames) in enumerate(clips):
        n_blocks = -(-n_frames // block)
        for i in range(n_resamples):
            often = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks))
            times = np.repeat(often, block)[:n_frames]
            drawn[row, i] = ours(times) - theirs(times)
    whole = [ours(np.ones(n, np.int64)) - theirs(np.ones(n, np.int64)) for ours, theirs, n in clips]
    drawn = drawn[:, ~np.isnan(drawn).all(axis=0)]  # where no clip had a reference box to find
    low, high = np.percentile(np.nanmean(drawn, axis=0), [2.5, 97.5])
    return Difference(float(np.nanmean(whole)), float(low), float(high))
