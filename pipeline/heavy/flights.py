"""Questions on their way, who waits for each, and how much of all that is held at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from framegate.pipeline.heavy.questions import Question, QuestionId

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

    question: Question
    asked_mono: float
    ids: list[QuestionId] = field(default_factory=list)
    went_for: str = ""

    @property
    def source(self) -> str:
        """Whose turn it takes."""
        return self.question.id.source

    def join(self, other: Question) -> None:
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
