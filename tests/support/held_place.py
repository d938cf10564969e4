"""A place whose answers come when the test lets them, and questions for it."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from framegate.pipeline.contracts.queries import PlaceFailed, Predictions, Query, QueryId, Reply
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from tests.support.runs import DEADLINE_S

FORM = Form(4, 4)


def question(
    source: str = "a", seq: int = 0, due_mono: float | None = None, urgent: bool = True
) -> Query:
    """One whose pixels tell source and number apart from all others."""
    pixels = f"{source}{seq}".encode().ljust(FORM.nbytes)
    return Query(QueryId(source, Position(1, seq)), FORM, pixels, due_mono, urgent)


def seen(asked: Query) -> Predictions:
    """An answer that only this question has."""
    score = (asked.pixels[1] - ord("0")) / 10
    return Predictions(((0.0, 0.0, 2.0, 2.0),), (score,), (asked.pixels[0],), ("test",))


@dataclass
class HeldClock:
    """The clock of Asks, which stands still until the test moves it.

    So a question is not late before its call begins, however busy the machine is.
    """

    now: float = field(default_factory=time.monotonic)

    def monotonic(self) -> float:
        return self.now


class Call(NamedTuple):
    """A call of the place that waits for the test's word."""

    questions: Sequence[Query]
    word: queue.SimpleQueue[Sequence[Reply] | Exception]

    def let(self) -> None:
        """Answer it."""
        self.word.put([seen(asked) for asked in self.questions])

    def fail(self, error: Exception | None = None) -> None:
        """It gets no answer."""
        self.word.put(error or PlaceFailed("the test said so"))


@dataclass
class HeldPlace:
    """Calls wait until the test lets them go."""

    lanes: int = 1
    most: int = 1
    sent_bytes: int = 0
    wire_s: float = 0.0
    calls: queue.SimpleQueue[Call] = field(default_factory=queue.SimpleQueue)
    under_way: list[Call] = field(default_factory=list)

    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        """Wait for the test's word."""
        call = Call(questions, queue.SimpleQueue())
        self.under_way.append(call)
        self.calls.put(call)
        word = call.word.get(timeout=DEADLINE_S)
        self.sent_bytes += 7
        if isinstance(word, Exception):
            raise word
        return word

    def next(self) -> Call:
        return self.calls.get(timeout=DEADLINE_S)

    def close(self) -> None:
        for call in self.under_way:
            call.fail(PlaceFailed("closed"))
