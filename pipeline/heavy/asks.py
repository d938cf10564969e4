"""Ask and answer: questions go to a place in threads of their own; whoever waits is woken."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from framegate.pipeline.counts import AskCounts
from framegate.pipeline.heavy.batching import NOBODY, Batching, BatchLimits, KeptBack
from framegate.pipeline.queries import (
    Place,
    PlaceFailed,
    Query,
    QueryId,
    Reply,
    Unanswered,
    absent,
    leave,
)
from framegate.pipeline.records import DegradedReason
from framegate.pipeline.retry import Breaker, BreakerState

# -- Questions on their way, who waits for each, and how much of all that is held at once.


MOST: Final = 512
MOST_BYTES: Final = 256 << 20  # of pixels: a question holds a frame whole, of 3 MB at 1080p
LEAST: Final = 8  # however large a frame is


class Wanted(NamedTuple):
    """Until when an answer is of use to who asked, and which flight brings it."""

    due_mono: float | None
    content: bytes


@dataclass(slots=True, eq=False)
class Flight:
    """A question that waits or is being looked at, and all who asked the same."""

    question: Query
    asked_mono: float
    ids: list[QueryId] = field(default_factory=list)
    went_for: str = ""

    @property
    def source(self) -> str:
        """Whose turn it takes."""
        return self.question.id.source

    def join(self, other: Query) -> None:
        """It is due when the last who asked gives up, and as urgent as the most urgent."""
        mine, due = self.question, other.due_mono
        due = None if mine.due_mono is None or due is None else max(mine.due_mono, due)
        self.question = replace(mine, due_mono=due, urgent=mine.urgent or other.urgent)
        self.ids.append(other.id)


def have_room(flights: Collection[Flight], n_bytes: int, urgent: bool) -> bool:
    """Whether one more may be held: half the room is for what is urgent, half for what is not, so
    that neither keeps the other out.
    """
    sizes = [len(f.question.pixels) for f in flights if f.question.urgent is urgent]
    if len(sizes) < LEAST // 2:
        return True
    return len(sizes) < MOST // 2 and sum(sizes) + n_bytes <= MOST_BYTES // 2


# -- The breaker of a place that is asked: told of what happens, it tells when it opens and
# closes.


log = logging.getLogger(__name__)


class PlaceBreaker:
    """Of one place. Not thread-safe."""

    def __init__(self) -> None:
        self._breaker = Breaker()
        self._lost_mono: float | None = None  # since when the place has failed, None: it has not

    @property
    def state(self) -> BreakerState:
        """See Breaker."""
        return self._breaker.state

    @property
    def until_mono(self) -> float:
        """When a probe may go out, once it is open."""
        return self._breaker.until_s

    def lets_out(self, now: float) -> bool:
        """Whether a question may go out now."""
        return self._breaker.lets_out(now)

    def sent(self) -> None:
        """Questions go out."""
        self._breaker = self._breaker.sent()

    def answered(self) -> None:
        """The place gave an answer."""
        if self._breaker.state != "closed":
            log.warning("who is asked in doubt answers again")
        self._breaker, self._lost_mono = self._breaker.answered(), None

    def failed(self, now: float, why: Exception) -> None:
        """It gave none: said once, when it opens; each try would be said for ever."""
        before = self._breaker.state
        self._breaker = self._breaker.failed(now, random.random())
        self._lost_mono = now if self._lost_mono is None else self._lost_mono
        is_foreseen = isinstance(why, PlaceFailed)
        said = str(why) if is_foreseen else f"{type(why).__name__}: {why}"
        log.debug("no answer: %s", said)
        if before == "closed" and self._breaker.state != "closed":
            level = logging.WARNING if is_foreseen else logging.ERROR
            log.log(level, "no answers from who is asked in doubt, tried again later: %s", said)

    def away_s(self, asked_mono: float, now: float) -> float:
        """For how long a question has been in vain: since it was put, or the place was lost."""
        lost_mono = asked_mono if self._lost_mono is None else self._lost_mono
        return now - min(asked_mono, lost_mono)


class Asks:
    """One stage's questions and their answers. `ask`, `answer`, `forget`: one thread."""

    def __init__(self, place: Place, delay_s: float = 0.005, patience_s: float = 60.0) -> None:
        """delay_s: for which a question may wait for others to go with it.

        patience_s: for which one without a due time is tried again, or the place may be away.
        """
        self.counts = AskCounts()
        self._place, self._patience_s = place, patience_s
        self._ready = threading.Condition()
        self._waiting: Batching[bytes] = Batching(BatchLimits(place.most, delay_s))
        self._flights: dict[bytes, Flight] = {}
        self._asked: dict[QueryId, Wanted] = {}
        self._answers: dict[QueryId, Reply] = {}
        self._breaker = PlaceBreaker()
        self._busy = 0
        self._under_way: Counter[str] = Counter()  # in lanes: urgent by source, others by ""
        self._closed = False
        self._lanes: list[threading.Thread] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # -- who asks

    def ask(self, question: Query) -> None:
        """Put a question, once: what was asked already, or answered, is not asked again.

        Asked again while it is under way, it is due when it is said to be now. Where there is no
        room, one that has no due time is not taken, and not known: it is to be put again when
        something is heard; one that has gets no answer.
        """
        content = question.content
        with self._ready:
            if question.id in self._answers:
                return
            now, flight = time.monotonic(), self._flights.get(content)
            is_held = flight is not None or self._has_room(len(question.pixels), question.urgent)
            if not is_held and question.due_mono is None:
                return
            self._asked[question.id] = Wanted(question.due_mono, content)
            if flight is not None:
                self._join(flight, question)
                return
            self._flights[content] = Flight(question, now, [question.id])
            if not is_held:
                self._settle(content, Unanswered("unanswered"))
                return
            self._waiting.add(question.id.source, content, question.urgent, now)
            self._let_go(now)  # all lanes may be busy at a place that is away
            self._ready.notify()
            if not self._lanes:
                self._lanes = [self._lane(number) for number in range(self._place.lanes)]

    def trial(self, question: Query) -> Reply:
        """Have one looked at now, past all others, to see what a look costs. PlaceFailed."""
        return self._place.answer([question])[0]

    @property
    def lanes(self) -> int:
        """Looks that the place takes at once."""
        return self._place.lanes

    def has_room(self, n_bytes: int, urgent: bool = True) -> bool:
        """Whether a question with so many bytes of pixels would be taken."""
        with self._ready:
            return self._has_room(n_bytes, urgent)

    def _has_room(self, n_bytes: int, urgent: bool) -> bool:
        if have_room(self._flights.values(), n_bytes, urgent):
            return True
        self._let_go(time.monotonic())
        return have_room(self._flights.values(), n_bytes, urgent)

    def _join(self, flight: Flight, question: Query) -> None:
        before, content = flight.question, question.content
        if question.id in flight.ids:
            flight.ids.remove(question.id)
        else:
            self.counts.joined += 1
        flight.join(question)
        if flight.question.urgent and not before.urgent and content in self._waiting:
            self._waiting.discard(content)
            self._waiting.put_back(before.id.source, content, True, flight.asked_mono)

    def knows(self, question: QueryId) -> bool:
        """Whether it was asked and not forgotten."""
        return question in self._asked

    def answer(self, question: QueryId) -> Reply | None:
        """The answer; None while it may come. After its due time it is late, and may yet come."""
        with self._ready:
            found = self._answers.get(question)
            if found is not None:
                return found
            wanted = self._asked.get(question)
            if wanted is None or wanted.due_mono is None or time.monotonic() < wanted.due_mono:
                return None
            return Unanswered("late")

    def forget(self, question: QueryId) -> None:
        """Nobody waits for it any more; if it is not under way yet, it is not looked at."""
        with self._ready:
            self._answers.pop(question, None)
            wanted = self._asked.pop(question, None)
            flight = self._flights.get(wanted.content) if wanted is not None else None
            if wanted is None or flight is None or question not in flight.ids:
                return  # what flies now is of others, who asked the same once this was answered
            flight.ids.remove(question)
            if not flight.ids and wanted.content in self._waiting:
                self._waiting.discard(wanted.content)
                del self._flights[wanted.content]
                os.eventfd_write(self._wake, 1)  # there is room

    def forget_source(self, source: str) -> None:
        """It is no more of this worker's: nobody waits for what was asked about it."""
        for question in [known for known in self._asked if known.source == source]:
            self.forget(question)

    def fileno(self) -> int:
        """A descriptor that is readable once there are answers that were not heard of."""
        return self._wake

    def hear(self) -> None:
        """Answers were heard of."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def due_in(self) -> float | None:
        """Seconds until the first question that waits is late; None if none ever is."""
        with self._ready:
            dues = [w.due_mono for q, w in self._asked.items() if q not in self._answers]
        now = time.monotonic()
        return min((due - now for due in dues if due is not None and due > now), default=None)

    def absent(self) -> str | None:
        """Why nobody would answer now, as the place tells it; None if somebody is there."""
        return absent(self._place)

    def close(self) -> None:
        """End all that is under way."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._place.close()
        for lane in self._lanes:
            lane.join()
        os.close(self._wake)

    # -- the lanes

    def _lane(self, number: int) -> threading.Thread:
        lane = threading.Thread(target=self._serve, name=f"asks-{number}", daemon=True)
        lane.start()
        return lane

    def _serve(self) -> None:
        while (batch := self._next_batch()) is not None:
            answers, fault = self._answers_to(batch)
            with self._ready:
                self._busy -= 1
                self._under_way -= Counter(flight.went_for for flight in batch)
                if fault is None:
                    self._breaker.answered()
                    for flight, found in zip(batch, answers, strict=True):
                        self._settle(flight.question.content, found)
                elif not self._closed:
                    self._breaker.failed(time.monotonic(), fault)
                    for flight in reversed(batch):
                        self._failed(flight)
                self.counts.breaker = self._breaker.state
                self.counts.sent_bytes = self._place.sent_bytes
                self.counts.wire_s = self._place.wire_s
                self._ready.notify_all()
        leave(self._place)

    def _answers_to(self, batch: Sequence[Flight]) -> tuple[Sequence[Reply], Exception | None]:
        """What the place says, or why it failed."""
        try:
            answers = self._place.answer([flight.question for flight in batch])
            if len(answers) != len(batch):
                raise PlaceFailed(f"{len(answers)} answers to {len(batch)} questions")
        except Exception as error:  # a place of a user's may raise anything
            return (), error
        return answers, None

    def _next_batch(self) -> Sequence[Flight] | None:
        """Wait for the next batch that may go out; None when it is over."""
        with self._ready:
            while not self._closed:
                now = time.monotonic()
                self._let_go(now)
                if self._breaker.lets_out(now):
                    most = 1 if self._breaker.state == "open" else None
                    if taken := self._waiting.take(now, most, self._kept_back()):
                        self._breaker.sent()
                        self.counts.breaker = self._breaker.state
                        batch = [self._flights[content] for content in taken]
                        self._busy += 1
                        for flight in batch:
                            flight.went_for = flight.source if flight.question.urgent else ""
                        self._under_way.update(flight.went_for for flight in batch)
                        return batch
                self._ready.wait(self._pause(now))
            return None

    def _kept_back(self) -> KeptBack:
        """Who is not to have the last free lane: what is urgent of a source that has none does,
        so nobody waits for a flood; and audits of a place that went away do not hide that it did.
        """
        is_last = self._place.lanes - self._busy == 1 < self._place.lanes
        return KeptBack(self._under_way.keys(), "" in self._under_way) if is_last else NOBODY

    def _pause(self, now: float) -> float | None:
        """Seconds after which a batch could go out; None: only once something happened."""
        ready_s = self._waiting.ready_at(self._kept_back())
        if ready_s is None or self._breaker.state == "half_open":
            return None
        return max(0.001, max(ready_s, self._breaker.until_mono) - now)

    def _let_go(self, now: float) -> None:
        """Questions that are late, or that nobody waits for through an open breaker."""
        shut = not self._breaker.lets_out(now)
        for content, flight in list(self._flights.items()):
            if content not in self._waiting:
                continue
            due = flight.question.due_mono
            if due is None and shut and not self._is_patient(flight, now):
                self._refuse(content, "unanswered")
            elif due is not None and (shut or now >= due):
                self._refuse(content, "breaker_open" if shut else "late")

    def _failed(self, flight: Flight) -> None:
        """Tried again where it is waited for and the place may come back; else there is none."""
        question, now = flight.question, time.monotonic()
        if not flight.ids:  # all who waited have forgotten it
            del self._flights[question.content]
            os.eventfd_write(self._wake, 1)  # there is room
        elif question.due_mono is None and self._is_patient(flight, now):
            at = question.id.source, question.content, question.urgent, flight.asked_mono
            self._waiting.put_back(*at)
        else:
            self._settle(question.content, Unanswered("unanswered"))

    def _is_patient(self, flight: Flight, now: float) -> bool:
        """Whether to go on trying: not for long with a place that has been away for long."""
        return self._breaker.away_s(flight.asked_mono, now) < self._patience_s

    def _refuse(self, content: bytes, reason: DegradedReason) -> None:
        self._waiting.discard(content)
        self._settle(content, Unanswered(reason))

    def _settle(self, content: bytes, answer: Reply) -> None:
        flight = self._flights.pop(content)
        if isinstance(answer, Unanswered):
            degraded = self.counts.degraded
            degraded[answer.reason] = degraded.get(answer.reason, 0) + 1
        else:
            self.counts.answered += 1
            self.counts.waited_s += time.monotonic() - flight.asked_mono
        for question in flight.ids:
            self._answers[question] = answer
        os.eventfd_write(self._wake, 1)
