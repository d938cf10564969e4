"""Decide which frames go to the heavy model: a source's state, its budget, its open queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.queries import Predictions, Query, QueryId, Reply, Unanswered
from framegate.pipeline.contracts.results import DegradedReason, Object
from framegate.pipeline.contracts.stage import AskPort, Context, Item
from framegate.stages.audit.open_audits import AuditState, Doubt, seen_in
from framegate.stages.detections import Detections
from framegate.stages.escalate.corrections import Corrections, learned, served
from framegate.stages.escalate.doubt import LearnedWeights, doubt_of
from framegate.stages.escalate.options import EscalateOptions
from framegate.stages.model_adapters import as_boxes
from framegate.stages.object_filters import filtered

# -- The budget of queries: a token bucket in media time. Pure.


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a token bucket.

    per_s  queries per second of media time, >= 0
    burst  queries at once after a pause, >= 1
    """

    per_s: float
    burst: float


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    """The content of a token bucket.

    left  queries left at `at_s`; None: no query so far, the bucket is full
    at_s  the source's clock, seconds
    """

    left: float | None = None
    at_s: float = 0.0

    def now(self, now_s: float, budget: Budget) -> float:
        """Return the number of queries left at `now_s`."""
        if self.left is None:
            return budget.burst
        return min(budget.burst, self.left + max(0.0, now_s - self.at_s) * budget.per_s)

    def spent(self, now_s: float, budget: Budget) -> Tokens:
        """Return the tokens after one more query.

        A query beyond the budget, as after an alarm, leaves no debt. With a debt, the source could
        not ask about doubtful frames for some time, which would raise the next alarm.
        """
        return Tokens(round(max(0.0, self.now(now_s, budget) - 1.0), 4), round(now_s, 3))


AskDecision = Literal["content", "ask", "over_budget"]
Transition = tuple[Detections, "EscalateState"]

_UNKNOWN_PERIOD_S: Final = 1 / 30  # the duration of a frame without a rising time stamp
_replace = msgspec.structs.replace


class EscalateState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a source in an epoch.

    clock_s  the source's clock: media time since the start of the epoch, seconds
    tokens   queries left
    known    corrections by the last answer
    models   the models of that answer
    weights  of its doubt, as learned so far; kept across epochs
    audits   the state of the promise; kept across epochs
    """

    epoch: int = 0
    pts: float | None = None
    clock_s: float = 0.0
    tokens: Tokens = Tokens()
    known: Corrections = Corrections()
    models: tuple[str, ...] = ()
    weights: LearnedWeights = LearnedWeights()
    audits: AuditState = AuditState()

    def at(self, item: Item) -> EscalateState:
        """Return the state before the frame `item`; a new epoch keeps budget, weights, audits."""
        epoch, pts = item.position.epoch, item.record.pts
        if epoch != self.epoch:
            tokens = Tokens(self.tokens.left)
            return EscalateState(
                epoch, pts, tokens=tokens, weights=self.weights, audits=self.audits
            )
        passed_s = _UNKNOWN_PERIOD_S
        if self.pts is not None and pts is not None and pts > self.pts:
            passed_s = pts - self.pts
        return _replace(self, pts=pts, clock_s=round(self.clock_s + passed_s, 4))


def refiltered(state: EscalateState, detections: Detections) -> EscalateState:
    """Return the state without corrections if other object filters apply from this frame on.

    Detect looks at the whole frame then, so nothing but the heavy pass's view is lost.
    """
    if detections.filters is None:
        return state
    return _replace(state, known=Corrections())


def wish(state: EscalateState, doubt: float, threshold: float, budget: Budget) -> AskDecision:
    """Return whether to ask about a frame: from a doubt of `threshold` on, and always after an
    alarm. A threshold that the promise chose replaces `threshold`.
    """
    if state.audits.fresh is not None:
        return "ask"
    if state.audits.chosen is not None:
        threshold = state.audits.chosen
    if doubt < threshold:
        return "content"
    if state.tokens.now(state.clock_s, budget) < 1.0:
        return "over_budget"
    return "ask"


def doubt_about(state: EscalateState, detections: Detections) -> Doubt:
    """Return the doubt about a frame: the heavy pass would contradict the result without it.

    state  as `unanswered` returns it for this frame
    """
    return doubt_of(state.known, detections, state.clock_s, state.weights)


def asked(state: EscalateState, budget: Budget) -> EscalateState:
    """Return the state after a query about this frame, answered or not."""
    return _replace(state, tokens=state.tokens.spent(state.clock_s, budget))


def answered(state: EscalateState, detections: Detections, answer: Predictions) -> Transition:
    """Return the heavy pass's result of this frame, and the state with its corrections."""
    known, objects = learned(state.known, detections, as_boxes(answer), state.clock_s)
    result = _replace(
        _judged(detections, objects, known),
        outcome="detected",
        looked="whole",
        models=(*detections.models, *answer.models),
        age_s=0.0,
        escalation="done",
    )
    return result, _replace(state, known=known, models=answer.models)


def taught_by(
    state: EscalateState, doubt: Doubt, unasked: Sequence[Object], true: Sequence[Object]
) -> EscalateState:
    """Return the state with the weights of its doubt after one more answered frame.

    doubt    about the frame
    unasked  objects of its result without the heavy pass
    true     objects of the heavy pass
    """
    classes = sorted(each.class_id for each in unasked)
    true_classes = sorted(each.class_id for each in true)
    return _replace(state, weights=state.weights.after(doubt, classes != true_classes))


def unanswered(
    state: EscalateState, detections: Detections, reason: DegradedReason | None
) -> Transition:
    """Return the result without an answer: detections with corrections, and the state after it.

    reason  the reason for a missing answer; None: no answer is needed
    """
    objects, known = served(state.known, detections, state.clock_s)
    models = detections.models
    if known.known:
        models = (*models, *state.models)
    result = _replace(_judged(detections, objects, known), models=models)
    if reason is not None:
        result = _replace(result, escalation="degraded", degraded=reason)
    return result, _replace(state, known=known)


def _judged(detections: Detections, objects: tuple[Object, ...], known: Corrections) -> Detections:
    """Return detections with the objects that an answer left, and its verdict about their tracks.

    `changes` stay: they are the evidence of the stage windows with each answer.
    """
    left = {each.track for each in objects}
    refuted = tuple(
        each for each in detections.objects if each.track is not None and each.track not in left
    )
    confirmed = tuple(each.track for each in known.known if each.track and each.score)
    return _replace(detections, objects=objects, refuted=refuted, confirmed=confirmed, looks=())


def as_if_confirmed(state: EscalateState, detections: Detections, budget: Budget) -> EscalateState:
    """Return the state as if the heavy pass had confirmed the detections, to look ahead."""
    boxes = tuple(each.box for each in detections.objects)
    scores = tuple(each.score for each in detections.objects)
    class_ids = tuple(each.class_id for each in detections.objects)
    answer = Predictions(boxes, scores, class_ids, ())
    return answered(asked(state, budget), detections, answer)[1]


def taught(
    state: EscalateState, then: EscalateState, detections: Detections, answer: Predictions
) -> EscalateState:
    """Return the state with the corrections by a late answer.

    then        the state at the frame of the answer
    detections  of that frame
    """
    known, _ = learned(state.known, detections, as_boxes(answer), then.clock_s)
    return _replace(state, known=known, models=answer.models)


# -- The open queries. An answer that is too late for its frame still corrects the frames after it.


_MAX_LATE_S: Final = 2.0  # an older answer corrects nothing


@dataclass(frozen=True, slots=True)
class _Late:
    """A query whose answer is too late for its frame, with the frame's detections and state."""

    question: QueryId
    detections: Detections
    state: EscalateState


class FrameQueries:
    """The open queries about whole frames, at most one for each frame. One thread."""

    def __init__(self, asks: AskPort, options: EscalateOptions, context: Context) -> None:
        self.asks = asks
        self._options = options
        self._context = context
        # The budget that all cameras of the worker share.
        self._budget = Budget(options.all_per_s, max(1.0, options.all_per_s))
        self._tokens = Tokens()
        self._late: dict[str, _Late] = {}

    def answer(self, item: Item) -> Reply | None:
        """Send the frame's query unless it is sent, and return the answer.

        Returns None while the answer may still come, or while a file's frame waits for room among
        the queries. A camera's frame has a deadline and needs a token of the shared budget. Raises
        FrameLost if the pixels of a file's frame are gone; they will be decoded again.
        """
        question = QueryId(item.source, item.position)
        if self.asks.knows(question):
            return self.asks.answer(question)
        due: float | None = None
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

    def filtered(self, item: Item, detections: Detections, answer: Predictions) -> Predictions:
        """Return an answer without what the source's object filters drop.

        detections  of the frame that the answer is about
        """
        form, light = item.record.form, seen_in(detections.objects)
        filters = self._context.filters(item.source)
        return filtered(answer, filters, (form.width, form.height), light)

    def is_done(self, item: Item) -> None:
        """Forget the frame's query, as its result is fixed. A query kept as late stays."""
        late = self._late.get(item.source)
        question = QueryId(item.source, item.position)
        if late is None or late.question != question:
            self.asks.forget(question)

    def keep_late(self, item: Item, detections: Detections, state: EscalateState) -> None:
        """Keep the frame's query beyond its deadline. Only the newest of a source is kept."""
        self.forget(item.source)
        self._late[item.source] = _Late(QueryId(item.source, item.position), detections, state)

    def with_late(self, item: Item, state: EscalateState) -> EscalateState:
        """Return the state with the corrections by the source's late answer, if it has arrived."""
        late = self._late.get(item.source)
        if late is None:
            return state
        is_other_epoch = late.state.epoch != state.epoch
        if is_other_epoch or state.clock_s - late.state.clock_s > _MAX_LATE_S:
            self.forget(item.source)
            return state
        answer = self.asks.answer(late.question)
        if not isinstance(answer, Predictions):
            return state
        self.forget(item.source)
        answer = self.filtered(item, late.detections, answer)
        return taught(state, late.state, late.detections, answer)

    def forget(self, source: str) -> None:
        """Stop waiting for a late answer of this source."""
        late = self._late.pop(source, None)
        if late is not None:
            self.asks.forget(late.question)
