"""When a frame goes to the heavy model: the state of a source, its budget, its open queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.queries import Predictions, Query, QueryId, Reply, Unanswered
from framegate.pipeline.contracts.results import DegradedReason, Object
from framegate.pipeline.contracts.stage import AskPort, Context, Item
from framegate.stages.audit.audits import AuditState
from framegate.stages.detections import Detections, as_boxes
from framegate.stages.escalate.corrections import Corrections, learned, served
from framegate.stages.escalate.doubt import DoubtBias, doubt_of
from framegate.stages.escalate.places import EscalateOptions

# -- How often the heavy model may be asked: a token bucket in media time. Pure.


@dataclass(frozen=True, slots=True)
class Budget:
    """per_s: queries a second of media time, >= 0; burst: queries at once after a pause, >= 1."""

    per_s: float
    burst: float


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    """How many queries were left at the time `at_s` of the source's clock, seconds.

    None: none was spent yet.
    """

    left: float | None = None
    at_s: float = 0.0

    def now(self, now_s: float, budget: Budget) -> float:
        """Return how many queries are left at `now_s`."""
        if self.left is None:
            return budget.burst
        return min(budget.burst, self.left + max(0.0, now_s - self.at_s) * budget.per_s)

    def spent(self, now_s: float, budget: Budget) -> Tokens:
        """Return the tokens after one more query.

        A query beyond the budget, as after an alarm, leaves no debt: a source in debt could not
        ask about its doubtful frames for long, and that would raise the next alarm.
        """
        return Tokens(round(max(0.0, self.now(now_s, budget) - 1.0), 4), round(now_s, 3))


AskDecision = Literal["content", "ask", "over_budget"]
Transition = tuple[Detections, "EscalateState"]

_UNKNOWN_PERIOD_S = 1 / 30  # of a frame whose time stamps do not tell
_replace = msgspec.structs.replace


class EscalateState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a source in this epoch, by the source's own clock in seconds.

    tokens  queries that are left
    known   corrections by earlier answers that still hold
    models  the models that gave these answers
    level   the bias of its doubt; kept from epoch to epoch
    audits  the state of the promise; kept from epoch to epoch
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
        """Return the state before the frame `item`; a new epoch keeps tokens, level and audits."""
        epoch, pts = item.position.epoch, item.record.pts
        if epoch != self.epoch:
            tokens = Tokens(self.tokens.left)
            return EscalateState(epoch, pts, tokens=tokens, level=self.level, audits=self.audits)
        rises = self.pts is not None and pts is not None and pts > self.pts
        passed_s = (pts or 0.0) - (self.pts or 0.0) if rises else _UNKNOWN_PERIOD_S
        return _replace(self, pts=pts, clock_s=round(self.clock_s + passed_s, 4))


def wish(state: EscalateState, doubt: float, least: float, budget: Budget) -> AskDecision:
    """Return whether to ask about a frame: at a doubt, 0..1, of `least` or more, and after an alarm
    always. A threshold that the promise chose replaces `least`.
    """
    if state.audits.fresh is not None:
        return "ask"
    if doubt < (least if state.audits.chosen is None else state.audits.chosen):
        return "content"
    return "ask" if state.tokens.now(state.clock_s, budget) >= 1.0 else "over_budget"


def doubt_about(state: EscalateState, found: Detections) -> float:
    """Return the probability, 0..1, that the heavy pass would contradict what is served without it.

    state  as `unanswered` returns it for this frame
    """
    return doubt_of(state.known, found, state.clock_s, state.level)


def asked(state: EscalateState, budget: Budget) -> EscalateState:
    """Return the state after a query about this frame, answered or not."""
    return _replace(state, tokens=state.tokens.spent(state.clock_s, budget))


def answered(state: EscalateState, found: Detections, seen: Predictions) -> Transition:
    """Return the heavy pass's result of this frame, and the state with its corrections."""
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
    """Return the state with the bias of doubt corrected by one frame.

    doubt    of that frame, 0..1
    unasked  what would have been served of it without the heavy pass
    true     what the heavy pass found
    """
    classes, others = (sorted(each.class_id for each in side) for side in (unasked, true))
    return _replace(state, level=state.level.after(doubt, classes != others))


def unanswered(state: EscalateState, found: Detections, why: DegradedReason | None) -> Transition:
    """Return detect's result with the corrections that still hold, and the state after it.

    why  why the heavy pass did not answer although it should have; None: it need not
    """
    objects, known = served(state.known, found, state.clock_s)
    models = (*found.models, *state.models) if known.known else found.models
    said = _replace(found, objects=objects, models=models, changes=None)
    if why is not None:
        said = _replace(said, escalation="degraded", degraded=why)
    return said, _replace(state, known=known)


def as_if_confirmed(state: EscalateState, found: Detections, budget: Budget) -> EscalateState:
    """Return the state as if the heavy pass had confirmed detect: a guess until it answers."""
    boxes = tuple(found_object.box for found_object in found.objects)
    scores = tuple(found_object.score for found_object in found.objects)
    class_ids = tuple(found_object.class_id for found_object in found.objects)
    return answered(asked(state, budget), found, Predictions(boxes, scores, class_ids, ()))[1]


def taught(
    state: EscalateState, then: EscalateState, found: Detections, seen: Predictions
) -> EscalateState:
    """Return the state with the corrections of a late answer; `then`: the state at its frame."""
    known, _ = learned(state.known, found, as_boxes(seen), then.clock_s)
    return _replace(state, known=known, models=seen.models)


# -- The open queries. An answer that is too late for its frame still corrects those after it.


_USELESS_S: Final = 2.0  # an older answer corrects nothing


@dataclass(frozen=True, slots=True)
class _Late:
    """A query whose answer was too late for its frame, with the frame's result and state."""

    question: QueryId
    found: Detections
    state: EscalateState


class FrameQueries:
    """Queries about whole frames, one for each frame at most. One thread."""

    def __init__(self, asks: AskPort, options: EscalateOptions, context: Context) -> None:
        self.asks = asks
        self._options, self._context = options, context
        self._budget = Budget(options.all_per_s, max(1.0, options.all_per_s))  # of cameras
        self._tokens = Tokens()
        self._late: dict[str, _Late] = {}

    def answer(self, item: Item) -> Reply | None:
        """Send the frame's query if it is not sent yet, and return the answer.

        None: the answer may still come, or a file's frame waits for room among the queries. A
        camera's frame has a deadline and takes from the budget that all cameras share. FrameLost:
        the pixels of a file's frame are gone and will be decoded again.
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
        """Forget the frame's query: its result is fixed. A late one that is kept stays."""
        late = self._late.get(item.source)
        question = QueryId(item.source, item.position)
        if late is None or late.question != question:
            self.asks.forget(question)

    def keep_late(self, item: Item, found: Detections, state: EscalateState) -> None:
        """Keep the frame's query beyond its deadline; one for each source, the newest."""
        self.forget(item.source)
        self._late[item.source] = _Late(QueryId(item.source, item.position), found, state)

    def with_late(self, item: Item, state: EscalateState) -> EscalateState:
        """Return the state with the corrections of the late answer, if it came."""
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
        """Wait for no late answer of this source any more."""
        if (late := self._late.pop(source, None)) is not None:
            self.asks.forget(late.question)
