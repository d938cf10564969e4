"""The bytes of held queries are limited; no query without a due time is dropped for that."""

from __future__ import annotations

import select
import time
from contextlib import closing

import pytest

from framegate.pipeline.contracts.queries import Query, Unanswered
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy import asks as asks_module
from framegate.pipeline.heavy.asks import Asks, Room
from tests.support.held_place import DEADLINE_S, FORM, HeldClock, HeldPlace, question, seen

FIVE = Room(nbytes=2 * 5 * FORM.nbytes)  # of the urgent ones


def test_frames_of_cameras_are_bounded_by_bytes() -> None:
    size = Form(1920, 1080).nbytes
    fit = (128 << 20) // size
    assert 40 < fit < 50
    assert Room().takes([size] * (fit - 1), size)
    assert not Room().takes([size] * fit, size)
    assert Room().takes([10] * 255, 10)
    assert not Room().takes([10] * 256, 10)


def test_a_few_are_held_however_large_they_are() -> None:
    assert Room().takes([100 << 20] * 3, 100 << 20)
    assert not Room().takes([100 << 20] * 4, 100 << 20)


def filled(asks: Asks) -> list[Query]:
    """As many questions as there is room for, the first of them under way."""
    taken = [question("a", seq) for seq in range(5)]
    for one in taken:
        asks.ask(one)
        assert asks.knows(one.id)
    assert not asks.has_room(FORM.nbytes)
    assert asks.has_room(FORM.nbytes, urgent=False)
    return taken


def test_one_that_is_waited_for_is_put_again_once_there_is_room() -> None:
    place, one = HeldPlace(), question("b", 7)
    with closing(Asks(place, delay_s=0.0, room=FIVE)) as asks:
        taken = filled(asks)
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


def test_what_is_forgotten_makes_room_and_says_so() -> None:
    place = HeldPlace()
    with closing(Asks(place, delay_s=0.0, room=FIVE)) as asks:
        filled(asks)
        place.next()
        asks.forget_source("a")
        assert select.select([asks], [], [], 0.0)[0]
        assert asks.has_room(FORM.nbytes)
        assert not any(asks.knows(question("a", seq).id) for seq in range(5))


def test_one_that_has_a_due_time_gets_no_answer_and_one_like_those_held_does() -> None:
    place = HeldPlace()
    with closing(Asks(place, delay_s=0.0, room=FIVE)) as asks:
        taken = filled(asks)
        live = question("b", 7, due_mono=time.monotonic() + 60)
        asks.ask(live)
        assert asks.answer(live.id) == Unanswered("unanswered")
        assert asks.counts.degraded == {"unanswered": 1}
        asks.ask(taken[0])
        assert asks.answer(taken[0].id) is None


def test_no_answer_is_given_up_before_it_is_forgotten() -> None:
    place, n_asked = HeldPlace(), 300
    due = time.monotonic() - 1  # answered at once, as late
    with closing(Asks(place, delay_s=0.0, room=FIVE)) as asks:
        ids = [question("a", seq, due_mono=due).id for seq in range(n_asked)]
        for seq in range(n_asked):
            asks.ask(question("a", seq, due_mono=due))
        assert {asks.answer(one) for one in ids} == {Unanswered("late")}
        assert all(asks.knows(one) for one in ids)
        for one in ids:
            asks.forget(one)
        assert asks._replies == {}
        assert asks._asked == {}


def test_whether_there_is_room_counts_none_that_are_over_and_ends_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asks_module, "time", clock := HeldClock())
    place = HeldPlace()
    with closing(Asks(place, delay_s=0.0, room=FIVE)) as asks:
        asks.ask(question("a", 0))
        place.next()  # the one lane hangs
        due = clock.now + 3.0
        late = [question("a", seq, due_mono=due) for seq in range(1, 5)]
        for one in late:
            asks.ask(one)
        assert not asks.has_room(FORM.nbytes)
        clock.now = due
        asks.hear()
        assert asks.has_room(FORM.nbytes)
        assert asks.counts.degraded == {}
        assert select.select([asks], [], [], 0.0)[0] == []
        asks.ask(new := question("b", 7))
        assert asks.knows(new.id)
        assert asks.counts.degraded == {"late": 4}
