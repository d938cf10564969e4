"""The promise of a worker's sources: draw audits, settle them by answers, close periods.

`promise/period` counts, `promise/audit_coin` draws, and `open_audits` keeps what is not settled.
For each frame, escalate calls in this order: `settled` (close audits, oldest first), `began` (find
the period of the frame), `served` or `failed` (once the result is fixed), and `news` (for the
result).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.contracts.stage import AskPort, Context, Item
from framegate.pipeline.promise import audit_coin as coin
from framegate.pipeline.promise import certificate, period
from framegate.pipeline.promise.certificate import Certificate, Declaration
from framegate.pipeline.promise.period import FrameTime, Period, Promise
from framegate.pipeline.promise.reference import Reference
from framegate.pipeline.promise.secret import secret_of
from framegate.stages.audit.open_audits import (
    MAX_OPEN,
    Audited,
    AuditQueries,
    AuditRow,
    AuditState,
    Doubt,
    Obligation,
    ThresholdStats,
    differs,
    safer,
    seen_in,
)
from framegate.stages.detections import Detections

log = logging.getLogger(__name__)

_LAG: Final = 16  # frames after which a file waits for an audit
_PATIENCE_S: Final = 30.0  # after which a camera's audit without an answer is lost
_LOST: Final = Audited(None, None)
# A doubt below all thresholds: no threshold asks about a frame without pixels, or without a budget.
_NEVER_ASKED: Final = -1.0
_replace = msgspec.structs.replace


class AuditOutcome(NamedTuple):
    """The outcome of an audit.

    doubt      doubt about the frame
    was_wrong  its result without the heavy pass would have been wrong
    true       the heavy pass's answer
    """

    position: Position
    doubt: Doubt
    was_wrong: bool
    true: Predictions


class Auditor:
    """The promise of a worker's sources. One thread."""

    def __init__(
        self,
        promise: Promise,
        asks: AskPort,
        policy: str,
        reference: Reference,
        threshold: float,
        context: Context,
    ) -> None:
        """Prepare the draws and the queries.

        policy     hash of the heavy pass's policy
        reference  the heavy pass, for declarations and certificates
        threshold  first threshold of doubt, 0..1
        """
        self.promise = promise
        self._threshold = threshold
        self._policy = policy
        self._reference = reference
        self._is_live = context.live
        self._past_of = context.past
        self._secret = secret_of(context.folder)
        self._queries = AuditQueries(asks, context)
        self._wake = context.wake

    def settled(
        self, source: str, state: AuditState, now_s: float, is_last: bool = False
    ) -> tuple[AuditState, tuple[AuditOutcome, ...]] | None:
        """Return the state without the closed audits, and their outcomes; None: a file must wait.

        is_last  no frame follows, so a file waits for all its audits

        Audits close in the order of their frames. A file waits for an audit at a fixed frame, so
        that its results depend on the file only. A camera does not wait: its audit closes when the
        answer arrives, or as lost after _PATIENCE_S.
        """
        state = self._kept_to(source, state)
        outcomes: list[AuditOutcome] = []
        self._queries.keep(source, {obligation.position for obligation in state.open})
        is_live = self._is_live(source)
        while state.open:
            first = state.open[0]
            is_due = is_live or is_last or _is_due(state)
            if not is_due:
                break
            audited = self._queries.answer(source, first, state.rows)
            if audited is None:
                if not is_live:
                    return None
                if now_s - first.at_s < _PATIENCE_S:
                    break
                audited = _LOST
            row, true = audited
            if row is not None and true is not None:
                was_wrong = differs(row.unasked, true)
                outcomes.append(AuditOutcome(first.position, row.doubt, was_wrong, true))
            state = self._settle(state, first, audited)
        return state, tuple(outcomes)

    def _in_use(self, state: AuditState) -> float:
        """Return the threshold of doubt in use."""
        if state.chosen is None:
            return self._threshold
        return state.chosen

    def _kept_to(self, source: str, state: AuditState) -> AuditState:
        """Return the state, in a new period if its declaration does not match this run.

        A period whose terms, policy or coin differ from its declaration cannot be certified.
        """
        policy = self._policy[:8]
        is_same = state.policy == policy and state.coin == self._coin(source, state.now)
        if is_same and period.is_under(state.now, self.promise):
            return state
        if state.coin and state.coin != self._coin(source, state.now):
            log.warning(
                "source %s: period %d ends without a certificate: its coin is of another data "
                "folder; the slots of a fleet keep it with --fleet-secret",
                source,
                state.now.number,
            )
        now = period.following(state.now, self.promise)
        return AuditState(
            now,
            rows=state.rows,
            frames=state.frames,
            policy=policy,
            declared=state.declared,
            coin=self._coin(source, now),
        )

    def _coin(self, source: str, now: Period) -> str:
        return coin.commitment(coin.period_key(self._secret, source, now.number))[:8]

    def numbered(self, source: str, state: AuditState) -> AuditState:
        """Return the state with a period number; a new state gets a number that was never used.

        A number must not be used again, because its coin may be public, even if the store has lost
        the source. Epochs are never used again. So a new state counts from the last epoch before
        this run. The first epoch of this run would not do, because a restart may skip it.
        """
        if state.now.number:
            return state
        first = self._past_of(source) * period.MOST_PERIODS
        return _replace(state, now=Period(number=first))

    def began(self, item: Item, state: AuditState) -> AuditState:
        """Return the state before a frame, in a period with room for it.

        Earlier frames that did not reach this stage count as failed.
        """
        first = item.position.seq - item.record.dropped
        state = self._past(item.source, state, item.position.epoch, first)
        return self._with_room(item.source, state)

    def _past(self, source: str, state: AuditState, epoch: int, end: int) -> AuditState:
        """Return the state with the uncounted frames of an epoch before number `end` as failed."""
        last = state.last
        if last == START:
            return state
        first = 0
        if last.epoch == epoch:
            first = last.seq + 1
        for seq in range(first, end):
            state = self._with_room(source, state)
            frame = FrameTime(Position(epoch, seq), None)
            state, _ = self._counted(source, frame, state, failed=True)
        return state

    def _with_room(self, source: str, state: AuditState) -> AuditState:
        """Return the state, in the next period if the current one is full."""
        if not period.is_full(state.now, self.promise):
            return state
        now = period.following(state.now, self.promise)
        before = (*state.before, state.now)
        return _replace(state, now=now, before=before, coin=self._coin(source, now), models=())

    def served(
        self,
        item: Item,
        state: AuditState,
        now_s: float,
        served: Detections,
        unasked: Detections,
        doubt: Doubt,
        true: Predictions | None,
    ) -> AuditState:
        """Return the state with a frame whose result is fixed, and its audit if the coin draws it.

        now_s    the source's clock, seconds
        unasked  the result without the heavy pass
        doubt    doubt about the frame
        true     the heavy pass's answer about this frame's own pixels, if there is one
        """
        frame = FrameTime(item.position, item.record.pts)
        missed = item.record.dropped
        if state.fresh is not None and self._is_live(item.source):
            # After an alarm all frames are asked about, which needs their pixels.
            self._wake(item.source)
        state, is_drawn = self._counted(item.source, frame, state, missed, models=served.models)
        row = AuditRow(seen_in(served.objects), seen_in(unasked.objects), doubt)
        if true is not None and (is_drawn or state.fresh is not None):
            state = self._learned(state, row, doubt.chance, true)
        if not is_drawn:
            return state
        if true is not None:
            return self._judged(state, state.now.number, differs(row.served, true))
        if len(state.open) >= MAX_OPEN:  # only for a camera: a file has waited
            return self._judged(state, state.now.number, None)
        rows = self._queries.open(item, row, state.rows)
        if rows is None:  # the pixels are lost
            return self._judged(state, state.now.number, None)
        chance = doubt.chance
        if item.record.undecoded:
            chance = _NEVER_ASKED
        obligation = Obligation(
            period=state.now.number,
            position=item.position,
            form=item.record.form,
            frame=state.frames,
            at_s=now_s,
            row=rows.row,
            doubt=chance,
            spent=served.degraded == "over_budget",
        )
        return _replace(state, open=(*state.open, obligation), rows=rows)

    def failed(self, item: Item, state: AuditState) -> AuditState:
        """Return the state with a failed frame, which counts as wrong."""
        frame = FrameTime(item.position, item.record.pts)
        return self._counted(item.source, frame, state, item.record.dropped, failed=True)[0]

    def news(
        self, source: str, before: AuditState, state: AuditState
    ) -> tuple[AuditState, PromiseNews | None]:
        """Return the state and the news to publish since `before`; None without news."""
        closed, state = self._closed(source, state)
        now = state.now
        is_new_period = now.number != state.declared
        has_alarm = state.fresh is not None
        has_alarm_changed = has_alarm != (before.fresh is not None)
        has_settled = now.settled != before.now.settled
        if not (closed or is_new_period or has_alarm_changed or has_settled):
            return state, None
        declared: tuple[msgspec.Raw, ...] = ()
        if is_new_period:
            key = coin.period_key(self._secret, source, now.number)
            record = certificate.declare(now, self.promise, key, source, self._reference)
            declared = (_raw(record),)
        news = PromiseNews(
            now.number,
            now.served,
            now.drawn,
            now.settled,
            now.caught,
            has_alarm,
            self._in_use(state),
            state.verdict,
            declared,
            tuple(map(_raw, closed)),
        )
        return _replace(state, declared=now.number), news

    def passed(self, source: str, end: End, state: AuditState) -> AuditState:
        """Return the state at the end of an epoch, with its last frames counted."""
        state = self._past(source, state, end.epoch or state.last.epoch, end.frames - end.dropped)
        if not end.dropped:
            return state
        state = self._kept_to(source, self.numbered(source, state))
        return _replace(state, now=period.missing(state.now, end.dropped))

    def finished(self, source: str, state: AuditState) -> tuple[PromiseNews | None, AuditState]:
        """Return the news and the state at the end of a source. Its open audits count as lost, and
        its period is closed.
        """
        self._queries.keep(source, set())
        for first in state.open:
            state = self._settle(state, first, _LOST)
        if not state.now.number:
            return None, state
        over = _replace(state, before=(*state.before, state.now))
        after, news = self.news(source, state, over)
        now = period.following(after.now, self.promise)
        return news, _replace(after, now=now, coin=self._coin(source, now))

    # -- A single audit.

    def _counted(
        self,
        source: str,
        frame: FrameTime,
        state: AuditState,
        missed: int = 0,
        failed: bool = False,
        models: Sequence[str] = (),
    ) -> tuple[AuditState, bool]:
        """Return the state with one more frame; True if the coin draws the frame."""
        key = coin.period_key(self._secret, source, state.now.number)
        now, is_drawn = period.serve(state.now, self.promise, key, frame, missed, failed, models)
        state = _replace(state, now=now, frames=state.frames + 1, last=frame.position)
        if state.fresh is not None:
            state = _replace(state, fresh=state.fresh + 1)
        return state, is_drawn

    def _settle(self, state: AuditState, obligation: Obligation, audited: Audited) -> AuditState:
        """Return the state without its oldest audit, whose outcome is `audited`."""
        state = _replace(state, open=state.open[1:])
        row, true = audited
        if true is None or row is None:
            return self._judged(state, obligation.period, None)
        if not obligation.spent:
            state = self._learned(state, row, obligation.doubt, true)
        elif state.fresh is None:  # without a budget, no threshold would have asked
            state = self._learned(state, row, _NEVER_ASKED, true)
        return self._judged(state, obligation.period, differs(row.served, true))

    def _judged(self, state: AuditState, number: int, is_wrong: bool | None) -> AuditState:
        """Return the state after an audit of period `number`; `is_wrong` is None if it is lost."""
        has_new_alarm = False
        periods: list[Period] = []
        for each in (*state.before, state.now):
            judged = each
            if each.number == number:
                judged = period.settle(each, self.promise, is_wrong)
            has_new_alarm |= judged.alarmed > each.alarmed
            periods.append(judged)
        state = _replace(state, before=tuple(periods[:-1]), now=periods[-1])
        if state.fresh is None and has_new_alarm:
            # The counts are of a scene that has changed.
            state = _replace(state, fresh=0, thresholds=ThresholdStats())
        return state

    def _learned(
        self, state: AuditState, row: AuditRow, doubt: float, true: Predictions
    ) -> AuditState:
        """Return the state with the frame counted for all thresholds; this may end an alarm."""
        thresholds = state.thresholds.after(doubt, differs(row.unasked, true))
        state = _replace(state, thresholds=thresholds)
        if state.fresh is None:
            return state
        certified = thresholds.certified(self.promise.alpha, self.promise.delta)
        if certified is None:
            return state
        # At most the first threshold: the many answers during an alarm make errors look rare.
        chosen = min(certified, safer(self._in_use(state)), self._threshold)
        return _replace(state, chosen=chosen, fresh=None)

    def _closed(self, source: str, state: AuditState) -> tuple[tuple[Certificate, ...], AuditState]:
        """Return the certificates of periods without open audits, and the state after them, with
        the next threshold of doubt.
        """
        over = [each for each in state.before if each.settled == each.drawn]
        if not over:
            return (), state
        remaining = tuple(each for each in state.before if each not in over)
        state = _replace(state, before=remaining)
        if state.fresh is None:
            terms = self.promise.alpha, self.promise.delta
            state = _replace(state, chosen=state.thresholds.next_after(self._in_use(state), *terms))
        closed = []
        for each in over:
            key = coin.period_key(self._secret, source, each.number)
            record = certificate.close(
                each, self.promise, key, source, self._policy, self._reference
            )
            closed.append(record)
        return tuple(closed), _replace(state, verdict=closed[-1].verdict)


def _is_due(state: AuditState) -> bool:
    """Return True if a file waits for its oldest audit, always at the same frame of the file."""
    return len(state.open) >= MAX_OPEN or state.frames - state.open[0].frame >= _LAG


def _raw(record: Declaration) -> msgspec.Raw:
    return msgspec.Raw(records.encode(record))
