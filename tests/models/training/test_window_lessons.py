"""What the window head is taught: verdicts of the heavy pass, on footage that a seed decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from framegate.models.boxes import Boxes
from framegate.models.training.compose_footage import SIZES, Photograph, compose
from framegate.models.training.window_lessons import ClipLesson, judged, keep, kept


def boxes(*rows: tuple[float, float, int]) -> Boxes:
    """Boxes of 100 x 100 pixels at (left, 0): (left, score, class)."""
    corners = [(left, 0, left + 100, 100) for left, _, _ in rows]
    return Boxes(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([class_id for _, _, class_id in rows], np.int32),
    )


def test_the_best_box_of_the_right_class_is_right() -> None:
    ours = boxes((0, 0.5, 2), (10, 0.4, 2), (5, 0.3, 7), (400, 0.2, 2))
    objects, right, object_weight, right_weight = judged(ours, boxes((0, 0.9, 2)), 0.22)
    assert objects.tolist() == [1, 1, 1, 0]
    assert right.tolist() == [1, 0, 0, 0]
    assert right_weight.tolist() == pytest.approx([1, 0.4, 1, 1])
    assert object_weight.tolist() == [1, 1, 1, 1]


def test_a_verdict_near_the_threshold_weighs_little() -> None:
    near_above = judged(boxes((0, 0.5, 2)), boxes((0, 0.24, 2)), 0.22)
    near_below = judged(boxes((0, 0.5, 2)), boxes((0, 0.21, 2)), 0.22)
    assert [float(part[0]) for part in near_above] == pytest.approx([1, 1, 0.2, 0.2])
    assert [float(part[0]) for part in near_below] == pytest.approx([0, 0, 0.2, 0.2])


def test_the_surest_object_has_the_last_word() -> None:
    heavy = boxes((0, 0.9, 2), (3, 0.1, 2))
    _, right, _, weight = judged(boxes((0, 0.5, 2)), heavy, 0.22)
    assert right.tolist() == [1]
    assert weight.tolist() == [1]


def test_without_boxes_there_is_no_verdict() -> None:
    assert [len(part) for part in judged(boxes(), boxes((0, 0.9, 2)), 0.22)] == [0, 0, 0, 0]


def test_a_lesson_is_kept_whole(tmp_path: Path) -> None:
    numbers = np.arange(2, dtype=np.float32)
    whole = np.arange(2, dtype=np.int32)
    place, features = np.zeros((2, 4), np.float32), np.zeros((2, 256), np.float16)
    start = np.array([0, 2, 2])
    lesson = ClipLesson("one", start, place, numbers, whole, whole, features, *[numbers] * 4)
    keep(lesson, tmp_path / "one.npz")
    again = kept(tmp_path / "one.npz")
    assert (again.name, again.frames) == ("one", 2)
    np.testing.assert_array_equal(again.features, lesson.features)


def test_a_seed_decides_the_footage() -> None:
    rng = np.random.default_rng(0)
    photographs = [
        Photograph(rng.integers(0, 255, (200, 300, 3), np.uint8), ((20, 20, 90, 120),))
        for _ in range(2)
    ]
    first, again, other = (compose(photographs, seed, 3) for seed in (4, 4, 5))
    assert len(first) == 3
    assert (first[0].width, first[0].height) in SIZES
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.y, two.y)
        np.testing.assert_array_equal(one.v, two.v)
    assert first[0].y.shape != other[0].y.shape or (first[0].y != other[0].y).any()
