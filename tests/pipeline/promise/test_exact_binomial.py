"""How many errors audits may find: by hand, by enumeration, against whoever sees past coins."""

from __future__ import annotations

import functools
import itertools
from fractions import Fraction

import pytest

from framegate.pipeline.promise.statistics import allowed, k_max, most_wrong, share_for

SMALL = [
    (frames, alpha, share, delta)
    for frames in (1, 2, 7, 12, 30)
    for alpha in (0.05, 0.1, 0.3)
    for share in (0.2, 0.5, 0.9, 1.0)
    for delta in (0.05, 0.2)
]


def best_false(frames: int, wrong: int, most: int, share: float) -> float:
    """The chance of a false certificate of who chooses at each frame, knowing the coins before.

    Such an adversary wins with at least `wrong` errors of which at most `most` were caught.
    """

    @functools.cache
    def chance(left: int, made: int, caught: int) -> float:
        if caught > most or made + left < wrong:
            return 0.0
        if left == 0:
            return 1.0
        right = chance(left - 1, made, caught)
        seen, missed = chance(left - 1, made + 1, caught + 1), chance(left - 1, made + 1, caught)
        return max(right, share * seen + (1 - share) * missed)

    return chance(frames, 0, 0)


@pytest.mark.parametrize(("frames", "alpha", "share", "delta"), SMALL)
def test_no_adversary_beats_k_max_and_one_more_would_lose(
    frames: int, alpha: float, share: float, delta: float
) -> None:
    wrong = allowed(frames, alpha) + 1
    most = k_max(frames, alpha, share, delta)
    assert best_false(frames, wrong, most, share) <= delta + 1e-12
    assert best_false(frames, wrong, most + 1, share) > delta


@pytest.mark.parametrize("share", [Fraction(1, 4), Fraction(2, 3)])
def test_k_max_by_all_coins_there_are(share: Fraction) -> None:
    """Eleven frames of which three may be wrong: four wrong ones at any places, all 2**11 coins."""
    for places in ((0, 1, 2, 3), (0, 4, 7, 10), (7, 8, 9, 10)):
        chances = [Fraction(0)] * 5
        for coins in itertools.product((0, 1), repeat=11):
            chance = Fraction(1)
            for coin in coins:
                chance *= share if coin else 1 - share
            chances[sum(coins[place] for place in places)] += chance
        for delta in (0.01, 0.05, 0.4, 0.7):
            due = max((k for k in range(-1, 4) if sum(chances[: k + 1]) <= delta), default=-1)
            assert k_max(11, 0.3, float(share), delta) == due


@pytest.mark.parametrize(
    ("frames", "audits"),
    [(1500, (256, 396, 625)), (9000, (291, 460, 747)), (36_000, (298, 471, 768))],
)
def test_expected_audits_for_no_one_and_three_errors(frames: int, audits: tuple[int, ...]) -> None:
    """The published table, at 1 % and 95 %."""
    for errors, due in zip((0, 1, 3), audits, strict=True):
        share = share_for(frames, 0.01, 0.05, errors)
        assert round(share * frames) == due
        assert k_max(frames, 0.01, share, 0.05) == errors
        assert k_max(frames, 0.01, share - 2e-6, 0.05) == errors - 1


@pytest.mark.parametrize("frames", [1, 50, 99, 100, 250, 350, 450])
def test_where_fewer_errors_are_allowed_than_forgiven_all_of_them_may_be_caught(
    frames: int,
) -> None:
    share = share_for(frames, 0.01, 0.05, 3)
    assert 0 < share <= 1
    assert k_max(frames, 0.01, share, 0.05) == min(3, frames // 100)


def test_too_few_audits_certify_nothing() -> None:
    assert k_max(1000, 0.01, 0.02, 0.05) == -1  # .98**11 = .80
    assert k_max(1000, 0.01, 1.0, 0.05) == 10  # all audited: it is known


def test_alpha_counts_as_it_is_written() -> None:
    """.29 * 100 is 28.999... in binary."""
    assert (allowed(100, 0.29), allowed(36_000, 0.01), allowed(99, 0.01)) == (29, 360, 0)
    assert allowed(10_000_000, 0.0001) == 1000


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("caught", [0, 1, 4, 20])
def test_the_bound_is_the_least_that_is_unlikely(caught: int, share: float) -> None:
    """P(Bin(bound + 1, share) <= caught) <= delta < P(Bin(bound, share) <= caught)."""

    def chance(wrong: int) -> float:
        tail = Fraction(0)
        exact, row = Fraction(share), Fraction(1)
        for k in range(min(caught, wrong) + 1):
            tail += row * exact**k * (1 - exact) ** (wrong - k)
            row = row * (wrong - k) / (k + 1)
        return float(tail)

    bound = most_wrong(1000, caught, share, 0.05)
    assert chance(bound + 1) <= 0.05 < chance(bound)
    assert most_wrong(max(caught, 3), caught, share, 0.05) <= max(caught, 3)


def test_nothing_audited_nothing_known() -> None:
    assert most_wrong(1000, 0, 1e-6, 0.05) == 1000
    assert most_wrong(1000, 1000, 1.0, 0.05) == 1000
