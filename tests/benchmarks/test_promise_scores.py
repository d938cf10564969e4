"""How the promise's benchmark counts: by hand, and against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.promise.composed_hour import Seen
from benchmarks.promise.scores import (
    Asking,
    box_share,
    composed_wrong,
    first_within,
    lasting_oracle,
    oracle,
    plain_curve,
    tally,
    wrong,
)
from framegate.models.boxes import Boxes, empty


def boxes(*rows: tuple[int, float]) -> Boxes:
    """Squares of 10 px, one beside the other: class, score."""
    left = 20 * np.arange(len(rows), dtype=np.float32)
    corners = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    scores = np.array([score for _, score in rows], np.float32)
    return Boxes(corners, scores, np.array([class_id for class_id, _ in rows], np.int32))


ONE, TWO = boxes((0, 0.9)), boxes((0, 0.9), (0, 0.4))


def test_a_frame_is_wrong_where_a_class_counts_otherwise() -> None:
    shown = [empty(), ONE, boxes((0, 0.5), (1, 0.5)), boxes((1, 0.5), (0, 0.5)), TWO]
    heavy = [empty(), TWO, boxes((1, 0.9), (0, 0.9)), boxes((0, 0.5), (2, 0.5)), TWO]
    assert wrong(shown, heavy).tolist() == [False, True, False, True, False]
    assert tally(shown[2]) == ((0, 1), (1, 1))


def test_differing_boxes_are_those_of_one_side_only() -> None:
    """Two match, one is ours alone, one theirs alone: two of three."""
    shown = [TWO, boxes((1, 0.5)), empty()]
    heavy = [TWO, boxes((2, 0.5)), empty()]
    assert box_share(shown, heavy) == pytest.approx(2 / 3)


def test_a_composed_thing_counts_while_half_of_it_is_seen() -> None:
    def seen(class_id: int, share: float) -> Seen:
        return Seen(0, class_id, (0, 0, 10, 10), share)

    composed = [(seen(0, 0.5),), (seen(0, 0.49),), (seen(0, 1.0), seen(0, 1.0)), ()]
    shown = [ONE, ONE, TWO, boxes((62, 0.9))]  # class 62 is never composed
    assert composed_wrong(shown, composed).tolist() == [False, True, False, False]


def test_who_knows_asks_about_what_would_be_wrong() -> None:
    never_wrong = np.array([1, 1, 0, 1, 0], np.bool_)
    assert (oracle(never_wrong, 1).asked, oracle(never_wrong, 1).error) == (0.4, 0.2)
    assert (oracle(never_wrong, 9).asked, oracle(never_wrong, 9).error) == (0.0, 0.6)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=9), st.integers(0, 4)
)
def test_answers_that_last_are_the_fewest(frames: list[tuple[bool, int]], allowed: int) -> None:
    never_wrong = np.array([bad for bad, _ in frames], np.bool_)
    heavy = [boxes(*[(0, 0.9)] * n) for _, n in frames]

    def left(asked: tuple[int, ...]) -> int:
        """Wrong frames where these are asked and each answer lasts until the count changes."""
        served, bad = False, 0
        for i, (is_wrong, n) in enumerate(frames):
            served = i in asked or (served and frames[i - 1][1] == n)
            bad += is_wrong and not served
        return bad

    fewest = next(
        size
        for size in range(len(frames) + 1)
        if any(left(asked) <= allowed for asked in combinations(range(len(frames)), size))
    )
    found = lasting_oracle(never_wrong, heavy, allowed)
    assert found.asked == pytest.approx(fewest / len(frames))
    assert found.error <= max(allowed, 0) / len(frames)


def test_the_plain_threshold_takes_the_least_margin_that_is_enough() -> None:
    """Scores .1, .2 and .3 from .5, and one frame that shows nothing and is wrong."""
    shown = [boxes((0, 0.6)), boxes((0, 0.3)), boxes((0, 0.8), (0, 0.99)), empty()]
    curve = plain_curve(shown, np.array([0, 1, 1, 1], np.bool_), 0.5)
    assert [one.asked for one in curve] == [0.0, 0.25, 0.5, 0.75]
    assert [one.error for one in curve] == [0.75, 0.75, 0.5, 0.25]
    assert [one.margin for one in curve] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert first_within(curve, 0.5) == curve[2]
    assert first_within(curve, 0.1) == curve[3]
    assert plain_curve([empty()], np.array([True]), 0.5) == [Asking(0.0, 1.0, 0.0)]
