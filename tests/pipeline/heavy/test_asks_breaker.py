"""The log of a failing place: why it does not answer, and that it answers again."""

from __future__ import annotations

import logging
import select
import time
from contextlib import closing

import pytest

from framegate.pipeline.contracts.queries import PlaceFailed, Query, Reply
from framegate.pipeline.heavy.asks import Asks
from tests.support.held_place import DEADLINE_S, HeldPlace, question

AWAY = PlaceFailed("no heavy worker is there")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(r.levelname, r.getMessage()) for r in caplog.records if r.levelno > logging.DEBUG]
    caplog.clear()
    return found


def answer(asks: Asks, query: Query) -> Reply:
    until = time.monotonic() + DEADLINE_S
    while (reply := asks.answer(query.id)) is None:
        assert select.select([asks], [], [], until - time.monotonic())[0]
        asks.hear()
    return reply


def fail(asks: Asks, place: HeldPlace, seq: int, why: Exception) -> None:
    """A question of a camera, and a call that fails."""
    asks.ask(one := question("a", seq, due_mono=time.monotonic() + 60))
    place.next().fail(why)
    answer(asks, one)


def test_only_opening_and_closing_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    place = HeldPlace()
    with closing(Asks(place, delay_s=0.0)) as asks:
        for seq in range(2):
            fail(asks, place, seq, AWAY)
        asks.ask(one := question("a", 2))
        place.next().let()
        answer(asks, one)
        assert told(caplog) == []
        for seq in range(3, 6):
            fail(asks, place, seq, AWAY)
        [(level, words)] = told(caplog)
        assert level == "WARNING"
        assert words.endswith("trying again later: no heavy worker is there")
        asks.ask(patient := question("a", 6))
        place.next().fail(PlaceFailed("still not"))
        probe = place.next()
        assert told(caplog) == []
        probe.let()
        answer(asks, patient)
        assert told(caplog) == [("WARNING", "the heavy model answers again")]


def test_what_nobody_foresaw_is_an_error_with_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    place = HeldPlace()
    with closing(Asks(place, delay_s=0.0)) as asks:
        for seq in range(3):
            fail(asks, place, seq, KeyError("boxes"))
    [(level, words)] = told(caplog)
    assert level == "ERROR"
    assert words.endswith("KeyError: 'boxes'")
