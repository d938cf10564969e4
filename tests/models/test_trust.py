"""Trust in checks, at any time: hardly ever earned by what is wrong too often, hardly ever lost by
what is not, and over soon once it is.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from scipy import integrate
from scipy.special import bdtr

from models.trust import LEAST, MOST, Trust, log_won_by_few, log_won_by_many

SHARE, DOUBT = 0.01, 0.05
RUNS, CHECKS = 1500, 20_000
LONGEST = round(MOST / SHARE)
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


def after(trust: Trust, *, right: int = 0, wrong: int = 0, share: float = SHARE) -> Trust:
    for n in range(right + wrong):
        trust = trust.after(n < wrong, share, DOUBT)
    return trust


# -- in vectors: the same rule for all runs at once


@dataclass
class Runs:
    """standing: 0 open, 1 earned, 2 lost; ever: whether it was earned at any time."""

    standing: Counts
    trial: Counts
    checked: Counts
    wrong: Counts
    ever: Flags

    @classmethod
    def new(cls, runs: int = RUNS, standing: int = 0) -> Runs:
        zero = np.zeros(runs, np.int64)
        return cls(zero + standing, zero + 1, zero.copy(), zero.copy(), zero != 0)

    def check(self, wrong: Flags) -> None:
        self.checked += 1
        self.wrong += wrong
        few, many = (table[self.checked, self.wrong] for table in tables())
        was = self.standing == 1
        spent = np.where(was, 1, self.trial * (self.trial + 1))
        good = few >= np.log(spent / DOUBT)
        bad = ~good & (many >= -math.log(DOUBT))
        given_up = bad & (was | (self.checked * SHARE >= LEAST))
        over = ~good & ~given_up & (self.checked * SHARE >= MOST)
        ended = given_up | over
        self.standing[(bad & ~over) | given_up] = 2
        self.standing[over & was] = 0
        self.standing[good] = 1
        self.ever |= good
        self.trial += ended
        self.checked[good | ended] = 0
        self.wrong[good | ended] = 0


@functools.cache
def tables() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """By checks and errors; more errors than these a trial does not see."""
    checked, wrong = np.mgrid[: LONGEST + 1, :220]
    some = np.minimum(wrong, checked)
    return log_won_by_few(checked, some, SHARE), log_won_by_many(checked, some, SHARE)


def simulated(error: float, checks: int, runs: Runs, seed: int = 1) -> Runs:
    rng = np.random.default_rng(seed)
    for _ in range(checks):
        runs.check(rng.random(len(runs.checked), np.float32) < error)
    return runs


def at_most(share: float, runs: int = RUNS) -> float:
    return share + 2 * math.sqrt(share * (1 - share) / runs)


@pytest.mark.parametrize("error", [0.0, 0.004, 0.0101, 0.05, 0.9])
def test_the_vectors_follow_the_rule(error: float) -> None:
    rng = np.random.default_rng(2)
    trusts, runs = [Trust()] * 3, Runs.new(3)
    for _ in range(5000):
        wrong = rng.random(3) < error
        runs.check(wrong)
        trusts = [one.after(bool(w), SHARE, DOUBT) for one, w in zip(trusts, wrong, strict=True)]
        told = [("open", "earned", "lost").index(one.standing) for one in trusts]
        assert told == runs.standing.tolist()
    assert [(one.trial, one.checked, one.wrong) for one in trusts] == list(
        zip(runs.trial.tolist(), runs.checked.tolist(), runs.wrong.tolist(), strict=True)
    )


# -- what it promises


@pytest.mark.parametrize("error", [0.0101, 0.012])
def test_it_is_hardly_ever_earned_falsely_however_often_one_looks(error: float) -> None:
    assert simulated(error, CHECKS, Runs.new()).ever.mean() <= at_most(DOUBT)


def test_a_fixed_test_that_is_looked_at_after_every_check_is_not() -> None:
    """The binomial tail, older checks counting half from 1,024 on."""
    rng = np.random.default_rng(3)
    allowed = bdtr(np.arange(100), np.arange(1025)[:, None], SHARE) <= DOUBT
    checked, wrong = np.zeros(RUNS, np.int64), np.zeros(RUNS, np.int64)
    ever = np.zeros(RUNS, np.bool_)
    for _ in range(CHECKS):
        checked += 1
        wrong += rng.random(RUNS, np.float32) < 0.0101
        halves = checked >= 1024
        wrong[halves] = (wrong[halves] + 1) // 2
        checked[halves] //= 2
        ever |= allowed[checked, wrong]
    assert ever.mean() > 0.2


def test_it_is_hardly_ever_lost_for_nothing() -> None:
    runs = Runs.new(standing=1)
    rng, lost = np.random.default_rng(4), np.zeros(RUNS, np.bool_)
    first = np.ones(RUNS, np.bool_)
    for _ in range(LONGEST):
        runs.check(rng.random(RUNS, np.float32) < 0.0099)
        lost |= first & (runs.standing == 2)
        first &= runs.checked > 0
    assert lost.mean() <= at_most(DOUBT)


@pytest.mark.parametrize("error", [0.0101, 0.02])
def test_it_is_over_with_its_trial_once_more_is_wrong(error: float) -> None:
    """Shown anew, or earned by a later trial, falsely: with the doubt of each."""
    runs = simulated(error, LONGEST + 1, Runs.new(standing=1))
    assert (runs.standing == 1).mean() <= at_most(DOUBT + DOUBT / 6)


def test_much_more_that_is_wrong_ends_it_at_once() -> None:
    runs = simulated(0.2, 60, Runs.new(standing=1))
    assert (runs.standing == 2).mean() > 0.99


@pytest.mark.parametrize(("error", "checks", "power"), [(0.001, 1000, 0.9), (0.003, 2000, 0.75)])
def test_what_is_good_earns_it(error: float, checks: int, power: float) -> None:
    assert simulated(error, checks, Runs.new()).ever.mean() >= power


# -- one by one


def test_it_begins_at_455_checks() -> None:
    """With one error 750, with two 977; who looks once, at a number fixed before, needs 299."""
    for wrong, needed in enumerate((455, 750, 977)):
        start = Trust(checked=needed - 2, wrong=wrong)
        assert after(start, right=1).standing == "open"
        assert after(start, right=2).standing == "earned"


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def test_whatever_share_is_said_it_can_be_earned(share: float) -> None:
    assert after(Trust(), right=round(5 / share), share=share).standing == "earned"


def test_it_lasts_while_nothing_is_wrong() -> None:
    trust = after(Trust(), right=20_000)
    assert (trust.standing, trust.trial) == ("earned", 1)


def test_it_is_lost_and_won_back() -> None:
    trust = after(Trust("earned"), right=300, wrong=10)
    assert trust.standing == "lost"
    assert after(trust, right=800).standing == "earned"
    always = after(Trust(), wrong=5000)
    assert always.standing == "lost"
    assert always.trial == 26  # a trial has 200 checks at least
    assert after(always, right=1500).standing == "earned"


def test_what_was_long_ago_is_forgotten() -> None:
    trust = Trust("open", 1, LONGEST - 1, 15)
    assert trust.after(False, SHARE, DOUBT) == Trust("open", 2)
    assert Trust("earned", 3, LONGEST - 1, 15).after(False, SHARE, DOUBT) == Trust("open", 4)


@pytest.mark.parametrize(("checked", "wrong"), [(1, 0), (1, 1), (40, 3), (500, 2)])
def test_bets_are_mixtures_of_likelihood_ratios(checked: int, wrong: int) -> None:
    def ratio(q: float) -> float:
        return (q / SHARE) ** wrong * ((1 - q) / (1 - SHARE)) ** (checked - wrong) / math.sqrt(q)

    for said, low, high in ((log_won_by_few, 0.0, SHARE), (log_won_by_many, SHARE, 1.0)):
        norm = 2 * (math.sqrt(high) - math.sqrt(low))
        due = integrate.quad(ratio, low, high, limit=200)[0] / norm
        assert math.exp(said(checked, wrong, SHARE)) == pytest.approx(due, rel=1e-5)
