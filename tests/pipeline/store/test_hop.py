"""What the state machine does not reach: foreign hands in the store, trimming, waking, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import (
    SourceOwned,
    StoreBusy,
    StoreLost,
    StoreRefused,
    TakenOver,
)
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.store.admin import StoreAdmin, server_fault
from framegate.pipeline.store.hop import (
    FRAME,
    Attached,
    Commit,
    CommitStatus,
    Entry,
    SourceHop,
    attach_command,
    await_command,
    epoch_command,
    hop_command,
    read_attached,
    read_replies,
    trim_command,
)
from framegate.pipeline.store.worker_connections import Link
from framegate.pipeline.telemetry.counters import MOST_LABELS
from tests.support.servers import server

RUN = "run-1"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with server(tmp_path) as store:
        yield store.url


@pytest.fixture
def store(url: str) -> Iterator[StoreAdmin]:
    store = StoreAdmin(url)
    store.prepare()
    for source in ("a", "b"):
        store.claim(source, RUN, "the test", take_over=False)
    yield store
    store.close()


@pytest.fixture
def link(url: str, store: StoreAdmin) -> Iterator[Link]:  # noqa: ARG001
    link = Link(url)
    yield link
    link.close()


def attach(link: Link, source: str, stage: str) -> Attached:
    attached = read_attached(link.call(*attach_command(source, stage, RUN)))
    assert isinstance(attached, Attached)
    return attached


def test_a_new_stage_begins_where_its_reader_is(link: Link) -> None:
    """Frames that its reader has passed are not given to a stage that is put before it."""
    reader = attach(link, "a", "cache")
    passed = commit(reader, "a", "cache", 3)
    read_replies(link.call(*hop_command([SourceHop("a", (passed,))])))
    for _ in ("new", "known"):
        attached = read_attached(link.call(*attach_command("a", "windows", RUN, "cache")))
        assert isinstance(attached, Attached)
        assert attached.position == passed.last
    ahead = commit(attach(link, "a", "windows"), "a", "windows", 2)
    read_replies(link.call(*hop_command([SourceHop("a", (ahead,))])))
    later = read_attached(link.call(*attach_command("a", "windows", RUN, "cache")))
    assert isinstance(later, Attached)
    assert later.position == ahead.last


def test_a_stage_that_was_left_out_for_a_while_has_no_state_of_before(link: Link) -> None:
    first = commit(attach(link, "a", "windows"), "a", "windows", 2)
    first = replace(first, fields=(("s", b"objects of then"),))
    read_replies(link.call(*hop_command([SourceHop("a", (first,))])))
    for n, state in ((2, b"objects of then"), (3, None)):  # the second one passes it
        reader = commit(attach(link, "a", "cache"), "a", "cache", n)
        read_replies(link.call(*hop_command([SourceHop("a", (reader,))])))
        attached = read_attached(link.call(*attach_command("a", "windows", RUN, "cache")))
        assert isinstance(attached, Attached)
        assert (attached.position, attached.state) == (reader.last, state)


def commit(attached: Attached, source: str, stage: str, n: int) -> Commit:
    epoch, first = (
        max(1, attached.position.epoch),
        attached.position.seq + bool(attached.position.epoch),
    )
    entries = tuple(Entry(Position(epoch, first + i), FRAME, b"data") for i in range(n))
    return Commit(
        stage=stage,
        out=keys.out(source, stage),
        token=attached.token,
        previous=attached.position,
        last=entries[-1].position,
        entries=entries,
        counts=(("decoded", n),),
    )


@pytest.mark.parametrize("spoilt", ["out", "at", "count"])
def test_a_key_of_a_wrong_kind_writes_nothing(link: Link, spoilt: str) -> None:
    """Also the first stage of the hop, whose keys are sound, is not written."""
    commits = tuple(commit(attach(link, "a", g), "a", g, 3) for g in ("decode", "window"))
    key = {
        "out": keys.out("a", "window"),
        "at": keys.at("a", "window"),
        "count": keys.count("a"),
    }[spoilt]
    link.call("DEL", key)
    link.call("SET", key, "not ours")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        read_replies(link.call(*hop_command([SourceHop("a", commits)])))
    assert link.call("EXISTS", keys.out("a", "decode")) == 0
    assert link.call("HGET", keys.at("a", "decode"), "p") == b"0-0"


def test_labels_that_are_counted_are_so_many_at_most(link: Link) -> None:
    """What is beyond is counted as `other`; what was counted before goes on under its name."""
    attached = attach(link, "a", "cache")
    names = [f"objects:plate {n}" for n in range(MOST_LABELS + 20)]
    first = replace(commit(attached, "a", "cache", 1), counts=tuple((name, 2) for name in names))
    read_replies(link.call(*hop_command([SourceHop("a", (first,))])))
    again = replace(
        first,
        previous=first.last,
        last=Position(1, 1),
        entries=(Entry(Position(1, 1), FRAME, b"data"),),
        counts=((names[0], 1), (names[-1], 1), ("published", 1)),
    )
    read_replies(link.call(*hop_command([SourceHop("a", (again,))])))
    found = link.call("HGETALL", keys.count("a"))
    counted = dict(zip(found[::2], map(int, found[1::2]), strict=True))
    assert counted.pop(b"labels") == MOST_LABELS
    assert counted.pop(b"published") == 1
    assert counted.pop(b"objects:other") == 2 * 20 + 1
    assert counted.pop(names[0].encode()) == 3
    assert counted == {name.encode(): 2 for name in names[1:MOST_LABELS]}


def test_a_refused_source_does_not_touch_the_other(link: Link) -> None:
    zombie = attach(link, "a", "decode")
    attach(link, "a", "decode")
    good = attach(link, "b", "decode")
    hops = [
        SourceHop("a", (commit(zombie, "a", "decode", 2),)),
        SourceHop("b", (commit(good, "b", "decode", 2),)),
    ]
    answers = read_replies(link.call(*hop_command(hops)))
    assert [answer.status for answer in answers] == [CommitStatus.FENCED, CommitStatus.OK]
    assert link.call("XLEN", keys.out("b", "decode")) == 2
    assert link.call("EXISTS", keys.out("a", "decode")) == 0


def test_an_entry_that_somebody_else_wrote_counts_as_refused(link: Link) -> None:
    attached = attach(link, "a", "decode")
    link.call("XADD", keys.out("a", "decode"), "1-1", "k", "frame", "d", "foreign")
    hop = SourceHop("a", (commit(attached, "a", "decode", 4),))
    (answer,) = read_replies(link.call(*hop_command([hop])))
    assert (answer.status, answer.refused) == (CommitStatus.OK, 2)


def test_an_emptied_store_is_noticed(link: Link) -> None:
    attached = attach(link, "a", "decode")
    link.call("DEL", keys.own("a"), keys.at("a", "decode"))
    (answer,) = read_replies(
        link.call(*hop_command([SourceHop("a", (commit(attached, "a", "decode", 1),))]))
    )
    assert answer.status is CommitStatus.GONE
    assert read_attached(link.call(*attach_command("a", "decode", RUN))) is CommitStatus.GONE


def test_trimming_keeps_what_the_slowest_reliable_reader_lacks(link: Link) -> None:
    """Whole nodes of a hundred entries go at a time, and never one too many."""
    decode, fast, slow = (attach(link, "a", g) for g in ("decode", "fast", "slow"))
    link.call(*hop_command([SourceHop("a", (commit(decode, "a", "decode", 500),))]))
    for stage, attached, n in (("fast", fast, 450), ("slow", slow, 250)):
        link.call(*hop_command([SourceHop("a", (commit(attached, "a", stage, n),))]))
    link.call(*trim_command("a", keys.out("a", "decode"), ("fast", "slow")))
    first = Position.parse(link.call("XRANGE", keys.out("a", "decode"), "-", "+")[0][0])
    assert Position(1, 100) < first <= Position(1, 250)


def test_trimming_leaves_the_last_entry_so_an_end_is_seen(link: Link) -> None:
    link.call("CONFIG", "SET", "stream-node-max-entries", "1")  # a node an entry: none is spared
    decode, reader = attach(link, "a", "decode"), attach(link, "a", "window")
    link.call(*hop_command([SourceHop("a", (commit(decode, "a", "decode", 10),))]))
    link.call(*hop_command([SourceHop("a", (commit(reader, "a", "window", 10),))]))
    link.call(*trim_command("a", keys.out("a", "decode"), ("window",)))
    link.call("CONFIG", "SET", "stream-node-max-entries", "100")
    left = link.call("XRANGE", keys.out("a", "decode"), "-", "+")
    assert [entry[0] for entry in left] == [b"1-9"]


def test_a_reader_given_up_holds_nobody(link: Link, store: StoreAdmin) -> None:
    decode, fast = attach(link, "a", "decode"), attach(link, "a", "fast")
    attach(link, "a", "slow")
    link.call(*hop_command([SourceHop("a", (commit(decode, "a", "decode", 500),))]))
    link.call(*hop_command([SourceHop("a", (commit(fast, "a", "fast", 500),))]))
    link.call(*await_command("a", "slow", Position(1, 100)))
    assert link.call("EXISTS", keys.room("a")) == 0
    store.detach("a", "slow")
    assert link.call("EXISTS", keys.room("a")) == 1
    link.call(*trim_command("a", keys.out("a", "decode"), ("fast", "slow")))
    assert link.call("XLEN", keys.out("a", "decode")) <= 100


def test_a_waiting_decoder_is_woken_once_by_the_commit_that_gets_there(link: Link) -> None:
    reader = attach(link, "a", "detect")
    link.call(*await_command("a", "detect", Position(1, 5)))
    link.call(*hop_command([SourceHop("a", (commit(reader, "a", "detect", 3),))]))
    assert link.call("EXISTS", keys.room("a")) == 0
    again = attach(link, "a", "detect")
    link.call(*hop_command([SourceHop("a", (commit(again, "a", "detect", 3),))]))
    assert link.call("XRANGE", keys.room("a"), "-", "+")[0][1] == [b"p", b"1-5"]
    assert link.call("HGET", keys.at("a", "detect"), "w") is None


def test_a_decoder_waits_for_a_reader_that_has_not_attached_yet(link: Link) -> None:
    link.call(*await_command("a", "detect", Position(1, 5)))
    assert link.call("EXISTS", keys.room("a")) == 0
    reader = attach(link, "a", "detect")
    assert reader.position == START
    link.call(*hop_command([SourceHop("a", (commit(reader, "a", "detect", 6),))]))
    assert link.call("EXISTS", keys.room("a")) == 1


def test_a_full_store_writes_nothing_and_can_be_trimmed(link: Link) -> None:
    decode, reader = attach(link, "a", "decode"), attach(link, "a", "window")
    link.call(*hop_command([SourceHop("a", (commit(decode, "a", "decode", 500),))]))
    link.call(*hop_command([SourceHop("a", (commit(reader, "a", "window", 500),))]))
    link.call("CONFIG", "SET", "maxmemory", "1")
    again = Attached(decode.token, Position(1, 499), None, Position(0, 0))
    with pytest.raises(StoreBusy, match="OOM"):
        link.call(*hop_command([SourceHop("a", (commit(again, "a", "decode", 1),))]))
    link.call(*trim_command("a", keys.out("a", "decode"), ("window",)))
    assert link.call("XLEN", keys.out("a", "decode")) <= 100
    link.call("CONFIG", "SET", "maxmemory", "0")
    link.call(*hop_command([SourceHop("a", (commit(again, "a", "decode", 1),))]))
    assert link.call("HGET", keys.at("a", "decode"), "p") == b"1-500"


def test_a_source_has_one_owner(store: StoreAdmin) -> None:
    with pytest.raises(SourceOwned, match=r"the test.*--take-over"):
        store.claim("a", "run-2", "another", take_over=False)
    store.claim("a", RUN, "the test, resumed", take_over=False)
    store.claim("a", "run-2", "another", take_over=True)
    assert store.owner("a") == "run-2"
    store.release("a", RUN)
    assert store.owner("a") == "run-2"
    store.release("a", "run-2")
    assert store.owner("a") is None
    store.claim("a", "run-3", "a third", take_over=False)


def test_who_was_taken_over_takes_nothing_back_by_itself(store: StoreAdmin) -> None:
    store.claim("a", "run-2", "another", take_over=True)
    for take_over in (False, True):
        with pytest.raises(
            TakenOver, match=r"took it over \(now: another\); this one does not take"
        ):
            store.claim("a", RUN, "the test", take_over)
    store.release("a", "run-2")
    with pytest.raises(TakenOver):
        store.claim("a", RUN, "the test", take_over=True)
    store.claim("a", "run-1x", "of a like name", take_over=False)


@pytest.mark.parametrize("way", ["by hand", "removed"])
def test_somebody_gets_a_source_back_for_good(store: StoreAdmin, way: str) -> None:
    """By hand, or by `framegate remove` where it is."""
    store.claim("a", "run-2", "another", take_over=True)
    if way == "removed":
        store.release("a", "run-2", removed=True)
        store.claim("a", RUN, "the test", take_over=False)
        store.claim("a", "run-2", "another", take_over=True)
        store.release("a", "run-2", removed=True)
    store.claim("a", RUN, "the test", take_over=True, by_hand=True)
    store.claim("a", RUN, "the test, resumed", take_over=False)
    if way == "by hand":
        with pytest.raises(TakenOver):
            store.claim("a", "run-2", "another", take_over=True)


def test_between_slots_the_newer_plan_decides_and_with_one_plan_the_newer_instance(
    store: StoreAdmin,
) -> None:
    store.claim("a", "box1", "slot 1", take_over=True, since=1)
    store.claim("a", "box2", "slot 2", take_over=True, since=2)
    with pytest.raises(TakenOver):
        store.claim("a", "box3", "a slot that has not read the plan", take_over=True, since=1)
    store.claim("a", "box1", "slot 1, where it is moved back", take_over=True, since=3)
    store.claim("a", "box1b", "slot 1 on another host", take_over=True, since=3)
    with pytest.raises(TakenOver):
        store.claim("a", "box1", "slot 1, restarted", take_over=True, since=3)
    store.release("a", "box1b")
    store.claim("a", "box1", "slot 1, which runs alone now", take_over=True, since=3)
    assert store.owner("a") == "box1"


def test_a_slot_continues_the_same_file_and_begins_another_one(
    store: StoreAdmin, link: Link
) -> None:
    at = keys.at("a", "decode")
    for run, file, continues in (("r1", "x", False), ("r2", "x", True), ("r3", "y", False)):
        link.call("HSET", at, "s", "state", "c", "state")
        assert store.claim("a", run, run, True, since=1, file=file) is continues
        assert bool(link.call("HGET", at, "s")) is continues
    store.claim("a", "plain", "a run that is no slot", take_over=True)
    assert store.claim("a", "r4", "r4", True, since=1, file="y") is False


def test_sources_are_released_each_on_its_own(store: StoreAdmin, link: Link) -> None:
    store.claim("c", RUN, "the test", take_over=False)
    link.call("SET", keys.own("b"), "no hash")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        store.release_all(["a", "b", "c"], RUN)
    assert (store.owner("a"), store.owner("c")) == (None, None)


def test_only_the_owner_says_which_model_looks_and_its_word_ends_with_it(store: StoreAdmin) -> None:
    store.announce_models({"a": "yard@123", "b": "light"}, RUN, "host:/models")
    assert store.announced_model("a") == ("yard@123", "host:/models/123")
    assert store.announced_model("b") == ("", "")
    store.claim("a", "run-2", "another", take_over=True)
    store.announce_models({"a": "late@9"}, RUN, "host:/models")
    store.release("a", RUN)
    assert store.announced_model("a") == ("yard@123", "host:/models/123")  # until it says its own
    store.announce_models({"a": "own@4"}, "run-2", "elsewhere:/models")
    assert store.announced_model("a") == ("own@4", "elsewhere:/models/4")
    store.release("a", "run-2")
    assert store.announced_model("a") == ("", "")


def test_of_those_that_were_taken_over_the_last_sixteen_are_known(
    store: StoreAdmin, link: Link
) -> None:
    for n in range(16):
        store.claim("a", f"next-{n}", "the next", take_over=True)
    superseded = link.call("HGET", keys.own("a"), "superseded")
    assert superseded == " ".join([RUN, *(f"next-{n}" for n in range(15))]).encode()
    assert link.call("HGET", keys.own("a"), "generation") == b"17"
    store.claim("a", "next-16", "the next", take_over=True)
    assert RUN.encode() not in link.call("HGET", keys.own("a"), "superseded").split()
    store.claim("a", RUN, "as good as new", take_over=True)


def test_a_file_gets_an_epoch_again_that_no_frame_has(store: StoreAdmin, link: Link) -> None:
    """A worker that dies before its first commit costs a file no epoch, and a camera one."""
    file = attach(link, "a", "decode")
    assert link.call(*epoch_command("a", file.token, RUN, after=0)) == [b"OK", 1]
    next_file = attach(link, "a", "decode")
    assert link.call(*epoch_command("a", file.token, RUN, after=0)) == [b"FENCED"]
    assert link.call(*epoch_command("a", next_file.token, RUN, after=0)) == [b"OK", 1]
    link.call(*hop_command([SourceHop("a", (commit(next_file, "a", "decode", 3),))]))
    last_file = attach(link, "a", "decode")
    assert link.call(*epoch_command("a", last_file.token, RUN, after=1)) == [b"OK", 2]
    camera = attach(link, "b", "decode")
    assert link.call(*epoch_command("b", camera.token, RUN)) == [b"OK", 1]
    assert link.call(*epoch_command("b", camera.token, RUN)) == [b"OK", 2]
    store.release("a", RUN)


def test_a_file_gets_no_epoch_again_that_it_holds_or_had_before_this_run(link: Link) -> None:
    """Frames of an epoch may be decoded and not committed when the file's next epoch begins."""
    token = attach(link, "a", "decode").token
    assert link.call(*epoch_command("a", token, RUN, after=0)) == [b"OK", 1]
    assert link.call(*epoch_command("a", token, RUN, after=1)) == [b"OK", 2]
    assert link.call(*epoch_command("a", token, RUN, after=1)) == [b"OK", 2]
    link.call("XADD", keys.results("a"), "2-0", "k", "frame", "d", "data")
    assert link.call(*epoch_command("a", token, RUN, after=1)) == [b"OK", 3]


def test_epochs_outlive_their_owner(store: StoreAdmin, link: Link) -> None:
    token = attach(link, "a", "decode").token
    assert link.call(*epoch_command("a", token, RUN)) == [b"OK", 1]
    store.release("a", RUN)
    store.claim("a", "run-2", "another", take_over=False)
    assert store.epoch("a") == 1


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"redis_version": "7.0.15"}, "version 7.0.15; allowed are Redis 7.2"),
        ({"redis_version": "7.2.4", "maxmemory_policy": "allkeys-lru"}, "may evict"),
        ({"redis_version": "8.2.0", "role": "slave"}, "replica"),
        ({"redis_version": "7.2.0", "maxmemory_policy": "noeviction", "role": "master"}, None),
        ({"redis_version": "10.0.0"}, None),
    ],
)
def test_a_store_must_be_fit(info: dict[str, str], said: str | None) -> None:
    fault = server_fault(info)
    assert (fault is None) if said is None else (fault is not None and said in fault)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreLost, match="cannot be reached"):
        Link(f"unix://{tmp_path}/none.sock")
    with pytest.raises(StoreLost, match="cannot be reached"):
        StoreAdmin(f"unix://{tmp_path}/none.sock").prepare()


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(StoreLost) as caught:
        StoreAdmin(f"unix://camera:{'x' * 12}@{tmp_path}/none.sock?db=0").prepare()
    assert "x" * 12 not in str(caught.value)
