"""The reader does no I/O: what it asks of which server, told by hand what they answer."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import AskError, MovedError

from framegate.pipeline.client.follower import RESULTS, Cursor, Follower, count_of_each
from framegate.pipeline.client.group import Consumer, GroupFollower
from framegate.pipeline.client.reader import ASK_AGAIN_S, Leg, Legs, Reader
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import ResultsTrimmed, StoreBusy, StoreLost, StoreRefused
from framegate.pipeline.contracts.records import End, Position
from framegate.pipeline.store.cluster import slot_of
from tests.support.published import result

URL = "redis://one:7000"
SLOTS = [
    [0, slot_of("gate"), [b"two", 7000, b"id"]],
    [slot_of("gate") + 1, 16383, [b"one", 7000, b"id"]],
]
FRAME = [b"1-0", [b"k", b"frame", b"d", records.encode(result("door", 1, 0))]]
INFO = [b"entries-added", 1, b"length", 1, b"first-entry", FRAME, b"last-generated-id", b"1-0"]


def reader(patience_s: float = 60.0) -> Reader:
    return Reader(URL, Follower(["door", "gate"], "earliest", until_end=False), patience_s)


def asked(leg: Leg) -> tuple[str, list[str]]:
    return leg.url, [str(command[0]) for command in leg.commands]


def to_the_read(legs: Legs[Any]) -> Leg:
    """The first read, after the look at who is registered."""
    assert asked(next(legs)) == (URL, ["GET", "HKEYS"])
    return legs.send([b"identity", [b"door", b"gate"]])


def on_a_cluster(legs: Legs[Any]) -> Leg:
    """The first of the reads by server, once the first try told that there are several."""
    leg = to_the_read(legs)
    assert asked(leg) == (URL, ["XREAD"])
    assert asked(legs.send([MovedError("1 two:7000")])) == (URL, ["CLUSTER"])
    return legs.send([SLOTS])


def end(legs: Legs[Any], replies: list[Any]) -> Any:
    with pytest.raises(StopIteration) as ended:
        legs.send(replies)
    return ended.value.value


def test_a_server_that_has_moved_a_key_is_asked_who_holds_what() -> None:
    assert slot_of("gate") < slot_of("door")
    legs = reader().next()
    leg = on_a_cluster(legs)
    assert leg.commands == [("XREAD", "COUNT", "64", "STREAMS", keys.results("door"), "0-0")]
    leg = legs.send([None])
    assert (leg.url, leg.commands[0][-2]) == ("redis://two:7000", keys.results("gate"))
    leg = legs.send([None])
    assert (leg.commands, leg.pause_s) == ([], ASK_AGAIN_S)  # nobody can wait for both


def test_replies_of_several_servers_to_one_read_are_one() -> None:
    legs = reader().next()
    on_a_cluster(legs)
    legs.send([[[keys.results("door").encode(), [FRAME]]]])
    leg = legs.send([None])
    assert (asked(leg), leg.atomic) == ((URL, ["XINFO", "XREAD"]), True)
    given = end(legs, [INFO, [[keys.results("door").encode(), [FRAME]]]])
    assert (given.source, str(given.position)) == ("door", "1-0")


def test_a_transaction_that_another_server_should_have_got_is_sent_there() -> None:
    legs = reader().next()
    to_the_read(legs)
    leg = legs.send([[[keys.results("door").encode(), [FRAME]]]])
    assert leg.atomic
    assert asked(legs.throw(AskError("1 two:7000"))) == (URL, ["CLUSTER"])
    assert asked(legs.send([SLOTS])) == (URL, ["XINFO", "XREAD"])


def test_a_lost_store_is_tried_again_after_a_pause_until_patience_ends() -> None:
    legs = reader().next()
    next(legs)
    leg = legs.throw(redis.ConnectionError("away"))
    assert leg.commands == []
    assert leg.pause_s > 0
    assert asked(legs.send([])) == (URL, ["GET", "HKEYS"])
    legs = reader(patience_s=0.0).next()
    next(legs)
    with pytest.raises(StoreLost, match="away"):
        legs.throw(redis.ConnectionError("away"))


def retry_for_ever(legs: Legs[Any]) -> None:
    while True:
        legs.send([])
        legs.throw(redis.ConnectionError("away"))


def test_who_iterates_again_after_a_lost_store_waits_as_long_again() -> None:
    impatient = reader(patience_s=0.01)
    for _ in range(2):
        legs = impatient.next()
        next(legs)
        leg = legs.throw(redis.ConnectionError("away"))
        assert leg.pause_s > 0
        with pytest.raises(StoreLost, match="away"):
            retry_for_ever(legs)


def test_a_wait_that_is_cancelled_loses_nothing_that_came() -> None:
    group = GroupFollower(["door"], "earliest", Consumer("g", "c", 60.0))
    legs = Reader(URL, group, 60.0).next()
    next(legs)
    with pytest.raises(KeyboardInterrupt):
        legs.throw(KeyboardInterrupt())
    again = Reader(URL, group, 60.0).next()
    assert asked(next(again)) == (URL, ["GET", "HKEYS"])
    assert asked(again.send([b"identity", [b"door"]])) == (URL, ["XGROUP"])


def test_only_results_of_a_group_are_acknowledged() -> None:
    with pytest.raises(ValueError, match="ack: this subscription has no group"):
        next(reader().ack(result("door", 1, 0)))


def in_group() -> Reader:
    return Reader(URL, GroupFollower(["door"], "earliest", Consumer("g", "c", 60.0)), 60.0)


def test_a_group_makes_no_stream_for_a_source_that_does_not_exist() -> None:
    legs = in_group().next()
    assert asked(next(legs)) == (URL, ["GET", "HKEYS"])
    assert asked(legs.send([b"identity", []])) == (URL, [])  # a pause
    assert asked(legs.send([])) == (URL, ["GET", "HKEYS"])
    assert asked(legs.send([b"identity", [b"door"]])) == (URL, ["XGROUP"])


def test_a_gap_is_noticed_although_a_failover_lost_results_that_were_read() -> None:
    """Ten entries were read, and three of them are lost, so the next one is the eighth."""

    def look(added: int, length: int, *positions: str) -> ResultsTrimmed | None:
        info = [b"entries-added", added, b"length", length, b"first-entry", [oldest.encode()]]
        entries = [[position.encode(), FRAME[1]] for position in positions]
        gap = cursor.judge("door", [*info, b"last-generated-id", entries[-1][0]], entries)
        cursor.passed("door", RESULTS, entries)
        return gap

    cursor, oldest = Cursor(Position(1, 9), index=10), "1-0"
    assert look(9, 9, "2-0", "2-1") is None
    oldest = "2-4"  # 2-2 and 2-3 are removed
    gap = look(12, 1, "2-4")
    assert gap is not None
    assert (gap.after, gap.before) == ("2-1", "2-4")


def test_an_acknowledgement_that_the_store_refuses_raises() -> None:
    for error, kind in (
        (redis.ReadOnlyError("READONLY"), StoreBusy),
        (redis.exceptions.NoPermissionError("NOPERM"), StoreRefused),
    ):
        legs = in_group().ack(result("door", 1, 0))
        assert asked(next(legs)) == (URL, ["XACK"])
        with pytest.raises(kind):
            legs.send([error])


def test_the_end_of_a_source_is_acknowledged_until_the_store_takes_it() -> None:
    legs = in_group().next()
    next(legs)
    legs.send([b"identity", [b"door"]])
    end_of = [b"1-1", [b"k", b"end", b"d", records.encode(End(records.VERSION, 1, True))]]
    assert asked(legs.send([b"OK"])) == (URL, ["XREADGROUP"])
    assert asked(legs.send([[[keys.results("door").encode(), [end_of]]]])) == (URL, ["XAUTOCLAIM"])
    assert asked(legs.send([[b"0-0", [], []]])) == (URL, ["XREAD"])
    for reply in (redis.ReadOnlyError("READONLY"), 1):
        leg = legs.send([None])
        if not leg.commands:
            leg = legs.send([])
        assert asked(leg) == (URL, ["GET", "HKEYS"])
        assert asked(legs.send([b"identity", [b"door"]])) == (URL, ["XACK"])
        leg = legs.send([reply])
    assert asked(leg) == (URL, ["XREADGROUP"])


@pytest.mark.parametrize(("streams", "count"), [(1, "64"), (128, "64"), (400, "20"), (10_000, "4")])
def test_a_reply_has_a_bounded_number_of_entries_of_all_streams_together(
    streams: int, count: str
) -> None:
    """8,192 of up to 2,048 streams. More streams have 4 each, so that each is read."""
    assert count_of_each(streams) == count


def test_a_member_of_a_group_takes_as_few_entries_of_each_of_many_streams() -> None:
    names = [f"s{number}" for number in range(400)]
    legs = Reader(URL, GroupFollower(None, "earliest", Consumer("g", "c", 60.0)), 60.0).next()
    next(legs)
    assert len(legs.send([b"identity", [name.encode() for name in names]]).commands) == 400
    [read] = legs.send([b"OK"] * 400).commands
    assert read[0] == "XREADGROUP"
    assert read[read.index("COUNT") + 1] == "20"


def test_the_first_result_of_a_source_that_did_not_exist_is_no_gap() -> None:
    legs = Reader(URL, Follower(["door"], "new", until_end=False), 60.0).next()
    assert asked(next(legs)) == (URL, ["GET", "HKEYS"])
    assert asked(legs.send([b"identity", []])) == (URL, ["XINFO"])
    assert asked(legs.send([redis.ResponseError("no such key")])) == (URL, ["XREAD"])
    for _ in range(2):
        assert asked(legs.send([None])) == (URL, ["GET", "HKEYS"])
        assert asked(legs.send([b"identity", []])) == (URL, ["XREAD"])
    assert asked(legs.send([[[keys.results("door").encode(), [FRAME]]]])) == (
        URL,
        ["XINFO", "XREAD"],
    )
    given = end(legs, [INFO, [[keys.results("door").encode(), [FRAME]]]])
    assert (given.source, str(given.position)) == ("door", "1-0")
