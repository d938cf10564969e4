"""When escalate asks: what it knows of a source, its questions, its budget of asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from framegate.pipeline.errors import FrameLost
from framegate.pipeline.queries import Predictions, Query, QueryId, Reply, Unanswered
from framegate.pipeline.records import DegradedReason, Object
from framegate.pipeline.stage import AskPort, Context, Item
from framegate.stages.audit.audits import AuditState
from framegate.stages.detections import Detections, as_boxes
from framegate.stages.escalate.corrections import Corrections, learned, served
from framegate.stages.escalate.doubt import DoubtBias, doubt_of
from framegate.stages.escalate.options import EscalateOptions

# -- How often may be asked: a token bucket in media time. Pure.


@dataclass(frozen=True, slots=True)
class Budget:
    """per_s: asks a second of media time, >= 0; burst: asks at once after a rest, >= 1."""

    per_s: float
    burst: float


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    """Asks that were left at a moment of the source's clock, seconds; None: never any spent."""

    left: float | None = None
    at_s: float = 0.0

    def now(self, now_s: float, budget: Budget) -> float:
        """Asks that are left."""
        if self.left is None:
            return budget.burst
        return min(budget.burst, self.left + max(0.0, now_s - self.at_s) * budget.per_s)

    def spent(self, now_s: float, budget: Budget) -> Tokens:
        """After one more ask. One beyond the budget, as after an alarm, leaves no debt: else who
        asked much then would long not ask where in doubt, and ring the alarm again.
        """
        return Tokens(round(max(0.0, self.now(now_s, budget) - 1.0), 4), round(now_s, 3))


Wish = Literal["content", "ask", "over_budget"]
Transition = tuple[Detections, "EscalateState"]

_UNKNOWN_PERIOD_S = 1 / 30  # of a frame whose time stamps do not tell
_replace = msgspec.structs.replace


class EscalateState(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of escalate: of this epoch, on the source's own clock.

    tokens  asks that are left
    known   what earlier answers said of what is still there
    models  that those came from
    level   how its doubt differs from others'; it goes on over epochs
    audits  where the promise stands; it goes on over epochs
    """

    epoch: int = 0
    pts: float | None = None
    clock_s: float = 0.0
    tokens: Tokens = Tokens()
    known: Corrections = Corrections()
    models: tuple[str, ...] = ()
    level: DoubtBias = DoubtBias()
    audits: AuditState = AuditState()

    def at(self, item: Item) -> EscalateState:
        """Before a frame: nothing of an epoch goes on into another but what was spent."""
        epoch, pts = item.position.epoch, item.record.pts
        if epoch != self.epoch:
            tokens = Tokens(self.tokens.left)
            return EscalateState(epoch, pts, tokens=tokens, level=self.level, audits=self.audits)
        rises = self.pts is not None and pts is not None and pts > self.pts
        passed_s = (pts or 0.0) - (self.pts or 0.0) if rises else _UNKNOWN_PERIOD_S
        return _replace(self, pts=pts, clock_s=round(self.clock_s + passed_s, 4))


def wish(state: EscalateState, doubt: float, least: float, budget: Budget) -> Wish:
    """Whether to ask about a frame: in doubt from the probability `least` on; after an alarm in any
    case.
    """
    if state.audits.fresh is not None:
        return "ask"
    if doubt < (least if state.audits.chosen is None else state.audits.chosen):
        return "content"
    return "ask" if state.tokens.now(state.clock_s, budget) >= 1.0 else "over_budget"


def doubt_about(state: EscalateState, found: Detections) -> float:
    """How probable it is, 0..1, that the heavy pass would say something else than what is served
    without asking; `state` is that of `unanswered`.
    """
    return doubt_of(state.known, found, state.clock_s, state.level)


def asked(state: EscalateState, budget: Budget) -> EscalateState:
    """After a question about this frame, whatever becomes of it."""
    return _replace(state, tokens=state.tokens.spent(state.clock_s, budget))


def answered(state: EscalateState, found: Detections, seen: Predictions) -> Transition:
    """What the heavy pass says of this frame, and what that teaches."""
    known, objects = learned(state.known, found, as_boxes(seen), state.clock_s)
    said = _replace(
        found,
        outcome="detected",
        looked="whole",
        objects=objects,
        models=(*found.models, *seen.models),
        age_s=0.0,
        escalation="done",
        changes=None,
    )
    return said, _replace(state, known=known, models=seen.models)


def recalibrated(
    state: EscalateState, doubt: float, unasked: Sequence[Object], true: Sequence[Object]
) -> EscalateState:
    """Once heavy told of a frame in that doubt what is true; unasked: what else was served."""
    classes, others = (sorted(each.class_id for each in side) for side in (unasked, true))
    return _replace(state, level=state.level.after(doubt, classes != others))


def unanswered(state: EscalateState, found: Detections, why: DegradedReason | None) -> Transition:
    """What detect says, with what earlier answers said of the same; why: it should have been
    asked, and was not, or in vain.
    """
    objects, known = served(state.known, found, state.clock_s)
    models = (*found.models, *state.models) if known.known else found.models
    said = _replace(found, objects=objects, models=models, changes=None)
    if why is not None:
        said = _replace(said, escalation="degraded", degraded=why)
    return said, _replace(state, known=known)


def as_if_confirmed(state: EscalateState, found: Detections, budget: Budget) -> EscalateState:
    """Where it would stand if the heavy pass saw what detect saw: to look ahead of an answer."""
    boxes = tuple(found_object.box for found_object in found.objects)
    scores = tuple(found_object.score for found_object in found.objects)
    class_ids = tuple(found_object.class_id for found_object in found.objects)
    return answered(asked(state, budget), found, Predictions(boxes, scores, class_ids, ()))[1]


def taught(
    state: EscalateState, then: EscalateState, found: Detections, seen: Predictions
) -> EscalateState:
    """With what an answer about an earlier frame teaches, which stood at `then`."""
    known, _ = learned(state.known, found, as_boxes(seen), then.clock_s)
    return _replace(state, known=known, models=seen.models)


# -- Escalate's questions: as many as may be asked, in time; late answers are not for nothing.


_USELESS_S: Final = 2.0  # age of an answer from which on it teaches nothing


@dataclass(frozen=True, slots=True)
class _Late:
    """A question whose answer was too late for its frame, and where that frame stood."""

    question: QueryId
    found: Detections
    state: EscalateState


class FrameQueries:
    """Whole frames, asked about once each. One thread."""

    def __init__(self, asks: AskPort, options: EscalateOptions, context: Context) -> None:
        self.asks = asks
        self._options, self._context = options, context
        self._budget = Budget(options.all_per_s, max(1.0, options.all_per_s))  # of cameras
        self._tokens = Tokens()
        self._late: dict[str, _Late] = {}

    def answer(self, item: Item) -> Reply | None:
        """Ask about a frame, once, and see whether there is an answer: None while it may come, or
        while a file's frame cannot be asked about for all that is.

        A camera's frame has a due time, and counts against what all cameras may ask. FrameLost
        where pixels of a file will be decoded again.
        """
        question, due = QueryId(item.source, item.position), None
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
                self.asks.ask(Query(question, item.record.form, bytes(pixels), due))
        except FrameLost as lost:
            if due is None and not lost.final:
                raise
            return Unanswered("pixels_lost")
        return self.asks.answer(question)

    def is_done(self, item: Item) -> None:
        """A frame's result is fixed: nobody waits for an answer about it."""
        late = self._late.get(item.source)
        question = QueryId(item.source, item.position)
        if late is None or late.question != question:
            self.asks.forget(question)

    def keep_late(self, item: Item, found: Detections, state: EscalateState) -> None:
        """An answer that is late may still teach; one at a time for each source."""
        self.forget(item.source)
        self._late[item.source] = _Late(QueryId(item.source, item.position), found, state)

    def with_late(self, item: Item, state: EscalateState) -> EscalateState:
        """The state with what a late answer teaches, if it came."""
        late = self._late.get(item.source)
        if late is None:
            return state
        answer = self.asks.answer(late.question)
        old = late.state.epoch != state.epoch or state.clock_s - late.state.clock_s > _USELESS_S
        if old or isinstance(answer, Predictions):
            self.forget(item.source)
        if old or not isinstance(answer, Predictions):
            return state
        return taught(state, late.state, late.found, answer)

    def forget(self, source: str) -> None:
        """No late answer is waited for any more."""
        if (late := self._late.pop(source, None)) is not None:
            self.asks.forget(late.question)
