"""Intervals over pictures, against scipy's own bootstrap and by hand."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.quantization.resampled_precision import of_difference
from framegate.models.matching import interval, resamples


def mean_of(values):
    return lambda times: times @ values / times.sum(axis=1)


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(1).exponential(size=60)
    ours = interval(mean_of(values), 60, n_resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert ours.middle == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.01)


def test_a_difference_is_taken_on_the_same_pictures_as_scipys_paired_bootstrap_does():
    rng = np.random.default_rng(3)
    hard = rng.normal(size=80)
    ours, theirs = hard + rng.normal(0.3, 0.1, 80), hard
    found = of_difference(mean_of(ours), mean_of(theirs), 80, n_resamples=20_000)
    expected = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=4,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(expected, abs=0.003)
    # Pictures differ by far more than the two do: alone, neither mean is known so well.
    alone = interval(mean_of(ours), 80)
    assert found.high - found.low < 0.2 * (alone.high - alone.low)


def test_a_detector_against_itself_differs_by_nothing():
    values = np.arange(9.0)
    found = of_difference(mean_of(values), mean_of(values), 9)
    assert (found.middle, found.low, found.high) == (0, 0, 0)


def test_draws_are_whole_sets_and_the_seed_gives_them_again():
    blocks = list(resamples(7, 50_000, seed=5))
    drawn = np.concatenate(blocks)
    assert len(blocks) > 1
    assert drawn.shape == (50_000, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert np.array_equal(drawn, np.concatenate(list(resamples(7, 50_000, seed=5))))
    assert not np.array_equal(drawn, np.concatenate(list(resamples(7, 50_000, seed=6))))


def test_a_figure_that_resamples_shift_is_centred_by_that_shift():
    values = np.arange(30.0)
    plain = interval(mean_of(values), 30)
    # One more wherever a picture was drawn twice, so in every resample and not in the whole set.
    lifted = interval(lambda t: mean_of(values)(t) + (t.max(axis=1) > 1), 30, centred=True)
    drawn_mean = np.concatenate([mean_of(values)(t) for t in resamples(30, 2000)]).mean()
    assert lifted.middle == plain.middle
    assert lifted.low == pytest.approx(plain.low + plain.middle - drawn_mean)
    assert lifted.high == pytest.approx(plain.high + plain.middle - drawn_mean)


def test_resamples_without_the_figure_are_left_out():
    # Only the first picture has it: a third of the draws of three pictures miss it.
    found = interval(lambda times: np.where(times[:, 0] > 0, 4.0, np.nan), 3)
    assert (found.low, found.high) == (4, 4)
    with pytest.raises(ValueError, match="no resample"):
        interval(lambda times: np.full(len(times), np.nan), 3)


def test_nothing_to_resample():
    with pytest.raises(ValueError, match="no pictures"):
        interval(mean_of(np.zeros(0)), 0)
