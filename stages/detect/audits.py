"""The guard's audits: the heavy pass is asked about frames at which both models of a source looked.

A frame of a file waits for the answer. A camera's does not: the answer counts with the frame during
which it comes.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from framegate.pipeline.contracts.queries import Predictions, Query, QueryId
from framegate.pipeline.contracts.stage import AskPort, Context, Item
from framegate.stages.detect.guard import Guard, GuardState, ShownPair, audited
from framegate.stages.detections import as_boxes
from framegate.stages.local_heavy import LocalHeavy

_PATIENCE_S: Final = 30.0  # after which there is no answer


class _OpenAudit(NamedTuple):
    """A camera's question; by: identity of the models that it is about."""

    question: QueryId
    shown: ShownPair
    by: str


class GuardAudits:
    """Of one worker's sources. One thread.

    asks  to the heavy pass, which is opened with the first question
    """

    def __init__(self, context: Context) -> None:
        """Raises StageRefused where the stage runs alone, with nobody to ask."""
        heavy = functools.partial(LocalHeavy, when_asked=True)
        self.asks: AskPort = context.asks(heavy, _PATIENCE_S)
        self._is_live = context.live
        self._open: dict[str, _OpenAudit] = {}

    def waits(self, source: str) -> bool:
        """Whether a camera's question is open: no frame of it is an audit until that is over.

        Else frames in which both models show the same would count, and others would not.
        """
        return source in self._open

    def heard(self, source: str, guard: Guard, state: GuardState) -> GuardState:
        """Return the state after a camera's frame, with the answer about an earlier one."""
        audit = self._open.get(source)
        if audit is None:
            return state
        answer = self.asks.answer(audit.question)
        if answer is None:
            return state
        self.forget(source)
        if not isinstance(answer, Predictions) or audit.by != state.by:
            return state
        return audited(guard, state, audit.shown, as_boxes(answer))

    def after(
        self, item: Item, pixels: memoryview, guard: Guard, state: GuardState, shown: ShownPair
    ) -> GuardState | None:
        """Return the state after a frame that is an audit; None: it waits for the answer."""
        question, form = QueryId(item.source, item.position), item.record.form
        if self._is_live(item.source):
            due = item.record.arrived + _PATIENCE_S
            self.asks.ask(Query(question, form, bytes(pixels), due, urgent=False))
            self._open[item.source] = _OpenAudit(question, shown, state.by)
            return state
        if not self.asks.knows(question):
            self.asks.ask(Query(question, form, bytes(pixels), urgent=False))
        answer = self.asks.answer(question)
        if answer is None:
            return None
        self.asks.forget(question)
        if not isinstance(answer, Predictions):
            return state
        return audited(guard, state, shown, as_boxes(answer))

    def forget(self, source: str) -> None:
        """Wait for no answer about this camera any more."""
        if (audit := self._open.pop(source, None)) is not None:
            self.asks.forget(audit.question)
