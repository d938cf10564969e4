"""The benchmark of drift: its footage, what is told of alarms and periods, and a short run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.drift import result, told
from benchmarks.drift.figures import Alarm, alarms, audits, figures
from benchmarks.drift.footage import DUSK, Drift, Night, Story, compose, pictures
from benchmarks.promise.composed_parts import Parts
from benchmarks.promise.run import Promised, serve
from framegate.models.detector import detector
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.promise import audit_coin
from framegate.pipeline.promise.certificate import Certificate, close
from framegate.pipeline.promise.period import FrameTime, Period, Promise
from tests.benchmarks.test_composed_hour import parts

TERMS = Promise("counts", alpha=0.25, confidence=0.5, frames=40, audited=0.5)
KEY = bytes(32)


def scenes() -> Parts:
    """As many as the real ones: gray, of three levels."""
    known = parts()
    return Parts([*known.scenes, known.scenes[1] // 2], known.clear, known.doubtful)


def news(alarmed: bool, doubt: float = 0.1) -> PromiseNews:
    return PromiseNews(1, 1, 0, 0, 0, alarmed, doubt)


def period(number: int, first: int, last: int, alarmed: bool = False) -> Certificate:
    drawn = sum(audit_coin.drawn(KEY, n, TERMS.share) for n in range(last - first + 1))
    found = Period(
        number,
        served=last - first + 1,
        drawn=drawn,
        settled=drawn,
        alarmed=alarmed,
        first=FrameTime(Position(1, first), None),
        last=FrameTime(Position(1, last), None),
    )
    return close(found, TERMS, KEY, "hour", "")


def test_what_comes_before_is_the_same_whatever_comes_after() -> None:
    drifts: tuple[Drift, ...] = ("none", "scene", "night")
    seen = {drift: list(pictures(Story("road", drift, 100, 120), scenes())) for drift in drifts}
    for drift, each in seen.items():
        assert len(each) == 220
        same = [np.array_equal(a, b) for a, b in zip(each, seen["none"], strict=True)]
        assert all(same[:100])
        assert any(same[100:]) == (drift == "none")
    room = next(pictures(Story("room", "none", 100, 120), scenes()))
    assert np.array_equal(room, scenes().scenes[1])


def test_night_falls_within_some_frames_and_its_noise_never_stands_still() -> None:
    day = np.full((90, 160, 3), 120, np.uint8)
    night, rng = Night(gamma=2.0, gain=0.5, noise=4.0), np.random.default_rng(0)
    means = [float(night.of(day, n / DUSK, rng).mean()) for n in range(DUSK + 1)]
    assert means[0] == 120
    assert all(a > b - 0.5 for a, b in pairwise(means))
    dark = night.of(day, 1.0, rng)
    assert means[-1] == pytest.approx(0.5 * 255 * (120 / 255) ** 2, abs=0.5)
    assert dark.std() == pytest.approx(4.0, abs=0.3)
    assert not np.array_equal(dark, night.of(day, 1.0, rng))


def test_alarms_are_told_with_the_fallback_and_the_recovery() -> None:
    asked = np.zeros(50, np.bool_)
    asked[[*range(11, 20), *range(40, 50)]] = True
    said = [(3, news(False)), (10, news(True)), (14, news(True)), (20, news(False, 0.05))]
    assert alarms(said, asked) == [Alarm(10, 11, 20)]
    assert alarms([*said, (40, news(True))], asked) == [Alarm(10, 11, 20), Alarm(40, 40, None)]
    assert alarms([(0, news(False))], asked) == []
    assert alarms([(30, news(True)), (35, news(False))], asked) == [Alarm(30, None, 35)]


def test_a_drift_by_hand() -> None:
    """Periods of 40 frames; a drift at 60, an alarm at 70, recovery at 80."""
    wrong, asked = np.zeros(150, np.bool_), np.zeros(150, np.bool_)
    wrong[60:70], asked[70:80] = True, True
    said = [(5, news(False)), (70, news(True)), (80, news(False, 0.05))]
    over = [period(1, 0, 39), period(2, 40, 69, alarmed=True), period(3, 70, 109)]
    row = figures("scene", 60, wrong, asked, said, [*over, period(4, 110, 149)])
    assert audits(over, 60, 70) == sum(audit_coin.drawn(KEY, n, TERMS.share) for n in range(20, 30))
    assert row["audits_to_alarm"] == row["audits_to_fallback"] == audits(over, 60, 70)
    assert row["audits_to_recovery"] == audits(over, 60, 80)
    assert [row[f"frames_to_{name}"] for name in ("alarm", "fallback", "recovery")] == [10, 10, 20]
    assert [row[f"certified_{when}"] for when in ("before", "drifted", "after")] == [1, 0, 2]
    assert [row[f"error_{when}"] for when in ("before", "drifted", "after")] == [0.0, 1.0, 0.0]
    assert [row["false_alarms"], row["alarms"]] == [0, 1]
    assert row["thresholds"] == [[5, 0.1], [80, 0.05]]
    assert [one["error"] for one in row["periods"]] == [0.0, 0.3333, 0.0, 0.0]
    assert "alarm (33.3% wrong)" in told({**row, "start": "road"})
    whole = result([row], 0.25)
    assert list(whole)[:3] == ["drifts", "alarms", "drifted_certified"]
    assert (whole["alarms"], whole["drifted_certified"], whole["controls"]) == (1, 0, [])
    assert (whole["certified"], whole["false_certificates"]) == (3, 0)


def test_without_a_drift_every_alarm_is_false() -> None:
    asked = np.zeros(60, np.bool_)
    asked[30:50] = True
    said = [(30, news(True)), (50, news(False))]
    over = [period(1, 0, 29, alarmed=True), period(2, 30, 59)]
    row = figures("none", 60, np.zeros(60, np.bool_), asked, said, over)
    assert (row["false_alarms"], row["audits_to_alarm"]) == (1, None)
    assert (row["error_before"], row["error_drifted"], row["error_after"]) == (0.0, None, None)


def test_a_drift_that_no_audit_notices_is_certified_for_all_to_see() -> None:
    asked = np.zeros(80, np.bool_)
    over = [period(1, 0, 39), period(2, 40, 79)]
    wrong = np.arange(80) >= 60
    row = figures("night", 60, wrong, asked, [], over)
    assert (row["certified_before"], row["certified_drifted"]) == (1, 1)
    whole = result([row], 0.25)
    assert (whole["drifted_certified"], whole["false_certificates"]) == (1, 1)


@pytest.mark.long
def test_news_of_the_promise_come_with_a_run(tmp_path: Path) -> None:
    compose(Story("room", "night", 60, 60), scenes(), path := tmp_path / "night.mp4")
    heavy = detector.policy_id("heavy")
    found, certificates = serve(path, 120, Promised(0.1, 60, 0.05), heavy)
    assert [(one.frames, one.alpha) for one in certificates] == [(60, 0.05)] * len(certificates)
    assert found.news[0][1].period == 1
    assert [frame for frame, _ in found.news] == sorted({frame for frame, _ in found.news})
