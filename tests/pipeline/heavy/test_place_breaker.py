"""What is told of a place that is away: that it opened the breaker and why, that it closed it."""

from __future__ import annotations

import logging

import pytest

from framegate.pipeline.heavy.asks import PlaceBreaker
from framegate.pipeline.queries import PlaceFailed


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(r.levelname, r.getMessage()) for r in caplog.records if r.levelno > logging.DEBUG]
    caplog.clear()
    return found


def test_only_opening_and_closing_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    breaker = PlaceBreaker()
    for now in (0.0, 1.0):
        breaker.failed(now, PlaceFailed("no heavy worker is there"))
    breaker.answered()
    assert told(caplog) == []
    for now in (2.0, 3.0, 4.0):
        breaker.failed(now, PlaceFailed("no heavy worker is there"))
    [(level, words)] = told(caplog)
    assert level == "WARNING"
    assert words.endswith("tried again later: no heavy worker is there")
    for _ in range(20):
        now = breaker.until_mono
        breaker.sent()
        assert breaker.state == "half_open"
        breaker.failed(now, PlaceFailed("still not"))
    assert told(caplog) == []
    breaker.answered()
    assert told(caplog) == [("WARNING", "who is asked in doubt answers again")]
    breaker.answered()
    assert told(caplog) == []


def test_what_nobody_foresaw_is_an_error_with_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    breaker = PlaceBreaker()
    for now in (0.0, 1.0, 2.0):
        breaker.failed(now, KeyError("boxes"))
    [(level, words)] = told(caplog)
    assert level == "ERROR"
    assert words.endswith("KeyError: 'boxes'")


def test_how_long_a_question_is_in_vain() -> None:
    breaker = PlaceBreaker()
    assert breaker.away_s(5.0, 7.0) == 2.0
    for now in (1.0, 3.0):
        breaker.failed(now, PlaceFailed("away"))
    assert breaker.away_s(5.0, 7.0) == 6.0
    breaker.answered()
    assert breaker.away_s(5.0, 7.0) == 2.0
