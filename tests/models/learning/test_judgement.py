"""Judging: counts by class, intervals as scipy has them, and what is refused with which words."""

from __future__ import annotations

import numpy as np
import pytest
import scipy

from framegate.models.boxes import empty
from framegate.models.learning.judgement import (
    BLOCK,
    blocks_of,
    counted,
    difference_of,
    f1_of,
    judge,
)
from tests.models.learning.test_thresholds import boxes

LABELS = ("bottle", "vase")


def test_counts_are_by_class_and_leave_out_what_is_unsure():
    ours = boxes((0, 0.9, 0), (20, 0.8, 1), (40, 0.7, 1), (60, 0.6, 0))
    sure, unsure = boxes((0, 1, 0), (20, 1, 0), (80, 1, 1)), boxes((40, 0.2, 0))
    [counts] = counted([ours], [sure], [unsure], 2)
    assert counts.tolist() == [[1, 2, 2], [0, 1, 1]]
    [nothing] = counted([empty()], [empty()], [empty()], 2)
    assert nothing.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_blocks_are_neighbours_of_one_source():
    sources = ["a"] * (BLOCK + 1) + ["b"] * 2
    assert blocks_of(sources).tolist() == [0] * BLOCK + [1] + [2, 2]
    assert blocks_of(["a", "b", "a", "b"]).tolist() == [0, 1, 0, 1]


def made(n: int, right: float, seed: int) -> np.ndarray:
    """Counts of two classes, five objects a picture; a share of them is found."""
    rng = np.random.default_rng(seed)
    there = np.full((n, 2), [3, 2])
    shown = rng.integers(1, 5, (n, 2))
    pairs = rng.binomial(np.minimum(there, shown), right)
    return np.stack([pairs, shown, there], axis=2).astype(np.int64)


def f1(sums: np.ndarray) -> float:
    pairs, shown, there = sums
    return 2 * pairs / (shown + there)


def test_intervals_are_those_of_an_independent_bootstrap():
    ours, theirs, sources = made(200, 0.9, 1), made(200, 0.7, 2), ["a"] * 200
    blocks = [
        each.reshape(-1, BLOCK, 2, 3).sum(axis=(1, 2)).astype(float) for each in (ours, theirs)
    ]

    def both(*columns, axis=-1):
        own, other = np.stack(columns[:3]), np.stack(columns[3:])
        return f1(own.sum(axis=axis)) - f1(other.sum(axis=axis))

    columns = tuple(column for one in blocks for column in one.T)
    expected = scipy.stats.bootstrap(
        columns, both, paired=True, method="percentile", n_resamples=4000, rng=5
    ).confidence_interval
    found = difference_of(ours, theirs, sources)
    assert found.middle == pytest.approx(f1(ours.sum((0, 1))) - f1(theirs.sum((0, 1))))
    width = found.high - found.low
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)
    # Paired: much narrower than what the two say apart would allow.
    same = difference_of(ours, ours, sources)
    assert (same.low, same.middle, same.high) == (0, 0, 0)
    alone = f1_of(ours, sources)
    assert alone.low < alone.middle < alone.high


@pytest.mark.parametrize(
    ("n", "right", "general", "words"),
    [
        (60, 0.9, 0.5, ""),
        (19, 0.9, 0.5, "the teacher has 95 objects in the judging pictures; 100 are needed"),
        (49, 0.9, 0.5, "49 pictures judge; 50 are needed"),
        (60, 0.5, 0.9, "below the general model's; allowed is 0.05"),
    ],
)
def test_who_is_refused(n, right, general, words):
    verdict = judge(made(n, right, 3), made(n, general, 4), ["a"] * n, LABELS)
    assert verdict.allowed is (not words)
    assert words in verdict.refused
    assert (verdict.frames, verdict.boxes) == (n, 5 * n)
    assert [(row.label, row.there) for row in verdict.classes] == [
        ("bottle", 3 * n), ("vase", 2 * n),
    ]  # fmt: skip
    assert verdict.metrics["judged_boxes"] == 5 * n
    assert verdict.metrics["difference_low"] == round(verdict.difference.low, 4)


def test_without_pictures_nothing_is_judged():
    with pytest.raises(ValueError, match="no pictures"):
        judge(made(0, 1, 0), made(0, 1, 0), [], LABELS)
