"""A period frame by frame: what it counts, that it goes on after a restart, what never helps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.pipeline.config.read_options import read_options
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.promise import audit_coin as coin
from framegate.pipeline.promise.certificate import close
from framegate.pipeline.promise.period import (
    FrameTime,
    Period,
    Promise,
    following,
    is_full,
    is_under,
    serve,
    settle,
)
from framegate.pipeline.promise.statistics import k_max

SECRET = b"of a test"
SMALL = Promise(alpha=0.1, frames=100, audited=0.5)


def key_of(period: Period) -> bytes:
    return coin.period_key(SECRET, "door", period.number)


def moment(index: int) -> FrameTime:
    return FrameTime(Position(3, index), index / 10)


def audits(period: Period, promise: Promise, frames: range) -> tuple[Period, list[int]]:
    """Serve these frames; which of them are to be audited."""
    chosen = []
    for index in frames:
        period, drawn = serve(period, promise, key_of(period), moment(index))
        chosen += [index] if drawn else []
    return period, chosen


def test_a_period_counts_what_is_served_missed_failed_and_audited() -> None:
    period = following(Period(), SMALL)
    key = key_of(period)
    chosen = [i for i in range(100) if coin.drawn(key, i, 0.5)]
    unchosen = next(i for i in range(100) if i not in chosen)
    for index in range(100):
        failed = index in (chosen[1], unchosen)
        missed = 2 if index in (0, 50) else 0
        period, drawn = serve(period, SMALL, key, moment(index), missed, failed)
        assert drawn == (index in chosen and not failed)
    assert is_full(period, SMALL)
    period = settle(settle(settle(period, SMALL, None), SMALL, True), SMALL, False)
    assert (period.number, period.served, period.missed) == (1, 100, 4)
    assert (period.drawn, period.settled, period.caught) == (len(chosen), 4, 3)
    assert (period.lost, period.failed, period.alarmed) == (1, 2, False)
    assert (period.first, period.last) == (moment(0), moment(99))


def test_a_restart_in_mid_period_audits_the_same_frames_each_once() -> None:
    """The state is what the store gives back; the secret lies in the data folder."""
    _, undisturbed = audits(following(Period(), SMALL), SMALL, range(100))
    period, chosen = audits(following(Period(), SMALL), SMALL, range(37))
    stored = msgspec.msgpack.encode(period)
    _, lost = audits(period, SMALL, range(37, 60))  # not committed: done again
    _, rest = audits(msgspec.msgpack.decode(stored, type=Period), SMALL, range(37, 100))
    assert chosen + rest == undisturbed
    assert lost == rest[: len(lost)]


def test_a_following_period_has_other_coins_and_begins_at_nothing_but_the_detector() -> None:
    period, chosen = audits(following(Period(), SMALL), SMALL, range(100))
    period = settle(period, SMALL, True)
    after = following(period, SMALL)
    assert after == Period(number=2, terms=SMALL.terms, sums=period.sums)
    assert audits(after, SMALL, range(100))[1] != chosen


def test_an_alarm_ends_the_period_and_the_detector_begins_anew() -> None:
    nervous = replace(SMALL, alarm_audits=30.0)
    period, _ = audits(following(Period(), nervous), nervous, range(50))
    for _ in range(3):
        period = settle(period, nervous, True)
    assert period.alarmed
    assert is_full(period, nervous)
    period = settle(period, nervous, False)
    assert period.alarmed, "once is enough"
    assert following(period, nervous) == following(Period(number=1), nervous)


def test_a_period_keeps_to_the_promise_under_which_it_began() -> None:
    period, _ = audits(following(Period(), SMALL), SMALL, range(10))
    other = replace(SMALL, alpha=0.2)
    assert is_under(period, SMALL)
    assert not is_under(period, other)
    assert not is_under(Period(), SMALL), "of no period yet"
    with pytest.raises(ValueError, match="period 1 takes no frame under this promise"):
        serve(period, other, key_of(period), moment(10))
    with pytest.raises(ValueError, match="period 1 has no audit open under this promise"):
        settle(period, other, False)
    assert following(period, other) == Period(number=2, terms=other.terms)


def test_a_full_period_takes_no_frame_and_no_audit_is_settled_twice() -> None:
    period, chosen = audits(following(Period(), SMALL), SMALL, range(100))
    with pytest.raises(ValueError, match="takes no frame"):
        serve(period, SMALL, key_of(period), moment(100))
    for _ in chosen:
        period = settle(period, SMALL, False)
    with pytest.raises(ValueError, match="no audit open"):
        settle(period, SMALL, False)


def test_a_period_is_small_enough_to_be_stored_with_every_frame() -> None:
    period = Period(
        *(4_000_000_000, b"abcd", *[10_000_000] * 7, True, (1e200,) * 4),
        first=FrameTime(Position(70_000, 4_000_000_000), 1e6),
        last=FrameTime(Position(70_000, 4_000_000_000), 1e6),
    )
    assert len(msgspec.msgpack.encode(period)) < 160
    usual, _ = audits(following(Period(), Promise()), Promise(), range(1000))
    assert len(msgspec.msgpack.encode(usual)) < 100


def verdict_of(fates: Sequence[str], promise: Promise) -> tuple[str, float | None]:
    """The verdict and bound of a period whose frames come to these ends."""
    period = following(Period(), promise)
    found = {"good": False, "wrong": True, "lost": None}
    for index, fate in enumerate(fates):
        period, drawn = serve(
            period, promise, key_of(period), moment(index), failed=fate == "failed"
        )
        if drawn:
            period = settle(period, promise, found[fate])
        if is_full(period, promise):
            break
    certificate = close(period, promise, key_of(period), "door", "")
    return certificate.verdict, certificate.bound


@settings(max_examples=150, deadline=None)
@given(
    wrong=st.sets(st.integers(0, 99), max_size=12),
    spoiled=st.sets(st.integers(0, 99), min_size=1, max_size=30),
    how=st.sampled_from(["lost", "failed"]),
    promise=st.sampled_from([SMALL, replace(SMALL, alarm_audits=50.0)]),
)
def test_lost_audits_and_failed_frames_never_help(
    wrong: set[int], spoiled: set[int], how: str, promise: Promise
) -> None:
    """Whichever frames they hit, the wrong ones above all."""
    fates = ["wrong" if index in wrong else "good" for index in range(100)]
    spoilt = [how if index in spoiled else fate for index, fate in enumerate(fates)]
    before, bound = verdict_of(fates, promise)
    after, worse = verdict_of(spoilt, promise)
    assert (after == "certified") <= (before == "certified")
    if after != "alarm":
        assert bound is not None
        assert worse is not None
        assert worse >= bound


def test_options_are_checked_as_all_others() -> None:
    faults: list[str] = []
    assert read_options(Promise, {"alpha": 0.02, "audited": 0.1}, "promise.", faults) == Promise(
        alpha=0.02, audited=0.1
    )
    assert read_options(Promise, {"alpha": 0, "measure": "mood"}, "promise.", faults) is None
    assert faults == [
        'promise.measure = \'mood\': must be "counts" or "off"',
        "promise.alpha = 0: must be a number, 0.0001 to 0.5",
    ]


def test_the_default_promise() -> None:
    """One hour at ten frames a second, .6 % of it audited, five errors forgiven."""
    one = Promise()
    assert (one.frames, one.alpha, one.delta, one.share) == (36_000, 0.05, 0.05, 0.005829)
    assert k_max(one.frames, one.alpha, one.share, one.delta) == 5
    assert Promise(audited=0.01).share == 0.01
    assert len({promise.terms for promise in (Promise(), SMALL)}) == 2
