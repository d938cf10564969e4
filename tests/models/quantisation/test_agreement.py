"""How two detectors agree: by hand, and against a search over all ways to pair boxes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.boxes import Boxes, empty, iou
from framegate.models.quantisation.agreement import agreement, counted, f1, n_matched


def boxes(*rows):
    """Each left, top, right, bottom, class."""
    array = np.array(rows, np.float32).reshape(-1, 5)
    scores = np.full(len(array), 0.5, np.float32)
    return Boxes(array[:, :4], scores, array[:, 4].astype(np.int32))


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
    counts = counted([one, one, empty()], [one, two, one])
    assert counts.tolist() == [[1, 1, 1], [1, 1, 2], [0, 0, 1]]
    times = np.array([[1, 1, 1], [0, 2, 1], [2, 0, 0]])
    assert f1(counts, times).tolist() == pytest.approx([4 / 6, 4 / 7, 1])


def test_two_that_see_nothing_agree():
    found = agreement([empty()] * 3, [empty()] * 3)
    assert (found.middle, found.low, found.high) == (1, 1, 1)


def test_the_interval_holds_the_figure():
    a, b = boxes((0, 0, 10, 10, 1)), boxes((50, 0, 60, 10, 1))
    found = agreement([a] * 20, [a] * 15 + [b] * 5)
    assert found.middle == pytest.approx(0.75)
    assert 0.5 < found.low < 0.6
    assert 0.9 <= found.high < 1
