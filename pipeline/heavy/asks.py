"""Ask a place without waiting: the queries of one stage to a heavier model.

From `ask` to `forget`. `ask` adds the query to a *flight*: the one with the same content, if there
is one. A flight waits until a *lane*, a thread, takes a batch of flights (`Batching`) and calls the
place. The answer is the reply to every query of the flight. A failed call puts the flight back, or
ends it without an answer. A reply is kept until its query is forgotten.

Order. Urgent queries, for which a frame waits, go before the others, which are audits; sources take
turns (`Batching`). The last free lane is for sources that have no lane (`_kept_back`).

Limits. `Room` limits flights and their pixels. The due time limits the wait of a query; without a
due time, `patience_s` limits it while the place fails. The place's lanes limit calls. Replies have
no limit of their own, since the caller forgets each: dropping one could block its frame for ever.

Failures. After some failures in a row the breaker opens: queries with a due time end at once
without an answer, others wait, and from time to time a single query probes the place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from framegate.pipeline.contracts.queries import (
    AskCounts,
    Place,
    PlaceFailed,
    Query,
    QueryId,
    Reply,
    Unanswered,
    absent,
    leave,
)
from framegate.pipeline.contracts.results import DegradedReason
from framegate.pipeline.heavy.batching import NOTHING, Batching, BatchLimits, KeptBack
from framegate.pipeline.system.retry import Breaker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """The limits of memory. One half of each is for urgent queries, the other half for the others.

    flights  largest number of flights
    nbytes   largest size of their pixels; a query has a whole frame, 3 MB at 1080p
    least    number of flights that are accepted regardless of `nbytes`
    """

    flights: int = 512
    nbytes: int = 256 << 20
    least: int = 8

    def takes(self, held: Collection[int], nbytes: int) -> bool:
        """Return whether a flight of `nbytes` has room. held: sizes of the flights in its half."""
        if len(held) < self.least // 2:
            return True
        return len(held) < self.flights // 2 and sum(held) + nbytes <= self.nbytes // 2


ROOM: Final = Room()


class _AskedQuery(NamedTuple):
    """A query that was asked: its due time, and the content that identifies its flight."""

    due_mono: float | None
    content: bytes


@dataclass(slots=True, eq=False)
class _Flight:
    """A content that waits or is in a lane, with all queries about it.

    query  the first query, with the latest due time and the highest urgency of all
    ids    ids of the queries that are not forgotten
    lane   key in `_in_lanes` while it is in a lane: its source, or "" if it is not urgent
    """

    query: Query
    content: bytes
    asked_mono: float
    ids: list[QueryId]
    lane: str = ""

    def join(self, other: Query) -> None:
        """Add a query about the same content; it may be one that joined before."""
        due: float | None = None
        if self.query.due_mono is not None and other.due_mono is not None:
            due = max(self.query.due_mono, other.due_mono)
        self.query = replace(self.query, due_mono=due, urgent=self.query.urgent or other.urgent)
        if other.id not in self.ids:
            self.ids.append(other.id)


class Asks:
    """The queries of one stage.

    All public methods belong to one thread. Lanes are threads of this object; each calls the place
    outside the lock and changes the state under it.

    counts  outcomes of the queries; the lanes write them
    """

    def __init__(
        self,
        place: Place,
        delay_s: float = 0.005,
        patience_s: float = 60.0,
        room: Room | None = None,
    ) -> None:
        """Prepare the queries; the first query starts the lanes.

        delay_s     seconds for which a query may wait for others of its batch
        patience_s  seconds for which a query without a due time is retried while the place fails
        """
        self.counts = AskCounts()
        self._place = place
        self._patience_s = patience_s
        self._room = room or ROOM
        # The lock of all fields below; notified when a lane may have something to do.
        self._changed = threading.Condition()
        self._asked: dict[QueryId, _AskedQuery] = {}  # queries that are not forgotten
        self._replies: dict[QueryId, Reply] = {}  # of queries that are not forgotten
        self._flights: dict[bytes, _Flight] = {}  # by content; each is in `_waiting` or in a lane
        self._waiting: Batching[bytes] = Batching(BatchLimits(place.most, delay_s))
        self._in_lanes: Counter[str] = Counter()  # number of flights by _Flight.lane
        self._busy = 0  # number of lanes that call the place
        self._breaker = Breaker()
        self._closed = False
        self._lanes: list[threading.Thread] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # -- Queries.

    def ask(self, query: Query) -> None:
        """Ask a query, unless it has a reply.

        A query that is asked again before its reply gets the later due time. Without room, a query
        with a due time ends without an answer. A query without one is not taken, and `knows` is
        false: ask it again once `fileno` is readable.
        """
        content = query.content
        with self._changed:
            if query.id in self._replies:
                return
            flight = self._flights.get(content)
            if flight is not None:
                self._asked[query.id] = _AskedQuery(query.due_mono, content)
                self._join(flight, query)
                return
            now = time.monotonic()
            # Here too and not only in the lanes, because all lanes may hang in calls.
            self._end_overdue([*self._flights.values()], now)
            has_room = self._has_room(len(query.pixels), query.urgent, now)
            if not has_room and query.due_mono is None:
                return
            self._asked[query.id] = _AskedQuery(query.due_mono, content)
            flight = _Flight(query, content, now, [query.id])
            self._flights[content] = flight
            if not has_room:
                self._settle(flight, Unanswered("unanswered"))
                return
            self._waiting.add(query.id.source, content, query.urgent, now)
            self._end_overdue([flight], now)  # it may be late, or the breaker open
            self._changed.notify()
            if not self._lanes:
                for number in range(self._place.lanes):
                    lane = threading.Thread(target=self._serve, name=f"asks-{number}", daemon=True)
                    lane.start()
                    self._lanes.append(lane)

    def _join(self, flight: _Flight, query: Query) -> None:
        before = flight.query
        self.counts.joined += query.id not in flight.ids
        flight.join(query)
        if flight.query.urgent and not before.urgent and flight.content in self._waiting:
            self._waiting.discard(flight.content)
            self._waiting.put_back(before.id.source, flight.content, True, flight.asked_mono)

    def has_room(self, nbytes: int, urgent: bool = True) -> bool:
        """Return whether a query with `nbytes` of pixels would be taken now."""
        with self._changed:
            return self._has_room(nbytes, urgent, time.monotonic())

    def _has_room(self, nbytes: int, urgent: bool, now: float) -> bool:
        # Overdue flights do not count, because the next `ask` ends them.
        half = [flight for flight in self._flights.values() if flight.query.urgent is urgent]
        held = [len(f.query.pixels) for f in half if self._overdue(f, now) is None]
        return self._room.takes(held, nbytes)

    def trial(self, query: Query) -> Reply:
        """Call the place with a query in this thread, to measure a call. Raises PlaceFailed."""
        return self._place.answer([query])[0]

    @property
    def lanes(self) -> int:
        """Return the number of calls that the place accepts at once."""
        return self._place.lanes

    def absent(self) -> str | None:
        """Return the reason why a query would get no reply now; None: there is none known."""
        return absent(self._place)

    # -- Replies.

    def knows(self, query: QueryId) -> bool:
        """Return whether a query was taken and not forgotten."""
        return query in self._asked

    def answer(self, query: QueryId) -> Reply | None:
        """Return the reply to a query; None while it is missing.

        After the due time this is Unanswered("late") until the reply arrives, if it does.
        """
        with self._changed:
            reply = self._replies.get(query)
            if reply is not None:
                return reply
            asked = self._asked.get(query)
            if asked is None or asked.due_mono is None or time.monotonic() < asked.due_mono:
                return None
            return Unanswered("late")

    def forget(self, query: QueryId) -> None:
        """Drop a query and its reply. A waiting flight without queries is dropped as well."""
        with self._changed:
            self._replies.pop(query, None)
            asked = self._asked.pop(query, None)
            if asked is None:
                return
            flight = self._flights.get(asked.content)
            # A query with a reply has left its flight; later queries may have a new one.
            if flight is None or query not in flight.ids:
                return
            flight.ids.remove(query)
            if not flight.ids and flight.content in self._waiting:
                self._waiting.discard(flight.content)
                self._drop(flight)

    def forget_source(self, source: str) -> None:
        """Forget all queries about a source that this worker does not serve any more."""
        for query in [known for known in self._asked if known.source == source]:
            self.forget(query)

    def fileno(self) -> int:
        """Return a descriptor that is readable if there are new replies or room since `hear`."""
        return self._wake

    def hear(self) -> None:
        """Make `fileno` unreadable until there are new replies or room."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def due_in(self) -> float | None:
        """Return the seconds until the next query without a reply is late; None: none will be."""
        with self._changed:
            dues = [a.due_mono for query, a in self._asked.items() if query not in self._replies]
        now = time.monotonic()
        return min((due - now for due in dues if due is not None and due > now), default=None)

    def close(self) -> None:
        """Close the place and wait for the lanes to end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._place.close()
        for lane in self._lanes:
            lane.join()
        os.close(self._wake)

    # -- Lanes: threads that call the place.

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            replies, fault = self._call([flight.query for flight in batch])
            with self._changed:
                self._busy -= 1
                self._in_lanes -= Counter(flight.lane for flight in batch)
                if fault is None:
                    self._set_breaker(self._breaker.answered())
                    for flight, reply in zip(batch, replies, strict=True):
                        self._settle(flight, reply)
                elif not self._closed:
                    now = time.monotonic()
                    self._set_breaker(self._breaker.failed(now, random.random()), fault)
                    # Each flight is put back at the head, so the last one goes first.
                    for flight in reversed(batch):
                        self._retry(flight, now)
                self.counts.sent_bytes = self._place.sent_bytes
                self.counts.wire_s = self._place.wire_s
                self._changed.notify_all()
        leave(self._place)

    def _next_batch(self) -> Sequence[_Flight] | None:
        """Wait for the next batch that may go out; return None after `close`."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                self._end_overdue([*self._flights.values()], now)
                batch = self._take_batch(now)
                if batch:
                    return batch
                self._changed.wait(self._pause_s(now))
            return None

    def _take_batch(self, now: float) -> Sequence[_Flight]:
        """Move the batch that may go out now into this lane; empty: there is none."""
        if not self._breaker.lets_out(now):
            return ()
        most: int | None = None
        if self._breaker.state == "open":
            most = 1  # a single query probes the place
        batch = [
            self._flights[content] for content in self._waiting.take(now, most, self._kept_back())
        ]
        if not batch:
            return ()
        self._set_breaker(self._breaker.sent())
        for flight in batch:
            flight.lane = ""
            if flight.query.urgent:
                flight.lane = flight.query.id.source
        self._in_lanes.update(flight.lane for flight in batch)
        self._busy += 1
        return batch

    def _call(self, queries: Sequence[Query]) -> tuple[Sequence[Reply], Exception | None]:
        """Return the replies of the place, or its failure."""
        try:
            replies = self._place.answer(queries)
            if len(replies) != len(queries):
                raise PlaceFailed(f"{len(replies)} answers to {len(queries)} questions")
        except Exception as error:  # a user's own place may raise any error
            return (), error
        return replies, None

    def _kept_back(self) -> KeptBack:
        """Return the flights that may not take the last free lane: those of sources with a lane.

        So no source waits for one that floods. And if audits hang in calls to a place that stopped
        answering, a lane is left in which an urgent query detects it.
        """
        free = self._place.lanes - self._busy
        if free != 1 or self._place.lanes == 1:
            return NOTHING
        return KeptBack(self._in_lanes.keys(), "" in self._in_lanes)

    def _pause_s(self, now: float) -> float | None:
        """Return the seconds until a batch could go out; None: not before a change of the state."""
        ready_mono = self._waiting.ready_at(self._kept_back())
        if ready_mono is None or self._breaker.state == "half_open":
            return None
        return max(0.001, max(ready_mono, self._breaker.until_s) - now)

    def _set_breaker(self, breaker: Breaker, why: Exception | None = None) -> None:
        """Set the breaker's next value. why: the failure.

        Only its opening and closing are logged, not each probe: a place may fail for days.
        """
        before = self._breaker.state
        self._breaker = breaker
        self.counts.breaker = breaker.state
        if before != "closed" and breaker.state == "closed":
            log.warning("the heavy model answers again")
        if why is None:
            return
        level = logging.WARNING
        text = str(why)
        if not isinstance(why, PlaceFailed):  # a fault in the place itself
            level = logging.ERROR
            text = f"{type(why).__name__}: {why}"
        log.debug("the heavy model does not answer: %s", text)
        if before == "closed" and breaker.state != "closed":
            log.log(level, "the heavy model does not answer; trying again later: %s", text)

    # -- The end of a flight. Callers hold the lock.

    def _retry(self, flight: _Flight, now: float) -> None:
        """Put a flight back after a failed call, or end it if it cannot wait for the place."""
        query = flight.query
        if not flight.ids:
            self._drop(flight)
        elif query.due_mono is None and self._is_patient(flight, now):
            self._waiting.put_back(query.id.source, flight.content, query.urgent, flight.asked_mono)
        else:
            self._settle(flight, Unanswered("unanswered"))

    def _end_overdue(self, flights: Collection[_Flight], now: float) -> None:
        for flight in flights:
            reason = self._overdue(flight, now)
            if reason is not None:
                self._waiting.discard(flight.content)
                self._settle(flight, Unanswered(reason))

    def _overdue(self, flight: _Flight, now: float) -> DegradedReason | None:
        """Return the reason to end a waiting flight now; None: it may wait, or is in a lane."""
        if flight.content not in self._waiting:
            return None
        is_shut = not self._breaker.lets_out(now)
        due_mono = flight.query.due_mono
        if due_mono is None:
            if is_shut and not self._is_patient(flight, now):
                return "unanswered"
            return None
        if is_shut:
            return "breaker_open"
        if now >= due_mono:
            return "late"
        return None

    def _is_patient(self, flight: _Flight, now: float) -> bool:
        """Return whether the wait of the flight and the failure of the place are both shorter than
        `patience_s`.
        """
        since = flight.asked_mono
        if self._breaker.since_s is not None:
            since = min(since, self._breaker.since_s)
        return now - since < self._patience_s

    def _settle(self, flight: _Flight, reply: Reply) -> None:
        """Reply to all queries of a flight, and drop it."""
        if isinstance(reply, Unanswered):
            degraded = self.counts.degraded
            degraded[reply.reason] = degraded.get(reply.reason, 0) + 1
        else:
            self.counts.answered += 1
            self.counts.waited_s += time.monotonic() - flight.asked_mono
        for query in flight.ids:
            self._replies[query] = reply
        self._drop(flight)

    def _drop(self, flight: _Flight) -> None:
        del self._flights[flight.content]
        os.eventfd_write(self._wake, 1)  # there is room, and perhaps a reply
