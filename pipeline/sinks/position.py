"""The positions of a sink in the streams of its sources, and the entries after them.

The store has one hash for each sink and source (`keys.sink`). Its fields are p, the position of
the last entry that is done; n, the index of that entry; s, the state of the receiver; and f, the
notes about the age of waiting entries. For display there are also counters of messages by outcome
and, while the receiver does not accept messages, `since` and `why`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import msgspec
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.episodes import Changes, EventEntry, read_events, read_last_events
from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.store.hop import END
from framegate.pipeline.system.clocks import FirstSeen

PAGE = 64
LAST_SEQ = 2**62

S = TypeVar("S")


class Undelivered(msgspec.Struct, frozen=True):
    """A range of entries that a receiver never gets. Receivers get it as JSON.

    after, until  positions: entries after the first, up to and including the second
    entries       number of entries; each has at least one change
    why           trimmed: the store removed them for lack of room. given_up: the receiver did not
                  accept them for `give_up_s`. unreadable: another version of Framegate wrote them
    """

    after: str
    until: str
    entries: int
    why: Literal["trimmed", "given_up", "unreadable"]


@dataclass(frozen=True)
class SinkPosition(Generic[S]):
    """The progress of a sink with one source.

    position  position of the last entry that is done
    index     number of entries that were added to the stream up to that entry
    state     state of the receiver
    """

    position: Position
    index: int
    state: S


@dataclass(frozen=True)
class NumberedEntry:
    """An entry of the stream.

    index   as in SinkPosition
    events  its content; None: this version of Framegate cannot read it
    """

    position: Position
    index: int
    events: EventEntry | None


class SinkPositions(Generic[S]):
    """The positions of one sink in the store.

    Use it from one thread. All methods raise redis-py's errors.
    """

    def __init__(self, client: Any, sink: str, initial_state: S) -> None:
        """initial_state: state of a source before its first message."""
        self._client = client
        self._sink = sink
        self._initial_state = initial_state
        # A cluster keeps streams on different nodes, so that no call can wait for all of them.
        self._can_wait = not isinstance(client, redis.RedisCluster)

    def load(self, source: str, past: int, begins_now: bool = False) -> SinkPosition[S]:
        """Return the position with a source; a new sink begins after the epoch `past`.

        begins_now  a new sink begins after the newest entry
        """
        p, n, s = self._client.hmget(keys.sink(source, self._sink), "p", "n", "s")
        if p is not None:
            state = self._initial_state
            if s is not None:
                # A sink can get another kind, whose state is another.
                with contextlib.suppress(msgspec.ValidationError):
                    state = records.decode(s, type(self._initial_state))
            return SinkPosition(Position.parse(p), int(n), state)
        first = None
        if begins_now:
            first = self._newest(source)
        if first is None:
            begin = Position(past, LAST_SEQ)
            first = SinkPosition(begin, self._entries_until(source, past), self._initial_state)
        self.store(source, first, {})
        return first

    def _newest(self, source: str) -> SinkPosition[S] | None:
        """Return the position after all entries of a source; None if it has no stream."""
        try:
            info = self._client.xinfo_stream(keys.out(source, keys.EVENTS))
        except redis.ResponseError as error:
            if _is_missing_stream(error):
                return None
            raise
        newest = Position.parse(info["last-generated-id"].decode())
        return SinkPosition(newest, int(info["entries-added"]), self._initial_state)

    def _entries_until(self, source: str, epoch: int) -> int:
        """Return the number of entries that were added to the stream up to the end of an epoch.

        The stream counts entries that were trimmed. Therefore later entries are subtracted from
        the total; earlier ones may be gone.
        """
        stream = keys.out(source, keys.EVENTS)
        after = f"({epoch}-{LAST_SEQ}"
        later = 0
        while page := self._client.xrange(stream, min=after, count=1000):
            later += len(page)
            after = f"({page[-1][0].decode()}"
        try:
            return int(self._client.xinfo_stream(stream)["entries-added"]) - later
        except redis.ResponseError as error:
            if _is_missing_stream(error):
                return 0
            raise

    def read(
        self, source: str, at: SinkPosition[S]
    ) -> tuple[Undelivered | None, list[NumberedEntry]]:
        """Return the range that was trimmed after a position, and the next entries."""
        stream = keys.out(source, keys.EVENTS)
        pipe = self._client.pipeline(transaction=True)
        pipe.xinfo_stream(stream)
        pipe.xrange(stream, min=f"({at.position}", count=PAGE)
        info, page = pipe.execute(raise_on_error=False)
        if _is_missing_stream(info):
            return None, []
        for reply in (info, page):
            if isinstance(reply, Exception):
                raise reply
        if not page:
            return None, []
        if isinstance(info, list):  # redis-py does not parse replies in a cluster's transaction
            info = {name.decode(): value for name, value in _pairs(info)}
            page = [(position, dict(_pairs(fields))) for position, fields in page]
        trimmed = info["entries-added"] - info["length"]
        missed = trimmed - at.index
        before_page = max(trimmed, at.index)
        # After a crash of the store its counter can be lower than the stored index, because the
        # last second is lost. Where the page reaches the end of the stream, the counter decides.
        if page[-1][0] == info["last-generated-id"]:
            before_page = info["entries-added"] - len(page)
        entries = [_read(source, entry, before_page + i) for i, entry in enumerate(page, 1)]
        if missed <= 0:
            return None, entries
        until = _position_before(entries[0])
        return Undelivered(str(at.position), str(until), missed, "trimmed"), entries

    def first_seen(self, source: str) -> FirstSeen | None:
        """Return the notes about the age of waiting entries; None: no message ever waited."""
        stored = self._client.hget(keys.sink(source, self._sink), "f")
        if stored is None:
            return None
        return records.decode(stored, FirstSeen)

    def store_first_seen(self, source: str, seen: FirstSeen) -> None:
        """Store the notes about the age of waiting entries."""
        self._client.hset(keys.sink(source, self._sink), "f", records.encode(seen))

    def owner(self, source: str) -> str:
        """Return the id of the run that owns a source; "" if no run does."""
        run: bytes | None = self._client.hget(keys.own(source), "run")
        return (run or b"").decode()

    def newest(self, source: str) -> Position:
        """Return the position of the newest entry of the stream; START: it has no entry."""
        page = self._client.xrevrange(keys.out(source, keys.EVENTS), count=1)
        if not page:
            return START
        return Position.parse(page[0][0])

    def store(self, source: str, at: SinkPosition[S], counts: Mapping[str, int]) -> None:
        """Store a position, and remove the note that the receiver fails.

        counts  number of messages since the position before, by outcome
        """
        key = keys.sink(source, self._sink)
        pipe = self._client.pipeline(transaction=True)
        state = records.encode(at.state)
        pipe.hset(key, mapping={"p": str(at.position), "n": at.index, "s": state})
        for name, count in counts.items():
            if count:
                pipe.hincrby(key, name, count)
        pipe.hdel(key, "since", "why")
        pipe.execute()

    def note_failing(self, source: str, why: str) -> None:
        """Store the reason why the receiver accepts no messages, and since when."""
        key = keys.sink(source, self._sink)
        pipe = self._client.pipeline(transaction=True)
        pipe.hsetnx(key, "since", f"{time.time():.3f}")
        pipe.hset(key, "why", why[:300])
        pipe.execute()

    def wait(self, after: Mapping[str, Position], wait_ms: int) -> bool:
        """Wait for an entry of any of these sources; return False at once if the store cannot wait.

        after    the position to wait after, by source
        wait_ms  longest time to wait, at least 1
        """
        if not self._can_wait:
            return False
        streams = {keys.out(name, keys.EVENTS): str(at) for name, at in after.items()}
        self._client.xread(streams, count=1, block=wait_ms)
        return True


def _is_missing_stream(reply: Any) -> bool:
    return isinstance(reply, redis.ResponseError) and "no such key" in str(reply)


def _pairs(flat: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _read(source: str, entry: tuple[bytes, Mapping[bytes, bytes]], index: int) -> NumberedEntry:
    id_, fields = entry
    position = Position.parse(id_)
    events: EventEntry | None
    try:
        if fields[b"k"] == END.encode():
            end = records.decode_versioned(fields[b"d"], End)
            empty = EventEntry(source, position, None, None, Changes())
            events = read_last_events(source, position, end) or empty
        else:
            events = read_events(source, position, fields[b"d"])
    except (msgspec.MsgspecError, RecordTooNew, KeyError):
        events = None
    return NumberedEntry(position, index, events)


def _position_before(entry: NumberedEntry) -> Position:
    """Return the position of the entry before this one, or, if it is unknown, the highest possible
    position.
    """
    if entry.events is not None and entry.events.before is not None:
        return entry.events.before
    epoch, seq = entry.position
    if seq:
        return Position(epoch, seq - 1)
    return Position(epoch - 1, LAST_SEQ)
