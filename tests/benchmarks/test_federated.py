"""benchmarks.federated: epsilon by other libraries, a canary, and what is learned by hand."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from benchmarks.federated import bars, draw, figures_of, gain_of_own, precisions
from benchmarks.federated.lessons import (
    FEATURES,
    LENGTH,
    MEANS,
    PRIOR_MEAN,
    PRIOR_SPREAD,
    SHARED,
    SPREADS,
    Camera,
    order,
    pooled_step,
    scaled,
    share,
    step_of,
    vectors,
    visits_of,
    weights_of,
)
from benchmarks.federated.privacy import (
    DELTA,
    GRID,
    Numbers,
    clipped,
    delta_of,
    epsilon_of,
    leakage_of,
    noisy_sum,
    together,
)

# Standard deviation of the noise, and epsilon at a delta of 1e-5, by the privacy loss distribution
# of dp-accounting 0.6.0 with a discretization interval of 1e-4.
BY_DP_ACCOUNTING = {
    0.5: 9.99726,
    0.8: 5.67959,
    1.0: 4.37718,
    1.5: 2.75338,
    2.0: 1.99309,
    4.0: 0.92634,
    8.0: 0.43442,
    20.0: 0.16004,
}


@pytest.mark.parametrize(("noise", "epsilon"), BY_DP_ACCOUNTING.items())
def test_epsilon_is_that_of_dp_accounting(noise: float, epsilon: float) -> None:
    assert epsilon_of(1 / noise) == pytest.approx(epsilon, rel=1e-4)
    assert 1 / leakage_of(epsilon) == pytest.approx(noise, rel=1e-4)


def test_sums_about_the_same_visits_add_up_as_in_dp_accounting() -> None:
    """Noise of 3 and of 2: the two distributions composed."""
    assert epsilon_of(together([1 / 3, 1 / 2])) == pytest.approx(2.44917, rel=1e-4)


def test_epsilon_is_that_of_opacus() -> None:
    """Its accountant states an upper bound that is at most .01 too high."""
    accountants = pytest.importorskip("opacus.accountants")
    for noise, epsilon in BY_DP_ACCOUNTING.items():
        accountant = accountants.PRVAccountant()
        accountant.step(noise_multiplier=noise, sample_rate=1.0)
        bound = accountant.get_epsilon(DELTA)
        assert epsilon_of(1 / noise) <= bound + 1e-4
        assert epsilon == pytest.approx(bound, rel=0.01, abs=0.011)


@pytest.mark.parametrize(("leakage", "epsilon"), [(0.3, 0.5), (0.9, 1.0), (0.9, 3.0), (2.0, 4.0)])
def test_delta_is_the_integral_of_what_epsilon_does_not_bound(
    leakage: float, epsilon: float
) -> None:
    def beyond(x: float) -> float:
        return max(float(norm.pdf(x, leakage) - math.exp(epsilon) * norm.pdf(x)), 0.0)

    starts = leakage / 2 + epsilon / leakage  # where both densities are equal
    expected, _ = quad(beyond, starts, starts + 40)
    assert delta_of(leakage, epsilon) == pytest.approx(expected, rel=1e-6)


def test_what_epsilon_cannot_be() -> None:
    for epsilon in (0.0, -1.0, 65.0):
        with pytest.raises(ValueError, match="epsilon must be above 0 and at most 64"):
            leakage_of(epsilon)
    with pytest.raises(ValueError, match="epsilon must be at most 64"):
        epsilon_of(20.0)


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=8))
def test_no_visit_moves_the_sum_by_more_than_one(rows: list[list[float]]) -> None:
    table = np.array(rows)
    difference = clipped(table).sum(axis=0) - clipped(table[1:]).sum(axis=0)
    assert np.linalg.norm(difference) <= 1 + 1e-9


def outputs(table: Numbers, leakage: float, direction: Numbers) -> Numbers:
    chance = np.random.default_rng(7)
    return np.array([noisy_sum(table, leakage, chance) @ direction for _ in range(4000)])


def advantage(one: Numbers, other: Numbers) -> float:
    """Return the best difference of hits and false alarms of a threshold on the outputs."""
    values = np.sort(np.concatenate([one, other]))
    hits = 1 - np.searchsorted(np.sort(one), values) / len(one)
    alarms = 1 - np.searchsorted(np.sort(other), values) / len(other)
    return float(np.abs(hits - alarms).max())


def test_a_canary_shows_no_more_than_epsilon_allows() -> None:
    """The likeliest attack knows all other visits, and looks along the canary.

    Its advantage between "there" and "not there" is at most (e^epsilon - 1 + 2 delta) /
    (e^epsilon + 1); with normal noise it is exactly 2 * Phi(leakage / 2) - 1. A swapped canary is
    one visit less and one more, so it moves the sum twice as far.
    """
    chance = np.random.default_rng(3)
    others = chance.normal(0, 1, (30, 8))
    canary = np.full((1, 8), 1e3)
    direction = np.full(8, 8**-0.5)
    for epsilon in (0.5, 1.0, 4.0):
        leakage = leakage_of(epsilon)
        there = outputs(np.concatenate([others, canary]), leakage, direction)
        absent = outputs(others, leakage, direction)
        swapped = outputs(np.concatenate([others, -canary]), leakage, direction)
        allowed = (math.exp(epsilon) - 1 + 2 * DELTA) / (math.exp(epsilon) + 1)
        seen = advantage(there, absent[::-1])
        assert seen == pytest.approx(2 * norm.cdf(leakage / 2) - 1, abs=0.04)
        assert seen <= allowed
        assert advantage(there, swapped) == pytest.approx(2 * norm.cdf(leakage) - 1, abs=0.04)


def test_episodes_with_a_track_in_common_are_of_one_visit() -> None:
    tracks = [frozenset({1}), frozenset({2}), frozenset({3}), frozenset({2, 3}), frozenset({4})]
    assert visits_of(tracks) == [0, 1, 1, 1, 4]


def camera(seed: int, sign: float, size: int = 60) -> Camera:
    """Episodes whose score says nothing, and of which the fast ones are true if `sign` is 1."""
    chance = np.random.default_rng(seed)
    features = chance.normal(0, 0.3, (size, FEATURES))
    features[:, SHARED] = MEANS + SPREADS * chance.normal(0, 1, (size, len(SHARED)))
    speed = scaled(Camera(features, np.zeros(size, np.bool_), np.arange(size)))[:, 3]
    truths = sign * speed + chance.normal(0, 0.3, size) > 0
    return Camera(features, truths, np.arange(size))


def test_a_share_is_a_small_file_of_slopes() -> None:
    mine = camera(1, 1.0)
    assert vectors(mine).shape == (60, 8)
    shipped = 1 / (1 + np.exp(-mine.features[:, 0]))
    assert vectors(mine)[:, 0] == pytest.approx(mine.truths - shipped)
    assert (vectors(mine)[:, -1] == 1).all()
    assert vectors(mine)[:, 3].sum() > 20, "the fast ones are true"
    shares = [share(mine, 64.0, np.random.default_rng(seed)) for seed in range(300)]
    # Some visits are longer than the limit, so the sum without noise is that of clipped vectors.
    expected = LENGTH * clipped(vectors(mine) / LENGTH).sum(axis=0)
    assert np.mean([each.numbers for each in shares], axis=0) == pytest.approx(expected, abs=0.1)
    private = share(mine, 4.0, np.random.default_rng(0))
    assert len(msgspec.json.encode(private)) <= 1024
    assert (private.epsilon, private.delta, private.unit) == (4.0, 1e-5, "visit")


@given(
    st.lists(
        st.lists(st.floats(-20, 20), min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=4
    ),
    st.sampled_from([0, 1, 100, 1000]),
    st.booleans(),
)
def test_a_visit_moves_the_file_of_its_camera_by_no_more_than_its_length(
    episodes: list[list[float]], others: int, is_true: bool
) -> None:
    """The noise is the same, so the files of neighbouring cameras differ by the visit alone."""
    without = camera(1, 1.0, others)
    with_visit = Camera(
        np.concatenate([without.features, np.array(episodes)]),
        np.append(without.truths, [is_true] * len(episodes)),
        np.append(without.visits, [others] * len(episodes)),
    )
    one, other = (
        np.array(share(each, 4.0, np.random.default_rng(5)).numbers)
        for each in (without, with_visit)
    )
    rounding = LENGTH * GRID * math.sqrt(len(one))
    assert np.linalg.norm(one - other) <= LENGTH + rounding


def test_weights_for_features_as_they_are_give_the_order_of_scaled_numbers() -> None:
    mine = camera(2, 1.0)
    step = np.array([0.5, 0.1, -0.2, 0.3, 0.0, 0.4, -0.1])
    expected = mine.features[:, 0] + scaled(mine) @ step
    assert order(mine, weights_of(step)) == pytest.approx(expected)
    untouched = [1 + place for place in range(FEATURES) if place not in SHARED]
    assert weights_of(step)[untouched] == pytest.approx(PRIOR_MEAN[untouched])


def test_alike_cameras_teach_each_other_and_unlike_ones_are_turned_down() -> None:
    others = [camera(seed, 1.0) for seed in (1, 2, 3, 4)]
    mine = camera(9, 1.0)
    weights = np.ones((1, len(mine.truths)))
    once = draw(mine, others, 5, 0)
    ap = {side: precisions(mine.truths, odds, weights)[0] for side, odds in once.orders.items()}
    assert ap["shared"] > ap["local"] + 0.2
    assert ap["pooled"] > ap["local"] + 0.2
    assert once.joins
    assert once.judged.sum() == 55
    unlike = camera(9, -1.0)
    joins = [draw(unlike, others, 5, seed).joins for seed in range(10)]
    assert sum(joins) <= 2
    assert not draw(mine, others, 0, 0).joins
    exact = step_of([share(each, 64.0, np.random.default_rng(0)) for each in others])
    assert np.argmax(np.abs(exact)) == np.argmax(np.abs(pooled_step(others))) == 3


def test_verdicts_about_a_visit_do_not_judge_it() -> None:
    """Each visit is two equal episodes, or one. Its truth is drawn by chance, so the gain is equal.

    If a verdict about one episode judged the other, the gain of the pairs would be .09 higher.
    """
    once = camera(3, 1.0, 40)
    features = np.random.default_rng(4).normal(0, 1, once.features.shape)
    pairs = Camera(*(np.repeat(each, 2, axis=0) for each in (features, once.truths, once.visits)))
    alone = Camera(features, once.truths, once.visits)
    paired, single = (gain_of_own(each, PRIOR_SPREAD) for each in (pairs, alone))
    assert paired[0] == pytest.approx(single[0], abs=0.04)
    assert paired[1] < paired[0] < paired[2]


def test_average_precision_counts_an_episode_as_often_as_it_was_drawn() -> None:
    truths = np.array([True, False, True])
    odds = np.array([3.0, 2.0, 1.0])
    rows = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [2.0, 1.0, 1.0]])
    found = precisions(truths, odds, rows)
    assert found[0] == pytest.approx((1 + 2 / 3) / 2)
    assert found[1] == 1.0
    assert np.isnan(found[2])
    assert found[3] == pytest.approx((2 * 1 + 3 / 4) / 3)


def test_the_figures_and_their_bars() -> None:
    cameras = {
        name: camera(seed, 1.0)
        for seed, name in enumerate(("pets2001-campus", "kitchen-pancake", "escalator-cctv"))
    }
    found = figures_of(cameras, 5)
    assert set(found["cameras"]) == set(cameras)
    mean = found["mean"]["0_verdicts"]
    assert mean["local"]["gain"] == [0.0, 0.0, 0.0]
    assert mean["decided"] == mean["local"]
    low, high = mean["shared"]["gain"][1:]
    assert low <= mean["shared"]["gain"][0] <= high
    assert mean["pooled"]["gain"][0] > 0.1
    judged = bars({**found, "epsilon": 4.0, "bytes": 160})
    assert [bar.held for bar in judged][-2:] == [True, True]
    assert judged[0].measured == mean["shared"]["gain"][0]
    assert figures_of(cameras, 60)["cameras"] == {}
