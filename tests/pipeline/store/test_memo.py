"""What groups remember: the last values used, within their bytes, and never an error or a wait."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.stage import MemoLimits
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.memo import (
    MOST_WAITING,
    Memo,
    MemoGroups,
    MemoStore,
    Mirror,
    find_command,
    keep_command,
)
from tests.support.clusters import cluster
from tests.support.runs import wait_until
from tests.support.servers import server

LIMITS = MemoLimits(ttl_s=60.0, most_bytes=100_000)
ENTRY = 300


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with server(tmp_path_factory.mktemp("store")) as running:
        prepared = StoreAdmin(running.url)
        prepared.prepare()
        prepared.close()
        yield running


@pytest.fixture
def client(store: EmbeddedStore) -> Iterator[Any]:
    with redis.Redis.from_url(store.url, protocol=2) as opened:
        opened.delete(*keys.memo("hall"))
        yield opened


@pytest.fixture
def memos(store: EmbeddedStore) -> Iterator[MemoGroups]:
    opened = MemoGroups(store.url)
    yield opened
    opened.close()


def number(n: int) -> bytes:
    return n.to_bytes(16, "big")


def found_by(client: Any, key: bytes, group: str = "hall") -> bytes | None:
    found = client.execute_command(*find_command(group, LIMITS, key))
    return None if found is None else found[1]


class Lately:
    """What a mirror is to hold, as a list: what was used last stands last."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, list[tuple[bytes, bytes, int]]()

    def find(self, key: bytes, now: int) -> bytes | None:
        found = [each for each in self.held if each[0] == key]
        self.held = [each for each in self.held if each[0] != key]
        self.held += [each for each in found if now < each[2]]
        return found[0][1] if found and now < found[0][2] else None

    def keep(self, key: bytes, value: bytes, until: int) -> None:
        self.held = [each for each in self.held if each[0] != key] + [(key, value, until)]
        while sum(len(k) + len(v) + ENTRY for k, v, _ in self.held) > self.most:
            del self.held[0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.one_of(st.none(), st.binary(max_size=300)),
            st.integers(0, 2),
        ),
        max_size=60,
    )
)
def test_a_mirror_holds_what_was_used_last(steps: list[tuple[str, bytes | None, int]]) -> None:
    now = 0
    mirror, lately = Mirror(1500, lambda: now), Lately(1500)
    for name, value, passed in steps:
        now += passed
        key = name.encode()
        if value is None:
            assert mirror.find("hall", key) == lately.find(key, now)
        else:
            mirror.keep("hall", key, value, 5)
            lately.keep(key, value, now + 5)
        assert mirror.bytes <= 1500


def test_groups_do_not_see_each_other() -> None:
    memos = MemoGroups(None)
    memos.of("hall", LIMITS).keep(b"k", b"v")
    assert memos.of("hall", LIMITS).find(b"k") == b"v"
    assert memos.of("yard", LIMITS).find(b"k") is None


def test_workers_share_what_a_group_remembers(
    store: EmbeddedStore, memos: MemoGroups, client: Any
) -> None:
    memos.of("hall", LIMITS).keep(b"k", b"\x00\xff" * 500)
    wait_until("it was written", lambda: found_by(client, b"k"))
    other = MemoGroups(store.url)
    memo = other.of("hall", LIMITS)
    assert wait_until("it is found", lambda: memo.find(b"k")) == b"\x00\xff" * 500
    client.delete(*keys.memo("hall"))
    assert memo.find(b"k") == b"\x00\xff" * 500, "of the worker's own memory"
    other.close()


def test_what_waits_is_written_at_the_end(store: EmbeddedStore, client: Any) -> None:
    memos = MemoGroups(store.url)
    for n in range(50):
        memos.of("hall", LIMITS).keep(number(n), b"v")
    memos.close()
    assert all(found_by(client, number(n)) == b"v" for n in range(50))


def test_the_bytes_of_a_group_are_bounded(client: Any) -> None:
    """By the server's own count, and what was used last stays."""
    for n in range(0, 2000, 20):
        pairs = [(number(m), bytes(m % 700)) for m in range(n, n + 20)]
        bytes_left = client.execute_command(*keep_command("hall", LIMITS, pairs))
        assert bytes_left <= LIMITS.most_bytes
        assert found_by(client, number(0)) == b""
    used = sum(client.memory_usage(key) or 0 for key in keys.memo("hall"))
    assert used <= 1.1 * LIMITS.most_bytes
    assert client.hlen(keys.memo("hall")[0]) == client.zcard(keys.memo("hall")[1])
    assert found_by(client, number(1999)) is not None
    assert found_by(client, number(1)) is None


def test_a_value_that_is_larger_than_all_is_not_kept(client: Any) -> None:
    small, large = [(b"a", b"v")], [(b"b", bytes(200_000))]  # in the same millisecond, a is older
    client.execute_command(*keep_command("hall", LIMITS, small))
    assert client.execute_command(*keep_command("hall", LIMITS, large)) == 0
    assert found_by(client, b"b") is None


def test_writing_it_again_counts_it_once(client: Any) -> None:
    first = client.execute_command(*keep_command("hall", LIMITS, [(b"k", b"12345")]))
    again = client.execute_command(*keep_command("hall", LIMITS, [(b"k", b"123"), (b"k", b"1234")]))
    assert again == first - 1
    assert found_by(client, b"k") == b"1234"


def test_values_have_an_age(client: Any) -> None:
    kept, used, nbytes = keys.memo("hall")
    both = [(b"old", b"v"), (b"new", b"v")]
    client.execute_command(*keep_command("hall", LIMITS, both))
    assert 0 < client.pttl(kept) <= 60_000
    client.hset(kept, b"old", b"0" * 13 + b"v")  # written in 1970
    assert found_by(client, b"old") is None
    assert found_by(client, b"new") == b"v"
    assert client.hlen(kept) == client.zcard(used) == 1
    client.zadd(used, {b"new": 0})
    client.execute_command(*keep_command("hall", LIMITS, [(b"newest", b"v")]))
    assert client.hkeys(kept) == [b"newest"]
    assert 0 < int(client.get(nbytes)) < 400


def test_a_value_of_the_future_is_none_and_goes(client: Any) -> None:
    """The store's clock was set back by an hour since: how old they are nobody knows."""
    kept, used, nbytes = keys.memo("hall")
    three = [(b"asked", b"v"), (b"not asked", b"v"), (b"of now", b"v")]
    client.execute_command(*keep_command("hall", LIMITS, three))
    ahead = int(client.time()[0] * 1000) + 3_600_000
    for key in (b"asked", b"not asked"):
        client.hset(kept, key, b"%013dv" % ahead)
        client.zadd(used, {key: ahead})
    assert found_by(client, b"asked") is None
    assert found_by(client, b"of now") == b"v"
    client.execute_command(*keep_command("hall", LIMITS, [(b"newest", b"v")]))
    assert set(client.hkeys(kept)) == {b"of now", b"newest"}
    assert 0 < int(client.get(nbytes)) < 800


def test_what_has_no_stamp_is_none(client: Any) -> None:
    client.execute_command(*keep_command("hall", LIMITS, [(b"k", b"v")]))
    client.hset(keys.memo("hall")[0], b"k", b"of somebody else")
    assert found_by(client, b"k") is None


def test_what_lost_its_values_forgets_them(client: Any) -> None:
    kept, _, nbytes = keys.memo("hall")
    many = [(number(n), bytes(200)) for n in range(150)]
    client.execute_command(*keep_command("hall", LIMITS, many))
    client.delete(kept)
    client.set(nbytes, 10**9)
    assert client.execute_command(*keep_command("hall", LIMITS, [(b"k", b"v")])) == 0
    client.execute_command(*keep_command("hall", LIMITS, [(b"k", b"v")]))
    assert found_by(client, b"k") == b"v"


def test_without_a_store_nothing_waits_and_nothing_fails(tmp_path: Path) -> None:
    memos = MemoGroups(f"unix://{tmp_path}/nobody.sock")
    memo = memos.of("hall", LIMITS)
    for n in range(1000):
        memo.keep(number(n), b"v")
    assert [memo.find(number(n)) for n in (0, 999, 1000)] == [b"v", b"v", None]
    memos.close()


def test_what_waits_to_be_written_is_bounded(tmp_path: Path) -> None:
    waiting = MemoStore(f"unix://{tmp_path}/nobody.sock")
    for n in range(10):
        waiting.keep("hall", LIMITS, number(n), bytes(MOST_WAITING // 4))
        assert sum(len(value) for *_, value in list(waiting._waiting)) <= MOST_WAITING
    waiting.close()


def test_a_store_that_hangs_is_not_waited_for(
    store: EmbeddedStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But once: a hundred waits of a second would be seen."""
    client.execute_command(*keep_command("hall", LIMITS, [(b"k", b"v")]))
    asking = MemoStore(store.url)
    wait_until("it is connected", lambda: asking.find("hall", LIMITS, b"k"))
    monkeypatch.setattr("framegate.pipeline.store.memo.PATIENCE_S", 1.0)
    pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        found = [asking.find("hall", LIMITS, b"k") for _ in range(100)]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found == [None] * 100
    assert time.monotonic() - began < 50, "only the first was waited for at all"
    assert wait_until("it answers again", lambda: asking.find("hall", LIMITS, b"k"))[1] == b"v"
    asking.close()


def test_a_store_that_has_nothing_is_hardly_asked(
    store: EmbeddedStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the calls that the server counts."""
    monkeypatch.setattr("framegate.pipeline.store.memo.PATIENCE_S", 60.0)
    asking = MemoGroups(store.url)
    memo = asking.of("hall", LIMITS)
    client.execute_command(*keep_command("hall", LIMITS, [(number(7 * 16), b"v")]))
    straight = asking._store
    assert straight is not None
    wait_until("it is connected", lambda: straight.find("hall", LIMITS, number(7 * 16)))

    def calls() -> int:
        return int(client.info("commandstats")["cmdstat_fcall"]["calls"])

    before = calls()
    for n in range(10_000, 10_000 + 128 + 1600):
        memo.find(number(n))
    assert calls() - before == 128 + 100
    assert memo.find(number(7 * 16)) == b"v"  # one of the sample
    before = calls()
    for n in range(20_000, 20_100):
        memo.find(number(n))
    assert calls() - before == 100
    asking.close()


def test_it_goes_on_after_its_connections_broke(store: EmbeddedStore, client: Any) -> None:
    memos = MemoGroups(store.url)
    memo = memos.of("hall", LIMITS)
    memo.keep(b"a", b"v")
    wait_until("it is connected", lambda: found_by(client, b"a"))
    wait_until("it asks", lambda: memo._store and memo._store.find("hall", LIMITS, b"a"))
    client.client_kill_filter(skipme=True, _type="normal")

    def written_again() -> bytes | None:
        memo.find(b"not there")
        memo.keep(b"b", b"w")
        return found_by(client, b"b")

    assert wait_until("it is written", written_again) == b"w"
    memos.close()


def test_in_a_cluster_each_group_is_on_its_server(tmp_path: Path) -> None:
    groups = [f"group{n}" for n in range(6)]
    with cluster(tmp_path) as servers:
        prepared = StoreAdmin(servers[0].url)
        prepared.prepare()
        prepared.close()
        memos = MemoGroups(servers[0].url)
        for group in groups:
            memos.of(group, LIMITS).keep(b"k", group.encode())
        memos.close()
        held = [len(list(server.client.scan_iter("fg:{cache-*"))) for server in servers]
        assert sum(held) == 3 * len(groups)
        assert sum(n > 0 for n in held) > 1
        other = MemoGroups(servers[2].url)
        for group in groups:
            memo = other.of(group, LIMITS)
            assert wait_until("found", lambda memo=memo: memo.find(b"k")) == group.encode()
        other.close()


def test_a_memo_without_a_store_is_a_mirror() -> None:
    memo = Memo("hall", LIMITS, Mirror())
    assert memo.find(b"k") is None
    memo.keep(b"k", b"v")
    assert memo.find(b"k") == b"v"
