"""The hop: all that the stages of a process commit about the frames of a source, in one write.

Pure: it makes the commands of the function library that the server runs (hop.lua) and reads their
replies. Commands are sent over a Link.

The names of the library and of its functions carry a digest of the code. Another version of
Framegate therefore loads another library beside this one, and neither changes how the calls of the
other are read. A server keeps each library for UNUSED_S after a run last used it.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import StoreRefused
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.store.connection import Command

FRAME, END = "frame", "end"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of an output stream; `kind` is frame or end."""

    position: Position
    kind: str
    data: bytes


class SetAside(msgspec.Struct, frozen=True, gc=False):
    """A record that a stage will not try again, with its bytes and the reason."""

    stage: str
    position: Position
    reason: str
    data: bytes


class Commit(msgspec.Struct, frozen=True):
    """One stage's outputs about the frames of one source after `previous`, up to `last`.

    keep    entries that its output stream keeps at least, 0 for all
    fields  of the stage's own hash to be set, such as `s`, its state
    counts  growth of the source's counters
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
    """All commits of one source in a hop, inputs before readers."""

    source: str
    commits: tuple[Commit, ...]


class CommitStatus(Enum):
    """What became of a source in a hop; nothing was written unless it is OK.

    FENCED  another worker has taken the stage over since
    MOVED   the stage stands elsewhere than the commit goes on from
    GONE    the store knows nothing of the stage: it was emptied
    """

    OK = b"OK"
    FENCED = b"FENCED"
    MOVED = b"MOVED"
    GONE = b"GONE"


class CommitReply(msgspec.Struct, frozen=True):
    """One source's reply; `refused` counts entries whose id the stream had passed already."""

    status: CommitStatus
    refused: int = 0


def hop_command(hops: list[SourceHop]) -> Command:
    """Return the call that makes all these hops; each source is written whole or not at all."""
    names: list[str] = []
    args: list[str | bytes] = [str(len(hops))]
    for hop in hops:
        names += (keys.count(hop.source), keys.room(hop.source), keys.aside(hop.source))
        args.append(str(len(hop.commits)))
        for commit in hop.commits:
            names += (keys.at(hop.source, commit.stage), commit.out)
            _add_commit(args, commit)
    return ("FCALL", function("hop"), str(len(names)), *names, *args)


def _add_commit(args: list[str | bytes], commit: Commit) -> None:
    parts = (commit.fields, commit.counts, commit.asides, commit.entries)
    shape = " ".join([str(commit.last), str(commit.keep), *(str(len(part)) for part in parts)])
    args += (commit.token, str(commit.previous), shape)
    for name, value in commit.fields:
        args += (name, value)
    for name, delta in commit.counts:
        args += (name, str(delta))
    for aside in commit.asides:
        args += (aside.stage, str(aside.position), aside.reason, aside.data)
    for entry in commit.entries:
        args += (str(entry.position), entry.kind, entry.data)


def read_replies(reply: list[list[Any]]) -> list[CommitReply]:
    """Return the replies in the order of the hops. StoreRefused if the server failed at one."""
    return [_read_reply(answer) for answer in reply]


def _read_reply(answer: list[Any]) -> CommitReply:
    if answer[0] == b"OK":
        return CommitReply(CommitStatus.OK, answer[1])
    if answer[0] == b"ERROR":
        raise StoreRefused(f"the store refuses to write: {answer[1].decode()}")
    return CommitReply(CommitStatus(answer[0]))


def attach_command(source: str, stage: str, run: str) -> Command:
    """Return the call that takes a new token; `read_attached` reads its reply."""
    return ("FCALL", function("attach"), "2", keys.own(source), keys.at(source, stage), run)


@dataclass(frozen=True, slots=True)
class Attached:
    """Where a stage goes on.

    state    None before its first commit
    emitted  position of its last entry
    """

    token: bytes
    position: Position
    state: bytes | None
    emitted: Position


def read_attached(reply: list[Any]) -> Attached | CommitStatus:
    """Return where the stage goes on; FENCED if another run owns the source, GONE if none does."""
    if reply[0] != b"OK":
        return CommitStatus(reply[0])
    emitted = Position.parse(reply[4]) if reply[4] else START
    return Attached(reply[1], Position.parse(reply[2]), reply[3], emitted)


def trim_command(source: str, stream: str, readers: tuple[str, ...]) -> Command:
    """Return the call that removes what all reliable readers of a stream have read."""
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
    return (
        "FCALL",
        function("epoch"),
        "4",
        *names,
        token,
        run,
        "" if after is None else str(after),
    )


def replicas_command(replicas: int) -> Command:
    """Return the call that waits until what its connection wrote is on so many replicas.

    Its reply is on how many it is, after two seconds at the latest.
    """
    return ("WAIT", str(replicas), "2000")


def too_few_replicas(found: int, replicas: int) -> str:
    """Return what to tell the user then."""
    return (
        f"what must outlive a failover is on {found} of {replicas} replicas ([store] replicas); "
        "nothing is served before that: see whether they are up and keep pace"
    )


FAMILY = "framegate_"
UNUSED_S = 30 * 86400
_DIGITS = 10


class Library(NamedTuple):
    """A function library.

    name    of the library
    prefix  of the names of its functions
    code    as FUNCTION LOAD takes it
    """

    name: str
    prefix: str
    code: str


def make_library(body: str) -> Library:
    """Return the library of this Lua code, which registers its functions as PREFIX .. name."""
    digest = hashlib.sha256(body.encode()).hexdigest()[:_DIGITS]
    name, prefix = f"{FAMILY}{digest}", f"fg_{digest}_"
    return Library(name, prefix, f"#!lua name={name}\nlocal PREFIX = '{prefix}'\n{body}")


def library_body() -> str:
    """Return the Lua code of this version's library, without the lines that name it."""
    return files("framegate.pipeline.store").joinpath("hop.lua").read_text()


@functools.cache
def library() -> Library:
    """Return this version's library."""
    return make_library(library_body())


@functools.cache
def function(name: str) -> str:
    """Return the name under which a function of this version's library is called."""
    return library().prefix + name


def load_library(server: Any) -> None:
    """Load this version's library into a server, unless it is there; others stay as they are."""
    if server.function_list(library=library().name):
        return
    try:
        server.function_load(library().code)
    except redis.ResponseError:  # another run has loaded it just now
        if not server.function_list(library=library().name):
            raise


def note_use(client: Any) -> int:
    """Store that this version's library is in use; return the server's time in UNIX seconds."""
    now = int(client.time()[0])
    client.hset(keys.LIBRARIES, library().name, now)
    return now


def drop_unused(client: Any, servers: list[Any], now: int) -> None:
    """Remove the libraries of other versions that no run has used for UNUSED_S.

    client   of the whole store, which holds when each was used
    servers  clients of the servers whose libraries are looked at
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
    """Return the names of the libraries of this family that a server has."""
    entries = server.function_list(library=f"{FAMILY}*")
    return [entry[entry.index(b"library_name") + 1].decode() for entry in entries]


def _delete(server: Any, name: str) -> None:
    try:
        server.function_delete(name)
    except redis.ResponseError:  # another run has removed it just now
        if name in _loaded(server):
            raise
