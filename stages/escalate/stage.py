"""The stage escalate: send doubtful frames to the heavy pass, and audit for the promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from framegate.models.detector import policy as detector_policy
from framegate.pipeline.contracts.errors import ModelNotTaken
from framegate.pipeline.contracts.queries import Predictions, Reply, Unanswered
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.contracts.stage import WAITS, Asking, AskPort, Context, Item, Stage, Waits
from framegate.pipeline.promise.reference import reference_of
from framegate.stages.audit.auditor import Auditor, AuditOutcome
from framegate.stages.audit.open_audits import Doubt
from framegate.stages.detect.options import is_own, labels_wanted
from framegate.stages.detect.pinned_models import pinned_model, unanswerable
from framegate.stages.detections import Detections, Heard, last_detections
from framegate.stages.escalate import policy
from framegate.stages.escalate.heavy_pass import HeavyPass, heavy_pass
from framegate.stages.escalate.options import DeclaredEscalate, StageOptions
from framegate.stages.escalate.policy import Budget, EscalateState, FrameQueries, Transition

_replace = msgspec.structs.replace


class Escalate(DeclaredEscalate[EscalateState]):
    """The stage that corrects Detections by answers of the heavy pass.

    In     Detections, and the frame's pixels if it is sent
    Out    Detections; None without a place to ask
    State  corrections by answers in frame order (a late answer corrects the frames after it), and
           the promise: a frame is drawn for the audit in the write that fixes its result
    Fails  never for a missing answer: the corrected detections are then published as degraded
    """

    State = EscalateState
    batch = 16
    takes_failed = True

    def __init__(self, options: StageOptions, context: Context) -> None:
        """Open the place of the heavy pass."""
        super().__init__(options, context)
        self._cascade: _Cascade | None = None
        heavy = heavy_pass(options.escalate, labels_wanted("heavy", options.classes))
        if heavy is None:
            self.batch = Stage.batch
        else:
            self.asks = context.asks(heavy.place, options.escalate.patience_s)
            self._cascade = _Cascade(options, heavy, self.asks, context)

    def prepare(self, model: str, sources: Sequence[str], is_new: bool) -> None:  # noqa: ARG002
        """Refuse a model whose classes the heavy pass does not detect. Raises ModelNotTaken."""
        if self._cascade is None or not model or is_own(model):
            return
        manifest = pinned_model(model, self.context.folder, None).manifest
        asked_for = labels_wanted("heavy", self.options.classes)
        if fault := unanswerable(manifest, None, asked_for):
            raise ModelNotTaken(f"model {manifest.result_name}: {fault}")

    def process(
        self, batch: Sequence[Item], states: Mapping[str, EscalateState]
    ) -> tuple[list[Detections | Waits | None], Mapping[str, EscalateState]]:
        """Return the output of each frame, or WAITS while an answer may come.

        The outputs of a source keep the order of its frames. Frames behind a waiting frame send
        their queries already.
        """
        if self._cascade is None:
            return [None] * len(batch), states
        after = dict(states)
        # The guessed states of the sources with a waiting frame, which are never stored.
        ahead: dict[str, EscalateState] = {}
        outputs: list[Detections | Waits | None] = []
        for item in batch:
            source = item.source
            if source in ahead:
                ahead[source] = self._cascade.look_ahead(item, ahead[source])
                outputs.append(WAITS)
                continue
            step = self._cascade.step(item, after[source])
            if step is None:
                ahead[source] = self._cascade.look_ahead(item, after[source])
                outputs.append(WAITS)
                continue
            output, after[source] = step
            outputs.append(output)
        return outputs, after

    def end(
        self, source: str, end: End, state: EscalateState
    ) -> tuple[PromiseNews | Waits | None, EscalateState]:
        """Forget the source's open queries; after its last epoch, close its promise."""
        if self._cascade is None:
            return None, state
        return self._cascade.end(source, end, state)

    def asking(self) -> Asking:
        """Return the limits of the queries: the budgets, and the share that the promise audits."""
        if self._cascade is None:
            return Asking()
        table, promise = self.options.escalate, self.options.promise
        audited = 0.0
        if promise.measure != "off":
            audited = promise.share
        return Asking(table.per_s, table.all_per_s, audited)

    def close(self) -> None:
        """Close the place and its open queries."""
        if self.asks is not None:
            self.asks.close()


class _Cascade:
    """The steps of escalate for a frame if there is a place to ask. One thread.

    `step` decides about a frame, `look_ahead` sends the queries of frames behind a waiting frame,
    and `end` handles the end of an epoch. With a promise, the order of a step is: settle earlier
    audits, decide, serve, draw, report. The result is fixed before the draw, and both are stored in
    one write, so that a restart cannot draw again for a known result.
    """

    def __init__(
        self, options: StageOptions, heavy: HeavyPass, asks: AskPort, context: Context
    ) -> None:
        table, promise = options.escalate, options.promise
        self._queries = FrameQueries(asks, table, context)
        self._counts = asks.counts
        self._threshold = table.doubt
        self._budget = Budget(table.per_s, table.burst)
        self._is_exact = heavy.is_exact
        self._tells = options.tells
        self._auditor: Auditor | None = None
        if promise.measure != "off":
            reference = reference_of(detector_policy.load("heavy").members)
            self._auditor = Auditor(promise, asks, heavy.policy_id, reference, table.doubt, context)

    def step(
        self, item: Item, before: EscalateState
    ) -> tuple[Detections | None, EscalateState] | None:
        """Return the output of a frame and the state after it; None while an answer may come."""
        settled = self._settled(item, before.at(item))
        if settled is None:
            return None
        state, outcomes = settled
        if item.record.failed is not None:
            if self._auditor is not None:
                state = _replace(state, audits=self._auditor.failed(item, state.audits))
            return None, state
        detections = last_detections(item.record)
        state = policy.refiltered(self._queries.with_late(item, state), detections)
        unasked = policy.unanswered(state, detections, None)
        doubt = policy.doubt_about(unasked[1], detections)
        decision = self._decided(item, detections, state, doubt, unasked)
        if decision is None:
            return None
        served, after, true = decision
        self._queries.is_done(item)
        self._counts.left[item.source] = round(after.tokens.now(after.clock_s, self._budget), 2)
        if self._auditor is None:
            return self._with_heard(served, true), after
        audits = self._auditor.served(
            item, after.audits, after.clock_s, served, unasked[0], doubt, true
        )
        is_drawn = bool(audits.open) and audits.open[-1].position == item.position
        served = self._with_heard(served, true, is_drawn, outcomes)
        audits, news = self._auditor.news(item.source, before.audits, audits)
        return _replace(served, promise=news), _replace(after, audits=audits)

    def _with_heard(
        self,
        served: Detections,
        true: Predictions | None,
        is_drawn: bool = False,
        outcomes: Sequence[AuditOutcome] = (),
    ) -> Detections:
        """Return the output with the heavy pass's answers for the stage that keeps footage."""
        if not self._tells or (true is None and not is_drawn and not outcomes):
            return served
        audited = tuple((outcome.position, outcome.true) for outcome in outcomes)
        return _replace(served, heard=Heard(true, is_drawn, audited))

    def _settled(
        self, item: Item, state: EscalateState
    ) -> tuple[EscalateState, tuple[AuditOutcome, ...]] | None:
        """Return the state with the outcomes of earlier audits, and these; None: one is missing."""
        if self._auditor is None:
            return state, ()
        audits = self._auditor.numbered(item.source, state.audits)
        settled = self._auditor.settled(item.source, audits, state.clock_s)
        if settled is None:
            return None
        audits, outcomes = settled
        for outcome in outcomes:
            state = _replace(state, weights=state.weights.after(outcome.doubt, outcome.was_wrong))
        return _replace(state, audits=self._auditor.began(item, audits)), outcomes

    def _decided(
        self,
        item: Item,
        detections: Detections,
        state: EscalateState,
        doubt: Doubt,
        unasked: Transition,
    ) -> tuple[Detections, EscalateState, Predictions | None] | None:
        """Return the result, the state after it, and the heavy pass's answer about the frame's own
        pixels; None while an answer may come.

        unasked  the result without a query, and the state after it
        """
        wish = policy.wish(state, doubt.chance, self._threshold, self._budget)
        if wish == "content" or item.record.undecoded:
            return *unasked, None
        answer: Reply | None = Unanswered("over_budget")
        if wish == "ask":
            answer = self._queries.answer(item)
            state = policy.asked(state, self._budget)
        if answer is None:
            return None
        if isinstance(answer, Predictions):
            answer = self._queries.filtered(item, detections, answer)
            served, state = policy.answered(state, detections, answer)
            state = policy.taught_by(state, doubt, unasked[0].objects, served.objects)
            if not self._is_exact:
                return served, state, None
            return served, state, answer
        if answer.reason == "late":
            self._queries.keep_late(item, detections, state)
        return *policy.unanswered(state, detections, answer.reason), None

    def look_ahead(self, item: Item, before: EscalateState) -> EscalateState:
        """Send a later frame's query early, as if the answers before it confirmed detect.

        Returns the guessed state after the frame, for the next frame.
        """
        state = before.at(item)
        if item.record.failed is not None:
            return state
        detections = last_detections(item.record)
        state = policy.refiltered(state, detections)
        _, unasked = policy.unanswered(state, detections, None)
        doubt = policy.doubt_about(unasked, detections)
        wish = policy.wish(state, doubt.chance, self._threshold, self._budget)
        if wish != "ask" or item.record.undecoded:
            return unasked
        self._queries.answer(item)
        return policy.as_if_confirmed(state, detections, self._budget)

    def end(
        self, source: str, end: End, state: EscalateState
    ) -> tuple[PromiseNews | Waits | None, EscalateState]:
        """Return the promise's last news after the last epoch, and the state after the epoch."""
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
