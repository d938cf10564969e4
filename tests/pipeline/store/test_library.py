"""Two versions of the function library on one server: neither changes the other's calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.hop import (
    UNUSED_S,
    Commit,
    Entry,
    Library,
    SourceHop,
    drop_unused,
    function,
    hop_command,
    library,
    library_body,
    load_library,
    make_library,
    note_use,
)
from tests.support.servers import server

RUN = "run-1"
A_YEAR_S = 365 * 86400


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    with server(tmp_path) as store, redis.Redis.from_url(store.url, protocol=2) as client:
        yield client


def prepare(client: Any) -> None:
    store = StoreAdmin(f"unix://{client.connection_pool.connection_kwargs['path']}")
    store.prepare()
    store.close()


def loaded(client: Any) -> set[str]:
    """Return the names of all libraries, read from the server's reply in any form of it."""
    return {
        word.decode()
        for entry in client.function_list()
        for word in entry
        if isinstance(word, bytes) and word.startswith(b"framegate")
    }


def other_form() -> Library:
    """Return the library of a version whose commits name the entries to keep after the counts."""
    body = library_body()
    ours = "local last, epoch, seq, keep, fields, counts, asides, entries = "
    theirs = "local last, epoch, seq, fields, counts, keep, asides, entries = "
    assert ours in body
    return make_library(body.replace(ours, theirs))


def test_every_name_changes_with_the_call_form() -> None:
    """The form of a commit is SHAPE and the order in which commit_at reads it."""
    ours, theirs = library(), other_form()
    assert ours.name != theirs.name
    assert ours.prefix != theirs.prefix
    digest = ours.name.removeprefix("framegate_")
    assert re.fullmatch("[0-9a-f]{10}", digest)
    registered = re.findall(r"register_function[\s({]+(?:function_name = )?(.*?)[,)]", ours.code)
    assert len(registered) == 12
    assert all(name.startswith("PREFIX .. '") for name in registered)


def test_two_versions_work_side_by_side_whichever_was_loaded_last(client: Any) -> None:
    """Each one's hop is read as it was meant, and neither replaces the other."""
    prepare(client)
    theirs = other_form()
    client.function_load(theirs.code)
    prepare(client)
    assert loaded(client) == {library().name, theirs.name}
    for source in ("ours", "theirs"):
        names = (keys.own(source), keys.at(source, "decode"))
        client.fcall(function("claim"), 2, *names, RUN, "the test", "0", "0")
    for source, is_ours in (("ours", True), ("theirs", False), ("ours", True)):
        prefix = library().prefix if is_ours else theirs.prefix
        at = keys.at(source, "decode")
        _, token, position, *_ = client.fcall(f"{prefix}attach", 2, keys.own(source), at, RUN)
        before = Position.parse(position)
        here = Position(1, before.seq + 1) if before != START else Position(1, 0)
        entry = Entry(here, "frame", b"data")
        commit = Commit(
            *("decode", keys.out(source, "decode"), token, before, here, (entry,)),
            counts=(("decoded", 1),),
        )
        words = list(hop_command([SourceHop(source, (commit,))]))
        if not is_ours:
            words[1] = f"{prefix}hop"
            shape = words.index(f"{here} 0 0 1 0 1")
            words[shape] = f"{here} 0 1 0 0 1"
        assert client.execute_command(*words) == [[b"OK", 0]]
    assert client.hget(keys.count("ours"), "decoded") == b"2"
    assert client.hget(keys.count("theirs"), "decoded") == b"1"


def test_a_library_that_no_run_has_used_for_long_is_removed(client: Any) -> None:
    """One whose use is unknown counts as used now; what others loaded stays."""
    old, recent, unknown = (make_library(f"{library_body()}\n-- {n}") for n in range(3))
    for other in (old, recent, unknown):
        client.function_load(other.code)
    foreign = "#!lua name=theirs\nredis.register_function('theirs', function() return 1 end)"
    client.function_load(foreign)
    now = int(client.time()[0])
    client.hset(keys.LIBRARIES, old.name, now - UNUSED_S - 60)
    client.hset(keys.LIBRARIES, recent.name, now - UNUSED_S + 3600)
    client.hset(keys.LIBRARIES, "framegate_0000000000", now - A_YEAR_S)
    prepare(client)
    assert loaded(client) == {library().name, recent.name, unknown.name}
    assert client.fcall("theirs", 0) == 1
    used = {name.decode(): int(at) for name, at in client.hgetall(keys.LIBRARIES).items()}
    assert used.keys() == {library().name, recent.name, unknown.name}
    assert used[library().name] >= now
    assert used[unknown.name] >= now


class Overtaken(redis.Redis):
    """A client after whose first look at the libraries another run acts.

    act  what the other run does
    """

    act: Callable[[], object] | None = None

    def function_list(self, *words: Any, **more: Any) -> Any:
        found = super().function_list(*words, **more)
        act, self.act = self.act, None
        if act is not None:
            act()
        return found


@pytest.fixture
def overtaken(client: Any) -> Iterator[Overtaken]:
    path = client.connection_pool.connection_kwargs["path"]
    with Overtaken(unix_socket_path=path, protocol=2) as made:
        yield made


def test_a_library_that_another_run_loads_at_the_same_time_is_used(
    client: Any, overtaken: Overtaken
) -> None:
    overtaken.act = lambda: client.function_load(library().code)
    load_library(overtaken)
    assert loaded(client) == {library().name}


def test_a_store_that_accepts_no_library_is_an_error(client: Any, overtaken: Overtaken) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-function|load")
    with pytest.raises(redis.ResponseError, match="no permissions"):
        load_library(overtaken)


def test_an_unused_library_that_another_run_removes_at_the_same_time_is_gone(
    client: Any, overtaken: Overtaken
) -> None:
    old = make_library(f"{library_body()}\n-- old")
    client.function_load(old.code)
    now = note_use(client)
    client.hset(keys.LIBRARIES, old.name, now - UNUSED_S - 60)
    overtaken.act = lambda: client.function_delete(old.name)
    drop_unused(client, [overtaken], now)
    assert loaded(client) == set()
    assert client.hkeys(keys.LIBRARIES) == [library().name.encode()]


def test_an_unused_library_that_may_not_be_removed_is_an_error(client: Any) -> None:
    old = make_library(f"{library_body()}\n-- old")
    client.function_load(old.code)
    now = note_use(client)
    client.hset(keys.LIBRARIES, old.name, now - UNUSED_S - 60)
    client.execute_command("ACL", "SETUSER", "default", "-function|delete")
    with pytest.raises(redis.ResponseError, match="no permissions"):
        drop_unused(client, [client], now)
