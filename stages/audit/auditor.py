"""The promise of a worker's sources: draws audits, asks about them, settles them, closes periods.

The stage calls for each frame, in this order: `settled` (audits that are over, oldest first),
`began` (the period that the frame belongs to), then `served` or `failed` once its result is fixed,
and `news` for what is to be published with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.contracts.records import START, End, Position
from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.contracts.stage import AskPort, Context, Item
from framegate.pipeline.promise import certificate, period
from framegate.pipeline.promise import promise as coin
from framegate.pipeline.promise.certificate import Certificate, Declaration
from framegate.pipeline.promise.period import FrameTime, Period
from framegate.pipeline.promise.promise import Promise
from framegate.stages.audit.audits import (
    MOST_OPEN,
    Audited,
    AuditQueries,
    AuditRow,
    AuditState,
    Obligation,
    ThresholdStats,
    differs,
    safer,
    seen_in,
)
from framegate.stages.detections import Detections

# -- The secret of a data folder: the key of the coins that draw audits.


def secret_of(folder: Path) -> bytes:
    """Return 32 random bytes, made once, so that a resumed run draws the same audits. Any process.

    ConfigFaults where the file is damaged.
    """
    path = folder / "promise.secret"
    if not path.exists():
        _make(path)
    secret = path.read_bytes()
    if len(secret) != coin.SECRET_BYTES:
        raise ConfigFaults(
            [
                f"promise: {path} has {len(secret)} bytes; allowed are {coin.SECRET_BYTES}. "
                "Remove it for a new one: no period that it began is certified then"
            ]
        )
    return secret


def _make(path: Path) -> None:
    """Write it whole or not at all, also in a power cut; the first of two processes wins."""
    written = path.with_suffix(f".{os.getpid()}")
    made = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(made, "wb") as file:
        file.write(os.urandom(coin.SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(written, path)
    written.unlink()


_LAG: Final = 16  # frames of a file: an older audit is waited for
_PATIENCE_S: Final = 30.0  # of a camera: an older audit without an answer is lost
_LOST: Final = Audited(None, None)
_NEVER_ASKED: Final = -1.0  # below all thresholds of doubt
_replace = msgspec.structs.replace


class AuditOutcome(NamedTuple):
    """What an audit found of a frame.

    doubt      of it, 0..1
    was_wrong  whether it would have been served wrong without the heavy pass
    true       what that says of it
    """

    position: Position
    doubt: float
    was_wrong: bool
    true: Predictions


class Auditor:
    """The promise of one worker's sources. One thread."""

    def __init__(
        self, promise: Promise, asks: AskPort, policy: str, least: float, context: Context
    ) -> None:
        """policy: hash of what counts as truth; least: the first threshold of doubt, 0..1."""
        self.promise, self._least = promise, least
        self._policy, self._is_live, self._past_of = policy, context.live, context.past
        self._secret = secret_of(context.folder)
        self._queries = AuditQueries(asks, context)

    def settled(
        self, source: str, state: AuditState, now_s: float, is_last: bool = False
    ) -> tuple[AuditState, tuple[AuditOutcome, ...]] | None:
        """Return the state without the audits that are over, and the outcomes of these for doubt.

        None: a file waits for an audit that is not over yet.
        is_last: no frame follows, so that a file waits for all
        """
        state, outcomes = self._kept_to(source, state), list[AuditOutcome]()
        self._queries.keep(source, {at.position for at in state.open})
        live = self._is_live(source)
        while state.open:
            first = state.open[0]
            if not live and not (is_last or _is_due(state)):
                break
            audited = self._queries.answer(source, first, state.rows)
            if audited is None and live and now_s - first.at_s < _PATIENCE_S:
                break
            if audited is None and not live:
                return None
            row, true = audited or _LOST
            if row is not None and true is not None:
                was_wrong = differs(row.unasked, true)
                outcomes.append(AuditOutcome(first.position, first.doubt, was_wrong, true))
            state = self._settle(state, first, audited or _LOST)
        return state, tuple(outcomes)

    def _in_use(self, state: AuditState) -> float:
        return self._least if state.chosen is None else state.chosen

    def _kept_to(self, source: str, state: AuditState) -> AuditState:
        """Return the state, in a new period if terms, truth or coin are not those it was declared
        with: such a period cannot be certified.
        """
        is_same = state.policy == self._policy[:8] and state.coin == self._coin(source, state.now)
        if is_same and period.is_under(state.now, self.promise):
            return state
        now, policy = period.following(state.now, self.promise), self._policy[:8]
        kept = AuditState(now, rows=state.rows, frames=state.frames, policy=policy)
        return _replace(kept, declared=state.declared, coin=self._coin(source, now))

    def _coin(self, source: str, now: Period) -> str:
        return coin.commitment(coin.period_key(self._secret, source, now.number))[:8]

    def numbered(self, item: Item, state: AuditState) -> AuditState:
        """Return the state of a source's first frame, with a period number that was never used.

        The store may have forgotten the source and its periods, whose coins were opened: a number
        must not come again. Epochs do not, so numbers begin at the last epoch before this run; not
        at this run's first, which a kill may skip.
        """
        if state.now.number:
            return state
        first = self._past_of(item.source) * period.MOST_PERIODS
        return _replace(state, now=Period(number=first))

    def began(self, item: Item, state: AuditState) -> AuditState:
        """Return the state before a frame, in a period with room for it.

        Frames before it that never came to this stage (set aside, lost) count as failed.
        """
        first = item.position.seq - item.record.dropped
        state = self._past(item.source, state, item.position.epoch, first)
        return self._begun(item.source, state)

    def _past(self, source: str, state: AuditState, epoch: int, end: int) -> AuditState:
        """Return the state with the uncounted frames of an epoch before number `end` as failed."""
        last = state.last
        if last == START:
            return state
        for seq in range(last.seq + 1 if last.epoch == epoch else 0, end):
            state = self._begun(source, state)
            at = FrameTime(Position(epoch, seq), None)
            state, _ = self._counted(source, at, state, failed=True)
        return state

    def _begun(self, source: str, state: AuditState) -> AuditState:
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
        doubt: float,
        true: Predictions | None,
    ) -> AuditState:
        """Count a frame whose result is fixed, and open its audit if the coin draws it.

        now_s    the source's clock, seconds
        unasked  what would have been served without the heavy pass
        doubt    of the frame, 0..1
        true     what the heavy pass found in this frame, if it was asked
        """
        at = FrameTime(item.position, item.record.pts)
        missed, models = item.record.dropped, served.models
        state, drawn = self._counted(item.source, at, state, missed, models=models)
        row, spent = _row_of(served, unasked), served.degraded == "over_budget"
        if true is not None and (drawn or state.fresh is not None):
            state = self._learned(state, row, doubt, true)
        if not drawn:
            return state
        if true is not None:
            return self._judged(state, state.now.number, differs(row.served, true))
        if len(state.open) >= MOST_OPEN:  # of a camera: a file has waited
            return self._judged(state, state.now.number, None)
        return self._opened(item, state, now_s, row, doubt, spent)

    def failed(self, item: Item, state: AuditState) -> AuditState:
        """Count a frame that is served as failed: it is wrong, whatever it shows."""
        at = FrameTime(item.position, item.record.pts)
        return self._counted(item.source, at, state, item.record.dropped, failed=True)[0]

    def news(
        self, source: str, before: AuditState, state: AuditState
    ) -> tuple[AuditState, PromiseNews | None]:
        """Return the state and what is to be published of it; None if nothing is new."""
        closed, state = self._closed(source, state)
        begun = state.now.number != state.declared
        warned = (state.fresh is None) != (before.fresh is None)
        if not (closed or begun or warned) and state.now.settled == before.now.settled:
            return state, None
        now = state.now
        declared = (_raw(self._declared(source, now)),) if begun else ()
        return _replace(state, declared=now.number), PromiseNews(
            now.number,
            now.served,
            now.drawn,
            now.settled,
            now.caught,
            state.fresh is not None,
            self._in_use(state),
            state.verdict,
            declared,
            tuple(map(_raw, closed)),
        )

    def passed(self, source: str, end: End, state: AuditState) -> AuditState:
        """Return the state at an epoch's end, with its last frames counted."""
        state = self._past(source, state, end.epoch or state.last.epoch, end.frames - end.dropped)
        if not end.dropped:
            return state
        state = self._kept_to(source, state)
        return _replace(state, now=period.missing(state.now, end.dropped))

    def finished(self, source: str, state: AuditState) -> tuple[PromiseNews | None, AuditState]:
        """Return news and state at a source's end: open audits are lost, its period is closed."""
        self._queries.keep(source, set())
        for first in state.open:
            state = self._settle(state, first, _LOST)
        if not state.now.number:
            return None, state
        over = _replace(state, before=(*state.before, state.now))
        after, news = self.news(source, state, over)
        now = period.following(after.now, self.promise)
        return news, _replace(after, now=now, coin=self._coin(source, now))

    # -- one audit

    def _counted(
        self,
        source: str,
        at: FrameTime,
        state: AuditState,
        missed: int = 0,
        failed: bool = False,
        models: Sequence[str] = (),
    ) -> tuple[AuditState, bool]:
        key = coin.period_key(self._secret, source, state.now.number)
        now, drawn = period.serve(state.now, self.promise, key, at, missed, failed, models)
        fresh = None if state.fresh is None else state.fresh + 1
        frames = state.frames + 1
        return _replace(state, now=now, frames=frames, fresh=fresh, last=at.position), drawn

    def _opened(
        self, item: Item, state: AuditState, now_s: float, row: AuditRow, doubt: float, spent: bool
    ) -> AuditState:
        """Return the state with an audit whose answer is still to come."""
        rows = self._queries.open(item, row, state.rows)
        if rows is None:
            return self._judged(state, state.now.number, None)
        form, number = item.record.form, state.now.number
        at = Obligation(number, item.position, form, state.frames, now_s, rows.row, doubt, spent)
        return _replace(state, open=(*state.open, at), rows=rows)

    def _settle(self, state: AuditState, at: Obligation, audited: Audited) -> AuditState:
        """Return the state without its oldest audit, which is over."""
        state, (row, true) = _replace(state, open=state.open[1:]), audited
        if true is None or row is None:
            return self._judged(state, at.period, None)
        if not at.spent:
            state = self._learned(state, row, at.doubt, true)
        elif state.fresh is None:  # without a budget no threshold would have asked
            state = self._learned(state, row, _NEVER_ASKED, true)
        return self._judged(state, at.period, differs(row.served, true))

    def _judged(self, state: AuditState, number: int, is_wrong: bool | None) -> AuditState:
        """Return the state after an audit of period `number`; is_wrong: None if it is lost."""
        stood = (*state.before, state.now)
        judged = [
            period.settle(one, self.promise, is_wrong) if one.number == number else one
            for one in stood
        ]
        state = _replace(state, before=tuple(judged[:-1]), now=judged[-1])
        warns = any(new.alarmed > old.alarmed for old, new in zip(stood, judged, strict=True))
        if state.fresh is None and warns:
            return _replace(
                state, fresh=0, thresholds=ThresholdStats()
            )  # what it knew is of another scene
        return state

    def _learned(
        self, state: AuditState, row: AuditRow, doubt: float, true: Predictions
    ) -> AuditState:
        """Return the state with the frame counted for every threshold; it may end an alarm."""
        thresholds = state.thresholds.after(doubt, differs(row.unasked, true))
        state = _replace(state, thresholds=thresholds)
        if state.fresh is None:
            return state
        found = thresholds.certified(self.promise.alpha, self.promise.delta)
        if found is None:
            return state
        # No further than where it began: what the fallback's answers taught makes doubt look rare.
        chosen = min(found, safer(self._in_use(state)), self._least)
        return _replace(state, chosen=chosen, fresh=None)

    # -- one period

    def _closed(self, source: str, state: AuditState) -> tuple[tuple[Certificate, ...], AuditState]:
        """Return certificates of periods whose audits are over, and the next threshold of doubt."""
        over = [one for one in state.before if one.settled == one.drawn]
        if not over:
            return (), state
        state = _replace(state, before=tuple(one for one in state.before if one not in over))
        if state.fresh is None:
            terms = self.promise.alpha, self.promise.delta
            state = _replace(state, chosen=state.thresholds.next_after(self._in_use(state), *terms))
        closed = tuple(self._certificate(source, one) for one in over)
        return closed, _replace(state, verdict=closed[-1].verdict)

    def _certificate(self, source: str, one: Period) -> Certificate:
        key = coin.period_key(self._secret, source, one.number)
        return certificate.close(one, self.promise, key, source, self._policy)

    def _declared(self, source: str, now: Period) -> Declaration:
        key = coin.period_key(self._secret, source, now.number)
        return certificate.declare(now, self.promise, key, source)


def _row_of(served: Detections, unasked: Detections) -> AuditRow:
    return AuditRow(seen_in(served.objects), seen_in(unasked.objects))


def _is_due(state: AuditState) -> bool:
    """Return whether a file waits for its oldest audit: always at the same frame, by law 6."""
    return len(state.open) >= MOST_OPEN or state.frames - state.open[0].frame >= _LAG


def _raw(record: Declaration) -> msgspec.Raw:
    return msgspec.Raw(records.encode(record))
