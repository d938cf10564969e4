"""Draws audits, asks about them, and settles them in the order in which they were drawn."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from pipeline import certificate, coin, period, records
from pipeline.asks import Asks
from pipeline.certificate import Certificate, Declaration
from pipeline.period import Moment, Period
from pipeline.promise import Promise
from pipeline.promise_news import PromiseNews
from pipeline.questions import Seen
from pipeline.stage import Context, Item
from stages.arms import Arms, safer
from stages.audit_asks import AuditAsks, Audited
from stages.audits import MOST_OPEN, AuditState, Obligation, Row, loss, seen_in
from stages.detections import Detections

_LAG: Final = 16  # frames of a file after which an audit is waited for
_PATIENCE_S: Final = 30.0  # of a camera: an audit that was not done by then is lost
_LOST: Final = Audited(None, None)
_replace = msgspec.structs.replace


class Lesson(NamedTuple):
    """A frame of that doubt, 0..1, would have been served wrong without asking, or not."""

    doubt: float
    was_wrong: bool


class Auditor:
    """The promise of one worker's sources. One thread."""

    def __init__(
        self, promise: Promise, asks: Asks, policy: str, least: float, context: Context
    ) -> None:
        """policy: hash of what counts as truth; least: the threshold of doubt to begin with."""
        self.promise, self._least = promise, least
        self._policy, self._is_live = policy, context.live
        self._secret = _secret(context.folder / "promise.secret")
        self._audits = AuditAsks(asks, context)

    def settled(
        self, source: str, state: AuditState, now_s: float, is_last: bool = False
    ) -> tuple[AuditState, tuple[Lesson, ...]] | None:
        """With the audits that are over, and what they tell of doubt; None while one that is waited
        for is not.

        is_last: no frame follows, so a file waits for all of them.
        """
        state, lessons = self._kept_to(state), list[Lesson]()
        self._audits.keep(source, {at.position for at in state.open})
        live = self._is_live(source)
        while state.open:
            first = state.open[0]
            if not live and not (is_last or _is_due(state)):
                break
            audited = self._audits.answer(source, first, state.rows)
            if audited is None and live and now_s - first.at_s < _PATIENCE_S:
                break
            if audited is None and not live:
                return None
            row, true = audited or _LOST
            if row is not None and true is not None:
                lessons.append(Lesson(first.doubt, self._is_wrong(row.unasked, true)))
            state = self._settle(state, first, audited or _LOST)
        return state, tuple(lessons)

    def _is_wrong(self, served: Seen, true: Seen) -> bool:
        return loss(self.promise, served, true) > self.promise.target

    def _in_use(self, state: AuditState) -> float:
        return self._least if state.chosen is None else state.chosen

    def _kept_to(self, state: AuditState) -> AuditState:
        """Under other terms, or another truth, than were promised nothing can be certified."""
        if state.policy == self._policy[:8] and period.is_under(state.now, self.promise):
            return state
        now = period.following(state.now, self.promise)
        return AuditState(now, rows=state.rows, frames=state.frames, policy=self._policy[:8])

    def began(self, state: AuditState) -> AuditState:
        """Before a frame: in a period that takes it."""
        now, promise = state.now, self.promise
        if not period.is_full(now, promise):
            return state
        return _replace(state, now=period.following(now, promise), before=(*state.before, now))

    def served(
        self,
        item: Item,
        state: AuditState,
        now_s: float,
        served: Detections,
        unasked: Detections,
        doubt: float,
        true: Seen | None,
    ) -> AuditState:
        """A frame's result is fixed: count it, and if the coin says so, see that it is audited.

        unasked  what would have been served without asking
        true     what the heavy pass said of the very pixels, where it was asked
        """
        state, drawn = self._counted(item, state, failed=False)
        made = dict.fromkeys((*state.models, *served.models))
        state = state if len(made) == len(state.models) else _replace(state, models=tuple(made))
        row = Row(seen_in(served.objects), seen_in(unasked.objects))
        if true is not None and (drawn or state.fresh is not None):
            state = self._learned(state, row, doubt, true)
        if not drawn:
            return state
        if true is not None:
            return self._judged(state, state.now.number, loss(self.promise, row.served, true))
        if len(state.open) >= MOST_OPEN:  # of a camera: a file has waited
            return self._judged(state, state.now.number, None)
        return self._opened(item, state, now_s, row, doubt)

    def failed(self, item: Item, state: AuditState) -> AuditState:
        """A frame is served as failed: wrong, whatever it shows."""
        return self._counted(item, state, failed=True)[0]

    def news(
        self, source: str, before: AuditState, state: AuditState
    ) -> tuple[AuditState, PromiseNews | None]:
        """What is to be told, and the state once it is; None where nothing is new."""
        closed, state = self._closed(source, state)
        begun = state.now.number != before.now.number or state.policy != before.policy
        warned = (state.fresh is None) != (before.fresh is None)
        if not (closed or begun or warned) and state.now.settled == before.now.settled:
            return state, None
        now = state.now
        declared = (_raw(self._declared(source, now)),) if begun else ()
        return state, PromiseNews(
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

    def finished(self, source: str, state: AuditState) -> tuple[PromiseNews | None, AuditState]:
        """The end of a source: what is open is lost, and its last period closed."""
        for first in state.open:
            state = self._settle(state, first, _LOST)
        if not state.now.number:
            return None, state
        over = _replace(state, before=(*state.before, state.now))
        after, news = self.news(source, state, over)
        return news, _replace(after, now=period.following(after.now, self.promise))

    # -- one audit

    def _counted(self, item: Item, state: AuditState, failed: bool) -> tuple[AuditState, bool]:
        key = coin.period_key(self._secret, item.source, state.now.number)
        at = Moment(item.position, item.record.pts)
        now, drawn = period.serve(
            state.now, self.promise, key, at, missed=item.record.dropped, failed=failed
        )
        fresh = None if state.fresh is None else state.fresh + 1
        return _replace(state, now=now, frames=state.frames + 1, fresh=fresh), drawn

    def _opened(
        self, item: Item, state: AuditState, now_s: float, row: Row, doubt: float
    ) -> AuditState:
        """An audit whose answer is to come."""
        rows = self._audits.open(item, row, state.rows)
        if rows is None:
            return self._judged(state, state.now.number, None)
        form, number = item.record.form, state.now.number
        at = Obligation(number, item.position, form, state.frames, now_s, rows.row, doubt)
        return _replace(state, open=(*state.open, at), rows=rows)

    def _settle(self, state: AuditState, at: Obligation, audited: Audited) -> AuditState:
        """The oldest audit is over: its frame's loss is known, or it is lost."""
        state, (row, true) = _replace(state, open=state.open[1:]), audited
        if true is None or row is None:
            return self._judged(state, at.period, None)
        state = self._learned(state, row, at.doubt, true)
        return self._judged(state, at.period, loss(self.promise, row.served, true))

    def _judged(self, state: AuditState, number: int, found: float | None) -> AuditState:
        """With the loss of a frame of the period `number`, None: its audit is lost."""
        stood = (*state.before, state.now)
        judged = [
            period.settle(one, self.promise, found) if one.number == number else one
            for one in stood
        ]
        state = _replace(state, before=tuple(judged[:-1]), now=judged[-1])
        warns = any(new.alarmed > old.alarmed for old, new in zip(stood, judged, strict=True))
        if state.fresh is None and warns:
            return _replace(state, fresh=0, arms=Arms())  # what it knew is of another scene
        return state

    def _learned(self, state: AuditState, row: Row, doubt: float, true: Seen) -> AuditState:
        """What the frame tells of every threshold; after an alarm it may end the state of alarm."""
        arms = state.arms.after(doubt, self._is_wrong(row.unasked, true))
        state = _replace(state, arms=arms)
        if state.fresh is None:
            return state
        found = arms.certified(self.promise.alpha, self.promise.delta)
        if found is None:
            return state
        return _replace(state, chosen=min(found, safer(self._in_use(state))), fresh=None)

    # -- one period

    def _closed(self, source: str, state: AuditState) -> tuple[tuple[Certificate, ...], AuditState]:
        """Periods whose last audit is over; the threshold of those to come follows from them."""
        over = [one for one in state.before if one.settled == one.drawn]
        if not over:
            return (), state
        state = _replace(state, before=tuple(one for one in state.before if one not in over))
        if state.fresh is None:
            terms = self.promise.alpha, self.promise.delta
            state = _replace(state, chosen=state.arms.next_after(self._in_use(state), *terms))
        closed = tuple(self._certificate(source, one, state.models) for one in over)
        return closed, _replace(state, verdict=closed[-1].verdict)

    def _certificate(self, source: str, one: Period, models: tuple[str, ...]) -> Certificate:
        key = coin.period_key(self._secret, source, one.number)
        return certificate.close(one, self.promise, key, source, self._policy, models)

    def _declared(self, source: str, now: Period) -> Declaration:
        key = coin.period_key(self._secret, source, now.number)
        return certificate.declare(now, self.promise, key, source)


def _is_due(state: AuditState) -> bool:
    """Whether the oldest audit of a file is waited for: at the same frame, whatever happens."""
    return len(state.open) >= MOST_OPEN or state.frames - state.open[0].frame >= _LAG


def _raw(record: Declaration) -> msgspec.Raw:
    return msgspec.Raw(records.encode(record))


def _secret(path: Path) -> bytes:
    """The data folder's, made once: a resumed run draws the same audits."""
    if not path.exists():
        written = path.with_suffix(f".{os.getpid()}")
        made = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(made, "wb") as file:
            file.write(os.urandom(coin.SECRET_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(written, path)
        written.unlink()
    return path.read_bytes()
