"""Where a sink stands with each source, kept in the store; what comes next there, and what is gone.

A hash for each sink and source (keys.sink): p position, n index, s state of the receiver, f what
was seen of the stream while messages waited, and what people look at: counts of messages, since
when and why the receiver takes none.
"""

from __future__ import annotations

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


class NotTold(msgspec.Struct, frozen=True):
    """What a sink was not told.

    after, until  positions: entries after the first, up to and including the second
    entries       how many, each with one change or more
    why           trimmed: the store had no room for them any longer. given_up: they were not taken
                  for `give_up_s`. unreadable: another version of Framegate wrote them
    """

    after: str
    until: str
    entries: int
    why: Literal["trimmed", "given_up", "unreadable"]


@dataclass(frozen=True)
class Standing(Generic[S]):
    """Where a sink stands with a source.

    position  of the last entry that is done
    index     entries that the stream had got with that one
    state     of the receiver
    """

    position: Position
    index: int
    state: S


@dataclass(frozen=True)
class NumberedEntry:
    """An entry of the stream.

    index  see Standing
    said   what the stage says there; None where this Framegate cannot read it
    """

    position: Position
    index: int
    said: EventEntry | None


class SinkPositions(Generic[S]):
    """The standings of one sink. One thread. Errors are redis-py's."""

    def __init__(self, client: Any, sink: str, begins: S) -> None:
        """begins: state of a source before its first message."""
        self._client, self._sink, self._begins = client, sink, begins
        self.in_turn = isinstance(client, redis.RedisCluster)
        """Whether streams can only be asked one after the other, so that `wait` does not wait."""

    def standing(self, source: str, past: int) -> Standing[S]:
        """Return where it stands; a sink that is new begins after the epoch `past`."""
        p, n, s = self._client.hmget(keys.sink(source, self._sink), "p", "n", "s")
        if p is not None:
            kind: type[S] = type(self._begins)
            state = self._begins if s is None else records.decode(s, kind)
            return Standing(Position.parse(p), int(n), state)
        begins = Standing(Position(past, LAST_SEQ), self._count_to(source, past), self._begins)
        self.move(source, begins, {})
        return begins

    def _count_to(self, source: str, past: int) -> int:
        """Return how many entries the stream got up to an epoch: all but those that come after."""
        stream, after, later = keys.out(source, keys.EVENTS), f"({past}-{LAST_SEQ}", 0
        while page := self._client.xrange(stream, min=after, count=1000):
            later, after = later + len(page), f"({page[-1][0].decode()}"
        return self._added(source) - later

    def _added(self, source: str) -> int:
        try:
            return int(self._client.xinfo_stream(keys.out(source, keys.EVENTS))["entries-added"])
        except redis.ResponseError as error:
            if "no such key" in str(error):
                return 0
            raise

    def read(
        self, source: str, standing: Standing[S]
    ) -> tuple[NotTold | None, list[NumberedEntry]]:
        """Return what was trimmed after a standing, and the entries that come next."""
        stream = keys.out(source, keys.EVENTS)
        pipe = self._client.pipeline(transaction=True)
        pipe.xinfo_stream(stream)
        pipe.xrange(stream, min=f"({standing.position}", count=PAGE)
        info, page = pipe.execute(raise_on_error=False)
        if isinstance(info, redis.ResponseError) and "no such key" in str(info):
            return None, []
        for reply in (info, page):
            if isinstance(reply, Exception):
                raise reply
        if not page:
            return None, []
        if isinstance(info, list):  # redis-py leaves a cluster's transactions as they came
            info = {name.decode(): value for name, value in _pairs(info)}
            page = [(position, dict(_pairs(fields))) for position, fields in page]
        gone = info["entries-added"] - info["length"]
        missed = gone - standing.index
        first = gone if missed > 0 else standing.index
        if page[-1][0] == info["last-generated-id"]:  # a store that lost its last second has fewer
            first = info["entries-added"] - len(page)
        told = [_read(source, each, first + number) for number, each in enumerate(page, 1)]
        if missed <= 0:
            return None, told
        until = _before(told[0])
        return NotTold(str(standing.position), str(until), missed, "trimmed"), told

    def seen(self, source: str) -> FirstSeen | None:
        """Return what was seen of the stream while messages waited; None: nothing so far."""
        stored = self._client.hget(keys.sink(source, self._sink), "f")
        return None if stored is None else records.decode(stored, FirstSeen)

    def store_seen(self, source: str, seen: FirstSeen) -> None:
        """Store what was seen of the stream."""
        self._client.hset(keys.sink(source, self._sink), "f", records.encode(seen))

    def newest(self, source: str) -> Position:
        """Return the newest entry of the stream; START: there is none."""
        page = self._client.xrevrange(keys.out(source, keys.EVENTS), count=1)
        return Position.parse(page[0][0]) if page else START

    def move(self, source: str, standing: Standing[S], counts: Mapping[str, int]) -> None:
        """Store that all up to here is done, and how many messages that were, by what became of
        them.
        """
        key = keys.sink(source, self._sink)
        pipe = self._client.pipeline(transaction=True)
        state = records.encode(standing.state)
        pipe.hset(key, mapping={"p": str(standing.position), "n": standing.index, "s": state})
        for name, count in counts.items():
            if count:
                pipe.hincrby(key, name, count)
        pipe.hdel(key, "since", "why")
        pipe.execute()

    def note_failing(self, source: str, why: str) -> None:
        """Store since when, and why, the receiver takes none."""
        key = keys.sink(source, self._sink)
        pipe = self._client.pipeline(transaction=True)
        pipe.hsetnx(key, "since", f"{time.time():.3f}")
        pipe.hset(key, "why", why[:300])
        pipe.execute()

    def wait(self, after: Mapping[str, Position], wait_ms: int) -> bool:
        """Wait for more of any of these sources; return whether it could not wait (`in_turn`)."""
        if self.in_turn:
            return True
        streams = {keys.out(name, keys.EVENTS): str(at) for name, at in after.items()}
        self._client.xread(streams, count=1, block=wait_ms)
        return False


def _pairs(flat: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _read(source: str, entry: tuple[bytes, Mapping[bytes, bytes]], index: int) -> NumberedEntry:
    position, fields = Position.parse(entry[0]), entry[1]
    said: EventEntry | None
    try:
        if fields[b"k"] == END.encode():
            end = records.decode_versioned(fields[b"d"], End)
            nothing = EventEntry(source, position, None, None, Changes())
            said = read_last_events(source, position, end) or nothing
        else:
            said = read_events(source, position, fields[b"d"])
    except (msgspec.MsgspecError, RecordTooNew, KeyError):
        said = None
    return NumberedEntry(position, index, said)


def _before(first: NumberedEntry) -> Position:
    """Return the position of the last entry before the first that is left; where that is not told,
    the last that there can be.
    """
    if first.said is not None and first.said.before is not None:
        return first.said.before
    epoch, seq = first.position
    return Position(epoch, seq - 1) if seq else Position(epoch - 1, LAST_SEQ)
