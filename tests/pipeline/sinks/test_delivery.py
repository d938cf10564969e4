"""A sink continues after a failure of its receiver's library and of the store."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

import pytest

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import Step
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.stage import NoState
from framegate.pipeline.sinks.delivery import Delivery, Message, MessageOutcome, ReceiverUnavailable
from framegate.pipeline.sinks.mqtt import RuleStates
from framegate.pipeline.sinks.notify import LastSent
from framegate.pipeline.sinks.position import SinkPosition, SinkPositions
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.redis_client import connect
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.told_episodes import Teller, following

NUMBERS = itertools.count()
CONFIG = SinkConfig("webhook", "http://127.0.0.1:1/")


class Noting:
    """A receiver that records messages; its first `fails` deliveries raise an error."""

    initial_state = NoState()
    steps: Collection[Step] = get_args(Step)

    def __init__(self, fails: int = 0) -> None:
        self.came: list[str] = []
        self.closed = False
        self._fails = fails

    def begin(self, states: Mapping[str, NoState]) -> None:
        """Do nothing."""

    def deliver(self, message: Message, state: NoState) -> tuple[MessageOutcome, NoState]:
        if self._fails:
            self._fails -= 1
            raise ValueError("a library of the receiver's fails")
        self.came.append(message.id)
        return "delivered", state

    def close(self) -> None:
        self.closed = True


class Away(Noting):
    """A receiver that is away as long as `is_away`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True
        self.tries = 0
        self.begun: set[str] = set()

    def begin(self, states: Mapping[str, NoState]) -> None:
        self.begun = set(states)

    def deliver(self, message: Message, state: NoState) -> tuple[MessageOutcome, NoState]:
        self.tries += 1
        if self.is_away:
            raise ReceiverUnavailable("away")
        return super().deliver(message, state)


@contextmanager
def delivering(store: EmbeddedStore, receiver: Away) -> Iterator[Delivery[NoState]]:
    """A sink of the run `mine`, which follows the source `gate`."""
    delivery = Delivery("odd", CONFIG, receiver, store.url, run="mine")
    delivery.take_sources({"gate": 0})
    delivery.start()
    try:
        yield delivery
    finally:
        delivery.finish()
        delivery.join(DEADLINE_S)
        assert not delivery.is_alive()


def has_left(delivery: Delivery[NoState], receiver: Away) -> bool:
    """Add one more source, and return whether the sink has begun with it, and without `gate`."""
    delivery.take_sources({f"yard{next(NUMBERS)}": 0})
    return bool(receiver.begun) and "gate" not in receiver.begun


def test_the_last_entries_of_a_removed_source_wait_for_a_receiver_that_is_away(
    store: EmbeddedStore, teller: Teller
) -> None:
    receiver = Away()
    with delivering(store, receiver) as delivery:
        told = teller.starts("gate", 1)
        wait_until("it is tried", lambda: receiver.tries)
        delivery.take_sources({})
        tries = receiver.tries
        wait_until("it is tried again", lambda: receiver.tries > tries + 1)
        receiver.is_away = False
        wait_until("it is there", lambda: receiver.came == told)
        wait_until("the source is left", lambda: has_left(delivery, receiver))


def test_the_entries_of_a_source_that_moved_to_another_run_are_left_to_its_sink(
    store: EmbeddedStore, teller: Teller
) -> None:
    receiver = Away()
    with delivering(store, receiver) as delivery:
        teller.starts("gate", 1)
        wait_until("it is tried", lambda: receiver.tries)
        teller.client.hset(keys.own("gate"), "run", "other")
        wait_until("the source is left", lambda: has_left(delivery, receiver))
    assert receiver.came == []


def test_a_library_that_fails_is_logged_and_the_message_is_told(
    store: EmbeddedStore, teller: Teller, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Noting(fails=2)
    with following(store, "odd", CONFIG, receiver, "gate"):
        told = teller.starts("gate", 1, 2)
        wait_until("both are there", lambda: receiver.came == told)
    assert receiver.closed
    assert "sink odd failed; restarting it" in caplog.text


def test_a_muted_episode_is_not_delivered(store: EmbeddedStore, teller: Teller) -> None:
    receiver = Noting()
    with following(store, "odd", CONFIG, receiver, "gate"):
        teller.starts("gate", 1, muted="muted_1/0a1b2c3d")
        told = teller.starts("gate", 2)
        wait_until("the other is there", lambda: receiver.came == told)


def test_a_store_that_begins_anew_is_waited_for_and_nothing_is_told_twice(
    store: EmbeddedStore, teller: Teller
) -> None:
    receiver = Noting()
    with following(store, "odd", CONFIG, receiver, "gate"):
        told = teller.starts("gate", 1)
        wait_until("the first", lambda: receiver.came == told)
        wait_until("it is done", lambda: teller.standing("gate", "odd").get("p") == "1-1")
        store.stop()
        store.start()
        told += teller.starts("gate", 2)
        wait_until("and the second", lambda: receiver.came == told)


def test_a_store_that_is_away_is_asked_with_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "framegate.pipeline.sinks.delivery")
    delivery = Delivery("odd", CONFIG, Noting(), "redis://127.0.0.1:1")
    delivery.take_sources({"gate": 0})
    delivery.start()

    def attempts() -> list[float]:
        return [each.relativeCreated for each in caplog.records if "cannot be" in each.message]

    try:
        wait_until("seven attempts", lambda: len(attempts()) >= 7, DEADLINE_S)
    finally:
        delivery.finish()
        delivery.join(DEADLINE_S)
    assert not delivery.is_alive()
    first, *_, last = attempts()[:7]
    # Six pauses: at least half of 20, 40, 80, 160, 320 and 640 ms.
    assert last - first > 600.0


def test_a_sink_of_another_kind_begins_without_the_state_of_the_kind_before(
    store: EmbeddedStore,
) -> None:
    with connect(store.url) as client:
        client.hset(
            keys.sink("gate", "odd"),
            mapping={"p": "1-7", "n": 3, "s": records.encode(LastSent({"visitor": 1.0}))},
        )
        at = SinkPositions(client, "odd", RuleStates()).load("gate", 0)
    assert at == SinkPosition(Position(1, 7), 3, RuleStates())


def test_a_sink_that_is_added_to_a_run_begins_now_and_keeps_its_position(
    store: EmbeddedStore, teller: Teller
) -> None:
    teller.starts("gate", 1, 2)
    with connect(store.url) as client:
        positions = SinkPositions(client, "odd", NoState())
        at = positions.load("gate", 0, begins_now=True)
        assert positions.read("gate", at) == (None, [])
        (later,) = teller.starts("gate", 3)
        again = SinkPositions(client, "odd", NoState()).load("gate", 0, begins_now=True)
        assert again == at, "a process that starts again skips nothing"
        lost, (entry,) = positions.read("gate", again)
        assert (lost, str(entry.position)) == (None, "1-3")
        assert entry.events is not None
        assert [each.id for each in entry.events.changes.changes] == [later]
        new = positions.load("yard", 0, begins_now=True)
        assert (new.position.epoch, new.index) == (0, 0), "of a source without a stream, all"
