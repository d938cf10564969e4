"""Pairs of boxes by each rule: by hand, and against a search over all ways to pair them."""

import itertools

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from framegate.models.boxes import Boxes, empty, iou
from framegate.models.matching import assigned, by_score, by_worth, f1, matched, optimal


def boxes(*rows):
    """Each left, top, right, bottom, class."""
    array = np.array(rows, np.float32).reshape(-1, 5)
    scores = np.full(len(array), 0.5, np.float32)
    return Boxes(array[:, :4], scores, array[:, 4].astype(np.int32))


def n_matched(a, b):
    return int(matched([a], [b])[0, 0])


def as_pairs(found):
    return list(zip(*(side.tolist() for side in found), strict=True))


# What each rule gives where they differ: box 0 is the surest, box 1 fits column 0 better.
WORTH = np.array([[0.6, 0.0], [0.9, 0.5], [0.0, 0.0]])


def test_the_surest_box_takes_what_it_fits_best():
    assert as_pairs(by_score(WORTH, np.array([0.9, 0.8, 0.7]))) == [(0, 0), (1, 1)]
    assert as_pairs(by_score(WORTH, np.array([0.7, 0.8, 0.9]))) == [(1, 0)]


def test_the_best_pair_comes_first():
    assert as_pairs(by_worth(WORTH)) == [(1, 0)]


def test_as_many_pairs_as_can_be_and_then_the_best():
    assert as_pairs(optimal(WORTH)) == [(0, 0), (1, 1)]
    assert as_pairs(optimal(np.array([[0.6, 0.5], [0.5, 0.6]]))) == [(0, 0), (1, 1)]
    assert as_pairs(optimal(np.array([[1e-9, 0.0], [1.0, 1e-9]]))) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 2)])
def test_what_does_not_fit_is_no_pair(shape):
    nothing = np.zeros(shape, np.float32)
    for found in (by_score(nothing, np.ones(shape[0])), by_worth(nothing), optimal(nothing)):
        assert as_pairs(found) == []


worths = arrays.arrays(
    np.float64, st.tuples(*[st.integers(0, 4)] * 2), elements=st.sampled_from([0, 0.5, 0.75, 1])
)


@given(worths)
def test_no_rule_gives_a_box_twice_nor_leaves_two_that_fit(worth):
    scores = np.linspace(1, 0, len(worth))
    for found in (by_score(worth, scores), by_worth(worth), optimal(worth)):
        rows, columns = found
        assert len(set(rows.tolist())) == len(rows) == len(set(columns.tolist()))
        assert (worth[rows, columns] > 0).all()
        left = np.delete(np.delete(worth, rows, 0), columns, 1)
        assert not left.any()


@given(worths)
def test_the_optimum_is_the_most_pairs_and_then_the_most_worth(worth):
    wide = worth if worth.shape[0] <= worth.shape[1] else worth.T
    ways = itertools.permutations(range(wide.shape[1]), wide.shape[0])
    taken = [[wide[i, j] for i, j in enumerate(way) if wide[i, j]] for way in ways]
    expected = max((len(one), sum(one)) for one in taken)
    found = worth[optimal(worth)]
    assert (len(found), found.sum()) == pytest.approx(expected)


@given(worths)
def test_the_solver_by_itself_is_scipys(worth):
    expected = scipy.optimize.linear_sum_assignment(worth, maximize=True)
    for ours, theirs in zip(assigned(worth), expected, strict=True):
        assert ours.tolist() == theirs.tolist()


def test_a_pair_is_of_one_class_and_overlaps_by_half():
    whole = boxes((0, 0, 10, 10, 1))
    assert n_matched(whole, boxes((0, 0, 10, 5, 1))) == 1
    assert n_matched(whole, boxes((0, 0, 10, 4.9, 1))) == 0
    assert n_matched(whole, boxes((0, 0, 10, 10, 2))) == 0
    assert n_matched(whole, empty()) == 0


def test_each_box_is_in_one_pair():
    assert n_matched(boxes((0, 0, 10, 10, 1)), boxes((0, 0, 10, 10, 1), (0, 0, 10, 9, 1))) == 1


row = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(4, 7)] * 2, st.integers(0, 1))


@given(st.lists(row, max_size=4), st.lists(row, max_size=4))
def test_as_many_pairs_as_there_can_be(a, b):
    a, b = sorted((a, b), key=len)
    fits = (iou(boxes(*a).xyxy, boxes(*b).xyxy) >= 0.5) & np.equal.outer(
        boxes(*a).class_ids, boxes(*b).class_ids
    )
    ways = itertools.permutations(range(len(b)), len(a))
    expected = max(sum(fits[i, j] for i, j in enumerate(way)) for way in ways)
    assert n_matched(boxes(*a), boxes(*b)) == expected


def test_f1_of_all_boxes_by_hand():
    one, two = boxes((0, 0, 10, 10, 1)), boxes((0, 0, 10, 10, 1), (20, 0, 30, 10, 1))
    counts = matched([one, one, empty()], [one, two, one])
    assert counts.tolist() == [[1, 1, 1], [1, 1, 2], [0, 0, 1]]
    times = np.array([[1, 1, 1], [0, 2, 1], [2, 0, 0]])
    assert f1(counts, times).tolist() == pytest.approx([4 / 6, 4 / 7, 1])
