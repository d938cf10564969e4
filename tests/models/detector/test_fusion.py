"""Weighted box fusion by hand, and what must hold for any input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.boxes import Boxes, empty, iou
from framegate.models.detector.detector import fuse

ROW = st.tuples(
    st.integers(0, 50), st.integers(0, 50), st.integers(1, 40), st.integers(1, 40),
    st.integers(1, 99), st.integers(0, 2),
)  # fmt: skip


def boxes(*rows: tuple[float, ...]) -> Boxes:
    """Rows of x1, y1, x2, y2, score, class."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Boxes(
        table[:, :4].astype(np.float32),
        table[:, 4].astype(np.float32),
        table[:, 5].astype(np.int32),
    )


def test_two_members_agree():
    fused = fuse([boxes((0, 0, 10, 10, 0.9, 1)), boxes((1, 0, 11, 10, 0.3, 1))], 0.6)
    # Corners weighted .9 and .3: a quarter of the way to the second box. Score: their mean.
    np.testing.assert_allclose(fused.xyxy, [[0.25, 0, 10.25, 10]], rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [0.6], rtol=1e-6)
    assert fused.class_ids.tolist() == [1]


def test_a_member_that_saw_nothing_counts_as_zero():
    fused = fuse([boxes((0, 0, 10, 10, 0.8, 0)), empty(), empty(), empty()], 0.6)
    np.testing.assert_allclose(fused.scores, [0.2], rtol=1e-6)


def test_a_members_second_box_moves_the_corners_but_not_the_score():
    one = boxes((0, 0, 10, 10, 0.6, 0), (0, 0, 10, 9, 0.3, 0))
    fused = fuse([one, empty()], 0.6)
    np.testing.assert_allclose(fused.scores, [0.3], rtol=1e-6)
    np.testing.assert_allclose(fused.xyxy, [[0, 0, 10, (10 * 0.6 + 9 * 0.3) / 0.9]], rtol=1e-6)


def test_distant_boxes_stay_apart():
    fused = fuse([boxes((0, 0, 10, 10, 0.9, 0)), boxes((6, 0, 16, 10, 0.7, 0))], 0.6)
    np.testing.assert_allclose(fused.scores, np.array([0.9, 0.7]) / 2, rtol=1e-6)


def test_members_vote_for_the_class_of_one_thing():
    """The surest alone says 0; two others together say 1, and all three see something there."""
    sure, others = (0, 0, 10, 10, 0.6, 0), [(0, 0, 10, 10, 0.5, 1), (0, 0, 10, 10, 0.4, 1)]
    fused = fuse([boxes(sure), *map(boxes, others)], 0.6)
    assert fused.class_ids.tolist() == [1]
    np.testing.assert_allclose(fused.scores, [0.5], rtol=1e-6)
    undecided = fuse([boxes((0, 0, 10, 10, 0.5, 1)), boxes((0, 0, 10, 10, 0.5, 0))], 0.6)
    assert undecided.class_ids.tolist() == [1]


@pytest.mark.parametrize(("shift", "n"), [(2, 1), (3, 2)])
def test_the_threshold_itself_is_not_enough(shift, n):
    """Boxes 10 wide, shifted by 2: IoU 8/12; by 3: 7/13 = .538, which is not above 7/13."""
    pair = [boxes((0, 0, 10, 10, 0.9, 0)), boxes((shift, 0, 10 + shift, 10, 0.8, 0))]
    assert len(fuse(pair, 7 / 13)) == n


def test_nothing_gives_nothing():
    assert len(fuse([empty(), empty()], 0.6)) == 0


@given(st.lists(st.lists(ROW, max_size=8), min_size=1, max_size=4))
def test_any_input(members):
    sets = [
        boxes(*[(x, y, x + w, y + h, s / 100, c) for x, y, w, h, s, c in rows]) for rows in members
    ]
    fused = fuse(sets, 0.6)
    everything = [score for one in sets for score in one.scores.tolist()]
    assert len(fused) <= len(everything)
    assert (np.diff(fused.scores) <= 0).all()
    overlap = iou(fused.xyxy, fused.xyxy)
    assert (np.triu(overlap, 1) <= 0.6 + 1e-6).all()
    if everything:
        assert fused.scores.max() <= max(everything) + 1e-6
        low = np.min([one.xyxy.min(axis=0) for one in sets if len(one)], axis=0)
        high = np.max([one.xyxy.max(axis=0) for one in sets if len(one)], axis=0)
        assert (fused.xyxy >= low - 1e-3).all()
        assert (fused.xyxy <= high + 1e-3).all()
