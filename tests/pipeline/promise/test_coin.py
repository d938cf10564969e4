"""The coin: fair, blind, the same after a restart, and open to check once it is over."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, chisquare

from framegate.pipeline.promise.audit_coin import commitment, count_drawn, drawn, period_key

SECRET = bytes(range(32))
FRAMES, SHARE = 20_000, 0.1


def coins(key: bytes, frames: int = FRAMES, share: float = SHARE) -> np.ndarray:
    return np.array([drawn(key, index, share) for index in range(frames)])


def test_the_share_is_what_was_asked_for_evenly_over_the_period() -> None:
    for period in range(3):
        by_tenth = coins(period_key(SECRET, "door", period)).reshape(10, -1).sum(axis=1)
        due, variance = FRAMES / 10 * SHARE, FRAMES / 10 * SHARE * (1 - SHARE)
        assert chi2.sf(((by_tenth - due) ** 2 / variance).sum(), 10) > 0.01


def test_gaps_between_chosen_frames_are_geometric() -> None:
    """No memory: of chosen frames, a tenth is followed at once by another, and so on."""
    gaps = np.diff(np.flatnonzero(coins(period_key(SECRET, "door", 1))))
    found = np.bincount(np.minimum(gaps, 31), minlength=32)[1:]
    chances = SHARE * (1 - SHARE) ** np.arange(30)
    due = np.append(chances, 1 - chances.sum()) * len(gaps)
    assert chisquare(found, due).pvalue > 0.01


@pytest.mark.parametrize("every", [2, 25, 30, 256])
def test_nothing_periodic_is_chosen_more_often(every: int) -> None:
    """Such as key frames, frames on which a gate looks, or a clock that the system has."""
    chosen = coins(period_key(SECRET, "door", 2))[: FRAMES // every * every]
    rhythm = chosen.reshape(-1, every).sum(axis=0)
    assert chisquare(rhythm).pvalue > 0.01


def test_periods_and_sources_have_coins_of_their_own() -> None:
    named = [("door", 1), ("door", 2), ("gate", 1), ("doo", 1)]
    thrown = [coins(period_key(SECRET, *name)) for name in named]
    for i, one in enumerate(thrown):
        for other in thrown[:i]:
            both = (one & other).sum()
            assert abs(both - FRAMES * SHARE**2) < 4 * (FRAMES * SHARE**2) ** 0.5


def test_what_a_larger_share_chooses_contains_what_a_smaller_one_does() -> None:
    key = period_key(SECRET, "door", 1)
    assert (coins(key, share=0.05) <= coins(key, share=0.1)).all()
    assert coins(key, 200, 1.0).all()
    assert count_drawn(key, 1000, 0.3) == coins(key, 1000, 0.3).sum()


def test_the_same_secret_throws_the_same_coins() -> None:
    """Frozen: a coin that changed with a version would audit other frames after an upgrade."""
    key = period_key(SECRET, "door", 7)
    assert key.hex() == "ba96497e298a28529c6c426409788514334649289a80cfb3f0cc2f5a42b32058"
    assert [i for i in range(60) if drawn(key, i, SHARE)] == [8, 34, 36, 58]
    assert commitment(key) == "57d77bfd588d5852b7c4118b01311e7af69d9441b69f79c856a08ded53f9e4c2"


@pytest.mark.parametrize("nbytes", [0, 65])
def test_a_secret_of_no_or_too_many_bytes_is_refused(nbytes: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 64 bytes, found {nbytes}"):
        period_key(bytes(nbytes), "door", 1)
