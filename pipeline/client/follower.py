"""Follows streams of results, or of what a stage gave: what to ask the store, and what its replies
mean. Does no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import redis

from framegate.pipeline.contracts import keys, records, results
from framegate.pipeline.contracts.errors import ConfigFaults, ResultsTrimmed, StoreRefused
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.contracts.results import Output, Result
from framegate.pipeline.store.connection import Command
from framegate.pipeline.store.hop import END

COUNT = "64"
BLOCK_MS = "1000"
WHOLE = 2**62  # in place of a frame's number: all frames of its epoch

Start = Literal["new", "earliest"] | Mapping[str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Channel(Generic[T]):
    """What of each source is read.

    stream  the name of a source's stream
    read    what an entry is about (source, position, data); None: nothing for this reader
    last    what the end of an epoch says, likewise; of results nothing
    """

    stream: Callable[[str], str]
    read: Callable[[str, Position, bytes], T | None]
    last: Callable[[str, Position, End], T | None] = lambda *_: None


RESULTS: Channel[Result] = Channel(
    keys.results,
    lambda source, at, data: records.decode_versioned(data, Result),  # noqa: ARG005
)


def outputs(stage: str, kind: type[T]) -> Channel[Output[T]]:
    """What the stage of that name gives, its outputs read as `kind`."""

    def read(source: str, position: Position, data: bytes) -> Output[T] | None:
        return results.read_output(source, stage, position, data, kind)

    def last(source: str, position: Position, end: End) -> Output[T] | None:
        said = end.said.get(stage)
        return None if said is None else results.last_output(source, stage, position, said, kind)

    return Channel(lambda source: keys.out(source, stage), read, last)


Given = Any  # what a channel reads, or ResultsTrimmed


class Ask(NamedTuple):
    """Commands for the store, in one write or in one transaction, and a pause after them."""

    commands: Sequence[Command]
    atomic: bool = False
    pause_s: float = 0.0


Steps = Generator[Ask, list[Any], None]


class Roster:
    """Which sources are followed, and whether the store is still the same one.

    names       those that are followed
    registered  those that the store has not forgotten
    """

    def __init__(self, sources: Sequence[str] | None) -> None:
        self._named = sources
        self._identity: bytes | None = None
        self.names: list[str] = list(sources or ())
        self.registered: frozenset[str] = frozenset()

    def steps(self) -> Steps:
        """Look them up. StoreRefused if the store was emptied or replaced: positions mean nothing
        in another one.
        """
        identity, registered = yield Ask([("GET", keys.IDENTITY), ("HKEYS", keys.SOURCES)])
        if self._identity is not None and sound(identity) != self._identity:
            raise StoreRefused(
                "the store was emptied or replaced during the subscription; subscribe again"
            )
        self._identity = sound(identity)
        self.registered = frozenset(name.decode() for name in sound(registered))
        if self._named is None:
            self.names = sorted(self.registered)


@dataclass
class Cursor:
    """Where a reader stands in one published stream.

    index   how many entries the stream had got when it got `after`, None where unknown
    strict  whether an entry after `after` that is gone was missed
    """

    after: Position
    index: int | None = None
    strict: bool = True
    end: End | None = None

    def judge(
        self, source: str, info: list[Any], entries: list[list[Any]]
    ) -> ResultsTrimmed | None:
        """Return what was missed between `after` and these entries, the first ones after it.

        info: the stream's XINFO, read in the same transaction. Exact where the index is known; a
        saved position that is gone itself counts as a gap unless its next entry is there.
        """
        known = fields_of(info)
        gone = known[b"entries-added"] - known[b"length"]
        oldest, first = (Position.parse(e[0]) for e in (known[b"first-entry"], entries[0]))
        if oldest <= self.after:
            if self.index is None and entries[-1][0] == known[b"last-generated-id"]:
                self.index = known[b"entries-added"] - len(entries)
            return None
        missed = self.strict and (self.index is None or gone > self.index)
        before, self.index, self.strict = self.after, gone, True
        return ResultsTrimmed(source, str(before), str(first)) if missed else None

    def passed(self, source: str, channel: Channel[Any], entries: list[list[Any]]) -> list[Any]:
        """Move on over entries; return what was read of them."""
        found = [read_entry(source, channel, entry) for entry in entries]
        results = [result for _, result in found if result is not None]
        self.end = found[-1][0]
        self.after = Position.parse(entries[-1][0])
        self.strict = True
        if self.index is not None:
            self.index += len(entries)
        return results


class Follower:
    """Follows alone: sees every result, and stores nothing of what it read.

    ready  what came and was not taken yet; kept when a round is broken off
    """

    def __init__(
        self,
        sources: Sequence[str] | None,
        start: Start,
        until_end: bool,
        channel: Channel[Any] = RESULTS,
        once: bool = False,
    ) -> None:
        """once: finished as soon as all that is there was given."""
        self._roster = Roster(sources)
        self._start = start
        self._until_end = until_end
        self._channel = channel
        self._once = once
        self._cursors: dict[str, Cursor] = {}
        self._joined_once = False
        self.ready: deque[Given] = deque()
        self.finished = False

    @property
    def ends(self) -> dict[str, End]:
        """How the sources ended whose last entry was an end."""
        return {name: r.end for name, r in self._cursors.items() if r.end is not None}

    def interrupted(self) -> None:
        """A round was broken off: nothing to mend, as cursors move with results only."""

    def steps(self) -> Steps:
        """One round: put what came into `ready`, or nothing after a second."""
        yield from self._roster.steps()
        if self._once and (unknown := set(self._roster.names) - self._roster.registered):
            raise ConfigFaults([unknown_sources(unknown, self._roster.registered)])
        yield from self._join()
        if not self._cursors:
            self.finished = self._once
            if not self._once:
                yield Ask([], pause_s=1.0)
            return
        ended = self._once or (
            self._until_end
            and all(cursor.end is not None and cursor.end.last for cursor in self._cursors.values())
        )
        (reply,) = yield Ask([self._read_command(block=not ended)])
        if ended and not reply:
            self.finished = True
        names = {self._channel.stream(name): name for name in self._cursors}
        for stream, entries in sound(reply) or ():
            yield from self._take(names[stream.decode()], entries)

    def _forget_gone(self) -> None:
        """Drop cursors of sources that the store has forgotten, where they ended; of others count
        entries anew.
        """
        for name in self._cursors.keys() - self._roster.registered:
            cursor = self._cursors[name]
            if name not in self._roster.names and cursor.end is not None and cursor.end.last:
                del self._cursors[name]
            else:
                cursor.index = None

    def _join(self) -> Steps:
        if not self._until_end:
            self._forget_gone()
        fresh = [name for name in self._roster.names if name not in self._cursors]
        if self._start == "new" and not self._joined_once and fresh:
            streams = [self._channel.stream(name) for name in fresh]
            infos = yield Ask([("XINFO", "STREAM", stream) for stream in streams])
            for name, info in zip(fresh, infos, strict=True):
                self._cursors[name] = _end_of(info)
        for name in fresh:
            if isinstance(self._start, Mapping) and name in self._start:
                self._cursors[name] = _cursor_after(Position.parse(self._start[name]))
            # What appears later is new from its first result on.
            strict = self._start == "new"
            self._cursors.setdefault(name, Cursor(START, 0 if strict else None, strict))
        self._joined_once = True

    def _read_command(self, block: bool) -> Command:
        streams = [self._channel.stream(name) for name in self._cursors]
        after = [str(cursor.after) for cursor in self._cursors.values()]
        wait = ("BLOCK", BLOCK_MS) if block else ()
        return ("XREAD", "COUNT", COUNT, *wait, "STREAMS", *streams, *after)

    def _take(self, source: str, entries: list[list[Any]]) -> Steps:
        """Results of one stream; where a gap is possible, read again to see both at one moment."""
        cursor = self._cursors[source]
        if Position.parse(entries[0][0]) != following(cursor.after):
            stream = self._channel.stream(source)
            read = ("XREAD", "COUNT", COUNT, "STREAMS", stream, str(cursor.after))
            info, reply = yield Ask([("XINFO", "STREAM", stream), read], atomic=True)
            entries = (sound(reply) or [[stream, []]])[0][1]
            if not entries:
                return
            gap = cursor.judge(source, sound(info), entries)
            if gap is not None:
                self.ready.append(gap)
        self.ready.extend(cursor.passed(source, self._channel, entries))


def _cursor_after(position: Position) -> Cursor:
    """Return a cursor after a result, or after a whole epoch (WHOLE): nobody knows which result was
    the last of an epoch. Before the first epoch there were none: START is saved where nothing came.
    """
    if not position.epoch:
        return Cursor(START, 0)
    return Cursor(position, strict=position.seq < WHOLE)


def _end_of(info: Any) -> Cursor:
    """Return a cursor at a stream's end, by its XINFO; a stream that is not there is empty."""
    if isinstance(info, redis.ResponseError) and "no such key" in str(info):
        return Cursor(START, 0)
    known = fields_of(sound(info))
    return Cursor(Position.parse(known[b"last-generated-id"]), known[b"entries-added"])


def unknown_sources(asked: Collection[str], known: Collection[str]) -> str:
    """Return what to say of sources that a store does not have."""
    there = f"there are: {', '.join(sorted(known))}" if known else "the store has none"
    return f"no source {', '.join(sorted(asked))}; {there}"


def following(position: Position) -> Position:
    """Return the only position that can come next without any in between."""
    return Position(position.epoch, position.seq + 1)


def read_entry(source: str, channel: Channel[T], entry: list[Any]) -> tuple[End | None, T | None]:
    """Return what an entry of a stream has: an end or none, and what the channel reads of it."""
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    position = Position.parse(entry[0])
    if fields[b"k"] == END.encode():
        end = records.decode_versioned(fields[b"d"], End)
        return end, channel.last(source, position, end)
    return None, channel.read(source, position, fields[b"d"])


def fields_of(flat: list[Any]) -> dict[bytes, Any]:
    """Return a reply of names and values in turn as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def sound(reply: Any) -> Any:
    """Return the reply; raise it if it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply
