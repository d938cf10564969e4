"""A heavy worker: take queries from the store, run the model in batches, and push the replies.

A query is processed at least once. A worker renews its claim on the queries in its hands; a query
without a renewal for `CLAIM_S` goes to another worker. A query whose worker died three times gets
no answer, because it may be the cause.
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
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

CLAIM_S = 10.0
_TRIES = 3
_GONE_S = 600.0  # a silent worker without queries leaves the group after this time
_WAIT_S = 1.0
_HUNG_S = 60.0  # after this time in the model, other workers may claim its queries
_RENEW_S = ALIVE_S / 4
_CLAIM_EVERY = 2  # renewals
_AHEAD = 2  # batches held: one in the model, one that waits; more would be kept from other workers
_MIN_HELD = 8  # queries held: sources take turns only among these


class Looker(Protocol):
    """The heavy model.

    policy     hash of the models and settings that determine its predictions
    precision  precision of its networks, a part of the policy
    """

    @property
    def policy(self) -> str: ...
    @property
    def precision(self) -> str: ...

    def look(self, questions: Sequence[QueryMessage]) -> Sequence[Predictions | None]:
        """Return the predictions for each picture, in order; None: the picture is damaged.

        Called from one thread.
        """
        ...


class HeldQuery(NamedTuple):
    """A query that this worker holds.

    entry       id of its entry in the stream
    taken_mono  monotonic seconds at which this worker took it
    due_mono    monotonic seconds after which a reply is useless; None: no limit
    tries       number of times that a worker took it, with this one
    """

    entry: bytes
    message: QueryMessage
    taken_mono: float
    due_mono: float | None
    tries: int = 1


_Replies = Sequence[tuple[HeldQuery, ReplyMessage]]


class HeavyAsks:
    """The stream of queries, as a member of the workers' group reads it.

    Any thread may call the methods. All raise StoreLost, StoreBusy or StoreRefused.
    """

    def __init__(self, url: str) -> None:
        """Connect and join the workers' group."""
        self._url = url
        self._worker = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._client = connect(url)
        self._ahead_s = 0.0  # the store's clock minus our monotonic clock
        self._join()

    def take(self, room: int, wait_s: float) -> list[HeldQuery]:
        """Take up to `room` new queries; wait up to `wait_s` for the first one."""
        with self._errors():
            streams = self._client.xreadgroup(
                GROUP, self._worker, {keys.HEAVY_ASKS: ">"}, room, int(1000 * wait_s)
            )
            if not streams:
                return []
            return self._decode(streams[0][1], {})

    def claim(self, room: int) -> list[HeldQuery]:
        """Take over up to `room` queries whose workers do not renew them any more."""
        with self._errors():
            _, entries, *_ = self._client.xautoclaim(
                keys.HEAVY_ASKS, GROUP, self._worker, int(1000 * CLAIM_S), count=room
            )
            pending = self._client.xpending_range(
                keys.HEAVY_ASKS, GROUP, "-", "+", 10 * room, self._worker
            )
            tries = {entry["message_id"]: entry["times_delivered"] for entry in pending}
            return self._decode(entries, tries)

    def renew(self, held: Sequence[HeldQuery]) -> None:
        """Renew the claim on these queries, and the key of living workers."""
        with self._errors():
            pipe = self._client.pipeline(transaction=False)
            pipe.set(keys.HEAVY_ALIVE, self._worker, ex=ALIVE_S)
            if held:
                entries = [query.entry for query in held]
                pipe.xclaim(keys.HEAVY_ASKS, GROUP, self._worker, 0, entries, justid=True)
            pipe.execute()
            self._read_clock()

    def reply(self, replies: _Replies) -> None:
        """Push the replies to the askers and remove the queries from the stream."""
        with self._errors():
            pipe = self._client.pipeline(transaction=False)
            for query, reply in replies:
                key = keys.heavy_reply(query.message.asker, query.message.call)
                pipe.rpush(key, msgspec.msgpack.encode(reply))
                pipe.expire(key, REPLY_KEPT_S)
            self._remove(pipe, [query.entry for query, _ in replies])
            pipe.execute()

    def remove_gone_workers(self) -> None:
        """Remove members of the group that are silent for `_GONE_S` and hold no queries."""
        with self._errors():
            for member in self._client.xinfo_consumers(keys.HEAVY_ASKS, GROUP):
                if not member["pending"] and member["idle"] > 1000 * _GONE_S:
                    self._client.xgroup_delconsumer(keys.HEAVY_ASKS, GROUP, member["name"])

    def leave(self) -> None:
        """Leave the group and close the connections.

        A worker that holds queries stays a member, so that others can claim them.
        """
        with contextlib.suppress(redis.RedisError, OSError):
            held = self._client.xpending_range(keys.HEAVY_ASKS, GROUP, "-", "+", 1, self._worker)
            if not held:
                self._client.xgroup_delconsumer(keys.HEAVY_ASKS, GROUP, self._worker)
        self._client.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate redis-py's errors; create the group again if the store was emptied."""
        with store_errors(self._url):
            try:
                yield
            except redis.ResponseError as error:
                if not any(words in str(error) for words in ("NOGROUP", "no such key")):
                    raise
                self._join()
                raise StoreBusy("the store was emptied; earlier questions are lost") from error

    def _join(self) -> None:
        with store_errors(self._url):
            try:
                self._client.xgroup_create(keys.HEAVY_ASKS, GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            self._read_clock()

    def _read_clock(self) -> None:
        """Measure the difference of the clocks, with an error of at most half a round trip."""
        client: Any = self._client
        if isinstance(self._client, redis.RedisCluster):  # use the node that has the stream
            client = client.get_redis_connection(client.get_node_from_key(keys.HEAVY_ASKS))
        before = time.monotonic()
        seconds, micros = client.time()
        self._ahead_s = seconds + micros / 1e6 - (before + time.monotonic()) / 2

    def _decode(self, entries: Sequence[Any], tries: dict[bytes, int]) -> list[HeldQuery]:
        """Return the queries of entries, and remove entries that cannot be decoded."""
        queries = []
        damaged = []
        now = time.monotonic()
        for entry, fields in entries:
            try:
                message = records.decode_versioned(fields[FIELD.encode()], QueryMessage)
            except (RecordTooNew, msgspec.MsgspecError, KeyError) as error:
                log.warning("a question cannot be decoded and is dropped: %s", error)
                damaged.append(entry)
                continue
            due_mono: float | None = None
            if message.due_ms is not None:
                # The id of an entry is the store's time in ms.
                created_mono = int(entry.partition(b"-")[0]) / 1000 - self._ahead_s
                due_mono = created_mono + message.due_ms / 1000
            queries.append(HeldQuery(entry, message, now, due_mono, tries.get(entry, 1)))
        if damaged:
            pipe = self._client.pipeline(transaction=False)
            self._remove(pipe, damaged)
            pipe.execute()
        return queries

    def _remove(self, pipe: Any, entries: Sequence[bytes]) -> None:
        pipe.xack(keys.HEAVY_ASKS, GROUP, *entries)
        pipe.xdel(keys.HEAVY_ASKS, *entries)


class HeavyWorker:
    """The work of one process. `serve` runs in the main thread; `stop` is for signal handlers.

    The main thread runs the model and waits only for queries, because a call to a distant store
    takes a round trip. Other threads make these calls: one takes queries in advance, so that the
    model never waits for them; one renews the claims; one pushes the replies.

    A query is in `_held` from its arrival to its reply; until its batch starts, it is in `_waiting`
    as well. `_ready` is the lock of all fields, notified when one of these changes.
    """

    def __init__(self, asks: HeavyAsks, looker: Looker, limits: BatchLimits) -> None:
        """limits: limits of the model's batches."""
        self._asks = asks
        self._looker = looker
        self._ready = threading.Condition()
        self._waiting: Batching[bytes] = Batching(limits)
        self._held: dict[bytes, HeldQuery] = {}
        self._room = max(_AHEAD * limits.most, _MIN_HELD)
        self._looking_since: float | None = None
        self._stopping = threading.Event()
        self._is_reading = True
        self._fault: FramegateError | None = None
        self._replies: queue.SimpleQueue[_Replies | None] = queue.SimpleQueue()

    def stop(self) -> None:
        """Take no more queries; `serve` returns after the replies to all held queries."""
        self._stopping.set()

    def serve(self) -> None:
        """Work until `stop`. Raises StoreRefused if the store refuses this worker."""
        threads = [
            threading.Thread(target=self._read, name="heavy-reader", daemon=True),
            threading.Thread(target=self._renew, name="heavy-renewer", daemon=True),
            threading.Thread(target=self._push_replies, name="heavy-replier", daemon=True),
        ]
        for thread in threads:
            thread.start()
        while (batch := self._next_batch()) is not None:
            self._answer(batch)
        self._replies.put(None)
        for thread in threads:
            thread.join()
        self._asks.leave()
        if self._fault is not None:
            raise self._fault

    # -- Threads that call the store.

    def _read(self) -> None:
        def take() -> None:
            room = self._await_room(_WAIT_S)
            if room:
                self._add(self._asks.take(room, _WAIT_S))

        try:
            self._repeat(take)
        finally:
            with self._ready:
                self._is_reading = False
                self._ready.notify_all()

    def _renew(self) -> None:
        """Renew the claims on held queries, and claim those of workers that died."""
        turns = itertools.count()

        def renew() -> None:
            self._asks.renew(self._queries_to_renew(time.monotonic()))
            if next(turns) % _CLAIM_EVERY == 0:
                room = self._await_room(0.0)
                if room:
                    self._asks.remove_gone_workers()
                    self._add(self._asks.claim(room))
            self._stopping.wait(_RENEW_S)

        self._repeat(renew)

    def _repeat(self, do: Callable[[], None]) -> None:
        """Call a function until `stop`, also while the store fails; other errors end the worker."""
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
                    level = logging.DEBUG
                    if failures in (1, 5):
                        level = logging.WARNING
                    log.log(level, "%s; trying again", error)
                    self._stopping.wait(Backoff().delay_s(failures, random.random()))
        except FramegateError as error:
            self._fault = error
            self._stopping.set()

    def _push_replies(self) -> None:
        while (replies := self._replies.get()) is not None:
            try:
                self._asks.reply(replies)
            except (StoreLost, StoreBusy) as error:
                log.warning("%s; another worker answers these %d questions", error, len(replies))
            except FramegateError as error:
                self._fault = error
                self._stopping.set()
            with self._ready:
                for query, _ in replies:
                    del self._held[query.entry]
                self._ready.notify_all()

    def _await_room(self, wait_s: float) -> int:
        """Return the number of queries that may be taken; wait up to `wait_s` while it is 0."""
        with self._ready:
            self._ready.wait_for(
                lambda: len(self._held) < self._room or self._stopping.is_set(), wait_s
            )
            if self._stopping.is_set():
                return 0
            return max(0, self._room - len(self._held))

    def _add(self, queries: Sequence[HeldQuery]) -> None:
        with self._ready:
            for query in queries:
                # A worker may claim its own query, if its renewals were late.
                if query.entry not in self._held:
                    self._held[query.entry] = query
                    message = query.message
                    source = f"{message.asker}:{message.source}"
                    self._waiting.add(source, query.entry, message.urgent, query.taken_mono)
            self._ready.notify_all()

    def _queries_to_renew(self, now: float) -> list[HeldQuery]:
        """Return the held queries; none if the model hangs, so that other workers claim them."""
        with self._ready:
            since = self._looking_since
            if since is not None and now - since > _HUNG_S:
                return []
            return [*self._held.values()]

    # -- The main thread.

    def _next_batch(self) -> list[HeldQuery] | None:
        """Wait for the next batch; return None after `stop`, when no query is left."""
        with self._ready:
            while True:
                now = time.monotonic()
                take_at = now
                if not self._is_reading:
                    take_at = math.inf  # no further query will come: do not wait for a full batch
                batch = self._waiting.take(take_at)
                if batch:
                    return [self._held[entry] for entry in batch]
                if not self._is_reading:
                    return None
                wait_s = _WAIT_S
                ready_s = self._waiting.ready_at()
                if ready_s is not None:
                    wait_s = max(0.0, ready_s - now)
                self._ready.wait(wait_s)

    def _answer(self, batch: Sequence[HeldQuery]) -> None:
        now = time.monotonic()
        self._looking_since = now
        replies: list[tuple[HeldQuery, ReplyMessage]] = []
        wanted = []
        for query in batch:
            if query.tries > _TRIES:
                source = query.message.source
                log.warning("a question of %s is given up: %d workers died", source, _TRIES)
                replies.append((query, self._reply(query, None)))
            elif query.due_mono is not None and query.due_mono <= now:
                replies.append((query, self._reply(query, None, "late")))
            else:
                wanted.append(query)
        if wanted:
            seen = self._look([query.message for query in wanted])
            for query, predictions in zip(wanted, seen, strict=True):
                replies.append((query, self._reply(query, predictions)))
        self._replies.put(replies)  # bounded by `_room`, because these queries are held until then
        self._looking_since = None

    def _look(self, messages: Sequence[QueryMessage]) -> Sequence[Predictions | None]:
        """Return the model's predictions. If a batch fails, only the queries at fault get none."""
        try:
            return self._looker.look(messages)
        except Exception:
            if len(messages) == 1:
                log.exception("no answer to a question of %s", messages[0].source)
                return [None]
        seen: list[Predictions | None] = []
        for message in messages:
            seen += self._look([message])
        return seen

    def _reply(
        self,
        query: HeldQuery,
        seen: Predictions | None,
        reason: DegradedReason = "unanswered",
    ) -> ReplyMessage:
        """Return the reply to a query; reason: why it has no predictions."""
        return ReplyMessage(
            records.VERSION,
            query.message.number,
            self._looker.policy,
            seen,
            reason,
            took_s=time.monotonic() - query.taken_mono,
            precision=self._looker.precision,
        )
