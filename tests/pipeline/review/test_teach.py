"""What verdicts teach: the numbers by another method, the bound by hand, and the trial."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framegate.pipeline.contracts.episodes import Changes, EventEntry
from framegate.pipeline.contracts.object_filters import digest_of
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.traits import WEIGHTS, Traits, log_odds
from framegate.pipeline.review.episode_counts import counts, known_sources
from framegate.pipeline.review.event_database import opened
from framegate.pipeline.review.logistic import regression
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.review.search import EpisodeFilter, find
from framegate.pipeline.review.teach import Verdicts, learn, miss_bound, offer
from framegate.pipeline.review.verdicts import judge, verdict_counts
from tests.support.said import BEGAN, change, moment


def person(chance: random.Random) -> Traits:
    """Somebody who walks by, below, with a high score."""
    return Traits(
        chance.uniform(0.55, 0.9), chance.uniform(0.2, 0.4), 2.5, chance.random(),
        chance.uniform(0.6, 1.0), chance.uniform(0.3, 1.0), 1.0, 0.0, 0.2,
    )  # fmt: skip


def bush(chance: random.Random) -> Traits:
    """A bush above that is taken for a person now and then."""
    return Traits(
        chance.uniform(0.35, 0.6), chance.uniform(0.1, 0.2), 1.5, chance.random(),
        chance.uniform(0.2, 0.5), 0.0, 1.0, 1.0, 0.6,
    )  # fmt: skip


def some(n: int, seed: int = 1) -> Verdicts:
    chance = random.Random(seed)
    return Verdicts([person(chance) for _ in range(n)], [bush(chance) for _ in range(n)])


@pytest.mark.parametrize(("n", "bound"), [(0, 1.0), (1, 0.95), (10, 0.2589), (59, 0.0495)])
def test_the_bound_of_misses(n: int, bound: float) -> None:
    assert miss_bound(n) == pytest.approx(bound, abs=5e-5)
    assert (1 - miss_bound(n)) ** n == pytest.approx(0.05 if n else 1.0)


def test_the_weights_have_the_greatest_posterior_probability() -> None:
    """By the quasi-Newton method of SciPy, from its own differences."""
    from scipy.optimize import minimize

    verdicts = some(15)
    rows = np.array([[1.0, *each.features()] for each in (*verdicts.true, *verdicts.false)])
    is_true = np.arange(30) < 15
    mean = np.zeros(WEIGHTS)
    mean[1] = 1.0
    spread = np.array([2.0] + [0.35] * (WEIGHTS - 1))

    def loss(weights: Any) -> float:
        odds = rows @ weights
        likelihood = np.logaddexp(0, np.where(is_true, -odds, odds)).sum()
        return float(likelihood + (((weights - mean) / spread) ** 2).sum() / 2)

    expected = minimize(loss, np.ones(WEIGHTS), tol=1e-10).x
    assert regression(rows, is_true, mean, 1 / spread**2) == pytest.approx(expected, abs=1e-3)


def test_the_same_verdicts_teach_the_same_and_mute_no_true_one() -> None:
    verdicts = some(20)
    learned = learn(verdicts)
    assert learned == learn(verdicts)
    assert len(learned.weights) == WEIGHTS
    assert all(log_odds(learned.weights, each) > 0 for each in verdicts.true)
    assert learned.false_muted >= 15
    others = some(200, seed=2)
    muted = [sum(log_odds(learned.weights, each) < 0 for each in kind) for kind in others]
    assert muted[0] <= miss_bound(20) * 200
    assert muted[1] > 150


def test_verdicts_that_chance_gave_teach_nothing_much() -> None:
    chance = random.Random(3)
    same = Verdicts([person(chance) for _ in range(20)], [person(chance) for _ in range(20)])
    assert learn(same).false_muted <= 6


@pytest.fixture
def database(tmp_path: Path) -> Iterator[tuple[Path, sqlite3.Connection]]:
    """Sixty episodes, by turns of people and of a bush; every tenth was muted."""
    chance = random.Random(4)
    projection = Projection(tmp_path / "events.db")
    before = START
    for seq in range(1, 61):
        traits = (person, bush)[seq % 2](chance)
        muted = "muted_1/0a1b2c3d" if seq % 10 == 1 else None
        steps = [
            change("start", seq, seq, traits=traits, muted=muted),
            change("end", seq, seq + 5, muted=muted),
        ]
        entry = Changes(tuple(steps))
        projection.take([EventEntry("door", Position(1, seq), before, moment(seq).captured, entry)])
        before = Position(1, seq)
    projection.close()
    with opened(tmp_path / "events.db") as found:
        yield tmp_path / "events.db", found


def judge_some(file: Path, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        assert judge(file, f"door/visitor/1-{seq}/0", ("true", "false")[seq % 2], BEGAN)


def test_a_filter_is_offered_from_ten_verdicts_of_each_kind(
    database: tuple[Path, sqlite3.Connection],
) -> None:
    file, found = database
    judge_some(file, 1, 19)
    offered = offer(found, "door", "visitor")
    assert (offered.right, offered.false, offered.weights) == (9, 10, None)
    assert offered.refused is not None
    assert "judge 1 more true" in offered.refused
    judge_some(file, 20, 24)
    offered = offer(found, "door", "visitor")
    assert (offered.right, offered.false, offered.refused) == (12, 12, None)
    assert offered.weights is not None
    assert offered.digest == digest_of(offered.weights)
    assert (offered.counted, offered.miss) == (0, 1.0), "a filter muted the first episode"
    trial = offered.trial
    assert trial is not None
    assert trial.episodes == 60
    assert 20 <= trial.muted <= 30
    assert {each.began.seq % 2 for each in trial.would_mute} == {1}
    assert trial.would_mute[0].began.seq > trial.would_mute[-1].began.seq
    assert offer(found, "door", "visitor") == offered
    assert offer(found, "door", "other").refused is not None


def test_the_bound_counts_true_verdicts_from_before_a_filter_muted_an_episode(
    database: tuple[Path, sqlite3.Connection],
) -> None:
    """With n verdicts, it is 1 - .05 ** (1 / n)."""
    file, found = database
    judge_some(file, 1, 24)
    for first_muted, counted, miss in ((31, 12, 0.2209), (11, 5, 0.4507)):
        with sqlite3.connect(file) as writer:
            writer.execute("UPDATE episode SET muted = NULL")
            writer.execute("UPDATE episode SET muted = 'm/0' WHERE began_seq = ?", (first_muted,))
        offered = offer(found, "door", "visitor")
        assert (offered.right, offered.counted) == (12, counted)
        assert offered.miss == pytest.approx(miss, abs=1e-4)


def test_only_verdicts_about_the_newest_version_of_the_rule_teach(
    database: tuple[Path, sqlite3.Connection],
) -> None:
    file, found = database
    judge_some(file, 1, 24)
    with sqlite3.connect(file) as writer:
        writer.execute("UPDATE episode SET version = 'older' WHERE began_seq <= 4")
    offered = offer(found, "door", "visitor")
    assert (offered.right, offered.false, offered.version) == (10, 10, "0a1b2c3d")
    assert offered.trial is not None
    assert offered.trial.episodes == 56
    with sqlite3.connect(file) as writer:
        writer.execute("UPDATE episode SET version = 'newer' WHERE began_seq = 60")
    offered = offer(found, "door", "visitor")
    assert (offered.right, offered.false, offered.version) == (0, 0, "newer")


def test_muted_episodes_are_left_out_until_they_are_judged_true(
    database: tuple[Path, sqlite3.Connection],
) -> None:
    file, found = database
    span = EpisodeFilter(since=moment(0).captured, until=moment(100).captured)
    only = EpisodeFilter(muted=True)
    assert [each.began.seq for each in find(found, only, 100)[0]] == [51, 41, 31, 21, 11, 1]
    assert len(find(found, EpisodeFilter(), 100)[0]) == 54
    assert len(find(found, EpisodeFilter(muted=None), 100)[0]) == 60
    for wanted in (span, EpisodeFilter()):
        assert [each.count for each in counts(found, wanted, 3600.0)] == [54]
    assert judge(file, "door/visitor/1-21/0", "true", BEGAN)
    assert judge(file, "door/visitor/1-31/0", "false", BEGAN)
    assert [each.began.seq for each in find(found, only, 100)[0]] == [51, 41, 31, 11, 1]
    for wanted in (span, EpisodeFilter()):
        assert [each.count for each in counts(found, wanted, 3600.0)] == [55]
    [door] = known_sources(found, moment(0).captured)
    assert door.rules == {"visitor": 55}
    [rates] = verdict_counts(found, moment(0).captured, moment(100).captured)
    assert (rates.right, rates.false, rates.unjudged) == (1, 0, 54), "a muted one is no alert"
