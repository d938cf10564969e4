"""Weighted box fusion by hand, and what must be true for any input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.boxes import Boxes, empty, iou
from framegate.models.detector.fusion import fuse

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
    fused = fuse([boxes((0, 0, 10, 10, 0.9, 1)), boxes((1, 0, 11, 10, 0.3, 1))], 0.6, 0.5)
    # Corners weighted .9 and .3: a quarter of the way to the second box.
    np.testing.assert_allclose(fused.xyxy, [[0.25, 0, 10.25, 10]], rtol=1e-6)
    # Half of the highest, .45, and half of the mean, .3.
    np.testing.assert_allclose(fused.scores, [0.75], rtol=1e-6)
    assert fused.class_ids.tolist() == [1]


def test_a_member_that_alone_detects_an_object_keeps_most_of_its_score():
    fused = fuse([empty(), boxes((0, 0, 10, 10, 0.8, 0)), empty(), empty()], 0.6, 0.5)
    np.testing.assert_allclose(fused.scores, [0.4 + 0.1], rtol=1e-6)
    assert fused.xyxy.tolist() == [[0, 0, 10, 10]]


def test_members_that_agree_completely_keep_their_score():
    fused = fuse([boxes((0, 0, 10, 10, 0.7, 0))] * 3, 0.6, 0.5)
    np.testing.assert_allclose(fused.scores, [0.7], rtol=1e-6)


def test_a_group_has_one_box_of_a_member():
    """The second box of the first member overlaps by .9, but neither moves nor raises the first."""
    first = boxes((0, 0, 10, 10, 0.6, 0), (0, 0, 10, 9, 0.5, 0))
    fused = fuse([first, empty()], 0.6, 0.95)
    np.testing.assert_allclose(fused.scores, [0.3 + 0.15, 0.25 + 0.125], rtol=1e-6)
    assert fused.xyxy.tolist() == [[0, 0, 10, 10], [0, 0, 10, 9]]
    assert len(fuse([first, empty()], 0.6, 0.5)) == 1


def test_of_another_member_the_best_box_joins():
    other = boxes((0, 0, 10, 8, 0.4, 0), (0, 0, 10, 10, 0.2, 0))
    fused = fuse([boxes((0, 0, 10, 10, 0.6, 0)), other], 0.6, 0.5)
    np.testing.assert_allclose(fused.xyxy, [[0, 0, 10, 10 * 0.6 + 8 * 0.4]], rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [0.3 + 0.25], rtol=1e-6)


def test_distant_boxes_stay_apart():
    fused = fuse([boxes((0, 0, 10, 10, 0.8, 0)), boxes((6, 0, 16, 10, 0.4, 0))], 0.6, 0.5)
    np.testing.assert_allclose(fused.scores, [0.6, 0.3], rtol=1e-6)


def test_boxes_of_two_classes_support_no_other_and_the_better_one_stays():
    """Two weaker boxes of a class win against the surest box: .4 against .37."""
    members = [
        boxes((0, 0, 10, 10, 0.55, 0)),
        boxes((0, 0, 10, 10, 0.5, 1)),
        boxes((0, 0, 10, 10, 0.4, 1)),
    ]
    fused = fuse(members, 0.6, 0.5)
    assert fused.class_ids.tolist() == [1]
    np.testing.assert_allclose(fused.scores, [0.25 + 0.9 / 6], rtol=1e-6)
    both = fuse(members, 0.6, 1.0)
    np.testing.assert_allclose(both.scores, [0.4, 0.275 + 0.55 / 6], rtol=1e-6)


def test_of_equal_scores_the_earlier_member_is_first():
    pair = [boxes((0, 0, 10, 10, 0.5, 1)), boxes((0, 0, 10, 10, 0.5, 0))]
    assert fuse(pair, 0.6, 0.5).class_ids.tolist() == [1]
    assert fuse(pair[::-1], 0.6, 0.5).class_ids.tolist() == [0]


@pytest.mark.parametrize(("shift", "n"), [(2, 1), (3, 2)])
def test_the_threshold_itself_is_not_enough(shift, n):
    """Boxes 10 wide, shifted by 2: IoU 8/12; by 3: 7/13 = .538, which is not above 7/13."""
    pair = [boxes((0, 0, 10, 10, 0.9, 0)), boxes((shift, 0, 10 + shift, 10, 0.8, 0))]
    assert len(fuse(pair, 7 / 13, 0.6)) == n


def test_nothing_gives_nothing():
    assert len(fuse([empty(), empty()], 0.6, 0.5)) == 0


@given(st.lists(st.lists(ROW, max_size=8), min_size=1, max_size=4))
def test_any_input(members):
    sets = [
        boxes(*[(x, y, x + w, y + h, s / 100, c) for x, y, w, h, s, c in rows]) for rows in members
    ]
    fused = fuse(sets, 0.6, 0.5)
    scores = [score for each in sets for score in each.scores.tolist()]
    assert len(fused) <= len(scores)
    assert (np.diff(fused.scores) <= 0).all()
    overlap = iou(fused.xyxy, fused.xyxy)
    assert (np.triu(overlap, 1) <= 0.5 + 1e-6).all()
    if scores:
        # The surest box of all keeps at least half of its score.
        assert max(scores) / 2 - 1e-6 <= fused.scores.max() <= max(scores) + 1e-6
        low = np.min([each.xyxy.min(axis=0) for each in sets if len(each)], axis=0)
        high = np.max([each.xyxy.max(axis=0) for each in sets if len(each)], axis=0)
        assert (fused.xyxy >= low - 1e-3).all()
        assert (fused.xyxy <= high + 1e-3).all()
