"""Thousands of simulated periods: broken promises are hardly ever certified, kept ones are.

The long run is `python -m benchmarks.promise_statistics`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.promise.periods import (
    SCENARIOS,
    bursts,
    certified,
    false_rate,
    first_frames,
    first_good_look,
    independent,
    throw,
)
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.promise import audit_coin as coin
from framegate.pipeline.promise.certificate import close
from framegate.pipeline.promise.period import (
    FrameTime,
    Period,
    Promise,
    following,
    is_full,
    serve,
    settle,
)
from framegate.pipeline.promise.statistics import k_max, most_wrong

PERIODS, FRAMES = 2000, 9000
ALPHA, DELTA = 0.01, 0.05
PROMISE = Promise(alpha=ALPHA, frames=FRAMES)
MOST_FALSE = DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / PERIODS)
ERRORS = {0.0101: 91, 0.015: 135, 0.05: 450}  # 90 are allowed
MOST = k_max(FRAMES, ALPHA, PROMISE.share, DELTA)
TERMS = (ALPHA, PROMISE.share, DELTA)


@pytest.mark.parametrize("rate", ERRORS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_broken_promise_is_hardly_ever_certified(name: str, rate: float) -> None:
    rng = np.random.default_rng(11)
    false = false_rate(SCENARIOS[name], rng, PERIODS, FRAMES, ERRORS[rate], TERMS)
    assert false <= MOST_FALSE
    exact = binom.cdf(MOST, ERRORS[rate], PROMISE.share)
    assert abs(false - exact) <= 4 * math.sqrt(exact * (1 - exact) / PERIODS) + 1 / PERIODS


@pytest.mark.parametrize("rate", ERRORS)
def test_to_audit_the_first_frames_fails_the_same_test(rate: float) -> None:
    rng = np.random.default_rng(12)
    coins = throw(rng, PERIODS, FRAMES, PROMISE.share)
    wrong = bursts(rng, coins, ERRORS[rate], 0)
    assert first_frames(wrong, 747, ALPHA, DELTA).mean() > 2 * MOST_FALSE


def test_to_end_the_period_when_it_looks_good_fails_the_same_test() -> None:
    rng = np.random.default_rng(13)
    coins = throw(rng, PERIODS, FRAMES, PROMISE.share)
    wrong = independent(rng, coins, ERRORS[0.0101], 0)
    assert first_good_look(wrong, coins, ALPHA, DELTA).mean() > MOST_FALSE + 0.01


@pytest.mark.parametrize(("rate", "published"), [(0.002, 0.95), (0.003, 0.82), (0.005, 0.44)])
@pytest.mark.parametrize("name", ["independent", "bursts", "one_burst"])
def test_a_kept_promise_is_certified_as_often_as_the_exact_table_says(
    name: str, rate: float, published: float
) -> None:
    """1,000 expected audits of 36,000 frames, four errors forgiven."""
    rng = np.random.default_rng(17)
    terms = (ALPHA, 1000 / 36_000, DELTA)
    found = np.mean(
        [
            false_rate(SCENARIOS[name], rng, 250, 36_000, round(36_000 * rate), terms)
            for _ in range(8)
        ]
    )
    assert found == pytest.approx(published, abs=0.03)
    assert found == pytest.approx(binom.cdf(4, round(36_000 * rate), terms[1]), abs=0.03)


def test_the_bound_can_be_beaten_by_who_sees_audits_and_the_verdict_cannot() -> None:
    """It stops erring as soon as the bound is below its errors; hence the bound is a report."""
    rng = np.random.default_rng(18)
    share, most = PROMISE.share, 300
    coins = throw(rng, PERIODS, most, share)  # of its errors, made one after the other
    caught = coins.cumsum(axis=1)
    bounds = np.array([most_wrong(FRAMES, k, share, DELTA) for k in range(caught.max() + 1)])
    beaten = bounds[caught] < np.arange(1, most + 1)
    assert beaten.any(axis=1).mean() > 2 * DELTA
    verdict_beaten = caught[:, ERRORS[0.0101] - 1 :] <= MOST
    assert verdict_beaten.any(axis=1).mean() <= MOST_FALSE


SMALL = Promise(alpha=0.05, frames=300, audited=0.3, alarm_audits=1e9)
KEYS = [coin.period_key(b"of a test", "door", number) for number in range(300)]


def simulated(promise: Promise, key: bytes, wrong: np.ndarray) -> bool:
    """Whether the promise's own code certifies a period with these wrong frames."""
    period = following(Period(), promise)
    for index, is_wrong in enumerate(wrong.tolist()):
        period, drawn = serve(period, promise, key, FrameTime(Position(1, index), None))
        if drawn:
            period = settle(period, promise, is_wrong)
    assert is_full(period, promise)
    return close(period, promise, key, "door", "").verdict == "certified"


@pytest.mark.parametrize("errors", [6, 12, 16])
def test_the_promise_itself_says_what_the_simulation_says(errors: int) -> None:
    rng = np.random.default_rng(19)
    share = SMALL.share
    coins = np.array([[coin.drawn(key, i, share) for i in range(300)] for key in KEYS])
    wrong = SCENARIOS["wary_adversary"](rng, coins, errors, 0)
    ours = [simulated(SMALL, key, row) for key, row in zip(KEYS, wrong, strict=True)]
    assert ours == certified(wrong, coins, k_max(300, 0.05, share, DELTA)).tolist()
    if errors > 15:  # of 300 these are the 5 % that may be wrong
        assert np.mean(ours) <= DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / len(KEYS))
    else:
        assert any(ours)
