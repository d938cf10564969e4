"""A subscription gives every result once, in order, and says so where it cannot."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from redis.typing import EncodableT, FieldT

from framegate import Subscription, subscribe
from framegate.pipeline.client.follower import RESULTS, WHOLE, Follower
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    ResultsTrimmed,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.contracts.records import START, VERSION, End, Record, SideOutput
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.published import Publisher
from tests.support.runs import DEADLINE_S
from tests.support.told_store import telling_its_store


def places(results: list[Result]) -> list[tuple[str, str]]:
    return [(result.source, str(result.position)) for result in results]


def taken(subscription: Subscription, count: int) -> list[tuple[str, str]]:
    return places(list(itertools.islice(subscription, count)))


def until(subscription: Subscription, publisher: Publisher, into: list[Result]) -> threading.Thread:
    """Collect in a thread until the sources end; return once it waits for results."""
    thread = threading.Thread(target=lambda: into.extend(subscription))
    thread.start()
    while not publisher.waiting_readers():
        time.sleep(0.005)
    return thread


def test_earliest_gives_all_results_of_all_sources_and_ends(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(100))
    publisher.end("door", 1, 100, last=False)
    publisher.results("door", 2, range(5))
    publisher.end("door", 2, 5)
    publisher.results("yard", 1, range(3))
    publisher.end("yard", 1, 3)
    with subscribe(store.url, start="earliest", until_end=True) as subscription:
        found = places(list(subscription))
        ends = subscription.ends
    door = [("door", f"1-{n}") for n in range(100)] + [("door", f"2-{n}") for n in range(5)]
    assert [place for place in found if place[0] == "door"] == door
    assert [place for place in found if place[0] == "yard"] == [
        ("yard", f"1-{n}") for n in range(3)
    ]
    assert {name: (end.frames, end.last) for name, end in ends.items()} == {
        "door": (5, True),
        "yard": (3, True),
    }


def test_a_source_that_runs_again_has_not_ended(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(63))
    publisher.end("door", 1, 63)  # the last of the first read
    publisher.results("door", 2, range(2))
    publisher.end("door", 2, 2)
    with subscribe(store.url, ["door"], "earliest", until_end=True) as subscription:
        assert len(list(subscription)) == 65


def test_new_gives_what_comes_after_and_sources_that_appear(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(3))
    found: list[Result] = []
    with subscribe(store.url, until_end=True) as subscription:
        thread = until(subscription, publisher, found)
        publisher.results("yard", 1, range(2))
        publisher.end("yard", 1, 2)
        publisher.results("door", 1, range(3, 5))
        publisher.end("door", 1, 5)
        thread.join()
    assert sorted(places(found)) == [
        ("door", "1-3"),
        ("door", "1-4"),
        ("yard", "1-0"),
        ("yard", "1-1"),
    ]


def test_named_sources_are_followed_before_they_exist(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    found: list[Result] = []
    with subscribe(store.url, ["door"], until_end=True) as subscription:
        thread = until(subscription, publisher, found)
        publisher.results("yard", 1, range(2))
        publisher.results("door", 1, range(2))
        publisher.end("door", 1, 2)
        thread.join()
    assert places(found) == [("door", "1-0"), ("door", "1-1")]


def test_a_saved_position_goes_on_after_it(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(4))
    publisher.results("yard", 1, range(1))
    with subscribe(store.url, start={"door": "1-2"}) as subscription:
        assert sorted(taken(subscription, 2)) == [("door", "1-3"), ("yard", "1-0")]


def test_a_whole_epoch_that_was_seen_is_gone_on_after(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    """Whatever its last result was; the end of that epoch is not the one that is waited for."""
    publisher.results("door", 1, range(3))
    publisher.end("door", 1, 3)
    found: list[Result] = []
    start = {"door": f"1-{WHOLE}", "yard": f"0-{WHOLE}"}
    with subscribe(store.url, ["door", "yard"], start, until_end=True) as subscription:
        thread = until(subscription, publisher, found)
        for name, epoch in (("door", 2), ("yard", 1)):
            publisher.results(name, epoch, range(2))
            publisher.end(name, epoch, 2)
        thread.join()
    assert sorted(places(found)) == [
        ("door", "2-0"),
        ("door", "2-1"),
        ("yard", "1-0"),
        ("yard", "1-1"),
    ]


def test_a_first_epoch_that_was_trimmed_before_the_first_read_is_told(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(9))
    publisher.trim("door", 4)
    with (
        subscribe(store.url, ["door"], {"door": f"0-{WHOLE}"}) as subscription,
        pytest.raises(ResultsTrimmed),
    ):
        next(subscription)


def test_trimmed_results_are_told_and_reading_goes_on(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(3))
    with subscribe(store.url, ["door"], "earliest") as subscription:
        assert len(taken(subscription, 3)) == 3
        publisher.results("door", 1, range(3, 10))
        publisher.trim("door", 2)
        with pytest.raises(ResultsTrimmed) as caught:
            next(subscription)
        assert (caught.value.after, caught.value.before) == ("1-2", "1-8")
        assert taken(subscription, 2) == [("door", "1-8"), ("door", "1-9")]
        publisher.results("door", 1, range(10, 12))
        publisher.trim("door", 2)
        assert taken(subscription, 2) == [("door", "1-10"), ("door", "1-11")]


def test_what_was_read_may_be_trimmed_even_where_frames_are_missing(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(3))
    with subscribe(store.url, ["door"], "earliest") as subscription:
        assert len(taken(subscription, 3)) == 3
        publisher.results("door", 1, [7, 9])  # a live source dropped 3 to 6 and 8
        publisher.trim_before("door", "1-7")
        assert taken(subscription, 2) == [("door", "1-7"), ("door", "1-9")]
        publisher.results("door", 3, [0])
        publisher.trim_before("door", "3-0")
        assert taken(subscription, 1) == [("door", "3-0")]


def test_results_that_were_trimmed_before_the_first_read_are_told(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(3))
    with subscribe(store.url, ["door"]) as subscription, ThreadPoolExecutor() as threads:
        waiting = threads.submit(next, subscription)
        while not publisher.waiting_readers():
            time.sleep(0.005)
        with publisher.client.pipeline(transaction=True) as together:
            for seq in range(3, 8):
                together.xadd("fg:{door}:results", {"k": "frame", "d": b""}, id=f"1-{seq}")
            together.xtrim("fg:{door}:results", minid="1-9", approximate=False)
            together.execute()
        publisher.results("door", 1, range(9, 10))
        with pytest.raises(ResultsTrimmed, match="after 1-2 and before 1-9"):
            waiting.result()


@pytest.mark.parametrize(("first_left", "gap"), [("1-2", False), ("1-3", False), ("1-4", True)])
def test_a_saved_position_that_is_gone(
    store: EmbeddedStore, publisher: Publisher, first_left: str, gap: bool
) -> None:
    publisher.results("door", 1, range(6))
    publisher.trim_before("door", first_left)
    with subscribe(store.url, ["door"], {"door": "1-2"}) as subscription:
        if gap:
            with pytest.raises(ResultsTrimmed, match="after 1-2 and before 1-4"):
                next(subscription)
        assert taken(subscription, 1) == [("door", "1-4" if gap else "1-3")]


@pytest.mark.parametrize(("trimmed", "epoch"), [(False, 1), (False, 2), (True, 1)])
def test_a_position_that_was_saved_before_anything_came(
    store: EmbeddedStore, publisher: Publisher, trimmed: bool, epoch: int
) -> None:
    publisher.results("door", epoch, range(4))
    if trimmed:
        publisher.trim_before("door", f"{epoch}-2")
    with subscribe(store.url, ["door"], {"door": str(START)}) as subscription:
        if trimmed:
            with pytest.raises(ResultsTrimmed, match="after 0-0 and before 1-2"):
                next(subscription)
        assert taken(subscription, 1) == [("door", f"{epoch}-{2 if trimmed else 0}")]


def test_a_killed_store_is_waited_for(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(3))
    with subscribe(store.url, ["door"], "earliest") as subscription:
        assert len(taken(subscription, 3)) == 3
        assert store.process is not None
        os.kill(store.process.pid, signal.SIGKILL)
        store.process.wait()
        store.start()
        publisher.results("door", 1, range(3, 5))
        assert taken(subscription, 2) == [("door", "1-3"), ("door", "1-4")]


def test_patience_ends(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(1))
    with subscribe(store.url, ["door"], "earliest", patience_s=0.0) as subscription:
        next(subscription)
        store.stop()
        with pytest.raises(StoreLost, match="cannot be reached"):
            next(subscription)


def test_a_closed_subscription_reads_nothing(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(2))
    with subscribe(store.url, ["door"], "earliest") as subscription:
        next(subscription)
    with pytest.raises(ValueError, match="this subscription is closed"):
        next(subscription)

    async def read() -> None:
        async with subscribe(store.url, ["door"], "earliest") as again:
            await anext(again)
        await anext(again)

    with pytest.raises(ValueError, match="this subscription is closed"):
        asyncio.run(read())


def test_an_emptied_store_is_refused(store: EmbeddedStore, publisher: Publisher) -> None:
    publisher.results("door", 1, range(1))
    with subscribe(store.url, ["door"], "earliest") as subscription:
        next(subscription)
        publisher.client.flushall()
        publisher.client.set("fg:identity", "another")
        with pytest.raises(StoreRefused, match="emptied or replaced"):
            next(subscription)


def test_a_data_folder_stands_for_the_store_of_its_run(
    store: EmbeddedStore, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    publisher.results("door", 1, range(1))
    with (
        telling_its_store(tmp_path, store.url),
        subscribe(tmp_path, start="earliest") as subscription,
    ):
        assert taken(subscription, 1) == [("door", "1-0")]
    with pytest.raises(ConfigFaults, match="no run is active"):
        subscribe(tmp_path)


def test_asyncio_gives_the_same_and_survives_a_cancelled_wait(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    publisher.results("door", 1, range(3))

    async def read() -> list[Result]:
        async with subscribe(store.url, ["door"], "earliest", until_end=True) as subscription:
            found = [await anext(subscription) for _ in range(3)]
            wait = asyncio.create_task(anext(subscription))  # type: ignore[arg-type]
            while not publisher.waiting_readers():
                await asyncio.sleep(0.005)
            wait.cancel()
            await asyncio.gather(wait, return_exceptions=True)
            publisher.results("door", 1, range(3, 5))
            publisher.end("door", 1, 5)
            return found + [result async for result in subscription]

    assert places(asyncio.run(read())) == [("door", f"1-{n}") for n in range(5)]


def test_one_cancellation_ends_a_read_wherever_it_is(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    """`asyncio.wait_for` of Python 3.11 loses a cancellation that comes in its last step."""
    publisher.results("door", 1, range(1))

    async def cancel_each() -> None:
        for steps in range(40):  # of the event loop, before the cancellation
            async with subscribe(store.url, ["door"]) as subscription:
                wait = asyncio.create_task(anext(subscription))  # type: ignore[arg-type]
                for _ in range(steps):
                    await asyncio.sleep(0)
                wait.cancel()
                await asyncio.wait({wait}, timeout=DEADLINE_S)
                assert wait.cancelled(), f"after {steps} steps the cancellation was lost"

    asyncio.run(cancel_each())


def test_one_pass_over_the_stored_results_ends_without_waiting(
    store: EmbeddedStore, publisher: Publisher
) -> None:
    def stored(*names: str) -> list[tuple[str, str]]:
        follower = Follower(names or None, "earliest", False, RESULTS, once=True)
        with Subscription[Result](Reader(store.url, follower, 0.0)) as one_pass:
            return places(list(one_pass))

    assert stored() == []
    with pytest.raises(ConfigFaults, match="no source hall; the store has none"):
        stored("hall")
    publisher.results("door", 1, range(2))
    assert stored() == stored("door") == [("door", "1-0"), ("door", "1-1")]
    with pytest.raises(ConfigFaults, match="no source hall, yard; there are: door"):
        stored("yard", "door", "hall")


class Count(msgspec.Struct):
    """The output of a stage."""

    people: int


@pytest.mark.parametrize("is_side", [False, True])
def test_the_outputs_of_a_stage_have_the_type_that_the_reader_asks_for(
    store: EmbeddedStore, publisher: Publisher, is_side: bool
) -> None:
    """A stage of the main path passes frames without an output on; its end may have a last one."""
    publisher.client.hset(keys.SOURCES, "door", "a run")
    record = Record(VERSION, 0.04, 1.5, 0.0, 0, Form(64, 48))
    end = End(VERSION, frames=2, last=True)
    said = msgspec.Raw(records.encode(Count(3)))

    def add(seq: int, kind: str, entry: Record | SideOutput | End) -> None:
        fields: dict[FieldT, EncodableT] = {"k": kind, "d": records.encode(entry)}
        publisher.client.xadd(keys.out("door", "counts"), fields, id=f"1-{seq}")

    wanted = [(0, 0.04, 64, Count(3))]
    if is_side:
        add(0, "frame", records.side_output(record, START, said))
        add(2, "end", end)
    else:
        add(0, "frame", records.with_said(record, "counts", said, 0.0))
        add(1, "frame", record)
        last = msgspec.Raw(records.encode(Count(9)))
        add(2, "end", msgspec.structs.replace(end, said={"counts": last}))
        wanted.append((2, None, 0, Count(9)))
    with subscribe(
        store.url, ["door"], "earliest", stage="counts", output=Count, until_end=True
    ) as outputs:
        found = [(each.seq, each.pts, each.width, each.output) for each in outputs]
    assert found == wanted
