"""How the head's benchmark counts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.head.novelty import area
from benchmarks.head.ways import Sight, by_rule, calmed, raw
from framegate.models.boxes import Boxes
from framegate.models.tracking.thresholds import CALM
from framegate.models.window.head import NewFrame


def sight(score: float, pts: float) -> Sight:
    xyxy = np.array([[0, 0, 50, 50], [100, 0, 150, 50]], np.float32)
    boxes = Boxes(xyxy, np.array([score, 0.12], np.float32), np.zeros(2, np.int32))
    features, fresh = np.zeros((2, 256), np.float16), np.ones(2, np.bool_)
    frame = NewFrame(boxes, np.array([1, 2], np.int32), fresh, features, (), (640, 360), 0)
    return Sight(frame, pts)


def test_the_area_is_the_chance_to_be_higher() -> None:
    assert area([3, 4], [1, 2]) == 1
    assert area([1, 2], [3, 4]) == 0
    assert area([1, 3], [2]) == 0.5
    assert area([2], [1, 2, 3]) == pytest.approx(0.5)


def test_raw_shows_single_looks_and_calm_their_mean() -> None:
    seen = [sight(0.7, 0.0), sight(0.2, 0.04), sight(0.7, 0.08)]
    assert [len(frame.boxes) for frame in raw(seen)] == [1, 0, 1]
    shown = calmed(seen)
    assert [len(frame.boxes) for frame in shown] == [1, 1, 1]
    assert shown[1].boxes.scores[0] == pytest.approx(0.45)
    assert [frame.ids.tolist() for frame in shown] == [[1], [1], [1]]


def test_other_scores_are_shown_by_the_same_rule() -> None:
    seen = [sight(0.2, 0.0), sight(0.2, 0.04)]
    higher = [
        Boxes(
            one.frame.candidates.xyxy,
            np.array([0.5, 0.9], np.float32),
            one.frame.candidates.class_ids,
        )
        for one in seen
    ]
    assert [len(frame.boxes) for frame in calmed(seen, higher)] == [2, 2]
    assert [len(frame.boxes) for frame in by_rule(seen, higher, CALM)] == [2, 2]
