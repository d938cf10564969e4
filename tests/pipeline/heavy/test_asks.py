"""Queries and their replies. The place replies when the test lets it; nothing sleeps."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from framegate.pipeline.contracts.queries import QueryId, Reply, Unanswered
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy import asks as asks_module
from framegate.pipeline.heavy.asks import Asks
from tests.support.held_place import DEADLINE_S, HeldClock, HeldPlace, question, seen
from tests.support.runs import wait_until


@contextmanager
def asking(place: HeldPlace, patience_s: float = 60.0) -> Iterator[Asks]:
    asks = Asks(place, delay_s=0.0, patience_s=patience_s)
    try:
        yield asks
    finally:
        asks.close()


def answers(asks: Asks, *ids: QueryId) -> list[Reply]:
    """Wait, as a stage does, until all of them are answered."""
    until = time.monotonic() + DEADLINE_S
    while True:
        found = [asks.answer(one) for one in ids]
        if None not in found:
            return [answer for answer in found if answer is not None]
        assert select.select([asks], [], [], until - time.monotonic())[0], found
        asks.hear()


def opened(asks: Asks, place: HeldPlace) -> None:
    """Three failures: the breaker is open."""
    for seq in range(3):
        failing = question("fails", seq, due_mono=time.monotonic() + 60)
        asks.ask(failing)
        place.next().fail()
        assert answers(asks, failing.id) == [Unanswered("unanswered")]
    assert asks.counts.breaker == "open"


def test_a_question_is_answered_once_and_stays_answered() -> None:
    place, one = HeldPlace(), question()
    with asking(place) as asks:
        asks.ask(one)
        asks.ask(one)
        call = place.next()
        assert asks.answer(one.id) is None
        call.let()
        assert answers(asks, one.id) == [seen(one)]
        asks.ask(one)
        assert place.calls.empty()
        assert (asks.counts.answered, asks.counts.joined, asks.counts.sent_bytes) == (1, 0, 7)
        asks.forget(one.id)
        assert not asks.knows(one.id)
        assert asks.answer(one.id) is None


def test_what_waits_while_a_lane_is_busy_goes_together_in_turns() -> None:
    place = HeldPlace(most=3)
    rest = [question("a", 1), question("a", 2), question("b", 3), question("c", 4)]
    with asking(place) as asks:
        asks.ask(question("a", 0))
        first = place.next()
        for one in rest:
            asks.ask(one)
        first.let()
        second = place.next()
        assert [q.id.source for q in second.questions] == ["b", "c", "a"]
        second.let()
        place.next().let()
        assert answers(asks, *(q.id for q in rest)) == [seen(q) for q in rest]


def test_equal_questions_fly_once_and_all_who_asked_are_answered() -> None:
    place, one = HeldPlace(), question()
    twin = replace(one, id=QueryId("b", Position(2, 5)))
    with asking(place) as asks:
        asks.ask(one)
        call = place.next()
        asks.ask(twin)
        call.let()
        assert answers(asks, one.id, twin.id) == [seen(one)] * 2
        assert (asks.counts.answered, asks.counts.joined) == (1, 1)
        assert place.calls.empty()


def test_one_that_was_answered_is_forgotten_beside_a_twin_that_is_not() -> None:
    place, one = HeldPlace(), question()
    twin = replace(one, id=QueryId("b", Position(2, 5)))
    with asking(place) as asks:
        asks.ask(one)
        place.next().let()
        assert answers(asks, one.id) == [seen(one)]
        asks.ask(twin)
        call = place.next()
        asks.forget(one.id)
        call.let()
        assert answers(asks, twin.id) == [seen(one)]
        assert not asks.knows(one.id)


def test_one_that_waits_as_long_as_it_takes_is_not_given_up_with_a_twin_that_is_late() -> None:
    place, blocking = HeldPlace(), question("z", 0)
    late = question("a", 1, due_mono=time.monotonic() - 1)
    patient = replace(late, id=QueryId("b", Position(1, 1)), due_mono=None)
    with asking(place) as asks:
        asks.ask(blocking)
        call = place.next()
        asks.ask(late)
        asks.ask(patient)
        call.let()
        place.next().let()
        assert answers(asks, patient.id) == [seen(patient)]


def test_a_part_of_a_picture_is_another_question() -> None:
    whole = question()
    part = replace(whole, id=whole.id._replace(part=(0, 0, 2, 2)))
    assert whole.content != part.content
    assert whole.content != replace(whole, form=Form(4, 4, "bt709")).content


def test_late_is_said_at_once_and_the_answer_may_yet_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asks_module, "time", clock := HeldClock())
    place, one = HeldPlace(), question(due_mono=clock.now + 2.0)
    with asking(place) as asks:
        asks.ask(one)
        call = place.next()
        assert asks.answer(one.id) is None
        clock.now += 2.0
        assert asks.answer(one.id) == Unanswered("late")
        call.let()
        wait_until("its answer", lambda: asks.answer(one.id) == seen(one))


def test_what_is_late_before_it_went_out_does_not_go() -> None:
    place = HeldPlace()
    late, next_one = question("a", 1, due_mono=time.monotonic() - 1), question("a", 2)
    with asking(place) as asks:
        asks.ask(late)
        asks.ask(next_one)
        call = place.next()
        assert [q.id for q in call.questions] == [next_one.id]
        assert asks.answer(late.id) == Unanswered("late")
        assert asks.counts.degraded == {"late": 1}
        call.let()


def test_due_in_tells_the_first_that_is_still_awaited() -> None:
    place, now = HeldPlace(), time.monotonic()
    with asking(place) as asks:
        asks.ask(question("a", 0))
        assert asks.due_in() is None
        for seq, due in ((1, now + 500.0), (2, now + 100.0), (3, now - 1.0)):
            asks.ask(question("a", seq, due_mono=due))
        due_in = asks.due_in()
        assert due_in is not None
        assert 0 < due_in <= 100.0


def test_one_that_is_forgotten_before_it_went_out_does_not_go() -> None:
    place, forgotten, after = HeldPlace(), question("a", 1), question("a", 2)
    with asking(place) as asks:
        asks.ask(question("a", 0))
        first = place.next()
        for one in (forgotten, after):
            asks.ask(one)
        asks.forget(forgotten.id)
        first.let()
        call = place.next()
        assert [q.id for q in call.questions] == [after.id]
        asks.forget(after.id)  # it is under way: the answer comes and is nobody's
        call.let()
        asks.ask(again := question("a", 3))
        place.next().let()
        assert answers(asks, again.id) == [seen(again)]
        assert not asks.knows(after.id)


def test_one_that_is_forgotten_on_its_way_is_not_tried_again() -> None:
    place, forgotten, after = HeldPlace(), question("a", 0), question("a", 1)
    with asking(place) as asks:
        asks.ask(forgotten)
        call = place.next()
        asks.forget(forgotten.id)
        asks.ask(after)
        call.fail()
        call = place.next()
        assert [q.id for q in call.questions] == [after.id]
        call.let()
        assert answers(asks, after.id) == [seen(after)]
        assert (place.calls.empty(), asks.counts.degraded) == (True, {})


def test_the_breaker_opens_refuses_probes_and_closes() -> None:
    place = HeldPlace()
    with asking(place) as asks:
        opened(asks, place)
        live, patient = question("a", 5, due_mono=time.monotonic() + 60), question("a", 6)
        asks.ask(live)
        assert answers(asks, live.id) == [Unanswered("breaker_open")]
        asks.ask(patient)
        probe = place.next()
        assert asks.counts.breaker == "half_open"
        other = question("a", 7, due_mono=time.monotonic() + 60)
        asks.ask(other)
        assert answers(asks, other.id) == [Unanswered("breaker_open")]
        probe.let()
        assert answers(asks, patient.id) == [seen(patient)]
        assert asks.counts.breaker == "closed"


def test_a_probe_is_one_question() -> None:
    place = HeldPlace(most=4)
    with asking(place) as asks:
        opened(asks, place)
        patient = [question("a", seq) for seq in (5, 6, 7)]
        for one in patient:
            asks.ask(one)
        probe = place.next()
        assert len(probe.questions) == 1
        probe.let()
        rest = place.next()
        assert len(rest.questions) == 2
        rest.let()
        assert answers(asks, *(q.id for q in patient)) == [seen(q) for q in patient]


def test_one_without_a_due_time_is_tried_again_in_order() -> None:
    place, both = HeldPlace(most=2), [question("a", 1), question("a", 2)]
    with asking(place) as asks:
        asks.ask(question("z", 0))
        first = place.next()
        for one in both:
            asks.ask(one)
        first.let()
        place.next().fail()
        again = place.next()
        assert [q.id for q in again.questions] == [q.id for q in both]
        again.let()
        assert answers(asks, *(q.id for q in both)) == [seen(q) for q in both]
        assert asks.counts.degraded == {}


def test_patience_ends() -> None:
    place, one = HeldPlace(), question()
    with asking(place, patience_s=0.0) as asks:
        asks.ask(one)
        place.next().fail()
        assert answers(asks, one.id) == [Unanswered("unanswered")]


def test_a_place_that_answers_too_few_or_breaks_has_failed() -> None:
    place = HeldPlace()
    with asking(place, patience_s=0.0) as asks:
        for seq, word in enumerate([[], RuntimeError("broken")]):
            asks.ask(one := question("a", seq))
            place.next().word.put(word)
            assert answers(asks, one.id) == [Unanswered("unanswered")]
        asks.ask(one := question("a", 9))
        place.next().let()
        assert answers(asks, one.id) == [seen(one)]


def test_a_place_may_leave_one_question_unanswered() -> None:
    place, poison = HeldPlace(), question()
    with asking(place) as asks:
        asks.ask(poison)
        place.next().word.put([Unanswered("unanswered")])
        assert answers(asks, poison.id) == [Unanswered("unanswered")]
        assert asks.counts.breaker == "closed"


def test_closing_ends_calls_that_are_under_way() -> None:
    place = HeldPlace(lanes=2)
    with asking(place) as asks:
        for source in ("a", "b", "c"):
            asks.ask(question(source))
        place.next()
        place.next()
    assert place.calls.empty()
