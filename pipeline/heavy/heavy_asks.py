"""A heavy worker's side of the store: it takes questions, holds on to them, and replies.

At least once: what a worker took and did not reply to is another's once nobody held on to it for
`CLAIM_S`. A question that killed who had it in hand three times gets no answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import redis

from framegate.pipeline import keys, records
from framegate.pipeline.errors import RecordTooNew, StoreBusy
from framegate.pipeline.heavy.heavy_wire import (
    ALIVE_S,
    FIELD,
    GROUP,
    REPLY_KEPT_S,
    AskedFar,
    Replied,
)
from framegate.pipeline.store.client import connect, store_errors

log = logging.getLogger(__name__)

CLAIM_S = 10.0
_TRIES = 3
_GONE_S = 600.0  # a worker that said nothing for so long, and holds nothing, is struck off


class InHand(NamedTuple):
    """A question that a worker took. tries: how often one was taken, this time included."""

    entry: bytes
    asked: AskedFar
    taken_mono: float
    due_mono: float | None
    tries: int = 1


class HeavyAsks:
    """`fg:heavy:asks` as one worker sees it. Any thread; StoreLost, StoreBusy, StoreRefused."""

    def __init__(self, url: str) -> None:
        """Join the workers there."""
        self._url = url
        self._worker = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._client = connect(url)
        self._ahead_s = 0.0  # of the store's clock to our monotonic one
        self._join()

    def take(self, room: int, wait_s: float) -> list[InHand]:
        """Up to `room` new questions; waits for a first one."""
        with self._errors():
            found = self._client.xreadgroup(
                GROUP, self._worker, {keys.HEAVY_ASKS: ">"}, room, int(1000 * wait_s)
            )
            return self._in_hand(found[0][1] if found else [], {})

    def claim(self, room: int) -> list[InHand]:
        """Up to `room` questions that nobody holds on to any more."""
        with self._errors():
            who = keys.HEAVY_ASKS, GROUP, self._worker
            _, found, *_ = self._client.xautoclaim(*who, int(1000 * CLAIM_S), count=room)
            pending = self._client.xpending_range(
                keys.HEAVY_ASKS, GROUP, "-", "+", 10 * room, self._worker
            )
            return self._in_hand(
                found, {one["message_id"]: one["times_delivered"] for one in pending}
            )

    def hold(self, held: Sequence[InHand]) -> None:
        """These are still being worked on, and their worker is there."""
        with self._errors():
            pipe = self._client.pipeline(transaction=False)
            pipe.set(keys.HEAVY_ALIVE, self._worker, ex=ALIVE_S)
            if held:
                entries = [one.entry for one in held]
                pipe.xclaim(keys.HEAVY_ASKS, GROUP, self._worker, 0, entries, justid=True)
            pipe.execute()
            self._read_clock()

    def reply(self, replies: Sequence[tuple[InHand, Replied]]) -> None:
        """Push them to who asked; these questions are done."""
        with self._errors():
            pipe = self._client.pipeline(transaction=False)
            for one, replied in replies:
                reply = keys.heavy_reply(one.asked.asker, one.asked.call)
                pipe.rpush(reply, msgspec.msgpack.encode(replied))
                pipe.expire(reply, REPLY_KEPT_S)
            self._done(pipe, [one.entry for one, _ in replies])
            pipe.execute()

    def strike_off(self) -> None:
        """Workers that are long gone are members no more."""
        with self._errors():
            for member in self._client.xinfo_consumers(keys.HEAVY_ASKS, GROUP):
                if not member["pending"] and member["idle"] > 1000 * _GONE_S:
                    self._client.xgroup_delconsumer(keys.HEAVY_ASKS, GROUP, member["name"])

    def leave(self) -> None:
        """No member any more; what it still holds is left to others. Closes the connections."""
        with contextlib.suppress(redis.RedisError, OSError):
            held = self._client.xpending_range(keys.HEAVY_ASKS, GROUP, "-", "+", 1, self._worker)
            if not held:
                self._client.xgroup_delconsumer(keys.HEAVY_ASKS, GROUP, self._worker)
        self._client.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Ours for redis-py's; a store that was emptied meanwhile gets its group again."""
        with store_errors(self._url):
            try:
                yield
            except redis.ResponseError as error:
                if not any(words in str(error) for words in ("NOGROUP", "no such key")):
                    raise
                self._join()
                raise StoreBusy("the store was emptied: what was asked before is gone") from error

    def _join(self) -> None:
        with store_errors(self._url):
            try:
                self._client.xgroup_create(keys.HEAVY_ASKS, GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            self._read_clock()

    def _read_clock(self) -> None:
        """What the store's clock is ahead of ours; half a round trip of error at most."""
        before = time.monotonic()
        seconds, micros = _time_of(self._client)
        self._ahead_s = seconds + micros / 1e6 - (before + time.monotonic()) / 2

    def _in_hand(self, found: Sequence[Any], tries: dict[bytes, int]) -> list[InHand]:
        taken, now, bad = [], time.monotonic(), []
        for entry, fields in found:
            try:
                asked = records.decode_versioned(fields[FIELD.encode()], AskedFar)
            except (RecordTooNew, msgspec.MsgspecError, KeyError) as error:
                log.warning("a question that cannot be read is dropped: %s", error)
                bad.append(entry)
                continue
            made_s = int(entry.partition(b"-")[0]) / 1000 - self._ahead_s
            due = None if asked.due_ms is None else made_s + asked.due_ms / 1000
            taken.append(InHand(entry, asked, now, due, tries.get(entry, 1)))
        if bad:
            pipe = self._client.pipeline(transaction=False)
            self._done(pipe, bad)
            pipe.execute()
        return taken

    def _done(self, pipe: Any, entries: Sequence[bytes]) -> None:
        pipe.xack(keys.HEAVY_ASKS, GROUP, *entries)
        pipe.xdel(keys.HEAVY_ASKS, *entries)


def killed_too_many(one: InHand) -> bool:
    """Whether who had it in hand went away with it so often that it is better left alone."""
    return one.tries > _TRIES


def _time_of(client: Any) -> tuple[int, int]:
    """Seconds and microseconds by the clock of the server that has the questions."""
    if isinstance(client, redis.RedisCluster):
        cluster: Any = client
        client = cluster.get_redis_connection(cluster.get_node_from_key(keys.HEAVY_ASKS))
    seconds, micros = client.time()
    return seconds, micros
