"""A place on any host: heavy workers that take queries from a Redis and push their replies.

All workers read the stream `fg:heavy:asks` as one consumer group; an entry has one field `d`, a
QueryMessage. They push replies to the list `fg:heavy:reply:<asker>:<call>`, which expires. Every
living worker renews `fg:heavy:alive`, which expires as well. worker.py is the other side.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import redis

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.queries import (
    EncodeQuery,
    PlaceFailed,
    Predictions,
    Query,
    Region,
    Reply,
    Unanswered,
)
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.results import DegradedReason
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.store.redis_client import connect, store_errors

GROUP = "workers"
FIELD = "d"
MAX_ENTRIES = 512  # of the stream; a new entry then removes the oldest
ALIVE_S = 10  # lifetime of `fg:heavy:alive` after its last renewal
REPLY_KEPT_S = 30
ANSWER_S = 30.0  # longest wait for a reply
GRACE_S = 1.0  # wait after the due time: a late reply still helps later frames
SLICE_S = 1.0  # part of a wait after which `close` is noticed
_STORE_TIMEOUT_S = 3.0


def end_of_wait(questions: Sequence[Query]) -> float:
    """Return the monotonic seconds until which a call with these queries waits for replies."""
    last = time.monotonic() + ANSWER_S
    dues = [question.due_mono for question in questions if question.due_mono is not None]
    if len(dues) < len(questions):
        return last
    return min(last, max(dues) + GRACE_S)


class QueryMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A query as an entry of the stream.

    asker, call, number  the process that asks, its call, and the query in that call
    form                 form of the source's frame
    picture              JPEG of any size, with planes of the form's matrix and range; if `exact`, a
                         frame of FFV1
    part                 region that the picture shows, in source pixels; None: the whole frame
    due_ms               milliseconds from the creation of the entry to the due time; None: no limit
    """

    v: int
    asker: str
    call: int
    number: int
    source: str
    form: Form
    picture: bytes
    part: Region | None = None
    due_ms: int | None = None
    urgent: bool = True
    exact: bool = False


class ReplyMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker's reply to one query.

    number     number of the query in its call
    policy     hash of the models and settings that determine the worker's replies
    seen       the predictions; None: there are none, because of `reason`
    took_s     seconds for which the worker had the query
    precision  precision of the worker's networks, a part of its policy; empty: unknown
    """

    v: int
    number: int
    policy: str
    seen: Predictions | None = None
    reason: DegradedReason = "unanswered"
    took_s: float = 0.0
    precision: str = ""


class HeavyQueue:
    """The heavy workers that read one Redis. All methods may be called from any thread."""

    def __init__(
        self,
        url: str,
        encode: EncodeQuery,
        policy: str,
        lanes: int = 4,
        most: int = 1,
        is_own: bool = False,
        precision: str = "",
    ) -> None:
        """Prepare the place; the first query connects.

        Workers serve the stream in the order of its entries. Each asker therefore sends few queries
        at a time, and the workers form the batches.

        url          URL of the Redis; empty: the run's own store, which is not started
        encode       encodes a query's picture; called from any thread
        policy       required policy of the workers; a reply with another one is refused
        lanes, most  as in Place
        is_own       the URL is that of the run's own store
        precision    precision of the required policy, for error messages
        """
        self.lanes = lanes
        self.most = most
        self.sent_bytes = 0
        self.wire_s = 0.0
        self._url = url
        self._encode = encode
        self._policy = policy
        self._precision = precision
        self._is_private = not url or (is_own and url.startswith("unix://"))
        self._asker = secrets.token_hex(8)
        self._calls = 0
        self._client: Any = None
        self._in_use = 0
        self._lock = threading.Lock()
        self._closed = False

    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        """Send queries and wait for the replies.

        Raises PlaceFailed if there is no store, no worker or no reply.
        """
        pictures = [self._encode(question) for question in questions]
        with self._lock:
            self._calls += 1
            call = self._calls
            self.sent_bytes += sum(map(len, pictures))
        begun = time.monotonic()
        try:
            with store_errors(self._url), self._connected() as client:
                entries = self._send(client, call, questions, pictures)
                replies = self._collect(client, call, questions, entries)
        except FramegateError as error:
            raise PlaceFailed(str(error)) from error
        worker_s = max((reply.took_s for reply in replies.values()), default=0.0)
        with self._lock:
            self.wire_s += max(0.0, time.monotonic() - begun - worker_s)
        return [_as_reply(replies.get(number)) for number in range(len(questions))]

    def absent(self) -> str | None:
        """Return the reason why a query would get no reply now; None: a worker is there."""
        try:
            with store_errors(self._url), self._connected() as client:
                if client.exists(keys.HEAVY_ALIVE):
                    return None
                return self._no_worker()
        except FramegateError as error:
            return str(error)

    def close(self) -> None:
        """Close the place. Calls that are active fail within a second."""
        with self._lock:
            self._closed = True
            self._close_if_unused()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Enter with the client. After `close`, the last call that uses the client closes it."""
        if not self._url:
            raise PlaceFailed(self._no_worker())
        with self._lock:
            if self._closed:
                raise PlaceFailed("closed")
            if self._client is None:
                self._client = connect(self._url, _STORE_TIMEOUT_S)
            client = self._client
            self._in_use += 1
        try:
            yield client
        finally:
            with self._lock:
                self._in_use -= 1
                self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._in_use and self._client is not None:
            self._client.close()
            self._client = None

    def _send(
        self, client: Any, call: int, questions: Sequence[Query], pictures: Sequence[bytes]
    ) -> list[bytes]:
        """Return the ids of the new entries. Raises PlaceFailed if there is no worker."""
        pipe = client.pipeline(transaction=False)
        pipe.exists(keys.HEAVY_ALIVE)
        now = time.monotonic()
        for number, (question, picture) in enumerate(zip(questions, pictures, strict=True)):
            due_ms: int | None = None
            if question.due_mono is not None:
                due_ms = math.ceil(1000 * (question.due_mono - now))
            message = QueryMessage(
                records.VERSION,
                self._asker,
                call,
                number,
                question.id.source,
                question.form,
                picture,
                question.id.part,
                due_ms,
                question.urgent,
                question.id.exact,
            )
            fields = {FIELD: msgspec.msgpack.encode(message)}
            pipe.xadd(keys.HEAVY_ASKS, fields, maxlen=MAX_ENTRIES, approximate=False)
        has_worker, *ids = pipe.execute()
        entries: list[bytes] = ids
        if not has_worker:
            self._withdraw(client, call, entries)
            raise PlaceFailed(self._no_worker())
        return entries

    def _no_worker(self) -> str:
        """Return the error message for a place without workers."""
        if not self._is_private:
            at = shown(self._url)
            start = "start one, on any host, with"
            return f"no heavy worker is at {at}: {start} framegate worker --heavy --redis {at}"
        return (
            "no heavy worker is at the run's own store, which other hosts cannot reach: start a "
            "worker on this host during the run with framegate worker --heavy -d DATA (the run's "
            "data folder), or set escalate.url to a Redis that other hosts can reach"
        )

    def _collect(
        self, client: Any, call: int, questions: Sequence[Query], entries: Sequence[bytes]
    ) -> dict[int, ReplyMessage]:
        """Return the replies by number: all of them, or those that came in time.

        Raises PlaceFailed if there is none, or none to a query without a due time.
        """
        until = end_of_wait(questions)
        replies: dict[int, ReplyMessage] = {}
        key = keys.heavy_reply(self._asker, call)
        try:
            while len(replies) < len(questions):
                left_s = until - time.monotonic()
                if left_s <= 0:
                    break
                if self._closed:
                    raise PlaceFailed("closed")
                popped = client.blpop(key, timeout=max(0.01, min(left_s, SLICE_S)))
                if popped is not None:
                    reply = records.decode_versioned(popped[1], ReplyMessage)
                    self._check_policy(reply)
                    # Two workers may reply to a query. The first reply is the one that counts.
                    if 0 <= reply.number < len(questions):
                        replies.setdefault(reply.number, reply)
        except msgspec.MsgspecError as error:
            raise PlaceFailed(f"a reply cannot be decoded: {error}") from error
        finally:
            missing = [e for number, e in enumerate(entries) if number not in replies]
            if missing:
                self._withdraw(client, call, missing)
        needed = [n for n, question in enumerate(questions) if question.due_mono is None]
        has_needed = all(number in replies for number in needed)
        if not replies or not has_needed:
            raise PlaceFailed(
                f"{len(missing)} of {len(questions)} questions got no answer in time from the "
                f"heavy workers at {shown(self._url)}"
            )
        return replies

    def _check_policy(self, reply: ReplyMessage) -> None:
        if reply.policy != self._policy:
            raise PlaceFailed(
                f"a heavy worker at {shown(self._url)} has policy {reply.policy[:8]}, expected is "
                f"{self._policy[:8]}: {self._difference(reply.precision)}"
            )

    def _difference(self, precision: str) -> str:
        if not (precision and self._precision):
            return "its models, precision or thresholds differ"
        if precision == self._precision:
            return f"its models or thresholds differ; the precision, {precision}, is the same"
        return (
            f"its precision is {precision}, that of this run is {self._precision}; start it with "
            f"framegate worker --heavy --precision {self._precision}"
        )

    def _withdraw(self, client: Any, call: int, entries: Sequence[bytes]) -> None:
        """Remove entries that no caller waits for, so that no worker spends time on them."""
        with contextlib.suppress(redis.RedisError, OSError):
            client.xdel(keys.HEAVY_ASKS, *entries)
            client.delete(keys.heavy_reply(self._asker, call))


def _as_reply(message: ReplyMessage | None) -> Reply:
    if message is None:
        return Unanswered("late")
    if message.seen is None:
        return Unanswered(message.reason)
    return message.seen
