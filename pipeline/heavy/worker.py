"""A heavy worker: takes queries from the store, looks in batches, replies; drains when told to.

At least once: what a worker took and did not reply to is another worker's once nobody has held on
to it for `CLAIM_S`. A query that was in hand when its worker died, three times, gets no answer.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import platform
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import FramegateError, RecordTooNew, StoreBusy, StoreLost
from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.contracts.results import DegradedReason
from framegate.pipeline.heavy.batching import Batching, BatchLimits
from framegate.pipeline.heavy.queue import (
    ALIVE_S,
    FIELD,
    GROUP,
    REPLY_KEPT_S,
    QueryMessage,
    ReplyMessage,
)
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

CLAIM_S = 10.0
_TRIES = 3
_GONE_S = 600.0  # after which a worker that is silent and holds nothing is no member any more
_WAIT_S = 1.0
_HUNG_S = 60.0  # a look that takes longer: others may have its queries
_KEEP_S = ALIVE_S / 4
_CLAIM_EVERY = 2  # of these
_AHEAD = 2  # batches in hand: one is looked at, one waits; the rest is for other workers
_LEAST_HELD = 8  # queries in hand at least: only among these do sources take turns


class Looker(Protocol):
    """The heavy model.

    policy     hash of what decides its predictions
    precision  of its networks, a part of that
    """

    @property
    def policy(self) -> str: ...
    @property
    def precision(self) -> str: ...

    def look(self, asked: Sequence[QueryMessage]) -> Sequence[Predictions | None]:
        """Return what is in each picture, in order; None for a damaged one. One thread."""
        ...


class TakenQuery(NamedTuple):
    """A query that this worker took.

    entry       its id in the stream
    taken_mono  when, by the monotonic clock, as the next one
    due_mono    when a reply is of no use any more; None: it is waited for
    tries       how often a worker took it, this time included
    """

    entry: bytes
    asked: QueryMessage
    taken_mono: float
    due_mono: float | None
    tries: int = 1


_Replies = Sequence[tuple[TakenQuery, ReplyMessage]]


class HeavyAsks:
    """The stream of queries as one worker sees it. Any thread.

    All methods raise StoreLost, StoreBusy or StoreRefused.
    """

    def __init__(self, url: str) -> None:
        """Join the workers' group."""
        self._url = url
        self._worker = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._client = connect(url)
        self._ahead_s = 0.0  # of the store's clock to our monotonic one
        self._join()

    def take(self, room: int, wait_s: float) -> list[TakenQuery]:
        """Return up to `room` new queries; wait up to `wait_s` for a first one."""
        with self._errors():
            found = self._client.xreadgroup(
                GROUP, self._worker, {keys.HEAVY_ASKS: ">"}, room, int(1000 * wait_s)
            )
            return self._taken(found[0][1] if found else [], {})

    def claim(self, room: int) -> list[TakenQuery]:
        """Return up to `room` queries that no worker holds on to any more: they are this one's."""
        with self._errors():
            who = keys.HEAVY_ASKS, GROUP, self._worker
            _, found, *_ = self._client.xautoclaim(*who, int(1000 * CLAIM_S), count=room)
            pending = self._client.xpending_range(
                keys.HEAVY_ASKS, GROUP, "-", "+", 10 * room, self._worker
            )
            return self._taken(
                found, {one["message_id"]: one["times_delivered"] for one in pending}
            )

    def hold(self, held: Sequence[TakenQuery]) -> None:
        """Hold on to these, and tell that a worker is there; at least every few seconds."""
        with self._errors():
            pipe = self._client.pipeline(transaction=False)
            pipe.set(keys.HEAVY_ALIVE, self._worker, ex=ALIVE_S)
            if held:
                entries = [one.entry for one in held]
                pipe.xclaim(keys.HEAVY_ASKS, GROUP, self._worker, 0, entries, justid=True)
            pipe.execute()
            self._read_clock()

    def reply(self, replies: _Replies) -> None:
        """Push the replies to the askers; these queries are done."""
        with self._errors():
            pipe = self._client.pipeline(transaction=False)
            for one, replied in replies:
                reply = keys.heavy_reply(one.asked.asker, one.asked.call)
                pipe.rpush(reply, msgspec.msgpack.encode(replied))
                pipe.expire(reply, REPLY_KEPT_S)
            self._done(pipe, [one.entry for one, _ in replies])
            pipe.execute()

    def strike_off(self) -> None:
        """Remove workers from the group that are long gone."""
        with self._errors():
            for member in self._client.xinfo_consumers(keys.HEAVY_ASKS, GROUP):
                if not member["pending"] and member["idle"] > 1000 * _GONE_S:
                    self._client.xgroup_delconsumer(keys.HEAVY_ASKS, GROUP, member["name"])

    def leave(self) -> None:
        """Leave the group, and what this worker still holds to others; close the connections."""
        with contextlib.suppress(redis.RedisError, OSError):
            held = self._client.xpending_range(keys.HEAVY_ASKS, GROUP, "-", "+", 1, self._worker)
            if not held:
                self._client.xgroup_delconsumer(keys.HEAVY_ASKS, GROUP, self._worker)
        self._client.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise our errors for redis-py's; a store that was emptied gets its group again."""
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
        """Learn what the store's clock is ahead of ours, but for half a round trip at most."""
        before = time.monotonic()
        seconds, micros = _time_of(self._client)
        self._ahead_s = seconds + micros / 1e6 - (before + time.monotonic()) / 2

    def _taken(self, found: Sequence[Any], tries: dict[bytes, int]) -> list[TakenQuery]:
        taken, now, bad = [], time.monotonic(), []
        for entry, fields in found:
            try:
                asked = records.decode_versioned(fields[FIELD.encode()], QueryMessage)
            except (RecordTooNew, msgspec.MsgspecError, KeyError) as error:
                log.warning("a question that cannot be read is dropped: %s", error)
                bad.append(entry)
                continue
            made_s = int(entry.partition(b"-")[0]) / 1000 - self._ahead_s
            due = None if asked.due_ms is None else made_s + asked.due_ms / 1000
            taken.append(TakenQuery(entry, asked, now, due, tries.get(entry, 1)))
        if bad:
            pipe = self._client.pipeline(transaction=False)
            self._done(pipe, bad)
            pipe.execute()
        return taken

    def _done(self, pipe: Any, entries: Sequence[bytes]) -> None:
        pipe.xack(keys.HEAVY_ASKS, GROUP, *entries)
        pipe.xdel(keys.HEAVY_ASKS, *entries)


def killed_too_many(one: TakenQuery) -> bool:
    """Return whether workers died with this query in hand so often that it is left alone."""
    return one.tries > _TRIES


def _time_of(client: Any) -> tuple[int, int]:
    """Return seconds and microseconds by the clock of the server that has the stream."""
    if isinstance(client, redis.RedisCluster):
        cluster: Any = client
        client = cluster.get_redis_connection(cluster.get_node_from_key(keys.HEAVY_ASKS))
    seconds, micros = client.time()
    return seconds, micros


class HeavyWorker:
    """One process's work. `serve` in the main thread; `stop` from a signal handler.

    The main thread looks, and waits for nothing but queries: on the far side of a slow line each
    call takes a round trip. So one thread does nothing but take queries, its next call always on
    the way, one holds on to what is in hand, and one replies.
    """

    def __init__(self, asks: HeavyAsks, looker: Looker, limits: BatchLimits) -> None:
        """limits: of the batches that the looker gets."""
        self._asks, self._looker = asks, looker
        self._ready = threading.Condition()
        self._waiting: Batching[bytes] = Batching(limits)
        self._held: dict[bytes, TakenQuery] = {}
        self._room = max(_AHEAD * limits.most, _LEAST_HELD)
        self._looking_since: float | None = None
        self._stopping = threading.Event()
        self._reads = True
        self._fault: FramegateError | None = None
        self._replies: queue.SimpleQueue[_Replies | None] = queue.SimpleQueue()

    def stop(self) -> None:
        """Take no more queries; `serve` ends when those in hand have their replies."""
        self._stopping.set()

    def serve(self) -> None:
        """Work until `stop`. StoreRefused if the store does not serve this worker any more."""
        threads = [
            threading.Thread(target=serve, name=f"heavy-{name}", daemon=True)
            for name, serve in (
                ("reader", self._read),
                ("keeper", self._keep),
                ("replier", self._say),
            )
        ]
        for thread in threads:
            thread.start()
        while (batch := self._next()) is not None:
            self._answer(batch)
        self._replies.put(None)
        for thread in threads:
            thread.join()
        self._asks.leave()
        if self._fault is not None:
            raise self._fault

    # -- the threads around it

    def _read(self) -> None:
        try:
            self._again_and_again(self._take)
        finally:
            with self._ready:
                self._reads = False
                self._ready.notify_all()

    def _take(self) -> None:
        if room := self._free(_WAIT_S):
            self._put(self._asks.take(room, _WAIT_S))

    def _keep(self) -> None:
        """Now and then: hold on to what is in hand, take over what nobody holds on to."""
        turns = itertools.count()

        def keep() -> None:
            self._asks.hold(self._still_held(time.monotonic()))
            if next(turns) % _CLAIM_EVERY == 0 and (room := self._free(0.0)):
                self._asks.strike_off()
                self._put(self._asks.claim(room))
            self._stopping.wait(_KEEP_S)

        self._again_and_again(keep)

    def _again_and_again(self, do: Callable[[], None]) -> None:
        """Until `stop`, also while the store is away; what else is wrong ends the worker."""
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    do()
                    if failures:
                        log.warning("the store is back")
                    failures = 0
                except (StoreLost, StoreBusy) as error:
                    failures += 1
                    level = logging.WARNING if failures in (1, 5) else logging.DEBUG
                    log.log(level, "%s; trying again", error)
                    self._stopping.wait(Backoff().delay_s(failures, random.random()))
        except FramegateError as error:
            self._fault = error
            self._stopping.set()

    def _say(self) -> None:
        """Send replies, in the order in which they were found, until there will be no more."""
        while (replies := self._replies.get()) is not None:
            try:
                self._asks.reply(replies)
            except (StoreLost, StoreBusy) as error:
                log.warning("%s; another worker answers these %d questions", error, len(replies))
            except FramegateError as error:
                self._fault = error
                self._stopping.set()
            with self._ready:
                for one, _ in replies:
                    del self._held[one.entry]
                self._ready.notify_all()

    def _free(self, wait_s: float) -> int:
        """Return how many more may be taken; wait up to `wait_s` until one may."""
        with self._ready:
            self._ready.wait_for(
                lambda: len(self._held) < self._room or self._stopping.is_set(), wait_s
            )
            return 0 if self._stopping.is_set() else max(0, self._room - len(self._held))

    def _put(self, taken: Sequence[TakenQuery]) -> None:
        with self._ready:
            for one in taken:
                if one.entry not in self._held:
                    self._held[one.entry] = one
                    source = f"{one.asked.asker}:{one.asked.source}"
                    self._waiting.add(source, one.entry, one.asked.urgent, one.taken_mono)
            self._ready.notify_all()

    def _still_held(self, now: float) -> list[TakenQuery]:
        with self._ready:
            since = self._looking_since
            return [] if since is not None and now - since > _HUNG_S else [*self._held.values()]

    # -- the main thread

    def _next(self) -> list[TakenQuery] | None:
        """Wait for the next batch; None once nothing is in hand and no more is taken."""
        with self._ready:
            while True:
                now = time.monotonic()
                batch = self._waiting.take(now if self._reads else math.inf)
                if batch:
                    return [self._held[entry] for entry in batch]
                if not self._reads:
                    return None
                ready_s = self._waiting.ready_at()
                self._ready.wait(_WAIT_S if ready_s is None else max(0.0, ready_s - now))

    def _answer(self, batch: Sequence[TakenQuery]) -> None:
        now = self._looking_since = time.monotonic()
        replies: list[tuple[TakenQuery, ReplyMessage]] = []
        wanted = []
        for one in batch:
            if killed_too_many(one):
                log.warning("a question of %s is given up: its lookers died", one.asked.source)
                replies.append((one, self._no_answer(one, "unanswered")))
            elif one.due_mono is not None and one.due_mono <= now:
                replies.append((one, self._no_answer(one, "late")))
            else:
                wanted.append(one)
        if wanted:
            looked = zip(wanted, self._looked([one.asked for one in wanted]), strict=True)
            replies += [(one, self._reply(one, seen)) for one, seen in looked]
        self._replies.put(replies)  # bounded: what is to be replied to is in hand still
        self._looking_since = None

    def _looked(self, asked: Sequence[QueryMessage]) -> Sequence[Predictions | None]:
        try:
            return self._looker.look(asked)
        except Exception:
            if len(asked) == 1:
                log.exception("no answer to a question of %s", asked[0].source)
                return [None]
        return [found for one in asked for found in self._looked([one])]

    def _reply(self, one: TakenQuery, seen: Predictions | None) -> ReplyMessage:
        if seen is None:
            return self._no_answer(one, "unanswered")
        took_s = time.monotonic() - one.taken_mono
        number, policy, precision = one.asked.number, self._looker.policy, self._looker.precision
        return ReplyMessage(
            records.VERSION, number, policy, seen, took_s=took_s, precision=precision
        )

    def _no_answer(self, one: TakenQuery, reason: DegradedReason) -> ReplyMessage:
        return ReplyMessage(
            records.VERSION,
            one.asked.number,
            self._looker.policy,
            reason=reason,
            took_s=time.monotonic() - one.taken_mono,
            precision=self._looker.precision,
        )
