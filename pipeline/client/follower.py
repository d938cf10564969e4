"""Follow streams of results or stage outputs: the commands for the store and their replies.

This module does no I/O. A follower is a generator (`steps`): it yields an Ask, gets the replies to
its commands, and puts results into `ready`.
`reader` sends the commands, and retries when the store is lost.
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
from framegate.pipeline.store.hop import END, Command

MOST_COUNT = 64  # entries of a stream in one reply
MOST_ENTRIES = 8192  # of all streams in one round: decoded, an entry takes about 4 KB of memory
LEAST_COUNT = 4  # of a stream, however many there are
BLOCK_MS = "1000"
WHOLE = 2**62  # as the number of a frame in a saved position: after all frames of its epoch

Start = Literal["new", "earliest"] | Mapping[str, str | Position]
T = TypeVar("T")


@dataclass(frozen=True)
class Channel(Generic[T]):
    """The stream of each source that a reader follows.

    stream  returns the key of a source's stream
    read    returns the value of an entry (source, position, data); None: nothing for this reader
    last    returns the value of the end of an epoch, likewise; there is none for results
    """

    stream: Callable[[str], str]
    read: Callable[[str, Position, bytes], T | None]
    last: Callable[[str, Position, End], T | None] = lambda *_: None


RESULTS: Channel[Result] = Channel(
    keys.results,
    lambda source, at, data: records.decode_versioned(data, Result),  # noqa: ARG005
)


def outputs(stage: str, kind: type[T]) -> Channel[Output[T]]:
    """Return the channel of a stage's outputs, which are decoded as `kind`."""

    def read(source: str, position: Position, data: bytes) -> Output[T] | None:
        return results.read_output(source, stage, position, data, kind)

    def last(source: str, position: Position, end: End) -> Output[T] | None:
        output = end.said.get(stage)
        if output is None:
            return None
        return results.last_output(source, stage, position, output, kind)

    return Channel(lambda source: keys.out(source, stage), read, last)


Given = Any  # a value of a channel, or ResultsTrimmed


class Ask(NamedTuple):
    """Commands for the store in one write, and a pause in seconds after them.

    atomic  in one transaction
    """

    commands: Sequence[Command]
    atomic: bool = False
    pause_s: float = 0.0


Steps = Generator[Ask, list[Any], None]


class Roster:
    """The followed sources. It also checks that the store was not replaced.

    names       the sources that are followed
    registered  the sources that the store has
    """

    def __init__(self, sources: Sequence[str] | None) -> None:
        self._named = sources
        self._identity: bytes | None = None
        self.names: list[str] = list(sources or ())
        self.registered: frozenset[str] = frozenset()

    def steps(self) -> Steps:
        """Look the sources up.

        Raises StoreRefused if the store was emptied or replaced: positions are valid in one store.
        """
        identity, registered = yield Ask([("GET", keys.IDENTITY), ("HKEYS", keys.SOURCES)])
        if self._identity is not None and checked(identity) != self._identity:
            raise StoreRefused(
                "the store was emptied or replaced during the subscription; subscribe again"
            )
        self._identity = checked(identity)
        self.registered = frozenset(name.decode() for name in checked(registered))
        if self._named is None:
            self.names = sorted(self.registered)


@dataclass
class Cursor:
    """A reader's position in one stream.

    after   position of the last entry that was read
    index   number of entries that were ever added up to `after`; None: unknown
    strict  a removed entry after `after` counts as missed
    end     the end that was read last, if no other entry followed
    """

    after: Position
    index: int | None = None
    strict: bool = True
    end: End | None = None

    def judge(
        self, source: str, info: list[Any], entries: list[list[Any]]
    ) -> ResultsTrimmed | None:
        """Return the gap between `after` and these entries, which are the first after it.

        The answer is exact if the index is known. Otherwise a saved position whose own entry is
        removed counts as a gap, unless the next possible position has an entry.

        info  the stream's XINFO, from the same transaction as the entries
        """
        known = fields_of(info)
        gone = known[b"entries-added"] - known[b"length"]
        oldest = Position.parse(known[b"first-entry"][0])
        first = Position.parse(entries[0][0])
        if oldest <= self.after:
            if entries[-1][0] == known[b"last-generated-id"]:
                # Also if the index is known: a failover may have lost entries that were read.
                self.index = known[b"entries-added"] - len(entries)
            return None
        is_missed = self.strict and (self.index is None or gone > self.index)
        self.index = gone
        self.strict = True
        if not is_missed:
            return None
        return ResultsTrimmed(source, str(self.after), str(first))

    def passed(self, source: str, channel: Channel[Any], entries: list[list[Any]]) -> list[Any]:
        """Advance past entries; return their values."""
        read = [read_entry(source, channel, entry) for entry in entries]
        results = [result for _, result in read if result is not None]
        self.end = read[-1][0]
        self.after = Position.parse(entries[-1][0])
        self.strict = True
        if self.index is not None:
            self.index += len(entries)
        return results


class Follower:
    """A reader without a group: it gets every result and stores nothing in the store.

    ready  results and gaps that were read and not taken; they survive an interrupted round
    """

    def __init__(
        self,
        sources: Sequence[str] | None,
        start: Start,
        until_end: bool,
        channel: Channel[Any] = RESULTS,
        once: bool = False,
        block_ms: str = BLOCK_MS,
    ) -> None:
        """Follow sources (None: all that the store has).

        until_end  finish when all sources have ended
        once       finish when all present results are read
        block_ms   time for which a read waits for a result; after it the sources are looked up
                   again. Less than ANSWER_S of `subscription`
        """
        self._roster = Roster(sources)
        self._start = start
        self._until_end = until_end
        self._channel = channel
        self._once = once
        self._block_ms = block_ms
        self._cursors: dict[str, Cursor] = {}
        self._joined_once = False
        self.ready: deque[Given] = deque()
        self.finished = False

    @property
    def ends(self) -> dict[str, End]:
        """Return the ends of the sources whose last entry is an end."""
        ends = {}
        for name, cursor in self._cursors.items():
            if cursor.end is not None:
                ends[name] = cursor.end
        return ends

    def interrupted(self) -> None:
        """Note that a round was interrupted. Nothing to do: a cursor only advances with results."""

    def steps(self) -> Steps:
        """Make one round: add new results to `ready`, or nothing after a second.

        Raises ConfigFaults if a source of a reader with `once` does not exist.
        """
        yield from self._roster.steps()
        unknown = set(self._roster.names) - self._roster.registered
        if self._once and unknown:
            raise ConfigFaults([unknown_sources(unknown, self._roster.registered)])
        yield from self._join()
        if not self._cursors:
            self.finished = self._once
            if not self._once:
                yield Ask([], pause_s=1.0)
            return
        may_finish = self._once or (
            self._until_end and all(map(_has_ended, self._cursors.values()))
        )
        (reply,) = yield Ask([self._read_command(block=not may_finish)])
        if may_finish and not reply:
            self.finished = True
        names = {self._channel.stream(name): name for name in self._cursors}
        for stream, entries in checked(reply) or ():
            yield from self._take(names[stream.decode()], entries)

    def _forget_gone(self) -> None:
        """Drop the cursors of sources that ended and that the store has forgotten.

        Other forgotten sources may come back with a new stream, so their index is unknown. That of
        a source from which nothing was read stays 0.
        """
        for name in self._cursors.keys() - self._roster.registered:
            cursor = self._cursors[name]
            if name not in self._roster.names and _has_ended(cursor):
                del self._cursors[name]
            elif cursor.after != START:
                cursor.index = None

    def _join(self) -> Steps:
        """Make cursors for new sources."""
        if not self._until_end:
            self._forget_gone()
        new = [name for name in self._roster.names if name not in self._cursors]
        if self._start == "new" and not self._joined_once and new:
            streams = [self._channel.stream(name) for name in new]
            infos = yield Ask([("XINFO", "STREAM", stream) for stream in streams])
            for name, info in zip(new, infos, strict=True):
                self._cursors[name] = _end_of(info)
        for name in new:
            if isinstance(self._start, Mapping) and name in self._start:
                self._cursors[name] = _cursor_after(Position.parse(str(self._start[name])))
            elif self._start == "new":
                # Of a source that appears later, the first result is new.
                self._cursors.setdefault(name, Cursor(START, 0))
            else:
                self._cursors[name] = Cursor(START, strict=False)
        self._joined_once = True

    def _read_command(self, block: bool) -> Command:
        streams = [self._channel.stream(name) for name in self._cursors]
        after = [str(cursor.after) for cursor in self._cursors.values()]
        wait: tuple[str, ...] = ()
        if block:
            wait = ("BLOCK", self._block_ms)
        count = count_of_each(len(streams))
        return ("XREAD", "COUNT", count, *wait, "STREAMS", *streams, *after)

    def _take(self, source: str, entries: list[list[Any]]) -> Steps:
        """Take the entries of one stream.

        If entries before them may be missing, read again, in one transaction with XINFO: only then
        both show the stream at the same moment.
        """
        cursor = self._cursors[source]
        if Position.parse(entries[0][0]) != cursor.after.following:
            stream = self._channel.stream(source)
            count = count_of_each(len(self._cursors))
            read = ("XREAD", "COUNT", count, "STREAMS", stream, str(cursor.after))
            info, reply = yield Ask([("XINFO", "STREAM", stream), read], atomic=True)
            entries = entries_of(reply)
            if not entries:
                return
            gap = cursor.judge(source, checked(info), entries)
            if gap is not None:
                self.ready.append(gap)
        self.ready.extend(cursor.passed(source, self._channel, entries))


def count_of_each(streams: int) -> str:
    """Return how many entries of each of these streams one round of a reader may take.

    The first look at a fleet of some hundred sources finds thousands of entries in all of them.
    """
    return str(max(LEAST_COUNT, min(MOST_COUNT, MOST_ENTRIES // max(1, streams))))


def _has_ended(cursor: Cursor) -> bool:
    return cursor.end is not None and cursor.end.last


def _cursor_after(position: Position) -> Cursor:
    """Return a cursor after a saved position.

    A position after a whole epoch (WHOLE) does not show whether results after it are missing. START
    was saved if there was no result.
    """
    if not position.epoch:
        return Cursor(START, 0)
    return Cursor(position, strict=position.seq < WHOLE)


def _end_of(info: Any) -> Cursor:
    """Return a cursor at the end of a stream with this XINFO; a missing stream is empty."""
    if isinstance(info, redis.ResponseError) and "no such key" in str(info):
        return Cursor(START, 0)
    known = fields_of(checked(info))
    return Cursor(Position.parse(known[b"last-generated-id"]), known[b"entries-added"])


def unknown_sources(asked: Collection[str], known: Collection[str]) -> str:
    """Return the message for sources that the store does not have."""
    names = ", ".join(sorted(asked))
    if not known:
        return f"no source {names}; the store has none"
    return f"no source {names}; there are: {', '.join(sorted(known))}"


def read_entry(source: str, channel: Channel[T], entry: list[Any]) -> tuple[End | None, T | None]:
    """Return the end in a stream entry, if it is one, and the channel's value of the entry."""
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    position = Position.parse(entry[0])
    if fields[b"k"] == END.encode():
        end = records.decode_versioned(fields[b"d"], End)
        return end, channel.last(source, position, end)
    return None, channel.read(source, position, fields[b"d"])


def fields_of(flat: list[Any]) -> dict[bytes, Any]:
    """Return a reply with alternating names and values as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def checked(reply: Any) -> Any:
    """Return the reply; raise it if it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def entries_of(reply: Any) -> list[list[Any]]:
    """Return the entries in the reply to a read of one stream; raise it if it is an error."""
    streams = checked(reply)
    if not streams:
        return []
    entries: list[list[Any]] = streams[0][1]
    return entries
