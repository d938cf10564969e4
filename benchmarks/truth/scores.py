"""Published objects of a clip against its labels: matching, rates, intervals and tracks.

IoU .5. In a frame the object with the highest score takes the label of its group that it overlaps
most, then the next object. An object without a label counts for nothing if half of its area is in
an ignore region; otherwise it is a false box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.harness import tracking
from benchmarks.harness.agreement import (
    Difference,
    FrameStatistic,
    Ranking,
    Tracked,
    average_precision,
    paired_bootstrap,
)
from benchmarks.truth import labels
from benchmarks.truth.clips import LabelledClip, LabelledFrame
from framegate.models import matching
from framegate.models.boxes import AnyArray, BoolArray
from framegate.models.matching import MatchCounts

BLOCK: Final = 10  # labelled frames that are drawn together: neighbours resemble each other
RESAMPLES: Final = 1000

Rates = dict[str, float | None]


@dataclass(frozen=True, slots=True, eq=False)
class JudgedFrame:
    """The objects of a frame that count.

    objects  published objects, without those that count for nothing
    is_true  bool (N,), whether an object has a label
    truth    labels and their tracks
    """

    objects: Tracked
    is_true: BoolArray
    truth: Tracked

    def counts(self, group: int | None = None) -> tuple[int, int, int]:
        """Return the number of pairs, objects and labels, of one group or of all."""
        ours = np.ones(len(self.is_true), np.bool_)
        theirs = np.ones(len(self.truth.boxes), np.bool_)
        if group is not None:
            ours = self.objects.boxes.class_ids == group
            theirs = self.truth.boxes.class_ids == group
        return int((self.is_true & ours).sum()), int(ours.sum()), int(theirs.sum())


def judge(objects: Tracked, frame: LabelledFrame) -> JudgedFrame:
    """Match the objects of a frame with its labels; leave out those that count for nothing."""
    overlaps = matching.overlaps(objects.boxes, frame.boxes)
    is_true = np.zeros(len(objects.boxes), np.bool_)
    is_true[matching.by_score(overlaps, objects.boxes.scores)[0]] = True
    is_ignored = np.array(labels.is_ignored(objects.boxes.xyxy, frame.ignored), np.bool_)
    counted = is_true | ~is_ignored
    kept = Tracked(objects.pts, objects.boxes.take(counted), objects.ids[counted])
    truth = Tracked(objects.pts, frame.boxes, frame.tracks)
    return JudgedFrame(kept, is_true[counted], truth)


def counts_of(frames: Sequence[JudgedFrame], group: int | None = None) -> MatchCounts:
    """Return int64 (frames, 3): pairs, objects and labels of each frame."""
    return np.array([frame.counts(group) for frame in frames], np.int64).reshape(-1, 3)


def rates(counts: MatchCounts) -> Rates:
    """Return precision, recall and F1 of all frames together; None where there is nothing."""
    pairs, n_objects, n_labels = counts.sum(axis=0).tolist()
    return {
        "precision": _share(pairs, n_objects),
        "recall": _share(pairs, n_labels),
        "f1": _share(2 * pairs, n_objects + n_labels),
    }


def interval(counts: MatchCounts, seed: int = 0) -> Difference:
    """Return the F1 with its 95 % interval; NaN for both ends with fewer than two blocks."""
    return gain(counts, None, seed)


def gain(ours: MatchCounts, theirs: MatchCounts | None, seed: int = 0) -> Difference:
    """Return the F1 of `ours` less that of `theirs` in the same frames, with its 95 % interval.

    theirs  None: nothing is subtracted

    Blocks of BLOCK frames are drawn, the same on both sides.
    """
    sides = _statistic(ours), _statistic(theirs)
    difference = paired_bootstrap([(*sides, len(ours))], BLOCK, RESAMPLES, seed)
    if len(ours) < 2 * BLOCK:
        return Difference(difference.mean, math.nan, math.nan)
    return difference


def _statistic(counts: MatchCounts | None) -> FrameStatistic:
    def f1(times: AnyArray) -> float:
        if counts is None:
            return 0.0
        return float(matching.f1(counts, times))

    return f1


def precision_curve_area(frames: Sequence[JudgedFrame]) -> float:
    """Return the average precision of the published objects, all groups on one curve.

    Objects below the least score are not published, so the curve ends there.
    """
    scores = np.concatenate([np.zeros(0), *(frame.objects.boxes.scores for frame in frames)])
    is_true = np.concatenate([np.zeros(0, bool), *(frame.is_true for frame in frames)])
    sizes = [len(frame.is_true) for frame in frames]
    order = np.argsort(-scores, kind="stable")
    numbers = np.repeat(np.arange(len(frames)), sizes)
    n_labels = np.array([len(frame.truth.boxes) for frame in frames], np.int64)
    return average_precision(Ranking(numbers[order], is_true[order], n_labels))


def row(clip: LabelledClip, frames: Sequence[JudgedFrame], is_looked: BoolArray) -> dict[str, Any]:
    """Return the figures of a run that need no other run.

    is_looked  bool (frames,), whether the network got the frame or a part of it
    """
    counts = counts_of(frames)
    bounds = interval(counts)
    figures: dict[str, Any] = {
        "frames": len(frames),
        "labels": int(counts[:, 2].sum()),
        **rates(counts),
        "f1_low": bounds.low,
        "f1_high": bounds.high,
        "ap": precision_curve_area(frames),
        **_tracks(clip, frames),
        "looked": _share(int(is_looked.sum()), len(frames)),
    }
    for name, part in (("looked", counts[is_looked]), ("carried", counts[~is_looked])):
        figures |= {f"{key}_{name}": value for key, value in rates(part).items()}
        figures[f"false_{name}"] = int((part[:, 1] - part[:, 0]).sum())
    figures["groups"] = {
        name: {
            **rates(counts_of(frames, group)),
            "labels": int(counts_of(frames, group)[:, 2].sum()),
        }
        for group, name in enumerate(clip.groups)
    }
    return rounded(figures)


def _tracks(clip: LabelledClip, frames: Sequence[JudgedFrame]) -> dict[str, float | None]:
    if not clip.has_tracks:
        return {"hota": None, "idf1": None, "id_switches": None}
    objects = [frame.objects for frame in frames]
    score = tracking.score(objects, [frame.truth for frame in frames])
    return {"hota": score.hota, "idf1": score.idf1, "id_switches": score.switches}


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Return figures with four decimals; None for NaN."""
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return rounded(value)
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    return round(value, 4)


def _share(part: int, whole: int) -> float | None:
    if not whole:
        return None
    return part / whole
