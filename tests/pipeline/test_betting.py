"""The bets against a promise about boxes, and the alarm: by hand, and in the long run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.promise_alarm import audits_to_alarm
from pipeline import alarm, betting
from pipeline.promise import box_loss, target_of

shares = st.floats(0.001, 1.0)
losses = st.floats(0.0, 1.0)
targets = st.floats(0.0005, 0.5)


@given(share=shares, loss=losses, target=targets)
def test_what_is_to_be_expected_of_a_frame_is_an_exponential_of_its_loss(
    share: float, loss: float, target: float
) -> None:
    """So that a whole period's factors multiply to what the mean loss alone decides."""
    won = betting.after(betting.START, loss, target, share)
    boldest = -math.log1p(-min(share, 1 - 1e-9)) / (1 - target)
    for factor, bet in zip(won, betting.BETS, strict=True):
        assert factor >= 0
        expected = share * factor + (1 - share)
        assert expected == pytest.approx(math.exp(boldest * bet * (target - loss)), rel=1e-9)


@given(share=shares, target=targets, pair=st.tuples(losses, losses))
def test_a_worse_frame_never_wins_more(
    share: float, target: float, pair: tuple[float, float]
) -> None:
    better, worse = sorted(pair)
    for lower, higher in zip(
        betting.after(betting.START, worse, target, share),
        betting.after(betting.START, better, target, share),
        strict=True,
    ):
        assert lower <= higher


def test_without_an_error_the_boldest_bet_is_nearly_the_exact_test() -> None:
    """36,000 frames, 1 %: (1 - share)**361 <= .05 takes 298 audits; a bet of .95 takes 314."""
    share = 298 / 36_000
    audits, wealth = 0, betting.START
    while wealth[0] < 20:
        wealth, audits = betting.after(wealth, 0.0, 0.01, share), audits + 1
    assert 298 <= audits <= 315


def test_wealth_is_the_mean_of_the_bets_and_has_an_end() -> None:
    assert betting.wealth_of((3.0, 1.0)) == 2.0
    wealth = betting.START
    for _ in range(5000):
        wealth = betting.after(wealth, 0.0, 0.5, 1.0)
    assert math.isfinite(betting.wealth_of(wealth))


@given(
    frames=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=20),
    alpha=st.sampled_from([0.01, 0.1, 0.5]),
)
def test_the_mean_loss_says_whether_too_many_boxes_differ(
    frames: list[tuple[int, int]], alpha: float
) -> None:
    most = 8
    differing = sum(min(d, most) for d, _ in frames)
    boxes = sum(min(m, most) for _, m in frames)
    each = [box_loss(d, m, alpha, most) for d, m in frames]
    assert all(0 <= loss <= 1 for loss in each)
    margin = differing - alpha * boxes
    if abs(margin) > 1e-9:
        assert (float(np.mean(each)) > target_of("boxes", alpha)) == (margin > 0)


def test_the_alarm_multiplies_likelihood_ratios() -> None:
    """For losses of 0 and 1: (1 + M) q / a where one was wrong, (1 + M)(1 - q)/(1 - a) if not."""
    sums = alarm.QUIET
    by_hand = [0.0] * 4
    for loss in (0, 0, 1, 0, 1, 1):
        sums = alarm.after(sums, float(loss), 0.01)
        for i, q in enumerate((0.02, 0.04, 0.08, 0.16)):
            ratio = q / 0.01 if loss else (1 - q) / 0.99
            by_hand[i] = (1 + by_hand[i]) * ratio
    assert sums == pytest.approx(by_hand)
    assert alarm.is_alarm((4.0, 0.0, 0.0, 0.0), 1.0)
    assert not alarm.is_alarm((3.9, 0.0, 0.0, 0.0), 1.0)


@given(held=st.floats(0, 1e6), target=targets, pair=st.tuples(losses, losses))
def test_a_worse_audit_never_calms_the_alarm(
    held: float, target: float, pair: tuple[float, float]
) -> None:
    better, worse = sorted(pair)
    calmer = alarm.after((held,) * 4, better, target)
    assert all(
        0 <= low <= high
        for low, high in zip(calmer, alarm.after((held,) * 4, worse, target), strict=True)
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
