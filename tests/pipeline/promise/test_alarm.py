"""The alarm of the promise: by hand, and in the long run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.promise.alarm import audits_to_alarm
from framegate.pipeline.promise import statistics

losses = st.floats(0.0, 1.0)
targets = st.floats(0.0005, 0.5)


def test_the_alarm_multiplies_likelihood_ratios() -> None:
    """For losses of 0 and 1: (1 + M) q / a where one was wrong, (1 + M)(1 - q)/(1 - a) if not."""
    sums = statistics.QUIET
    by_hand = [0.0] * 4
    for loss in (0, 0, 1, 0, 1, 1):
        sums = statistics.after(sums, float(loss), 0.01)
        for i, q in enumerate((0.02, 0.04, 0.08, 0.16)):
            ratio = q / 0.01 if loss else (1 - q) / 0.99
            by_hand[i] = (1 + by_hand[i]) * ratio
    assert sums == pytest.approx(by_hand)
    assert statistics.is_alarm((4.0, 0.0, 0.0, 0.0), 1.0)
    assert not statistics.is_alarm((3.9, 0.0, 0.0, 0.0), 1.0)


@given(held=st.floats(0, 1e6), target=targets, pair=st.tuples(losses, losses))
def test_a_worse_audit_never_calms_the_alarm(
    held: float, target: float, pair: tuple[float, float]
) -> None:
    better, worse = sorted(pair)
    calmer = statistics.after((held,) * 4, better, target)
    assert all(
        0 <= low <= high
        for low, high in zip(calmer, statistics.after((held,) * 4, worse, target), strict=True)
    )


def test_false_alarms_are_rarer_than_the_threshold_says() -> None:
    """At a risk of exactly alpha; runs are cut at 5,000, so their mean is too low if anything."""
    audits = audits_to_alarm(np.random.default_rng(5), 0.01, 1000, 5000)
    assert audits.mean() >= 2000


@pytest.mark.parametrize(("rate", "median"), [(0.03, 177), (0.05, 78), (0.1, 33), (0.3, 9)])
def test_audits_until_a_change_is_told(rate: float, median: int) -> None:
    """From .3 %, after 300 audits; the published medians, within a fifth."""
    audits = audits_to_alarm(np.random.default_rng(6), rate, 2000, 1000, before=(0.003, 300))
    assert np.median(audits) == pytest.approx(median, rel=0.2, abs=1)
