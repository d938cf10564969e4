"""How far two detectors agree, with an interval over pictures."""

import numpy as np
import pytest

from framegate.models.boxes import Boxes, empty
from framegate.models.matching import agreement


def boxes(*rows):
    """Each left, top, right, bottom, class."""
    array = np.array(rows, np.float32).reshape(-1, 5)
    scores = np.full(len(array), 0.5, np.float32)
    return Boxes(array[:, :4], scores, array[:, 4].astype(np.int32))


def test_two_that_see_nothing_agree():
    found = agreement([empty()] * 3, [empty()] * 3)
    assert (found.middle, found.low, found.high) == (1, 1, 1)


def test_the_interval_holds_the_figure():
    a, b = boxes((0, 0, 10, 10, 1)), boxes((50, 0, 60, 10, 1))
    found = agreement([a] * 20, [a] * 15 + [b] * 5)
    assert found.middle == pytest.approx(0.75)
    assert 0.5 < found.low < 0.6
    assert 0.9 <= found.high < 1
