"""The hop: one atomic write with the commits of all stages of a process for a source.

This module makes the commands of the function library that the server runs (hop.lua) and reads
their replies. It does no I/O, except to load the library and to remove unused ones.

The names of the library and of its functions contain a digest of the code. Another version of
Framegate therefore loads another library beside this one, and calls of one version never reach the
code of another. A server keeps each library for UNUSED_S after a run last used it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import StoreRefused
from framegate.pipeline.contracts.records import Position

FRAME, END = "frame", "end"

Command = tuple[str | bytes, ...]  # a command of Redis and its arguments


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry of an output stream. kind: FRAME or END"""

    position: Position
    kind: str
    data: bytes


class SetAside(msgspec.Struct, frozen=True, gc=False):
    """A record that a stage failed on and does not try again, with its bytes and the reason."""

    stage: str
    position: Position
    reason: str
    data: bytes


class Commit(msgspec.Struct, frozen=True):
    """One stage's outputs for the frames of one source after `previous`, up to `last`.

    token   fencing token; the store refuses the commit if it has given a later one
    keep    minimum number of entries that the output stream keeps; 0: all
    fields  fields of the stage's hash to set, such as `s`, its state
    counts  increments of the source's counters
    """

    stage: str
    out: str
    token: bytes
    previous: Position
    last: Position
    entries: tuple[Entry, ...] = ()
    fields: tuple[tuple[str, bytes], ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    asides: tuple[SetAside, ...] = ()
    keep: int = 0


class SourceHop(msgspec.Struct, frozen=True):
    """All commits of one source in a hop, those of a stage before those of its readers."""

    source: str
    commits: tuple[Commit, ...]


class CommitStatus(Enum):
    """The result of a hop for a source. Unless it is OK, nothing was written.

    FENCED  another worker has taken the stage over
    MOVED   the stage's position in the store is not the commit's `previous`
    GONE    the store does not know the stage: it was emptied
    """

    OK = b"OK"
    FENCED = b"FENCED"
    MOVED = b"MOVED"
    GONE = b"GONE"


class CommitReply(msgspec.Struct, frozen=True):
    """One source's reply. refused: number of entries whose id the stream had passed before"""

    status: CommitStatus
    refused: int = 0


def hop_command(hops: list[SourceHop]) -> Command:
    """Return the call that makes all these hops. All commits of a source are written, or none."""
    names: list[str] = []
    args: list[str | bytes] = [str(len(hops))]
    for hop in hops:
        names += (keys.count(hop.source), keys.room(hop.source), keys.aside(hop.source))
        args.append(str(len(hop.commits)))
        for commit in hop.commits:
            names += (keys.at(hop.source, commit.stage), commit.out)
            _add_commit(args, commit)
    return ("FCALL", function("hop"), str(len(names)), *names, *args)


# The same few positions occur in all commits of a hop, so their text is made once.
_text: Callable[[Position], str] = functools.lru_cache(maxsize=256)(str)


def _add_commit(args: list[str | bytes], commit: Commit) -> None:
    fields, counts = len(commit.fields), len(commit.counts)
    asides, entries = len(commit.asides), len(commit.entries)
    shape = f"{_text(commit.last)} {commit.keep} {fields} {counts} {asides} {entries}"
    args += (commit.token, _text(commit.previous), shape)
    for name, value in commit.fields:
        args += (name, value)
    for name, delta in commit.counts:
        args += (name, str(delta))
    for aside in commit.asides:
        args += (aside.stage, _text(aside.position), aside.reason, aside.data)
    for entry in commit.entries:
        args += (_text(entry.position), entry.kind, entry.data)


def read_replies(reply: list[list[Any]]) -> list[CommitReply]:
    """Return the replies in the order of the hops. Raise StoreRefused if the server failed."""
    replies = []
    for status, *details in reply:
        refused = 0
        if status == b"OK":
            refused = details[0]
        elif status == b"ERROR":
            raise StoreRefused(f"the store refuses to write: {details[0].decode()}")
        replies.append(CommitReply(CommitStatus(status), refused))
    return replies


def attach_command(source: str, stage: str, run: str, reader: str | None = None) -> Command:
    """Return the call that takes a new token; `read_attached` reads its reply.

    reader  the stage of the main path that reads this one; None: there is none
    """
    places = [keys.own(source), keys.at(source, stage)]
    if reader is not None:
        places.append(keys.at(source, reader))
    return ("FCALL", function("attach"), str(len(places)), *places, run)


@dataclass(frozen=True, slots=True)
class Attached:
    """A stage's checkpoint in the store, with a new token.

    state    None before its first commit
    emitted  position of its last entry
    """

    token: bytes
    position: Position
    state: bytes | None
    emitted: Position


def read_attached(reply: list[Any]) -> Attached | CommitStatus:
    """Return the stage's checkpoint; FENCED if another run owns the source, GONE if none does."""
    if reply[0] != b"OK":
        return CommitStatus(reply[0])
    _, token, position, state, emitted = reply
    return Attached(token, Position.parse(position), state, Position.parse(emitted or b"0-0"))


def trim_command(source: str, stream: str, readers: tuple[str, ...]) -> Command:
    """Return the call that removes the entries that all these readers of a stream have read."""
    names = [stream, *(keys.at(source, reader) for reader in readers)]
    return ("FCALL", function("trim"), str(len(names)), *names)


def await_command(source: str, reader: str, position: Position) -> Command:
    """Return the call that writes to the source's `room` once the reader is at `position`."""
    names = (keys.room(source), keys.at(source, reader))
    return ("FCALL", function("await"), "2", *names, str(position))


def epoch_command(source: str, token: bytes, run: str, after: int | None = None) -> Command:
    """Return the call that allocates the next epoch to the decoder of `run` that holds `token`.

    after  of a file: an epoch later than this that no frame has is allocated again, so that a
           decoder that died before its first commit costs no epoch; None for a camera
    """
    streams = (keys.out(source, "decode"), keys.results(source))
    names = (keys.own(source), keys.at(source, "decode"), *streams)
    after_text = ""
    if after is not None:
        after_text = str(after)
    return ("FCALL", function("epoch"), "4", *names, token, run, after_text)


def replicas_command(replicas: int) -> Command:
    """Return the call that waits until `replicas` replicas have all writes of its connection.

    Its reply is the number of replicas that have them, after 2 s at the latest.
    """
    return ("WAIT", str(replicas), "2000")


def too_few_replicas(reached: int, replicas: int) -> str:
    """Return the message for a write that too few replicas have in time."""
    return (
        f"a write that must survive a failover is on {reached} of {replicas} replicas "
        "([store] replicas); the run serves no source before that: check that the replicas are up "
        "and keep pace"
    )


FAMILY = "framegate_"
UNUSED_S = 30 * 86400
_DIGITS = 10


class Library(NamedTuple):
    """A function library.

    name    its name on the server
    prefix  prefix of its functions' names
    code    the argument of FUNCTION LOAD
    """

    name: str
    prefix: str
    code: str


def make_library(body: str) -> Library:
    """Return the library of this Lua code, which must register its functions as PREFIX .. name."""
    digest = hashlib.sha256(body.encode()).hexdigest()[:_DIGITS]
    name = f"{FAMILY}{digest}"
    prefix = f"fg_{digest}_"
    return Library(name, prefix, f"#!lua name={name}\nlocal PREFIX = '{prefix}'\n{body}")


def library_body() -> str:
    """Return the Lua code of this version's library, without its head."""
    return files("framegate.pipeline.store").joinpath("hop.lua").read_text(encoding="utf-8")


@functools.cache
def library() -> Library:
    """Return this version's library."""
    return make_library(library_body())


@functools.cache
def function(name: str) -> str:
    """Return the full name of a function of this version's library."""
    return library().prefix + name


def load_library(server: Any) -> None:
    """Load this version's library into a server that does not have it. Other libraries stay."""
    if server.function_list(library=library().name):
        return
    try:
        server.function_load(library().code)
    except redis.ResponseError:  # another run has loaded it meanwhile
        if not server.function_list(library=library().name):
            raise


def note_use(client: Any) -> int:
    """Store that this version's library is in use; return the server's time in UNIX seconds."""
    now = int(client.time()[0])
    client.hset(keys.LIBRARIES, library().name, now)
    return now


def drop_unused(client: Any, servers: list[Any], now: int) -> None:
    """Remove the libraries of other versions that no run has used for UNUSED_S.

    client   client of the store, which has the time of each library's last use
    servers  clients of the servers to clean up
    now      UNIX seconds, by the store's clock
    """
    used = {name.decode(): int(at) for name, at in client.hgetall(keys.LIBRARIES).items()}
    for server in servers:
        for name in _loaded(server):
            if name not in used:
                client.hsetnx(keys.LIBRARIES, name, now)
            elif used[name] < now - UNUSED_S:
                _delete(server, name)
    for name, at in used.items():
        if at < now - UNUSED_S:
            client.hdel(keys.LIBRARIES, name)


def _loaded(server: Any) -> list[str]:
    """Return the names of all Framegate libraries on a server."""
    entries = server.function_list(library=f"{FAMILY}*")
    return [entry[entry.index(b"library_name") + 1].decode() for entry in entries]


def _delete(server: Any, name: str) -> None:
    try:
        server.function_delete(name)
    except redis.ResponseError:  # another run has removed it meanwhile
        if name in _loaded(server):
            raise
