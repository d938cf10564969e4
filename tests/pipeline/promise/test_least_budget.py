"""The budget that a threshold needs, held against the token bucket that is used."""

from __future__ import annotations

import numpy as np
import pytest

from framegate.pipeline.promise.calibration import Raise, least_per_s, raises
from framegate.stages.escalate.policy import Budget, Tokens

EVERY = np.arange(250) / 25  # each frame of ten seconds
BURSTS = np.concatenate([np.arange(10) / 25 + start for start in (0.0, 8.0, 11.0)])


def denied(times: np.ndarray, budget: Budget) -> int:
    tokens, over = Tokens(), 0
    for now_s in times.tolist():
        if tokens.now(now_s, budget) < 1.0:
            over += 1
        else:
            tokens = tokens.spent(now_s, budget)
    return over


@pytest.mark.parametrize("burst", [1.0, 4.0, 9.5])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_no_ask_is_denied_by_it_and_some_by_less(burst: float, seed: int | None) -> None:
    times = BURSTS if seed is None else np.sort(np.random.default_rng(seed).uniform(0, 60, 200))
    times = times.round(3)  # as Tokens keep them
    rate = least_per_s(times, burst)
    assert denied(times, Budget(rate + 0.01, burst)) == 0  # tokens are rounded
    assert denied(times, Budget(rate - 0.02, burst)) > 0


def test_rates_by_hand() -> None:
    assert least_per_s(np.empty(0), 4.0) == 0.0
    assert least_per_s(EVERY[:4], 4.0) == 0.0
    assert least_per_s(EVERY[:5], 4.0) == 6.25  # the fifth after .16 s
    assert least_per_s(EVERY, 1.0) == 25.0
    assert least_per_s(np.zeros(5), 4.0) == 10_000.0


def test_what_must_be_raised_is_told_for_each_key() -> None:
    seldom = np.array([0.0, 30.0])
    assert raises([seldom], 2.0, 4.0, 4.0) == ()
    assert raises([], 2.0, 4.0, 4.0) == ()
    assert [one.key for one in raises([seldom + n / 9 for n in range(9)], 2.0, 4.0, 4.0)] == [
        "all_per_s"
    ]
    assert raises([EVERY[:5], EVERY[:5]], 2.0, 4.0, 4.0) == (
        Raise("per_s", 2.0, 6.25),
        Raise("all_per_s", 4.0, least_per_s(np.repeat(EVERY[:5], 2), None)),
    )
