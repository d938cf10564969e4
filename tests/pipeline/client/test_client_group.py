"""In a consumer group each result goes to one consumer, at least once."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest

from framegate import Subscription, subscribe
from framegate.pipeline.contracts.errors import ResultsTrimmed
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.published import Publisher
from tests.support.runs import wait_until

STREAM = "fg:{door}:results"


def member(store: EmbeddedStore, consumer: str, claim_after_s: float = 60.0) -> Subscription:
    return subscribe(
        store.url,
        ["door"],
        "earliest",
        group="counters",
        consumer=consumer,
        claim_after_s=claim_after_s,
    )


def seqs(subscription: Subscription, count: int, acknowledge: bool) -> list[int]:
    results: list[Result] = list(itertools.islice(subscription, count))
    for result in results:
        if acknowledge:
            subscription.ack(result)
    return [result.seq for result in results]


def pending(publisher: Publisher) -> int:
    return int(publisher.client.xpending(STREAM, "counters")["pending"])


def test_consumers_share_the_results(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(64))
    with member(store, "one") as one, member(store, "two") as two:
        assert seqs(one, 64, acknowledge=True) == list(range(64))
        publisher.results("door", 1, range(64, 66))
        assert seqs(two, 2, acknowledge=True) == [64, 65]
        publisher.results("door", 1, [66])
        assert seqs(one, 1, acknowledge=True) == [66]
    assert pending(publisher) == 0


def test_a_consumer_that_comes_back_first_gets_what_it_did_not_acknowledge(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(70))
    with member(store, "one") as one:
        assert seqs(one, 3, acknowledge=True) == [0, 1, 2]
        assert seqs(one, 2, acknowledge=False) == [3, 4]
    with member(store, "one") as one:
        assert seqs(one, 67, acknowledge=True) == list(range(3, 70))
    assert pending(publisher) == 0


def test_what_a_dead_consumer_held_is_taken_over(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(5))
    with member(store, "dead") as dead:
        assert seqs(dead, 5, acknowledge=False) == [0, 1, 2, 3, 4]
    with member(store, "heir", claim_after_s=0.0) as heir:
        assert seqs(heir, 5, acknowledge=True) == [0, 1, 2, 3, 4]
        publisher.results("door", 1, [5])
        assert seqs(heir, 1, acknowledge=True) == [5]
    assert pending(publisher) == 0


def test_a_consumer_does_not_take_its_own_results_over(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(3))
    with member(store, "one", claim_after_s=0.0) as one:
        assert seqs(one, 3, acknowledge=False) == [0, 1, 2]
        publisher.results("door", 1, [3])
        assert seqs(one, 1, acknowledge=False) == [3]


def test_ends_are_acknowledged_by_themselves(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(1))
    publisher.end("door", 1, 1)
    publisher.results("door", 2, range(1))
    with member(store, "one") as one:
        assert seqs(one, 2, acknowledge=True) == [0, 0]
        assert one.ends["door"].frames == 1
        publisher.results("door", 2, [1])
        assert seqs(one, 1, acknowledge=True) == [1]
    assert pending(publisher) == 0


def test_results_that_nobody_got_before_they_were_trimmed_are_told(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(3))
    with member(store, "one") as one:
        assert seqs(one, 3, acknowledge=True) == [0, 1, 2]
        publisher.results("door", 1, range(3, 10))
        publisher.trim("door", 2)
        with pytest.raises(ResultsTrimmed, match="after 1-2 and before 1-8"):
            next(one)
        assert seqs(one, 2, acknowledge=True) == [8, 9]


def test_pending_results_that_were_trimmed_are_told(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(4))
    with member(store, "one") as one:
        assert seqs(one, 4, acknowledge=False) == [0, 1, 2, 3]
    publisher.trim("door", 2)
    with member(store, "one") as one:
        with pytest.raises(ResultsTrimmed, match="before 1-2"):
            next(one)
        assert seqs(one, 2, acknowledge=True) == [2, 3]
        publisher.results("door", 1, [4])
        assert seqs(one, 1, acknowledge=True) == [4]
    assert pending(publisher) == 0


def test_asyncio_acknowledges_too(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(2))

    async def read() -> list[int]:
        found = []
        async with member(store, "one") as one:
            for _ in range(2):
                result = await anext(one)
                await one.aack(result)
                found.append(result.seq)
        return found

    assert asyncio.run(read()) == [0, 1]
    assert pending(publisher) == 0


def test_what_does_not_go_together_is_refused(store: EmbeddedStore) -> None:
    with pytest.raises(ValueError, match="both or neither"):
        subscribe(store.url, group="counters")
    with pytest.raises(ValueError, match="until_end"):
        subscribe(store.url, group="counters", consumer="one", until_end=True)


def test_a_source_that_the_store_forgot_is_joined_again(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    """Its stream is gone, and the group with it; a source of the name may come again."""
    publisher.results("door", 1, range(3))
    with member(store, "one") as one:
        assert seqs(one, 2, acknowledge=True) == [0, 1]
        assert seqs(one, 1, acknowledge=False) == [2]
        publisher.client.delete(STREAM)
        publisher.client.hdel("fg:sources", "door")
        publisher.results("door", 2, range(2))
        found = list(itertools.islice(one, 2))
        assert [(each.epoch, each.seq) for each in found] == [(2, 0), (2, 1)]
        for each in found:
            one.ack(each)
    assert pending(publisher) == 0


def test_a_new_group_begins_at_a_saved_position(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(5))
    start = {"door": "1-2"}
    with subscribe(store.url, ["door"], start, group="late", consumer="one") as one:
        assert seqs(one, 2, acknowledge=True) == [3, 4]


def test_a_new_group_begins_with_what_comes(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(5))
    found: list[int] = []
    with subscribe(store.url, ["door"], "new", group="late", consumer="one") as one:
        reads = threading.Thread(target=lambda: found.extend(seqs(one, 1, acknowledge=True)))
        reads.start()
        wait_until("the group waits", lambda: publisher.waiting_readers() == 1)
        publisher.results("door", 1, [5])
        reads.join()
    assert found == [5]
