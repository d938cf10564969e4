"""Learn then Test: p-values by a published table, the whole walk against what it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from framegate.pipeline.promise.calibration import (
    binomial_p,
    fixed_sequence,
    least_alpha,
    more_frames,
)


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


NULL = (0.0101,) * 8
CROSSING = (0.002, 0.004, 0.006, 0.008, 0.0101, 0.012, 0.015, 0.03)


@pytest.mark.parametrize("risks", [NULL, CROSSING])
def test_a_bad_setting_is_hardly_ever_accepted(risks: tuple[float, ...]) -> None:
    """Nested settings: what errs in one errs in all bolder ones. Family-wise error over 2,000."""
    rng = np.random.default_rng(6)
    bounds, trials = np.array(risks)[:, None], 2000
    good = sum(risk <= 0.01 for risk in risks)
    bad = 0
    for _ in range(trials):
        wrong = (rng.random(800) < bounds).sum(axis=1)
        bad += fixed_sequence(binomial_p(wrong, 800, 0.01), 0.05) > good
    assert bad / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)


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
