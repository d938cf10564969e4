"""Escalate's questions: as many as may be asked, in time; late answers are not for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from framegate.pipeline.errors import FrameLost
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.questions import Answer, Question, QuestionId, Seen, Unanswered
from framegate.pipeline.stage import Context, Item
from framegate.stages.detections import Detections
from framegate.stages.escalate import escalation
from framegate.stages.escalate.budget import Budget, Tokens
from framegate.stages.escalate.escalate_options import EscalateOptions
from framegate.stages.escalate.escalation import EscalateState

_USELESS_S: Final = 2.0  # age of an answer from which on it teaches nothing


@dataclass(frozen=True, slots=True)
class _Late:
    """A question whose answer was too late for its frame, and where that frame stood."""

    question: QuestionId
    found: Detections
    state: EscalateState


class Asking:
    """Whole frames, asked about once each. One thread."""

    def __init__(self, asks: Asks, options: EscalateOptions, context: Context) -> None:
        self.asks = asks
        self._options, self._context = options, context
        self._budget = Budget(options.all_per_s, max(1.0, options.all_per_s))  # of cameras
        self._tokens = Tokens()
        self._late: dict[str, _Late] = {}

    def answer(self, item: Item) -> Answer | None:
        """Ask about a frame, once, and see whether there is an answer: None while it may come, or
        while a file's frame cannot be asked about for all that is.

        A camera's frame has a due time, and counts against what all cameras may ask. FrameLost
        where pixels of a file will be decoded again.
        """
        question, due = QuestionId(item.source, item.position), None
        if self.asks.knows(question):
            return self.asks.answer(question)
        if self._context.live(item.source):
            now_s = item.record.arrived
            if self._tokens.now(now_s, self._budget) < 1.0:
                return Unanswered("over_budget")
            self._tokens = self._tokens.spent(now_s, self._budget)
            due = now_s + self._options.deadline_s
        elif not self.asks.has_room(item.record.form.nbytes):
            return None
        try:
            with self._context.pixels(item) as pixels:
                self.asks.ask(Question(question, item.record.form, bytes(pixels), due))
        except FrameLost as lost:
            if due is None and not lost.final:
                raise
            return Unanswered("pixels_lost")
        return self.asks.answer(question)

    def is_done(self, item: Item) -> None:
        """A frame's result is fixed: nobody waits for an answer about it."""
        late = self._late.get(item.source)
        question = QuestionId(item.source, item.position)
        if late is None or late.question != question:
            self.asks.forget(question)

    def keep_late(self, item: Item, found: Detections, state: EscalateState) -> None:
        """An answer that is late may still teach; one at a time for each source."""
        self.forget(item.source)
        self._late[item.source] = _Late(QuestionId(item.source, item.position), found, state)

    def with_late(self, item: Item, state: EscalateState) -> EscalateState:
        """The state with what a late answer teaches, if it came."""
        late = self._late.get(item.source)
        if late is None:
            return state
        answer = self.asks.answer(late.question)
        old = late.state.epoch != state.epoch or state.clock_s - late.state.clock_s > _USELESS_S
        if old or isinstance(answer, Seen):
            self.forget(item.source)
        if old or not isinstance(answer, Seen):
            return state
        return escalation.taught(state, late.state, late.found, answer)

    def forget(self, source: str) -> None:
        """No late answer is waited for any more."""
        if (late := self._late.pop(source, None)) is not None:
            self.asks.forget(late.question)
