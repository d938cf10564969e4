"""The scorer of clips: by hand, and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness.agreement import (
    Events,
    Tracked,
    average_precision,
    events,
    paired_bootstrap,
    pairs,
    rank,
)
from framegate.models import matching
from framegate.models.boxes import Boxes, empty

Row = tuple[float, float, int, float]


def boxes(*rows: Row) -> Boxes:
    """Squares of 10 px: left, top, class, score."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    corners = np.concatenate([table[:, :2], table[:, :2] + 10], axis=1)
    return Boxes(
        corners.astype(np.float32), table[:, 3].astype(np.float32), table[:, 2].astype(np.int32)
    )


def tracked(pts: float, *rows: tuple[int, float, int]) -> Tracked:
    """Squares of 10 px: track, left, class."""
    found = boxes(*((left, 0.0, class_id, 0.9) for _, left, class_id in rows))
    return Tracked(pts, found, np.array([track for track, _, _ in rows], np.int32))


placed = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(0, 1), st.floats(0.1, 0.9)),
    max_size=4,
).map(lambda rows: boxes(*rows))


def fits(a: Boxes, i: int, b: Boxes, j: int) -> bool:
    """IoU of at least a half and the same class, worked out for squares of 10 px."""
    wide, high = 10 - np.abs(a.xyxy[i, :2] - b.xyxy[j, :2])
    both = max(wide, 0) * max(high, 0)
    return bool(2 * both >= 200 - both and a.class_ids[i] == b.class_ids[j])


@settings(deadline=None)
@given(placed, placed)
def test_as_many_boxes_match_as_can(ours: Boxes, theirs: Boxes) -> None:
    rows, columns = pairs(ours, theirs)
    assert len(set(rows)) == len(rows) == len(set(columns))
    assert all(fits(ours, i, theirs, j) for i, j in zip(rows, columns, strict=True))
    short, long = sorted((ours, theirs), key=len)
    most = max(
        sum(fits(short, i, long, j) for i, j in enumerate(chosen))
        for chosen in itertools.permutations(range(len(long)), len(short))
    )
    assert len(rows) == most
    assert matching.matched([ours], [theirs]).tolist() == [[most, len(ours), len(theirs)]]


def test_without_classes_a_box_takes_its_own_class_first() -> None:
    one = boxes((0, 0, 1, 0.5))
    near, farther = boxes((0, 0, 2, 0.5)), boxes((0, 0, 2, 0.5), (3, 0, 1, 0.5))
    assert pairs(one, near)[0].tolist() == []
    assert pairs(one, near, classes=False)[1].tolist() == [0]
    assert pairs(one, farther, classes=False)[1].tolist() == [1]


def test_f1_by_hand() -> None:
    """Two of three match two of four: 2 * 2 / (3 + 4); an empty frame changes nothing."""
    counts = np.array([[2, 3, 4], [0, 0, 0], [1, 1, 1]])
    assert matching.f1(counts) == pytest.approx(2 * 3 / (4 + 5))
    assert matching.f1(counts, np.array([1, 3, 0])) == pytest.approx(4 / 7)
    assert matching.f1(counts[1:2]) == 1.0


def test_average_precision_by_hand() -> None:
    """True .9, false .8, true .7, of three: precision 1 up to recall 1/3, then 2/3 for a third."""
    ours = [boxes((0, 0, 0, 0.9), (50, 50, 0, 0.8)), boxes((0, 0, 1, 0.7))]
    theirs = [boxes((1, 0, 0, 0.5)), boxes((0, 1, 1, 0.5), (80, 0, 1, 0.5))]
    ranking = rank(ours, theirs)
    assert average_precision(ranking) == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert average_precision(ranking, np.array([1, 0])) == pytest.approx(1.0)
    assert np.isnan(average_precision(rank(ours, [empty(), empty()])))
    assert average_precision(rank([empty(), empty()], theirs)) == 0.0


def test_a_reference_box_is_found_once() -> None:
    ranking = rank([boxes((0, 0, 0, 0.5), (1, 0, 0, 0.9))], [boxes((0, 0, 0, 1.0))])
    assert ranking.is_true.tolist() == [True, False]


def test_events_by_hand() -> None:
    """Track 1 is met in time, 2 too late, 3 only by a box without a track, 4 is too short."""
    theirs = [
        tracked(i / 10, (1, 0, 0), (2, 50, 0), (3, 100, 0), *([(4, 150, 0)] if i < 5 else []))
        for i in range(10)
    ]
    ours = [
        tracked(i / 10, (9, 1, 0), (0, 100, 0), *([(8, 50, 0)] if i > 5 else [])) for i in range(10)
    ]
    assert events(ours, theirs) == Events(met=1, total=3)
    assert events(theirs, theirs) == Events(met=3, total=3)


def test_an_interval_is_of_the_difference() -> None:
    """Both sides see the same frames: what they share cancels, however much it varies."""
    shared = np.random.default_rng(0).normal(size=500)
    clip = (lambda t: float(t @ shared) + 2.0, lambda t: float(t @ shared), 500)
    found = paired_bootstrap([clip, clip], n_resamples=50)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_blocks_make_an_interval_wider() -> None:
    """A value that stays for 25 frames is one observation, not 25."""
    values = np.repeat(np.random.default_rng(1).normal(size=20), 25)
    clip = (lambda t: float(t @ values) / 500, lambda _: 0.0, 500)
    single, blocks = (paired_bootstrap([clip], block, 300) for block in (1, 25))
    assert single.low < single.mean < single.high
    assert 3 < (blocks.high - blocks.low) / (single.high - single.low) < 7
