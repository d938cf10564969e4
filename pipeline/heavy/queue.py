"""A place where questions are answered: heavy workers on any host, by way of a Redis."""

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

from framegate.pipeline import keys, records
from framegate.pipeline.errors import FramegateError
from framegate.pipeline.queries import (
    Encode,
    PlaceFailed,
    Predictions,
    Query,
    Region,
    Reply,
    Unanswered,
)
from framegate.pipeline.records import DegradedReason
from framegate.pipeline.redaction import shown
from framegate.pipeline.source import Form
from framegate.pipeline.store.client import connect, store_errors

# -- What goes over the wire between who asks and a heavy worker, by way of a Redis.
# `fg:heavy:asks` is a stream that all workers read as one consumer group; an entry has one field
# `d`, a QueryMessage. Replies are pushed to `fg:heavy:reply:<asker>:<call>`, a list that expires. A
# worker that is there keeps `fg:heavy:alive` from expiring.


GROUP = "workers"
FIELD = "d"
MOST_ASKED = 512  # entries of the stream: more, and the oldest is gone
ALIVE_S = 10  # since its last word, and a worker is taken for gone
REPLY_KEPT_S = 30


class QueryMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question on its way.

    asker, call, number  whose it is: which question of which call
    form                 of the source's frame
    picture              JPEG of planes of the form's matrix and range, of any size; or, where it is
                         exact, a frame of FFV1
    part                 what it shows, in source pixels; None: the whole frame
    due_ms               milliseconds after its entry was made when an answer is of no use any more
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
    """What a worker says to one question.

    policy     hash of what decides its answers
    seen       None: there is no answer, for this reason
    took_s     from when the worker had the question to its answer
    precision  with which it looks, a part of its policy; empty: it does not tell
    """

    v: int
    number: int
    policy: str
    seen: Predictions | None = None
    reason: DegradedReason = "unanswered"
    took_s: float = 0.0
    precision: str = ""


ANSWER_S = 30.0  # for a question without a due time
GRACE_S = 1.0  # after its due time: a late answer still helps the frames that come
_SLICE_S = 1.0
_SILENT_S = 3.0  # a store that says nothing for so long is away


class HeavyQueue:
    """Workers that `framegate worker --heavy` starts. Any thread."""

    def __init__(
        self,
        url: str,
        encode: Encode,
        policy: str,
        lanes: int = 4,
        most: int = 1,
        is_own: bool = False,
        precision: str = "",
    ) -> None:
        """Opens nothing yet. What is in the store goes in the order in which it came, whosever it
        is: so few are on their way, and the workers put batches together.

        url     empty: the run's store, which is not there yet
        encode  a question's picture, or the part of it that is asked about, as JPEG
        policy  hash of what must decide the answers: others are refused
        is_own  it is the run's store that nobody gave another one for
        precision  of that policy, to be told where another is met
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
        """Send them, wait for the replies. PlaceFailed without store, worker or answer."""
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
        """Why nobody would answer now: no store, no worker."""
        try:
            with store_errors(self._url), self._connected() as client:
                return None if client.exists(keys.HEAVY_ALIVE) else self._nobody()
        except FramegateError as error:
            return str(error)

    def close(self) -> None:
        """Calls that are under way fail within a second."""
        with self._lock:
            self._closed = True
            self._hang_up()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The client, which nobody may close under who waits for an answer: the last one does."""
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
        """Ids of their entries. PlaceFailed if there is no worker to read them."""
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
        """Replies by number, the first to each; waits until all came or time is up."""
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
        """Nobody waits for these: workers need not look."""
        with contextlib.suppress(redis.RedisError, OSError):
            client.xdel(keys.HEAVY_ASKS, *entries)
            client.delete(keys.heavy_reply(self._asker, call))


def _answer(replied: ReplyMessage | None) -> Reply:
    if replied is None:
        return Unanswered("late")
    return replied.seen if replied.seen is not None else Unanswered(replied.reason)
