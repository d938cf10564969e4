"""Certificates: each verdict, recomputed by who reads one, and every forged line found."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import structs

from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.promise import audit_coin as coin
from framegate.pipeline.promise.certificate import (
    Certificate,
    close,
    declare,
    read_certificate,
    verify,
)
from framegate.pipeline.promise.period import FrameTime, Period, Promise, following, serve, settle
from framegate.pipeline.promise.statistics import k_max, most_wrong
from framegate.stages.audit.certify import summary

PROMISE = Promise(alpha=0.1, frames=200, audited=0.4, alarm_audits=1e6)
KEY = coin.period_key(b"of a test", "door", 1)


def period_of(
    promise: Promise = PROMISE,
    errors: int = 0,
    missed: int = 0,
    failed: int = 0,
    unsettled: int = 0,
    frames: int = 200,
) -> Period:
    """Its last frames failed; of its other audits the first ones found errors."""
    period = following(Period(), promise)
    open_audits = 0
    for index in range(frames):
        at = FrameTime(Position(1, index), None if index == 0 else index / 10)
        fails = index >= frames - failed
        before = missed if index == 9 else 0
        period, drawn = serve(period, promise, KEY, at, before, fails, ("nanodet@01234567",))
        open_audits += drawn
    for audit in range(open_audits - unsettled):
        period = settle(period, promise, audit < errors)
    return period


def certificate_of(promise: Promise = PROMISE, **what: int) -> Certificate:
    period = period_of(promise, **what)
    return close(period, promise, KEY, "door", "0a1b2c3d")


MOST = k_max(200, 0.1, 0.4, 0.05)


@pytest.mark.parametrize(
    ("what", "verdict", "reason"),
    [
        ({}, "certified", f"0 of 78 audits found an error; {MOST} may"),
        ({"errors": MOST}, "certified", f"{MOST} of 78 audits found an error; {MOST} may"),
        ({"errors": MOST + 1}, "not_shown", f"{MOST + 1} of 78 audits found an error; {MOST} may"),
        ({"frames": 199}, "unfinished", "199 of 200 frames were served"),
        ({"frames": 0}, "unfinished", "0 of 200 frames were served"),
        ({"unsettled": 2}, "unfinished", "2 audits were still open"),
        ({"missed": 22}, "certified", f"0 of 78 audits found an error; {MOST} may"),
        ({"missed": 23}, "coverage", "200 of 223 decoded frames were served, less than 90.0%"),
        ({"failed": 21}, "failed", "21 frames failed; 20 may be wrong"),
        ({"errors": 30}, "alarm", "audits warned that results had become worse than promised"),
    ],
)
def test_verdicts(what: dict[str, int], verdict: str, reason: str) -> None:
    certificate = certificate_of(**what)
    assert certificate.drawn == coin.count_drawn(KEY, certificate.served, 0.4)
    assert (certificate.verdict, certificate.reason) == (verdict, reason)
    assert verify(certificate) == []


def test_what_a_certificate_tells() -> None:
    read = json.loads(msgspec.json.encode(certificate_of(errors=2, missed=3, failed=1)))
    failed_drawn = coin.drawn(KEY, 199, 0.4)
    caught = 2 + failed_drawn
    assert read == {
        "v": 1,
        "source": "door",
        "period": 1,
        "measure": "counts",
        "alpha": 0.1,
        "delta": 0.05,
        "frames": 200,
        "share": 0.4,
        "min_coverage": 0.9,
        "commitment": coin.commitment(KEY),
        "served": 200,
        "decoded": 203,
        "drawn": 78,
        "settled": 78,
        "caught": caught,
        "lost": 0,
        "failed": 1,
        "alarmed": False,
        "k_max": MOST,
        "bound": most_wrong(200, caught, 0.4, 0.05) / 200,
        "verdict": "certified",
        "reason": f"{caught} of 78 audits found an error; {MOST} may",
        "policy": "0a1b2c3d",
        "reference": None,
        "models": ["nanodet@01234567"],
        "opening": KEY.hex(),
        "first": [1, 0],
        "last": [1, 199],
        "first_pts": None,
        "last_pts": 19.9,
    }


@pytest.mark.parametrize(
    "what",
    [{"frames": 150}, {"unsettled": 2}, {"frames": 0}, {"errors": 30, "frames": 150}],
    ids=["cut short", "audits open", "nothing served", "alarm"],
)
def test_no_bound_is_told_of_a_period_that_is_not_over(what: dict[str, int]) -> None:
    """Who stops it when the number looks good would be told a false one far too often."""
    certificate = certificate_of(**what)
    assert (certificate.bound, verify(certificate)) == (None, [])
    assert "differ" not in summary(certificate)
    assert f"at most {certificate_of().bound:.2%} differ" in summary(certificate_of())


def test_it_is_the_same_when_it_was_written_and_read() -> None:
    certificate = certificate_of()
    assert read_certificate(msgspec.json.encode(certificate)) == certificate


def test_what_was_declared_before_the_period_stands_in_its_certificate() -> None:
    declared = json.loads(
        msgspec.json.encode(declare(following(Period(), PROMISE), PROMISE, KEY, "door"))
    )
    read = json.loads(msgspec.json.encode(certificate_of()))
    assert declared.items() <= read.items()
    assert "opening" not in declared


def test_a_period_that_cannot_certify_says_so_and_what_it_could() -> None:
    few = certificate_of(Promise(alpha=0.01, frames=200, audited=0.4))
    assert (few.k_max, few.verdict) == (-1, "not_shown")
    assert few.reason == (
        "with 40.00% of 200 frames audited, not even audits without an error show 0.01: "
        "audit more, or make the period longer"
    )
    assert few.bound == 5 / 200  # .6**6 = .047


FORGED = [
    ("alpha", 0.01, "k_max = "),
    ("delta", 0.01, "k_max = "),
    ("share", 0.5, "drawn = 78: the coin chose "),
    ("frames", 300, "k_max = "),
    ("source", "gate", None),
    ("served", 190, "drawn = 78: the coin chose "),
    ("decoded", 190, "served = 200: more than decoded = 190"),
    ("decoded", 300, "verdict = certified: from the rest follows coverage"),
    ("drawn", 70, "settled = 78: more than drawn = 70"),
    ("settled", 70, "verdict = certified: from the rest follows unfinished"),
    ("caught", 0, "bound = "),
    ("caught", 70, "verdict = certified: from the rest follows not_shown"),
    ("lost", 3, "lost = 3: more than caught = 2"),
    ("failed", 25, "verdict = certified: from the rest follows failed"),
    ("alarmed", True, "verdict = certified: from the rest follows alarm"),
    ("k_max", 70, "k_max = 70: from the rest follows "),
    ("bound", 0.001, "bound = 0.001: from the rest follows "),
    ("verdict", "coverage", "verdict = coverage: from the rest follows certified"),
    ("reason", "0 of 78 audits found an error", "reason = 0 of 78 audits found an error: from "),
    ("opening", "00" * 32, "opening: it is not the key that was committed to"),
    ("commitment", "00" * 32, "opening: it is not the key that was committed to"),
]


@pytest.mark.parametrize(("field", "value", "fault"), FORGED)
def test_what_was_forged_is_found(field: str, value: Any, fault: str | None) -> None:
    """But for what only names things."""
    forged = structs.replace(certificate_of(errors=2), **{field: value})
    faults = verify(forged)
    assert any(one.startswith(fault) for one in faults) if fault else not faults


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", 1.5),
        ("share", 0),
        ("alpha", 1),
        ("frames", 10**12),
        ("served", -1),
        ("opening", "xyz"),
        ("verdict", "fine"),
        ("first", "1-0"),
    ],
)
def test_nonsense_is_no_certificate(field: str, value: Any) -> None:
    read = json.loads(msgspec.json.encode(certificate_of()))
    with pytest.raises(msgspec.ValidationError, match=field):
        read_certificate(json.dumps({**read, field: value}).encode())


def test_a_certificate_of_a_later_version_is_refused() -> None:
    with pytest.raises(RecordTooNew, match="version 2; this Framegate reads up to version 1"):
        read_certificate(b'{"v": 2, "verdict": "sealed"}')
