"""Ask a place and go on: the queries of one stage to a heavier model, from `ask` to `forget`.

A query's way. `ask` puts it on a *flight*, or lets it join the one that brings the same content.
A flight waits (`Batching` says with whom it goes, and when) until a *lane*, a thread, takes it and
calls the place. What the place answers is the reply to every query of the flight; a call that fails
puts the flight back, or ends it without an answer. A reply stays until its query is forgotten.

Who goes first. Urgent queries, for which a frame waits, go before others, which are audits; sources
take turns (`Batching`). The last free lane is for who has none: see `_kept_back`.

What is bounded. Flights and their pixels by `Room`. The wait by the query's due time; without one,
at a place that fails, by `patience_s`. Calls by the place's lanes. Replies only by who asks, a
frame or an audit each: none goes before it is forgotten, else a frame could wait for ever.

A place that fails. After some failures in a row the breaker opens: queries with a due time get no
answer at once, others wait, and now and then a single one goes out to see whether it is back.
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
from framegate.pipeline.heavy.batching import NOBODY, Batching, BatchLimits, KeptBack
from framegate.pipeline.system.retry import Breaker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """How much is held at once, one half of each bound for urgent queries, one for others.

    flights  at most
    nbytes   of pixels at most: a query holds a whole frame, of 3 MB at 1080p
    least    flights that are held however large their frames are
    """

    flights: int = 512
    nbytes: int = 256 << 20
    least: int = 8

    def takes(self, held: Collection[int], nbytes: int) -> bool:
        """Return whether one of `nbytes` has room beside those of these sizes, of the same half."""
        if len(held) < self.least // 2:
            return True
        return len(held) < self.flights // 2 and sum(held) + nbytes <= self.nbytes // 2


ROOM: Final = Room()


class _Asked(NamedTuple):
    """What is remembered of a query, whose pixels its flight has: its own due time, its flight."""

    due_mono: float | None
    content: bytes


@dataclass(slots=True, eq=False)
class _Flight:
    """One content that waits or is in a lane, for all who asked about it.

    query  the first one, due when the last of all is, and as urgent as the most urgent of them
    ids    of those that are not forgotten
    lane   what it counts as while it is in a lane: its source, "" where it was not urgent
    """

    query: Query
    content: bytes
    asked_mono: float
    ids: list[QueryId]
    lane: str = ""

    def join(self, other: Query) -> None:
        """Bring the reply to this query, too; again where it asked before."""
        mine, due = self.query.due_mono, other.due_mono
        due = None if mine is None or due is None else max(mine, due)
        self.query = replace(self.query, due_mono=due, urgent=self.query.urgent or other.urgent)
        if other.id not in self.ids:
            self.ids.append(other.id)


class Asks:
    """One stage's queries. All methods belong to one thread; the lanes are threads of this class's.

    counts  what became of the queries; written by the lanes
    """

    def __init__(
        self,
        place: Place,
        delay_s: float = 0.005,
        patience_s: float = 60.0,
        room: Room | None = None,
    ) -> None:
        """Start nothing yet: lanes start with the first query.

        delay_s     seconds for which a query may wait for others to go with it
        patience_s  seconds for which one without a due time is tried again at a place that fails
        """
        self.counts = AskCounts()
        self._place, self._patience_s, self._room = place, patience_s, room or ROOM
        self._changed = threading.Condition()  # guards all below; told when a lane may go on
        self._asked: dict[QueryId, _Asked] = {}  # until it is forgotten
        self._replies: dict[QueryId, Reply] = {}  # until it is forgotten
        self._flights: dict[bytes, _Flight] = {}  # by content; each is in `_waiting`, or in a lane
        self._waiting: Batching[bytes] = Batching(BatchLimits(place.most, delay_s))
        self._in_lanes: Counter[str] = Counter()  # flights, see _Flight.lane
        self._busy = 0  # lanes that call the place
        self._breaker = Breaker()
        self._closed = False
        self._lanes: list[threading.Thread] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # -- to ask

    def ask(self, query: Query) -> None:
        """Ask, once: a query that has a reply is not asked again.

        Asked again while it is under way, it has the due time of the later call. Where there is no
        room, one that has no due time is not taken, and not known: put it again once `fileno` tells
        of something; one that has a due time gets no answer.
        """
        content = query.content
        with self._changed:
            if query.id in self._replies:
                return
            if (flight := self._flights.get(content)) is not None:
                self._asked[query.id] = _Asked(query.due_mono, content)
                self._join(flight, query)
                return
            now = time.monotonic()
            self._end_overdue([*self._flights.values()], now)  # all lanes may hang in calls
            has_room = self._has_room(len(query.pixels), query.urgent, now)
            if not has_room and query.due_mono is None:
                return
            self._asked[query.id] = _Asked(query.due_mono, content)
            flight = self._flights[content] = _Flight(query, content, now, [query.id])
            if not has_room:
                self._settle(flight, Unanswered("unanswered"))
                return
            self._waiting.add(query.id.source, content, query.urgent, now)
            self._end_overdue([flight], now)  # late already, or the breaker is open
            self._changed.notify()
            if not self._lanes:
                self._lanes = [self._lane(number) for number in range(self._place.lanes)]

    def _join(self, flight: _Flight, query: Query) -> None:
        before = flight.query
        self.counts.joined += query.id not in flight.ids
        flight.join(query)
        if flight.query.urgent and not before.urgent and flight.content in self._waiting:
            self._waiting.discard(flight.content)
            self._waiting.put_back(before.id.source, flight.content, True, flight.asked_mono)

    def has_room(self, nbytes: int, urgent: bool = True) -> bool:
        """Return whether a query with so many bytes of pixels would be taken now."""
        with self._changed:
            return self._has_room(nbytes, urgent, time.monotonic())

    def _has_room(self, nbytes: int, urgent: bool, now: float) -> bool:
        """What is overdue takes none: the next `ask` ends it."""
        half = [flight for flight in self._flights.values() if flight.query.urgent is urgent]
        held = [len(f.query.pixels) for f in half if self._overdue(f, now) is None]
        return self._room.takes(held, nbytes)

    def trial(self, query: Query) -> Reply:
        """Call the place here and now, past all others, to see what a call costs. PlaceFailed."""
        return self._place.answer([query])[0]

    @property
    def lanes(self) -> int:
        """Calls that the place takes at once."""
        return self._place.lanes

    def absent(self) -> str | None:
        """Return why nobody would answer now, as the place tells it; None if somebody would."""
        return absent(self._place)

    # -- to hear what came of it

    def knows(self, query: QueryId) -> bool:
        """Return whether it was asked and not forgotten."""
        return query in self._asked

    def answer(self, query: QueryId) -> Reply | None:
        """Return the reply; None while it may come. Once the query is late, say so: the reply may
        yet come.
        """
        with self._changed:
            if (reply := self._replies.get(query)) is not None:
                return reply
            asked = self._asked.get(query)
            if asked is None or asked.due_mono is None or time.monotonic() < asked.due_mono:
                return None
            return Unanswered("late")

    def forget(self, query: QueryId) -> None:
        """Drop it and its reply; a flight that nobody waits for any more does not go out."""
        with self._changed:
            self._replies.pop(query, None)
            asked = self._asked.pop(query, None)
            flight = self._flights.get(asked.content) if asked is not None else None
            if flight is None or query not in flight.ids:
                return  # this one had its reply: what flies now is others', who asked later
            flight.ids.remove(query)
            if not flight.ids and flight.content in self._waiting:
                self._waiting.discard(flight.content)
                self._drop(flight)

    def forget_source(self, source: str) -> None:
        """Forget all queries about a source, which is this worker's no more."""
        for query in [known for known in self._asked if known.source == source]:
            self.forget(query)

    def fileno(self) -> int:
        """Return a descriptor that is readable once a reply came, or room, since `hear`."""
        return self._wake

    def hear(self) -> None:
        """Make `fileno` unreadable until something new comes."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def due_in(self) -> float | None:
        """Return the seconds until the next query without a reply is late; None if none will be."""
        with self._changed:
            dues = [a.due_mono for query, a in self._asked.items() if query not in self._replies]
        now = time.monotonic()
        return min((due - now for due in dues if due is not None and due > now), default=None)

    def close(self) -> None:
        """End all that is under way, and the lanes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._place.close()
        for lane in self._lanes:
            lane.join()
        os.close(self._wake)

    # -- the lanes: threads that call the place

    def _lane(self, number: int) -> threading.Thread:
        lane = threading.Thread(target=self._serve, name=f"asks-{number}", daemon=True)
        lane.start()
        return lane

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            replies, fault = self._call([flight.query for flight in batch])
            with self._changed:
                self._busy -= 1
                self._in_lanes -= Counter(flight.lane for flight in batch)
                if fault is None:
                    self._turn(self._breaker.answered())
                    for flight, reply in zip(batch, replies, strict=True):
                        self._settle(flight, reply)
                elif not self._closed:
                    now = time.monotonic()
                    self._turn(self._breaker.failed(now, random.random()), fault)
                    for flight in reversed(batch):  # each is put back before the one before it
                        self._try_again(flight, now)
                self.counts.sent_bytes = self._place.sent_bytes
                self.counts.wire_s = self._place.wire_s
                self._changed.notify_all()
        leave(self._place)

    def _next_batch(self) -> Sequence[_Flight] | None:
        """Wait for the next batch that may go out; None when it is over."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                self._end_overdue([*self._flights.values()], now)
                if self._breaker.lets_out(now):
                    most = 1 if self._breaker.state == "open" else None  # to see if it is back
                    if taken := self._waiting.take(now, most, self._kept_back()):
                        self._turn(self._breaker.sent())
                        batch = [self._flights[content] for content in taken]
                        for flight in batch:
                            flight.lane = flight.query.id.source if flight.query.urgent else ""
                        self._in_lanes.update(flight.lane for flight in batch)
                        self._busy += 1
                        return batch
                self._changed.wait(self._pause_s(now))
            return None

    def _call(self, queries: Sequence[Query]) -> tuple[Sequence[Reply], Exception | None]:
        """Return what the place answers, or why it failed."""
        try:
            replies = self._place.answer(queries)
            if len(replies) != len(queries):
                raise PlaceFailed(f"{len(replies)} answers to {len(queries)} questions")
        except Exception as error:  # a place of a user's may raise anything
            return (), error
        return replies, None

    def _kept_back(self) -> KeptBack:
        """Return who is not to have the last free lane of several: whoever has one already.

        So nobody waits for a source that floods, and audits that hang at a place that went away
        leave a lane in which an urgent query finds out.
        """
        is_last = self._place.lanes - self._busy == 1 < self._place.lanes
        return KeptBack(self._in_lanes.keys(), "" in self._in_lanes) if is_last else NOBODY

    def _pause_s(self, now: float) -> float | None:
        """Return after how long a batch could go out; None: only once something has changed."""
        ready_mono = self._waiting.ready_at(self._kept_back())
        if ready_mono is None or self._breaker.state == "half_open":
            return None
        return max(0.001, max(ready_mono, self._breaker.until_s) - now)

    def _turn(self, breaker: Breaker, why: Exception | None = None) -> None:
        """Take the breaker's next value. Its opening and closing are logged, not each try between:
        a place may be away for days.
        """
        was, self._breaker = self._breaker.state, breaker
        self.counts.breaker = breaker.state
        if was != "closed" and breaker.state == "closed":
            log.warning("who is asked in doubt answers again")
        if why is None:
            return
        is_foreseen = isinstance(why, PlaceFailed)
        words = str(why) if is_foreseen else f"{type(why).__name__}: {why}"
        log.debug("no answer: %s", words)
        if was == "closed" and breaker.state != "closed":
            level = logging.WARNING if is_foreseen else logging.ERROR
            log.log(level, "no answers from who is asked in doubt, tried again later: %s", words)

    # -- how a flight ends; the lock is held

    def _try_again(self, flight: _Flight, now: float) -> None:
        """After a failed call: one that is waited for goes again where the place may come back."""
        query = flight.query
        if not flight.ids:
            self._drop(flight)
        elif query.due_mono is None and self._is_patient(flight, now):
            self._waiting.put_back(query.id.source, flight.content, query.urgent, flight.asked_mono)
        else:
            self._settle(flight, Unanswered("unanswered"))

    def _end_overdue(self, flights: Collection[_Flight], now: float) -> None:
        for flight in flights:
            if (reason := self._overdue(flight, now)) is not None:
                self._waiting.discard(flight.content)
                self._settle(flight, Unanswered(reason))

    def _overdue(self, flight: _Flight, now: float) -> DegradedReason | None:
        """Return why a flight that waits is to end without having gone out; None: it is not."""
        if flight.content not in self._waiting:
            return None
        is_shut, due_mono = not self._breaker.lets_out(now), flight.query.due_mono
        if due_mono is None:
            return "unanswered" if is_shut and not self._is_patient(flight, now) else None
        if is_shut:
            return "breaker_open"
        return "late" if now >= due_mono else None

    def _is_patient(self, flight: _Flight, now: float) -> bool:
        """Return whether to go on trying, by the longer of two: how long it has waited, how long
        the place has failed.
        """
        lost_mono = self._breaker.since_s
        since = flight.asked_mono if lost_mono is None else min(flight.asked_mono, lost_mono)
        return now - since < self._patience_s

    def _settle(self, flight: _Flight, reply: Reply) -> None:
        """Give the reply to all who wait for the flight."""
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
        """It takes no room any more; whoever polls `fileno` is woken."""
        del self._flights[flight.content]
        os.eventfd_write(self._wake, 1)
