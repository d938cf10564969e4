"""A period of the promise, frame by frame: what is served, audited and found wrong.

Order matters. A frame's result is fixed first; then `serve` reads its coin; then one hop writes
result, period and what is to be audited. Pure: a Period is part of a stage's state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.promise import promise as coin
from framegate.pipeline.promise import statistics
from framegate.pipeline.promise.promise import Promise


class FrameTime(NamedTuple):
    """When a frame was: pts in seconds of media time, None where it has none."""

    position: Position
    pts: float | None


_NEVER = FrameTime(START, None)
MOST_PERIODS: Final = 1_000_000  # that a source has before the store forgets it
MOST_MODELS: Final = 24  # names of a period: it is stored with every frame
OTHERS: Final = "others"


class Period(msgspec.Struct, frozen=True, array_like=True):
    """How one period of a source stands; it is stored with every frame, hence an array.

    number   counts a source's periods from 1 on; 0 for none yet
    terms    what was promised when it began: Promise.terms
    served   frames; missed  decoded right before one of these, or after the last one of an epoch,
             and dropped
    drawn    served frames that the coin chose; settled  those whose audit is over, well or not
    caught   settled ones that were wrong, lost and failed ones with them
    lost     audits that never came
    failed   frames that were served as failed, chosen or not: those chosen are settled and caught
    alarmed  the detector `sums` reached its threshold
    models   that made what was served, each once, by first use; after MOST_MODELS of them OTHERS
    """

    number: int = 0
    terms: bytes = b""
    served: int = 0
    missed: int = 0
    drawn: int = 0
    settled: int = 0
    caught: int = 0
    lost: int = 0
    failed: int = 0
    alarmed: bool = False
    sums: tuple[float, ...] = statistics.QUIET
    first: FrameTime = _NEVER
    last: FrameTime = _NEVER
    models: tuple[str, ...] = ()


def is_under(period: Period, promise: Promise) -> bool:
    """Whether it began under this promise; otherwise the next frame is a following period's."""
    return period.terms == promise.terms


def following(period: Period, promise: Promise) -> Period:
    """The period after this one, before its first frame. A detector that did not warn goes on."""
    goes_on = is_under(period, promise) and not period.alarmed
    return Period(
        number=period.number + 1,
        terms=promise.terms,
        sums=period.sums if goes_on else statistics.QUIET,
    )


def serve(
    period: Period,
    promise: Promise,
    key: bytes,
    at: FrameTime,
    missed: int = 0,
    failed: bool = False,
    models: Iterable[str] = (),
) -> tuple[Period, bool]:
    """Count a frame whose result is fixed; whether it is to be audited: then settle it once.

    key     of this period (coin.period_key)
    missed  frames decoded right before it that were dropped
    failed  it was served as failed: wrong. If the coin chose it, that is settled at once.
    models  that made it

    ValueError where the period is full or began under another promise.
    """
    if is_full(period, promise) or not is_under(period, promise):
        raise ValueError(f"period {period.number} takes no frame under this promise")
    drawn = coin.drawn(key, period.served, promise.share)
    served = replace(
        period,
        first=at if period.served == 0 else period.first,
        last=at,
        served=period.served + 1,
        missed=period.missed + missed,
        drawn=period.drawn + drawn,
        failed=period.failed + failed,
        models=_with(period.models, models),
    )
    if failed and drawn:
        return _judged(served, promise, is_wrong=True), False
    return served, drawn


def missing(period: Period, frames: int) -> Period:
    """With so many that were dropped after the last frame of an epoch."""
    return replace(period, missed=period.missed + frames)


def settle(period: Period, promise: Promise, is_wrong: bool | None) -> Period:
    """An audit is over, and its frame was wrong or not; None: the audit is lost.

    A lost audit counts as a wrong frame, for the alarm as well: else a certificate could be had by
    losing audits that would find something. ValueError where no audit is open, or where the period
    began under another promise.
    """
    if period.settled == period.drawn or not is_under(period, promise):
        raise ValueError(f"period {period.number} has no audit open under this promise")
    judged = _judged(period, promise, is_wrong is not False)
    return judged if is_wrong is not None else replace(judged, lost=period.lost + 1)


def is_full(period: Period, promise: Promise) -> bool:
    """Whether the next frame is a following period's: also after an alarm, for nothing helps it."""
    return period.served >= promise.frames or period.alarmed


def _with(names: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    new = [name for name in dict.fromkeys(more) if name not in names]
    if not new or names[-1:] == (OTHERS,):
        return names
    every = (*names, *new)
    return every if len(every) <= MOST_MODELS else (*every[:MOST_MODELS], OTHERS)


def _judged(period: Period, promise: Promise, is_wrong: bool) -> Period:
    sums = statistics.after(period.sums, float(is_wrong), promise.alpha)
    return replace(
        period,
        settled=period.settled + 1,
        caught=period.caught + is_wrong,
        alarmed=period.alarmed or statistics.is_alarm(sums, promise.alarm_audits),
        sums=sums,
    )
