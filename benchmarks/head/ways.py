"""The same candidates said in three ways: raw, calm, and by the window head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.gate.run import frames
from benchmarks.harness.agreement import Tracked
from benchmarks.harness.gate_clips import GateClip
from framegate.models.boxes import Boxes
from framegate.models.detector import policy
from framegate.models.detector.detector import Detector
from framegate.models.gate import crops
from framegate.models.tracking import bytetrack, calm, thresholds
from framegate.models.tracking.bytetrack import no_tracks
from framegate.models.tracking.calm import CalmSettings, not_calmed
from framegate.models.window import features
from framegate.models.window.head import NewFrame, WindowHead
from framegate.models.window.rows import WindowRows

CANDIDATE = 0.1
LONG_SIDE = 416
IntArray = npt.NDArray[np.int32]


class Sight(NamedTuple):
    """A frame before the head, and its time in seconds, None where unknown."""

    frame: NewFrame
    pts: float | None


def see(clip: GateClip, light: Detector) -> list[Sight]:
    """Every frame of a clip, looked at whole, with the tracks of its candidates.

    light: loaded with features and CANDIDATE as its least score
    """
    _, settings = thresholds.settings_for(policy.load("light").min_score)
    tracks, seen = no_tracks(), []
    for number, (picture, pts, _) in enumerate(frames(clip)):
        size = (picture.width, picture.height)
        look = crops.whole(*size, LONG_SIDE)
        ((boxes, shown),) = light.look_with_features(picture, (look,), features.read)
        tracks, ids = bytetrack.step(tracks, boxes, pts, thresholds.with_head(settings))
        fresh = np.ones(len(boxes), np.bool_)
        frame = NewFrame(boxes, ids, fresh, shown.boxes, (shown,), size, number)
        seen.append(Sight(frame, pts))
    return seen


def verdict(clip: GateClip, heavy: Detector) -> list[Boxes]:
    """What the heavy pass says of every frame."""
    return [heavy.detect([picture])[0] for picture, _, _ in frames(clip)]


def raw(seen: Sequence[Sight]) -> list[Tracked]:
    """Boxes above the detector's threshold."""
    least = np.float32(policy.load("light").min_score)
    shown = []
    for sight in seen:
        boxes = sight.frame.candidates
        rows = np.flatnonzero(boxes.scores > least)
        shown.append(Tracked(_pts(sight), boxes.take(rows), sight.frame.ids[rows]))
    return shown


def calmed(seen: Sequence[Sight], scored: Sequence[Boxes] | None = None) -> list[Tracked]:
    """What the calm rule shows of them.

    scored  the candidates with other scores; none: with their own
    """
    rule, _ = thresholds.settings_for(policy.load("light").min_score)
    return by_rule(seen, scored or [sight.frame.candidates for sight in seen], rule)


def by_rule(seen: Sequence[Sight], scored: Sequence[Boxes], rule: CalmSettings) -> list[Tracked]:
    """What the calm rule with other numbers shows of the candidates with these scores."""
    state, shown = not_calmed(), []
    for sight, boxes in zip(seen, scored, strict=True):
        rows = np.flatnonzero(boxes.scores >= np.float32(rule.candidate))
        given, ids = boxes.take(rows), sight.frame.ids[rows]
        looked = np.ones(len(rows), np.bool_)
        state, here, order = calm.step(state, given, ids, looked, sight.pts, rule)
        shown.append(Tracked(_pts(sight), here, ids[order]))
    return shown


def refined(seen: Sequence[Sight], head: WindowHead) -> tuple[list[Boxes], list[float]]:
    """The candidates with the head's scores, and how new each frame is."""
    state, scored, new = WindowRows(), [], []
    for sight in seen:
        step = head.step(state, sight.frame)
        state = step.window
        scored.append(step.boxes)
        new.append(step.novelty)
    return scored, new


def _pts(sight: Sight) -> float:
    return 0.0 if sight.pts is None else sight.pts
