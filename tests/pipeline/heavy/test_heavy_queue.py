"""Queries and replies through a real Valkey, with real worker processes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.queries import (
    PlaceFailed,
    Predictions,
    Query,
    QueryId,
    Reply,
    Unanswered,
)
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy import queue
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.batching import BatchLimits
from framegate.pipeline.heavy.queue import GROUP, MAX_ENTRIES, HeavyQueue, QueryMessage
from framegate.pipeline.heavy.worker import HeavyAsks, HeavyWorker
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.heavy_process import POLICY, heavy_worker
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.servers import server

FORM = Form(40, 20)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with server(tmp_path_factory.mktemp("heavy")) as store:
        yield store


@pytest.fixture
def store(running: EmbeddedStore) -> EmbeddedStore:
    """A server with nothing in it."""
    with client_of(running) as client:
        client.flushall()
    return running


def client_of(store: EmbeddedStore) -> Any:
    return redis.Redis.from_url(store.url, protocol=2)


def question(
    picture: bytes = b"x" * 50, source: str = "a", seq: int = 0, due_mono: float | None = None
) -> Query:
    return Query(QueryId(source, Position(1, seq)), FORM, picture, due_mono)


def seen(score: float = 0.5) -> Predictions:
    return Predictions(((0.0, 0.0, 40.0, 20.0),), (score,), (0,), ("test",))


@contextmanager
def asking(store: EmbeddedStore, policy: str = POLICY, precision: str = "") -> Iterator[HeavyQueue]:
    place = HeavyQueue(store.url, lambda asked: asked.pixels, policy, precision=precision)
    try:
        yield place
    finally:
        place.close()


class Asked:
    """A call of the place in a thread of its own."""

    def __init__(self, place: HeavyQueue, questions: Sequence[Query]) -> None:
        self._found: Sequence[Reply] | PlaceFailed | None = None
        self._thread = threading.Thread(target=self._ask, args=(place, questions))
        self._thread.start()

    def _ask(self, place: HeavyQueue, questions: Sequence[Query]) -> None:
        try:
            self._found = place.answer(questions)
        except PlaceFailed as error:
            self._found = error

    def found(self) -> Sequence[Reply] | PlaceFailed:
        self._thread.join(DEADLINE_S)
        assert self._found is not None
        return self._found


def there(client: Any) -> None:
    """Wait until a worker is."""
    wait_until("a worker is there", lambda: client.exists(keys.HEAVY_ALIVE))


def looked(client: Any, n: int) -> list[tuple[int, str, int]]:
    """Wait until so many looks have begun: (process, source, number) of each."""
    wait_until(f"{n} looks", lambda: client.llen("test:looked") >= n)
    lines = [line.decode().split() for line in client.lrange("test:looked", 0, -1)]
    return [(int(pid), source, int(number)) for pid, source, number in lines]


def test_questions_are_answered_in_their_order_and_nothing_is_left(store: EmbeddedStore) -> None:
    pictures = [b"x" * 10, b"x" * 90, b"damaged", b"x" * 30]
    with heavy_worker(store.url), client_of(store) as client, asking(store) as place:
        there(client)
        found = place.answer([question(p, seq=n) for n, p in enumerate(pictures)])
        assert found == [seen(0.1), seen(0.9), Unanswered("unanswered"), seen(0.3)]
        assert place.sent_bytes == sum(map(len, pictures))
        assert 0 < place.wire_s < 60
        assert client.xlen(keys.HEAVY_ASKS) == 0
        assert client.xpending(keys.HEAVY_ASKS, GROUP)["pending"] == 0
        assert client.keys("fg:heavy:reply:*") == []


def test_without_a_worker_it_fails_at_once_and_says_what_to_start(store: EmbeddedStore) -> None:
    with asking(store) as place, client_of(store) as client:
        with pytest.raises(PlaceFailed, match="framegate worker --heavy --redis"):
            place.answer([question()])
        assert client.xlen(keys.HEAVY_ASKS) == 0


def test_who_is_absent_is_told_and_how_to_start_one(store: EmbeddedStore, tmp_path: Path) -> None:
    with asking(store) as place, client_of(store) as client:
        told = place.absent()
        assert told is not None
        assert told.endswith(f"framegate worker --heavy --redis {store.url}")
        client.set(keys.HEAVY_ALIVE, "somebody")
        assert place.absent() is None
    nowhere = HeavyQueue(f"unix://{tmp_path}/none.sock", lambda asked: asked.pixels, POLICY)
    assert "cannot be reached" in (nowhere.absent() or "")
    nowhere.close()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_store_of_the_runs_own_is_not_named_to_other_hosts(
    store: EmbeddedStore, is_there: bool
) -> None:
    url = store.url if is_there else ""
    place = HeavyQueue(url, lambda asked: asked.pixels, POLICY, is_own=True)
    with pytest.raises(PlaceFailed) as failed:
        place.answer([question()])
    assert place.absent() == str(failed.value)
    assert "framegate worker --heavy -d DATA" in str(failed.value)
    assert "escalate.url" in str(failed.value)
    assert "unix" not in str(failed.value)
    place.close()


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("", "its models, precision or thresholds differ"),
        ("int8", "its models or thresholds differ; the precision, int8, is the same"),
        (
            "int8+bf16",
            "its precision is int8, that of this run is int8+bf16; start it with framegate worker "
            "--heavy --precision int8+bf16",
        ),
    ],
)
def test_a_worker_with_another_policy_is_refused(
    store: EmbeddedStore, precision: str, words: str
) -> None:
    with heavy_worker(store.url), client_of(store) as client:
        there(client)
        with asking(store, "wanted", precision) as place, pytest.raises(PlaceFailed) as refused:
            place.answer([question()])
        assert str(refused.value).endswith(f"policy policy-o, expected is wanted: {words}")


def test_without_a_store_it_fails(tmp_path: Path) -> None:
    place = HeavyQueue(f"unix://{tmp_path}/none.sock", lambda asked: asked.pixels, POLICY)
    with pytest.raises(PlaceFailed, match="cannot be reached"):
        place.answer([question()])
    place.close()


def test_what_is_late_is_not_looked_at(store: EmbeddedStore) -> None:
    late = question(source="late", due_mono=time.monotonic() - 0.2)
    with heavy_worker(store.url), client_of(store) as client, asking(store) as place:
        there(client)
        assert place.answer([late, question()]) == [Unanswered("late"), seen()]
        assert [source for _, source, _ in looked(client, 1)] == ["a"]


def test_an_answer_that_comes_after_its_time_still_comes(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "GRACE_S", DEADLINE_S)
    with heavy_worker(store.url), client_of(store) as client, asking(store) as place:
        there(client)
        due = time.monotonic() + 10.0  # it begins before, on a busy machine too
        asked = Asked(place, [question(b"hold", due_mono=due)])
        looked(client, 1)
        wait_until("it is late", lambda: time.monotonic() >= due)
        client.rpush("test:go", "")
        assert asked.found() == [seen(0.04)]


@pytest.mark.whole_run
def test_a_killed_workers_questions_are_answered_by_another_each_once(
    store: EmbeddedStore,
) -> None:
    questions = [question(b"hold", seq=n) for n in range(3)]
    with client_of(store) as client, asking(store) as place:
        with heavy_worker(store.url) as first:
            there(client)
            asked = Asked(place, questions)
            assert looked(client, 1)[0][0] == first.pid
        client.rpush("test:go", *range(3))
        with heavy_worker(store.url) as second:
            assert asked.found() == [seen(0.04)] * 3
            assert [pid for pid, _, _ in looked(client, 4)[1:]] == [second.pid] * 3
            numbers = sorted(number for _, _, number in looked(client, 4)[1:])
            assert numbers == [0, 1, 2]


@pytest.mark.long
def test_a_question_that_kills_whoever_looks_is_given_up(store: EmbeddedStore) -> None:
    with client_of(store) as client, asking(store) as place:
        deaths = 0
        with heavy_worker(store.url) as worker:
            there(client)
            asked = Asked(place, [question(b"die", due_mono=None)])
            worker.wait(DEADLINE_S)
            deaths += 1
        while not isinstance(asked._found, list | PlaceFailed) and deaths < 5:
            with heavy_worker(store.url) as worker:
                wait_until("it dies or answers", lambda w=worker: w.poll() or asked._found)
                deaths += worker.poll() == -signal.SIGKILL
        assert deaths == 3
        assert client.xlen(keys.HEAVY_ASKS) == 0


def test_two_workers_share_the_questions(store: EmbeddedStore) -> None:
    with (
        heavy_worker(store.url) as first,
        heavy_worker(store.url) as second,
        client_of(store) as client,
        asking(store) as place,
    ):
        there(client)
        wait_until("both", lambda: len(client.xinfo_consumers(keys.HEAVY_ASKS, GROUP)) == 2)
        held = [Asked(place, [question(b"hold", seq=0)])]
        looked(client, 1)
        held += [Asked(place, [question(b"hold", seq=n)]) for n in range(1, 20)]
        both = {first.pid, second.pid}
        wait_until("both look", lambda: {pid for pid, _, _ in looked(client, 1)} == both)
        client.rpush("test:go", *range(20))
        assert [asked.found() for asked in held] == [[seen(0.04)]] * 20
        assert len(looked(client, 20)) == 20


def test_a_store_that_was_killed_comes_back_with_its_questions(store: EmbeddedStore) -> None:
    questions = [question(bytes([n]) * n, seq=n) for n in range(1, 41)]
    with heavy_worker(store.url), client_of(store) as client:
        there(client)
        asks = Asks(HeavyQueue(store.url, lambda asked: asked.pixels, POLICY))
        try:
            for one in questions[:20]:
                asks.ask(one)
            assert store.process is not None
            store.process.kill()
            store.process.wait()
            store.start()
            for one in questions[20:]:
                asks.ask(one)
            for n, one in enumerate(questions, 1):
                wait_until("an answer", lambda one=one: asks.answer(one.id))
                assert asks.answer(one.id) == seen(n / 100)
        finally:
            asks.close()


def test_workers_join_again_where_the_store_was_emptied(store: EmbeddedStore) -> None:
    with heavy_worker(store.url), client_of(store) as client, asking(store) as place:
        there(client)
        client.flushall()
        there(client)
        assert place.answer([question()]) == [seen()]


def test_what_is_asked_is_bounded(store: EmbeddedStore) -> None:
    with client_of(store) as client, asking(store) as place:
        client.set(keys.HEAVY_ALIVE, "a worker that reads nothing")
        asked = Asked(place, [question(seq=n) for n in range(MAX_ENTRIES + 100)])
        wait_until("they are asked", lambda: client.xlen(keys.HEAVY_ASKS) >= MAX_ENTRIES)
        place.close()
        assert isinstance(asked.found(), PlaceFailed)
        assert client.xlen(keys.HEAVY_ASKS) <= MAX_ENTRIES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_answers_what_it_has(
    store: EmbeddedStore, number: signal.Signals
) -> None:
    with heavy_worker(store.url) as worker, client_of(store) as client, asking(store) as place:
        there(client)
        asked = Asked(place, [question(b"hold", seq=n) for n in range(3)])
        looked(client, 1)
        worker.send_signal(number)
        client.rpush("test:go", *range(3))
        assert asked.found() == [seen(0.04)] * 3
        assert worker.wait(DEADLINE_S) == 0
        assert client.xinfo_consumers(keys.HEAVY_ASKS, GROUP) == []


class HeldLooker:
    """Looks until it is let go."""

    policy, precision = POLICY, "int8"

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def look(self, asked: Sequence[QueryMessage]) -> list[Predictions | None]:
        self.begun.release()
        self.go.acquire()
        return [seen() for _ in asked]


def test_a_reply_on_its_way_keeps_nobody_from_looking(store: EmbeddedStore) -> None:
    looker = HeldLooker()
    worker = HeavyWorker(HeavyAsks(store.url), looker, BatchLimits(1, 0.0))
    serving = threading.Thread(target=worker.serve)
    serving.start()
    try:
        with client_of(store) as client, asking(store) as place:
            there(client)
            asked = Asked(place, [question(seq=n) for n in range(2)])
            looker.begun.acquire()
            wait_until(
                "both are taken", lambda: client.xpending(keys.HEAVY_ASKS, GROUP)["pending"] == 2
            )
            # The store may tell us before it tells the worker; with the next call both are told.
            client.ping()
            assert store.process is not None
            store.process.send_signal(signal.SIGSTOP)
            try:
                looker.go.release(2)
                assert looker.begun.acquire(timeout=8.0)  # less than a silent store is waited for
            finally:
                store.process.send_signal(signal.SIGCONT)
            assert asked.found() == [seen()] * 2
    finally:
        worker.stop()
        serving.join()
