"""A period of the promise: its terms, and its served, audited and wrong frames, frame by frame.

The order matters for the statistics. A frame's result is fixed first, then `serve` throws its coin
(`audit_coin`), then one hop writes the result, the period and the audit. A Period is part of a
stage's state. At most a share `alpha` of its frames differs from the output of the heavy model,
with the stated confidence, for each period by itself. Pure functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.promise import audit_coin as coin
from framegate.pipeline.promise import statistics

SPARE: Final = 5  # wrong frames that audits may find by default without costing the certificate
LONGEST: Final = 10_000_000


def _limits(least: float, most: float) -> dict[str, Any]:
    return {"least": least, "most": most}


@dataclass(frozen=True)
class Promise:
    """`[promise]`: a limit for the share of frames that differ from the heavy model, shown by
    random audits. It needs [escalate] place. Without this table nothing is promised.

    measure       counts: a frame is wrong if the number of objects of some class differs. off: no
                  promise
    alpha         share of the frames of a period that may be wrong
    confidence    lowest probability that a period which breaks the promise gets no certificate
    frames        served frames of a period. A shorter period needs a larger share of audits
    min_coverage  share of the decoded frames that must be served for a certificate
    audited       share of the frames that are audited. Default: the smallest share with which five
                  wrong frames may be found
    alarm_audits  lowest mean number of audits between two false alarms
    """

    measure: Literal["counts", "off"] = "counts"
    alpha: float = field(default=0.05, metadata=_limits(0.0001, 0.5))
    confidence: float = field(default=0.95, metadata=_limits(0.5, 0.9999))
    frames: int = field(default=36_000, metadata=_limits(1, LONGEST))
    min_coverage: float = field(default=0.9, metadata=_limits(0.0, 1.0))
    audited: float | None = field(default=None, metadata=_limits(1e-6, 1.0))
    alarm_audits: float = field(default=2000.0, metadata=_limits(1.0, 1e9))

    @property
    def delta(self) -> float:
        """Return the maximum probability that a period which breaks the promise is certified."""
        return round(1 - self.confidence, 9)

    @cached_property
    def share(self) -> float:
        """Return the share of audited frames, 0..1: `audited`, or the default that it describes."""
        if self.audited is not None:
            return self.audited
        return statistics.share_for(self.frames, self.alpha, self.delta, SPARE)

    @cached_property
    def terms(self) -> bytes:
        """Return a digest of the options, 4 bytes: all frames of a period have the same options."""
        return hashlib.blake2b(repr(astuple(self)).encode(), digest_size=4).digest()


class FrameTime(NamedTuple):
    """A frame's position and media time. pts: seconds; None: unknown"""

    position: Position
    pts: float | None


_NEVER = FrameTime(START, None)
MOST_PERIODS: Final = 1_000_000  # of a source before the store forgets it
MOST_MODELS: Final = 24  # names in a period, which is stored with every frame
OTHERS: Final = "others"  # in place of further names


class Period(msgspec.Struct, frozen=True, array_like=True):
    """The counts of a period of a source. It is stored with every frame, so it is an array.

    number   from 1 on; 0: before the first period
    terms    Promise.terms at its begin
    served   served frames
    missed   decoded frames that were dropped before a served one, or after the last of an epoch
    drawn    served frames that the coin selected
    settled  selected frames whose audit is over
    caught   settled frames that were wrong, including lost and failed ones
    lost     audits without an answer
    failed   frames that were served as failed; selected ones count as settled and caught
    alarmed  the detector with these `sums` has warned
    models   models of the served results in the order of their first use, at most MOST_MODELS
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
    """Return whether a period began under this promise; if not, the next frame begins another."""
    return period.terms == promise.terms


def following(period: Period, promise: Promise) -> Period:
    """Return the next period, before its first frame. A detector without a warning continues."""
    sums = statistics.QUIET
    if is_under(period, promise) and not period.alarmed:
        sums = period.sums
    return Period(number=period.number + 1, terms=promise.terms, sums=sums)


def serve(
    period: Period,
    promise: Promise,
    key: bytes,
    at: FrameTime,
    missed: int = 0,
    failed: bool = False,
    models: Iterable[str] = (),
) -> tuple[Period, bool]:
    """Count a frame whose result is fixed; return the period and whether to audit the frame.

    An audited frame must be settled once.

    key     key of this period (coin.period_key)
    missed  frames that were decoded right before it and dropped
    failed  it was served as failed, which counts as wrong; if selected, it is settled at once
    models  models of its result

    Raises ValueError if the period is full or began under another promise.
    """
    if is_full(period, promise) or not is_under(period, promise):
        raise ValueError(f"period {period.number} takes no frame under this promise")
    drawn = coin.drawn(key, period.served, promise.share)
    first = period.first
    if period.served == 0:
        first = at
    served = replace(
        period,
        first=first,
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
    """Return the period after frames were dropped at the end of an epoch."""
    return replace(period, missed=period.missed + frames)


def settle(period: Period, promise: Promise, is_wrong: bool | None) -> Period:
    """Return the period after an audit.

    A lost audit counts as a wrong frame, also for the alarm: otherwise losing the audits of wrong
    frames would give a certificate. Raises ValueError if no audit is open or the period began under
    another promise.

    is_wrong  whether the frame was wrong; None: the audit is lost
    """
    if period.settled == period.drawn or not is_under(period, promise):
        raise ValueError(f"period {period.number} has no audit open under this promise")
    judged = _judged(period, promise, is_wrong is not False)
    if is_wrong is None:
        return replace(judged, lost=period.lost + 1)
    return judged


def is_full(period: Period, promise: Promise) -> bool:
    """Return whether the next frame begins another period, also because this one has an alarm."""
    return period.served >= promise.frames or period.alarmed


def _with(names: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    new = [name for name in dict.fromkeys(more) if name not in names]
    if not new or names[-1:] == (OTHERS,):
        return names
    every = (*names, *new)
    if len(every) > MOST_MODELS:
        return (*every[:MOST_MODELS], OTHERS)
    return every


def _judged(period: Period, promise: Promise, is_wrong: bool) -> Period:
    sums = statistics.after(period.sums, float(is_wrong), promise.alpha)
    return replace(
        period,
        settled=period.settled + 1,
        caught=period.caught + is_wrong,
        alarmed=period.alarmed or statistics.is_alarm(sums, promise.alarm_audits),
        sums=sums,
    )
