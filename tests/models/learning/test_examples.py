"""Examples: their order, their labels, and which of them judge."""

from __future__ import annotations

import numpy as np
import pytest

from framegate.models.boxes import Boxes, empty
from framegate.models.errors import ArrayMismatch
from framegate.models.learning.examples import Example, ExampleSet, earlier_and_later
from framegate.models.picture import from_bgr

GREY = from_bgr(np.full((8, 8, 3), 128, np.uint8))


def example(source: str, moment_s: float, class_id: int = 0) -> Example:
    one = Boxes(
        np.array([[1, 1, 5, 5]], np.float32), np.ones(1, np.float32), np.full(1, class_id, np.int32)
    )
    return Example(GREY, one, empty(), source, moment_s)


def test_they_stand_in_the_order_of_sources_and_moments() -> None:
    whole = ExampleSet(("car",), (example("b", 0), example("a", 2), example("a", 1)))
    assert [(one.source, one.moment_s) for one in whole.examples] == [("a", 1), ("a", 2), ("b", 0)]
    assert (len(whole), whole.n_boxes) == (3, 3)


def test_of_each_source_the_later_part_judges_and_a_gap_is_between() -> None:
    whole = ExampleSet(("car",), tuple(example(name, t) for name in "ab" for t in range(101)))
    earlier, later = earlier_and_later(whole)
    for name in "ab":
        learned = [one.moment_s for one in earlier.examples if one.source == name]
        judged = [one.moment_s for one in later.examples if one.source == name]
        assert learned == list(range(61))
        assert judged == list(range(66, 101))


@pytest.mark.parametrize("class_id", [-1, 1])
def test_a_class_without_a_label_is_refused(class_id: int) -> None:
    with pytest.raises(ArrayMismatch, match="class_ids"):
        ExampleSet(("car",), (example("a", 0, class_id),))


def test_a_moment_is_a_number() -> None:
    with pytest.raises(ArrayMismatch, match="moment_s"):
        example("a", float("nan"))
