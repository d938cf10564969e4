"""Suppression against a plain double loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.boxes import area, iou, suppress

BOX = st.tuples(st.integers(-40, 60), st.integers(-40, 60), st.integers(1, 50), st.integers(1, 50))
ROWS = st.lists(st.tuples(BOX, st.integers(1, 99)), max_size=25)


def arrays(rows):
    boxes = [(x, y, x + w, y + h) for (x, y, w, h), _ in rows]
    scores = np.array([score / 100 for _, score in rows], np.float32)
    return np.array(boxes, np.float32).reshape(-1, 4), scores


def overlap(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def plain(xyxy, scores, max_iou):
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(overlap(xyxy[j].tolist(), xyxy[i].tolist()) <= max_iou for j in kept):
            kept.append(i)
    return kept


@given(rows=ROWS, max_iou=st.sampled_from([0.31, 0.613, 0.9001]))
def test_as_a_plain_loop(rows, max_iou):
    """Thresholds that no IoU of small integers hits, so that rounding decides nothing."""
    xyxy, scores = arrays(rows)
    assert suppress(xyxy, scores, max_iou).tolist() == plain(xyxy, scores, max_iou)


@given(rows=ROWS)
def test_twice_is_once(rows):
    xyxy, scores = arrays(rows)
    keep = suppress(xyxy, scores)
    again = suppress(xyxy[keep], scores[keep])
    assert again.tolist() == list(range(len(keep)))


def test_of_equals_the_earlier_stays():
    xyxy = np.array([[0, 0, 10, 10]] * 3, np.float32)
    keep = suppress(xyxy, np.full(3, 0.5, np.float32), 0.5)
    assert keep.tolist() == [0]


def test_iou_by_hand():
    a = np.array([[0, 0, 4, 4], [0, 0, 0, 0]], np.float32)
    b = np.array([[2, 2, 6, 6], [0, 0, 4, 4], [9, 9, 10, 10], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[4 / 28, 1, 0, 0], [0, 0, 0, 0]])
    assert area(a).tolist() == [16, 0]
