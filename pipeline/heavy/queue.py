"""A place on any host: heavy workers that take queries from a Redis and push their replies.

`fg:heavy:asks` is a stream that all workers read as one consumer group; an entry has one field `d`,
a QueryMessage. Replies are pushed to the list `fg:heavy:reply:<asker>:<call>`, which expires. A
worker that is there keeps `fg:heavy:alive` from expiring. worker.py is the other side.
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
from framegate.pipeline.store.client import connect, store_errors

GROUP = "workers"
FIELD = "d"
MOST_ASKED = 512  # entries of the stream: with more, the oldest goes
ALIVE_S = 10  # after which a worker that is silent is taken for gone
REPLY_KEPT_S = 30
ANSWER_S = 30.0  # for a query without a due time
GRACE_S = 1.0  # after its due time: a late reply still helps the frames that come
_SLICE_S = 1.0  # of a wait, after which it is seen whether the place was closed
_SILENT_S = 3.0  # after which a store that is silent is taken for away


class QueryMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A query on its way.

    asker, call, number  whose it is: which query of which call
    form                 of the source's frame
    picture              JPEG of planes of the form's matrix and range, of any size; or, where it is
                         exact, a frame of FFV1
    part                 what it shows, in source pixels; None: the whole frame
    due_ms               milliseconds after its entry was made when a reply is of no use any more
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

    number     of the query in its call
    policy     hash of what decides the worker's replies
    seen       None: there are no predictions, for this reason
    took_s     from when the worker had the query to its reply
    precision  of the worker's networks, a part of its policy; empty: it does not tell
    """

    v: int
    number: int
    policy: str
    seen: Predictions | None = None
    reason: DegradedReason = "unanswered"
    took_s: float = 0.0
    precision: str = ""


class HeavyQueue:
    """Workers that `framegate worker --heavy` starts. Any thread."""

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
        """Open nothing yet.

        The stream is served in the order in which it was filled, whoever asked: so each asker has
        few queries in it, and it is the workers that put batches together.

        url        empty: the run's own store, which is not there yet
        encode     codes a query's picture as JPEG; any thread
        policy     hash of what must decide the replies: others are refused
        lanes, most  see Place
        is_own     whether the URL is the run's own store, as no other one was configured
        precision  of that policy, named in the error where a worker has another
        """
        self.lanes, self.most = lanes, most
        self.sent_bytes, self.wire_s = 0, 0.0
        self._url, self._encode, self._policy = url, encode, policy
        self._precision = precision
        self._is_private = not url or (is_own and url.startswith("unix://"))
        self._asker = secrets.token_hex(8)
        self._calls = 0
        self._client: Any = None
        self._in_use = 0
        self._lock = threading.Lock()
        self._closed = False

    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        """Send them and wait for the replies. PlaceFailed without store, worker or reply."""
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
        elsewhere_s = max((reply.took_s for reply in replies.values()), default=0.0)
        with self._lock:
            self.wire_s += max(0.0, time.monotonic() - begun - elsewhere_s)
        return [_answer(replies.get(number)) for number in range(len(questions))]

    def absent(self) -> str | None:
        """Return why nobody would answer now: no store, no worker."""
        try:
            with store_errors(self._url), self._connected() as client:
                return None if client.exists(keys.HEAVY_ALIVE) else self._nobody()
        except FramegateError as error:
            return str(error)

    def close(self) -> None:
        """Have calls that are under way fail within a second."""
        with self._lock:
            self._closed = True
            self._hang_up()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Give the client; `close` leaves closing it to the last call that uses it."""
        if not self._url:
            raise PlaceFailed(self._nobody())
        with self._lock:
            if self._closed:
                raise PlaceFailed("closed")
            if self._client is None:
                self._client = connect(self._url, _SILENT_S)
            client = self._client
            self._in_use += 1
        try:
            yield client
        finally:
            with self._lock:
                self._in_use -= 1
                self._hang_up()

    def _hang_up(self) -> None:
        if self._closed and not self._in_use and self._client is not None:
            self._client.close()
            self._client = None

    def _send(
        self, client: Any, call: int, questions: Sequence[Query], pictures: Sequence[bytes]
    ) -> list[bytes]:
        """Return the ids of their entries. PlaceFailed if there is no worker to read them."""
        pipe = client.pipeline(transaction=False)
        pipe.exists(keys.HEAVY_ALIVE)
        now = time.monotonic()
        for number, (question, picture) in enumerate(zip(questions, pictures, strict=True)):
            due = question.due_mono
            asked = QueryMessage(
                records.VERSION,
                self._asker,
                call,
                number,
                question.id.source,
                question.form,
                picture,
                question.id.part,
                None if due is None else math.ceil(1000 * (due - now)),
                question.urgent,
                question.id.exact,
            )
            fields = {FIELD: msgspec.msgpack.encode(asked)}
            pipe.xadd(keys.HEAVY_ASKS, fields, maxlen=MOST_ASKED, approximate=False)
        alive, *found = pipe.execute()
        entries: list[bytes] = found
        if not alive:
            self._withdraw(client, call, entries)
            raise PlaceFailed(self._nobody())
        return entries

    def _nobody(self) -> str:
        if not self._is_private:
            at = shown(self._url)
            start = "start one, on any host, with"
            return f"no heavy worker is at {at}: {start} framegate worker --heavy --redis {at}"
        return (
            "no heavy worker is at the run's own store, which no other host can reach: once it "
            "runs, start one on this host with framegate worker --heavy -d DATA (the run's data "
            "folder), or name a Redis that other hosts reach in escalate.url"
        )

    def _collect(
        self, client: Any, call: int, questions: Sequence[Query], entries: Sequence[bytes]
    ) -> dict[int, ReplyMessage]:
        """Wait until all replies came or time is up; return the first to each number."""
        dues = [question.due_mono for question in questions]
        last = time.monotonic() + ANSWER_S
        until = max(last if due is None else min(last, due + GRACE_S) for due in dues)
        replies: dict[int, ReplyMessage] = {}
        reply = keys.heavy_reply(self._asker, call)
        try:
            while len(replies) < len(questions) and (left := until - time.monotonic()) > 0:
                if self._closed:
                    raise PlaceFailed("closed")
                popped = client.blpop(reply, timeout=max(0.01, min(left, _SLICE_S)))
                if popped is not None:
                    replied = records.decode_versioned(popped[1], ReplyMessage)
                    self._check(replied)
                    if 0 <= replied.number < len(questions):
                        replies.setdefault(replied.number, replied)
        except msgspec.MsgspecError as error:
            raise PlaceFailed(f"a reply that cannot be read: {error}") from error
        finally:
            missing = [e for number, e in enumerate(entries) if number not in replies]
            if missing:
                self._withdraw(client, call, missing)
        waited_for = [n for n, due in enumerate(dues) if due is None and n not in replies]
        if waited_for or not replies:
            raise PlaceFailed(
                f"{len(missing)} of {len(questions)} questions got no answer in time from the "
                f"heavy workers at {shown(self._url)}"
            )
        return replies

    def _check(self, replied: ReplyMessage) -> None:
        if replied.policy != self._policy:
            raise PlaceFailed(
                f"a heavy worker at {shown(self._url)} answers by policy {replied.policy[:8]}, "
                f"expected is {self._policy[:8]}: {self._difference(replied.precision)}"
            )

    def _difference(self, precision: str) -> str:
        if not (precision and self._precision):
            return "it has other models, precision or thresholds"
        if precision == self._precision:
            return f"it has other models or thresholds, if the same precision, {precision}"
        return (
            f"it looks with precision {precision}, this run's is {self._precision}; start it with "
            f"framegate worker --heavy --precision {self._precision}"
        )

    def _withdraw(self, client: Any, call: int, entries: Sequence[bytes]) -> None:
        """Take back what nobody waits for, so that no worker looks at it."""
        with contextlib.suppress(redis.RedisError, OSError):
            client.xdel(keys.HEAVY_ASKS, *entries)
            client.delete(keys.heavy_reply(self._asker, call))


def _answer(replied: ReplyMessage | None) -> Reply:
    if replied is None:
        return Unanswered("late")
    return replied.seen if replied.seen is not None else Unanswered(replied.reason)
