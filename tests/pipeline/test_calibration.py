"""Learn then Test: p-values against MAPIE's, the whole walk against what it promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.calibration import (
    betting_p,
    binomial_p,
    fixed_sequence,
    hoeffding_bentkus_p,
    least_alpha,
    more_frames,
)

# Frames, mean loss, alpha, and what MAPIE 1.6.0 says; where that is installed (pip install mapie):
#   from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value as p
#   float(p(np.array([mean]), frames, alpha)[0, 0])
MAPIE = [
    (299, 0.0, 0.01, 0.04953625663766152),
    (299, 1 / 299, 0.01, 0.406000533587308),
    (600, 0.001, 0.01, 0.017546156518626215),
    (600, 0.0034, 0.01, 0.1699248404223209),
    (1000, 0.0185, 0.05, 7.827814423253856e-07),
    (1000, 0.05, 0.05, 1.0),
    (50, 0.2, 0.1, 1.0),
    (36_000, 0.0091, 0.01, 0.1250822998897359),
]


@pytest.mark.parametrize(("frames", "mean", "alpha", "p_value"), MAPIE)
def test_hoeffding_bentkus_is_as_mapie_has_it(
    frames: int, mean: float, alpha: float, p_value: float
) -> None:
    found = hoeffding_bentkus_p(np.array([mean]), frames, alpha)
    assert found == pytest.approx([p_value], rel=1e-9)


def test_hoeffding_bentkus_beside_mapie() -> None:
    methods = pytest.importorskip("mapie.risk_control.methods")
    rng = np.random.default_rng(3)
    for frames, alpha in ((50, 0.1), (299, 0.01), (2000, 0.02)):
        means = rng.uniform(0, 2 * alpha, 200)
        theirs = methods.compute_hoeffding_bentkus_p_value(means, frames, alpha)[:, 0]
        assert hoeffding_bentkus_p(means, frames, alpha) == pytest.approx(theirs, rel=1e-9)


def test_the_walk_beside_mapie() -> None:
    control = pytest.importorskip("mapie.risk_control")
    rng = np.random.default_rng(4)
    for _ in range(50):
        p_values = np.sort(rng.uniform(0, 0.1, 8)) + rng.normal(0, 0.01, 8).clip(0)
        theirs = control.FWERFixedSequenceTesting().run(p_values, 0.05)
        assert list(range(fixed_sequence(p_values, 0.05))) == list(theirs)


def test_frames_that_certify_a_percent() -> None:
    """The published table: 299, 473, 628, 773, 1049, 1693 for 0, 1, 2, 3, 5, 10 errors."""
    errors = np.array([0, 1, 2, 3, 5, 10])
    for k, frames in zip(errors, (299, 473, 628, 773, 1049, 1693), strict=True):
        assert binomial_p(np.array([k]), frames, 0.01)[0] <= 0.05
        assert binomial_p(np.array([k]), frames - 1, 0.01)[0] > 0.05


def by_hand(losses: list[float], alpha: float, delta: float) -> float:
    """Waudby-Smith and Ramdas' p-value, line by line."""
    total = 0.5
    squares, variance = 0.25, 0.25
    wealth = most = 1.0
    for i, loss in enumerate(losses, start=1):
        bet = min(1.0, math.sqrt(2 * math.log(1 / delta) / (len(losses) * variance)))
        wealth *= 1 - bet * (loss - alpha)
        most = max(most, wealth)
        total += loss
        squares += (loss - total / (1 + i)) ** 2
        variance = squares / (1 + i)
    return 1 / most


def test_betting_line_by_line() -> None:
    rng = np.random.default_rng(5)
    for frames, scale in ((1, 0.0), (40, 0.5), (700, 0.01)):
        losses = rng.uniform(0, 2 * scale, (3, frames))
        due = [by_hand(row.tolist(), 0.02, 0.05) for row in losses]
        assert betting_p(losses, 0.02, 0.05) == pytest.approx(due)


P = Callable[[np.ndarray], np.ndarray]
TESTS: dict[str, P] = {
    "binomial": lambda losses: binomial_p(losses.sum(axis=1).astype(int), losses.shape[1], 0.01),
    "hoeffding_bentkus": lambda losses: hoeffding_bentkus_p(
        losses.mean(axis=1), losses.shape[1], 0.01
    ),
    "betting": lambda losses: betting_p(losses, 0.01, 0.05),
}
NULL = (0.0101,) * 8
CROSSING = (0.002, 0.004, 0.006, 0.008, 0.0101, 0.012, 0.015, 0.03)


@pytest.mark.parametrize("risks", [NULL, CROSSING])
@pytest.mark.parametrize("name", TESTS)
def test_a_bad_setting_is_hardly_ever_accepted(name: str, risks: tuple[float, ...]) -> None:
    """Nested settings: what errs in one errs in all bolder ones. Family-wise error over 2,000."""
    rng = np.random.default_rng(6)
    bounds, trials = np.array(risks)[:, None], 2000
    good = sum(risk <= 0.01 for risk in risks)
    bad = 0
    for _ in range(trials):
        losses = (rng.random(800) < bounds).astype(float)
        bad += fixed_sequence(TESTS[name](losses), 0.05) > good
    assert bad / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


def test_fractions_are_certified_by_betting_where_the_others_cannot() -> None:
    """Small losses in every frame, 600 of them, mean .3 %."""
    rng = np.random.default_rng(7)
    losses = rng.uniform(0, 0.006, (200, 600))
    shown = {name: (test(losses) <= 0.05).mean() for name, test in TESTS.items()}
    assert shown["betting"] > 0.9
    assert shown["hoeffding_bentkus"] < 0.2


def test_the_walk_stops_at_the_first_that_is_not_shown() -> None:
    assert fixed_sequence(np.array([0.01, 0.05, 0.06, 0.0]), 0.05) == 2
    assert fixed_sequence(np.array([0.06, 0.0]), 0.05) == 0
    assert fixed_sequence(np.array([0.01, 0.02]), 0.05) == 2
    assert fixed_sequence(np.array([]), 0.05) == 0


@pytest.mark.parametrize(
    ("errors", "frames", "more"),
    [(0, 299, 0), (0, 1, 298), (1, 473, 0), (1, 300, 473), (3, 100, None), (3, 300, None)],
)
def test_how_much_more_footage_is_needed(errors: int, frames: int, more: int | None) -> None:
    """One error in 300 is three in 773."""
    assert more_frames(errors, frames, 0.01, 0.05) == more


def test_what_little_footage_could_certify() -> None:
    assert least_alpha(0, 299, 0.05) == pytest.approx(0.01, rel=0.01)
    assert least_alpha(7, 7, 0.05) == 1.0
    for errors, frames in ((0, 20), (3, 100)):
        alpha = least_alpha(errors, frames, 0.05)
        assert binomial_p(np.array([errors]), frames, alpha) == pytest.approx([0.05])
