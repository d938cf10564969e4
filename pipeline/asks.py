"""Ask and answer: questions go to a place in threads of their own; who waits is woken."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from pipeline.batching import Batching, BatchLimits
from pipeline.breaker import Breaker, BreakerState
from pipeline.questions import (
    Answer,
    Place,
    PlaceFailed,
    Question,
    QuestionId,
    Unanswered,
)
from pipeline.records import DegradedReason

log = logging.getLogger(__name__)

_MOST_KEPT = 256  # answers that nobody has fetched; more, and the oldest is forgotten
_MOST_WAITING = 512


class AskCounts(msgspec.Struct):
    """What became of a worker's questions since it began.

    answered, joined  looked at by the place; the same as one that was under way
    degraded          no answer, by reason
    sent_bytes        what went over a wire; waited_s from question to answer, summed
    breaker           of the place
    """

    answered: int = 0
    joined: int = 0
    degraded: dict[str, int] = {}
    sent_bytes: int = 0
    waited_s: float = 0.0
    breaker: BreakerState = "closed"


@dataclass(slots=True, eq=False)
class _Flight:
    """A question that waits or is being looked at, and all who asked the same."""

    question: Question
    asked_mono: float
    ids: list[QuestionId] = field(default_factory=list)


class Asks:
    """One stage's questions and their answers. `ask`, `answer`, `forget`: one thread."""

    def __init__(self, place: Place, delay_s: float = 0.005, patience_s: float = 60.0) -> None:
        """delay_s: for which a question may wait for others to go with it.

        patience_s: for which one without a due time is tried again while the place is away.
        """
        self.counts = AskCounts()
        self._place, self._patience_s = place, patience_s
        self._ready = threading.Condition()
        self._waiting: Batching[bytes] = Batching(BatchLimits(place.most, delay_s))
        self._flights: dict[bytes, _Flight] = {}
        self._asked: dict[QuestionId, tuple[float | None, bytes]] = {}  # due time, content
        self._answers: dict[QuestionId, Answer] = {}
        self._breaker = Breaker()
        self._closed = False
        self._lanes: list[threading.Thread] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # -- who asks

    def ask(self, question: Question) -> None:
        """Put a question, once: what was asked already, or answered, is not asked again."""
        with self._ready:
            if question.id in self._asked:
                return
            self._asked[question.id] = question.due_mono, question.content
            flight = self._flights.get(question.content)
            if flight is not None:
                flight.ids.append(question.id)
                self.counts.joined += 1
                return
            now = time.monotonic()
            self._flights[question.content] = _Flight(question, now, [question.id])
            self._waiting.add(question.id.source, question.content, question.urgent, now)
            if len(self._waiting) > _MOST_WAITING:
                self._refuse(question.content, "unanswered")
            self._ready.notify()
            if not self._lanes:
                self._lanes = [self._lane(number) for number in range(self._place.lanes)]

    def knows(self, question: QuestionId) -> bool:
        """Whether it was asked and not forgotten."""
        return question in self._asked

    def answer(self, question: QuestionId) -> Answer | None:
        """The answer; None while it may come. After its due time it is late, and may yet come."""
        with self._ready:
            found = self._answers.get(question)
            if found is not None:
                return found
            due, _ = self._asked.get(question, (None, b""))
            return Unanswered("late") if due is not None and time.monotonic() >= due else None

    def forget(self, question: QuestionId) -> None:
        """Nobody waits for it any more."""
        with self._ready:
            _, content = self._asked.pop(question, (None, b""))
            self._answers.pop(question, None)
            flight = self._flights.get(content)
            if flight is not None and question in flight.ids:
                flight.ids.remove(question)
                if not flight.ids and content in self._waiting:
                    self._waiting.discard(content)
                    del self._flights[content]

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
            waiting = [due for q, (due, _) in self._asked.items() if q not in self._answers]
        now = time.monotonic()
        dues = [due - now for due in waiting if due is not None and due > now]
        return min(dues, default=None)

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
            try:
                seen = self._place.answer([flight.question for flight in batch])
                fault = None
            except Exception as error:
                level = logging.WARNING if isinstance(error, PlaceFailed) else logging.ERROR
                fault = error
                log.log(level, "no answer to %d questions: %s", len(batch), error)
            with self._ready:
                if fault is None:
                    self._breaker = self._breaker.answered()
                    for flight, found in zip(batch, seen, strict=True):
                        self._settle(flight.question.content, found)
                else:
                    self._breaker = self._breaker.failed(time.monotonic(), random.random())
                    for flight in batch:
                        self._failed(flight)
                self.counts.breaker = self._breaker.state
                self._ready.notify_all()

    def _next_batch(self) -> Sequence[_Flight] | None:
        """Wait for the next batch that may go out; None when it is over."""
        with self._ready:
            while not self._closed:
                now = time.monotonic()
                self._let_go(now)
                ready_s = self._waiting.ready_at(now)
                if ready_s is not None and self._breaker.lets_out(now):
                    batch = self._waiting.take(now, 1 if self._breaker.state == "open" else None)
                    if batch:
                        self._breaker = self._breaker.sent()
                        self.counts.breaker = self._breaker.state
                        return [self._flights[content] for content in batch]
                self._ready.wait(self._pause(ready_s, now))
            return None

    def _pause(self, ready_s: float | None, now: float) -> float | None:
        """Seconds after which a batch could go out; None: only once something happened."""
        if ready_s is None or self._breaker.state == "half_open":
            return None
        return max(0.001, max(ready_s, self._breaker.until_s) - now)

    def _let_go(self, now: float) -> None:
        """Questions that are late, or that an open breaker keeps from being in time."""
        shut = not self._breaker.lets_out(now)
        for content, flight in list(self._flights.items()):
            due = flight.question.due_mono
            if due is None or content not in self._waiting:
                continue
            if now >= due or shut:
                self._refuse(content, "breaker_open" if shut else "late")

    def _failed(self, flight: _Flight) -> None:
        """Tried again where it is waited for and the place may come back; else there is none."""
        question, now = flight.question, time.monotonic()
        if question.due_mono is None and now - flight.asked_mono < self._patience_s:
            self._waiting.add(question.id.source, question.content, question.urgent, now)
        else:
            self._settle(question.content, Unanswered("unanswered"))

    def _refuse(self, content: bytes, reason: DegradedReason) -> None:
        self._waiting.discard(content)
        self._settle(content, Unanswered(reason))

    def _settle(self, content: bytes, answer: Answer) -> None:
        flight = self._flights.pop(content)
        if isinstance(answer, Unanswered):
            degraded = self.counts.degraded
            degraded[answer.reason] = degraded.get(answer.reason, 0) + 1
        else:
            self.counts.answered += 1
            self.counts.waited_s += time.monotonic() - flight.asked_mono
        for question in flight.ids:
            if question in self._asked:
                self._answers[question] = answer
        while len(self._answers) > _MOST_KEPT:
            oldest = next(iter(self._answers))
            del self._answers[oldest]
            self._asked.pop(oldest, None)
        os.eventfd_write(self._wake, 1)
