"""What is held at once is bounded, by bytes; nothing that is waited for is given up for it."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from framegate.pipeline.heavy import asks as flights
from framegate.pipeline.heavy.asks import MOST, Asks, Flight, have_room
from framegate.pipeline.queries import Query, QueryId, Unanswered
from framegate.pipeline.records import Position
from framegate.pipeline.source import Form
from tests.support.held_place import DEADLINE_S, FORM, HeldPlace, question, seen

WIDE = Form(1920, 1080)


@contextmanager
def asking(place: HeldPlace) -> Iterator[Asks]:
    asks = Asks(place, delay_s=0.0)
    try:
        yield asks
    finally:
        asks.close()


def held(n: int, nbytes: int, urgent: bool = True) -> list[Flight]:
    """Flights whose questions share their pixels: what is counted is as if each had its own."""
    pixels = bytes(nbytes)
    ids = [QueryId("a", Position(1, seq)) for seq in range(n)]
    return [Flight(Query(one, WIDE, pixels, urgent=urgent), 0.0) for one in ids]


def test_frames_of_cameras_are_bounded_by_bytes() -> None:
    size = WIDE.nbytes
    fit = (128 << 20) // size
    assert 40 < fit < 50
    assert have_room(held(fit - 1, size), size, urgent=True)
    assert not have_room(held(fit, size), size, urgent=True)
    assert have_room(held(fit, size), size, urgent=False)
    assert not have_room(held(fit, size, urgent=False), size, urgent=False)
    assert not have_room(held(MOST // 2, 10), 10, urgent=True)


def test_a_few_are_held_however_large_they_are() -> None:
    assert have_room(held(3, 100 << 20), 100 << 20, urgent=True)
    assert not have_room(held(4, 100 << 20), 100 << 20, urgent=True)


def filled(asks: Asks, monkeypatch: pytest.MonkeyPatch) -> list[Query]:
    """As many questions as there is room for, the first of them under way."""
    monkeypatch.setattr(flights, "MOST_BYTES", 2 * 5 * FORM.nbytes)
    taken = [question("a", seq) for seq in range(5)]
    for one in taken:
        asks.ask(one)
        assert asks.knows(one.id)
    assert not asks.has_room(FORM.nbytes)
    assert asks.has_room(FORM.nbytes, urgent=False)
    return taken


def test_one_that_is_waited_for_is_put_again_once_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, one = HeldPlace(), question("b", 7)
    with asking(place) as asks:
        taken = filled(asks, monkeypatch)
        asks.ask(one)
        assert not asks.knows(one.id)
        assert asks.answer(one.id) is None
        place.next().let()
        assert select.select([asks], [], [], DEADLINE_S)[0]
        asks.ask(one)
        assert asks.knows(one.id)
        for _ in range(5):
            place.next().let()
        wanted = [*taken, one]
        until = time.monotonic() + DEADLINE_S
        while any(asks.answer(q.id) is None for q in wanted) and time.monotonic() < until:
            asks.hear()
            select.select([asks], [], [], 1.0)
        assert [asks.answer(q.id) for q in wanted] == [seen(q) for q in wanted]
        assert asks.counts.degraded == {}


def test_what_is_forgotten_makes_room_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    place = HeldPlace()
    with asking(place) as asks:
        filled(asks, monkeypatch)
        place.next()
        asks.forget_source("a")
        assert select.select([asks], [], [], 0.0)[0]
        assert asks.has_room(FORM.nbytes)
        assert not any(asks.knows(question("a", seq).id) for seq in range(5))


def test_one_that_has_a_due_time_gets_no_answer_and_one_like_those_held_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = HeldPlace()
    with asking(place) as asks:
        taken = filled(asks, monkeypatch)
        live = question("b", 7, due_mono=time.monotonic() + 60)
        asks.ask(live)
        assert asks.answer(live.id) == Unanswered("unanswered")
        assert asks.counts.degraded == {"unanswered": 1}
        asks.ask(taken[0])
        assert asks.answer(taken[0].id) is None


def test_no_answer_is_given_up_before_it_is_forgotten() -> None:
    place, n_asked = HeldPlace(), 300
    due = time.monotonic() - 1  # answered at once, as late
    with asking(place) as asks:
        ids = [question("a", seq, due_mono=due).id for seq in range(n_asked)]
        for seq in range(n_asked):
            asks.ask(question("a", seq, due_mono=due))
        assert {asks.answer(one) for one in ids} == {Unanswered("late")}
        assert all(asks.knows(one) for one in ids)
        for one in ids:
            asks.forget(one)
        assert asks._answers == {}
        assert asks._asked == {}
