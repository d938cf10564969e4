"""Least scores by class: the best of all combinations, by trying them all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.models.boxes import Boxes, empty
from framegate.models.learning.thresholds import (
    GRID,
    MatchedBoxes,
    found,
    is_covered,
    least_scores,
    shown,
    tuned,
)

SMALL = np.array([0.1, 0.4, 0.7])


def boxes(*rows: tuple[float, float, int]) -> Boxes:
    """(left edge, score, class): squares of 10 pixels, 20 apart unless they say otherwise."""
    ordered = sorted(rows, key=lambda row: -row[1])
    left = np.array([row[0] for row in ordered], np.float32).reshape(-1, 1)
    xyxy = np.concatenate([left, left * 0, left + 10, left * 0 + 10], axis=1)
    scores = np.array([row[1] for row in ordered], np.float32)
    return Boxes(xyxy, scores, np.array([row[2] for row in ordered], np.int32))


def f1(one: MatchedBoxes, least: dict[int, float]) -> float:
    """Counted box by box."""
    pairs = zip(one.scores, one.class_ids, strict=True)
    is_shown = [s > np.float32(least.get(int(c), 2)) for s, c in pairs]
    right = sum(r for r, seen in zip(one.right, is_shown, strict=True) if seen)
    return 2 * right / (sum(is_shown) + one.there) if sum(is_shown) + one.there else 1.0


ROWS = st.lists(
    st.tuples(st.sampled_from([0.05, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9]), st.integers(0, 2),
              st.booleans()),
    max_size=12,
)  # fmt: skip


@given(rows=ROWS, missed=st.integers(0, 4))
@settings(max_examples=300, deadline=None)
def test_no_combination_does_better(rows, missed):
    scores, classes, right = zip(*rows, strict=True) if rows else ((), (), ())
    one = MatchedBoxes(
        np.array(scores, np.float32),
        np.array(classes, np.int32),
        np.array(right, np.bool_),
        sum(right) + missed,
    )
    levels = [*SMALL.tolist(), 2.0]
    best = max(
        f1(one, dict(enumerate(combination))) for combination in itertools.product(levels, repeat=3)
    )
    assert f1(one, least_scores(one, SMALL, 0)) == pytest.approx(best)


def test_a_class_that_is_mostly_wrong_is_off_and_ties_take_the_middle():
    one = MatchedBoxes(
        np.array([0.9, 0.8, 0.3, 0.9, 0.8, 0.7], np.float32),
        np.array([0, 0, 0, 1, 1, 1], np.int32),
        np.array([True, True, False, False, False, True], np.bool_),
        3,
    )
    least = least_scores(one)
    assert set(least) == {0}
    assert least[0] == pytest.approx(0.55, abs=0.011)  # between .3, which is wrong, and .8


def test_a_box_is_right_once_and_not_wrong_where_the_teacher_is_unsure():
    ours = boxes((0, 0.9, 0), (1, 0.8, 0), (40, 0.7, 0), (80, 0.6, 1))
    sure, unsure = boxes((0, 1, 0), (80, 1, 0)), boxes((43, 0.2, 1))
    one = found([ours], [sure], [unsure])
    assert one.scores.tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert one.right.tolist() == [True, False, False]  # the second is a second box of one thing
    assert one.there == 2
    assert is_covered(ours, unsure).tolist() == [False, False, True, False]
    assert is_covered(ours, empty()).tolist() == [False] * 4


def test_what_is_off_hides_nothing():
    """A surer "vase" lies on each "bottle", and the teacher has bottles only."""
    raw = [boxes((0, 0.6, 1), (0, 0.5, 0)), boxes((0, 0.7, 1), (0, 0.4, 0))]
    sure = [boxes((0, 1, 0))] * 2
    least = tuned(raw, sure, [empty()] * 2, 0.5)
    assert set(least) == {0}
    assert least[0] < 0.4
    assert [shown(one, least, 0.5).class_ids.tolist() for one in raw] == [[0], [0]]


def test_without_any_object_all_is_off():
    assert tuned([boxes((0, 0.9, 0))], [empty()], [empty()], 0.5) == {}
    assert tuned([], [], [], 0.5) == {}
    assert len(shown(boxes((0, 0.9, 0)), {}, 0.5)) == 0


def test_the_grid_is_one_that_people_can_read():
    assert GRID[0] == 0.05
    assert GRID[-1] == 0.95
    assert np.allclose(GRID * 100, np.round(GRID * 100))
