"""Escalate: where the light path is in doubt, the heavy pass is asked; audits keep the promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from framegate.pipeline.contracts.errors import ModelNotTaken
from framegate.pipeline.contracts.queries import Predictions, Unanswered
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.contracts.stage import WAITS, Asking, AskPort, Context, Item, Stage, Waits
from framegate.pipeline.promise.promise import Promise
from framegate.stages.audit.auditor import Auditor, AuditOutcome
from framegate.stages.detect.options import Classes, is_own, labels_wanted
from framegate.stages.detect.run_models import pinned_model, unanswerable
from framegate.stages.detections import Detections, Heard, last_detections
from framegate.stages.escalate import policy
from framegate.stages.escalate.places import EscalateOptions, HeavyPass, heavy_pass
from framegate.stages.escalate.policy import Budget, EscalateState, FrameQueries, Transition

_replace = msgspec.structs.replace
NO_PROMISE = Promise("off")  # without the table [promise]


@dataclass(frozen=True)
class StageOptions:
    """Options of escalate.

    classes   COCO labels that the heavy model may report, or "all". Default: those that detect
              looks for
    escalate  the table [escalate]
    promise   the table [promise]
    tells     pass the heavy model's answers to the stage that keeps footage
    """

    classes: Classes = None
    escalate: EscalateOptions = field(default_factory=EscalateOptions, metadata={"table": True})
    promise: Promise = field(default_factory=lambda: NO_PROMISE, metadata={"table": True})
    tells: bool = field(default=False, metadata={"hidden": True})

    def faults(self) -> list[str]:
        """What is wrong with the two tables together."""
        if self.promise.measure == "off" or self.escalate.place != "off":
            return []
        return [
            f"promise.measure = {self.promise.measure!r}: with escalate.place = 'off' no "
            "model audits; allowed are local, workers and kserve there, or measure = 'off'"
        ]


class Escalate(Stage[EscalateState]):
    """One frame's Detections in, the same or the heavy pass's out.

    In     Detections, and the frame's pixels where it asks
    Out    Detections; None where nobody is there to ask
    State  what answers taught, in order of the frames (a late one teaches the frame that applies
           it), and the promise: a frame is drawn in the write that fixes its result
    Fails  never for want of an answer: then detect's stand, as degraded
    """

    Options = StageOptions
    State = EscalateState
    pixels = 1
    takes_classes = True  # whom detect asks in doubt must not tell of what is not looked for
    promises = True
    followed = False
    batch = 16
    takes_failed = True
    options: StageOptions

    def __init__(self, options: StageOptions, context: Context) -> None:
        """Open the place that answers."""
        super().__init__(options, context)
        self._cascade: _Cascade | None = None
        heavy = heavy_pass(options.escalate, labels_wanted("heavy", options.classes))
        if heavy is None:
            self.batch = Stage.batch
        else:
            self.asks = context.asks(heavy.place, options.escalate.patience_s)
            self._cascade = _Cascade(options, heavy, self.asks, context)

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:  # noqa: ARG002
        """Refuse a model whose classes nobody can be asked about."""
        if self._cascade is None or not model or is_own(model):
            return
        manifest = pinned_model(model, self.context.folder, None).manifest
        asked_for = labels_wanted("heavy", self.options.classes)
        if fault := unanswerable(manifest.default_classes, asked_for):
            raise ModelNotTaken(f"model {manifest.result_name}: {fault}")

    def process(
        self, batch: Sequence[Item], states: Mapping[str, EscalateState]
    ) -> tuple[list[Detections | Waits | None], Mapping[str, EscalateState]]:
        """Ask where in doubt; a source's frames come out in order, its questions go ahead."""
        if self._cascade is None:
            return [None] * len(batch), states
        after = dict(states)
        ahead: dict[str, EscalateState] = {}
        outputs: list[Detections | Waits | None] = []
        for item in batch:
            source = item.source
            said = None if source in ahead else self._cascade.say(item, after[source])
            if said is None:
                ahead[source] = self._cascade.look_ahead(item, ahead.get(source, after[source]))
                outputs.append(WAITS)
            else:
                output, after[source] = said
                outputs.append(output)
        return outputs, after

    def end(
        self, source: str, end: End, state: EscalateState
    ) -> tuple[PromiseNews | Waits | None, EscalateState]:
        """What was asked for frames of this epoch teaches nothing in the next; after the last one
        the promise is closed.
        """
        return (None, state) if self._cascade is None else self._cascade.end(source, end, state)

    def asking(self) -> Asking:
        """What the budgets and the audits of the promise allow."""
        table, promise = self.options.escalate, self.options.promise
        if self._cascade is None:
            return Asking()
        audited = 0.0 if promise.measure == "off" else promise.share
        return Asking(table.per_s, table.all_per_s, audited)

    def close(self) -> None:
        """End what is under way."""
        if self.asks is not None:
            self.asks.close()


class _Cascade:
    """What escalate does about each frame, where there is somebody to ask. One thread.

    `say` is the way of a frame; `look_ahead` puts the queries of frames behind one that waits;
    `end` is the way of an epoch's end. With a promise the auditor is called at both ends of the
    way, in this order: settle what earlier audits found, decide, serve, draw, tell. What is served
    is fixed before the coin is thrown, and both are in one hop.
    """

    def __init__(
        self, options: StageOptions, heavy: HeavyPass, asks: AskPort, context: Context
    ) -> None:
        table, promise = options.escalate, options.promise
        self._queries, self._counts = FrameQueries(asks, table, context), asks.counts
        self._threshold, self._budget = table.doubt, Budget(table.per_s, table.burst)
        self._is_exact, self._tells = heavy.is_exact, options.tells
        self._auditor = None
        if promise.measure != "off":
            self._auditor = Auditor(promise, asks, heavy.policy_id, table.doubt, context)

    def say(
        self, item: Item, before: EscalateState
    ) -> tuple[Detections | None, EscalateState] | None:
        """What stands about a frame; None while an answer may come."""
        found_out = self._settled(item, before.at(item))
        if found_out is None:
            return None
        settled, outcomes = found_out
        if item.record.failed is not None:
            return None, self._failed(item, settled)
        found = last_detections(item.record)
        state = self._queries.with_late(item, settled)
        unasked = policy.unanswered(state, found, None)
        doubt = policy.doubt_about(unasked[1], found)
        decided = self._decided(item, found, state, doubt, unasked)
        if decided is None:
            return None
        served, after, true = decided
        self._queries.is_done(item)
        self._counts.left[item.source] = round(after.tokens.now(after.clock_s, self._budget), 2)
        if self._auditor is None:
            return self._telling(served, true), after
        audits = self._auditor.served(
            item, after.audits, after.clock_s, served, unasked[0], doubt, true
        )
        is_drawn = bool(audits.open) and audits.open[-1].position == item.position
        served = self._telling(served, true, is_drawn, outcomes)
        audits, news = self._auditor.news(item.source, before.audits, audits)
        return _replace(served, promise=news), _replace(after, audits=audits)

    def _telling(
        self,
        served: Detections,
        true: Predictions | None,
        is_drawn: bool = False,
        outcomes: Sequence[AuditOutcome] = (),
    ) -> Detections:
        """What is served, with what the heavy pass said, for who keeps footage."""
        if not self._tells or (true is None and not is_drawn and not outcomes):
            return served
        audited = tuple((outcome.position, outcome.true) for outcome in outcomes)
        return _replace(served, heard=Heard(true, is_drawn, audited))

    def _settled(
        self, item: Item, state: EscalateState
    ) -> tuple[EscalateState, tuple[AuditOutcome, ...]] | None:
        """With what audits of earlier frames found, and that; None while one is waited for."""
        if self._auditor is None:
            return state, ()
        audits = self._auditor.numbered(item, state.audits)
        settled = self._auditor.settled(item.source, audits, state.clock_s)
        if settled is None:
            return None
        audits, outcomes = settled
        for outcome in outcomes:
            state = _replace(state, level=state.level.after(outcome.doubt, outcome.was_wrong))
        return _replace(state, audits=self._auditor.began(item, audits)), outcomes

    def _failed(self, item: Item, state: EscalateState) -> EscalateState:
        if self._auditor is None:
            return state
        return _replace(state, audits=self._auditor.failed(item, state.audits))

    def _decided(
        self,
        item: Item,
        found: Detections,
        state: EscalateState,
        doubt: float,
        unasked: Transition,
    ) -> tuple[Detections, EscalateState, Predictions | None] | None:
        """What is served, and what the heavy pass said of the frame's own pixels, if it was asked.
        None while it may still answer.

        unasked  what is served without asking, and the state after that
        """
        wish = policy.wish(state, doubt, self._threshold, self._budget)
        if wish == "content":
            return *unasked, None
        answer = self._queries.answer(item) if wish == "ask" else Unanswered("over_budget")
        if answer is None:
            return None
        if wish == "ask":
            state = policy.asked(state, self._budget)
        if isinstance(answer, Predictions):
            served, state = policy.answered(state, found, answer)
            state = policy.recalibrated(state, doubt, unasked[0].objects, served.objects)
            return served, state, answer if self._is_exact else None
        if answer.reason == "late":
            self._queries.keep_late(item, found, state)
        return *policy.unanswered(state, found, answer.reason), None

    def look_ahead(self, item: Item, before: EscalateState) -> EscalateState:
        """Put a later frame's query before its turn, as if the answers before it said yes.

        Gives the state to go on looking ahead with; it is never stored.
        """
        state = before.at(item)
        if item.record.failed is not None:
            return state
        found = last_detections(item.record)
        _, unasked = policy.unanswered(state, found, None)
        doubt = policy.doubt_about(unasked, found)
        if policy.wish(state, doubt, self._threshold, self._budget) != "ask":
            return unasked
        self._queries.answer(item)
        return policy.as_if_confirmed(state, found, self._budget)

    def end(
        self, source: str, end: End, state: EscalateState
    ) -> tuple[PromiseNews | Waits | None, EscalateState]:
        """What is left to say at an epoch's end: after the last one, the promise's last news."""
        self._queries.forget(source)
        if end.last:
            self._counts.left.pop(source, None)
        if self._auditor is None:
            return None, state
        state = _replace(state, audits=self._auditor.passed(source, end, state.audits))
        if not end.last:
            return None, state
        settled = self._auditor.settled(source, state.audits, state.clock_s, is_last=True)
        if settled is None:
            return WAITS, state
        news, audits = self._auditor.finished(source, settled[0])
        return news, _replace(state, audits=audits)
