"""An hour with a policy: the frames that it asks about, the wrong ones, and the certificate.

The order is that of the stage escalate: the result without a question, the decision, the result,
the coin, the audit. The coin depends on nothing that the policy does, and the policy learns from an
audit after the result of its frame is fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np

from benchmarks.policy.footage import Look
from benchmarks.promise.scores import Flags
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.promise import audit_coin, certificate, period
from framegate.pipeline.promise.certificate import Certificate
from framegate.pipeline.promise.period import FrameTime, Period, Promise
from framegate.stages.escalate.corrections import Corrections, learned, served
from framegate.stages.escalate.doubt import Evidence, evidence

_SOURCE: Final = "hour"


class Moment(NamedTuple):
    """A frame before the decision.

    facts    its features
    is_wrong its result without a question would be wrong; only an answer or an audit reveals it
    """

    facts: Evidence
    is_wrong: bool


class Policy(Protocol):
    """A rule that decides which frames the heavy model is asked about."""

    def asks(self, facts: Evidence) -> bool:
        """Return whether to ask about a frame."""

    def learns(self, facts: Evidence, was_wrong: bool) -> None:
        """Learn from the frame that was decided last, once it was answered or audited."""


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The outcome of a policy: bool (F,) each, the frames' moments, and the certificate.

    alarmed  frames that are asked about because of an alarm, whatever the policy decides
    """

    asked: Flags
    wrong: Flags
    alarmed: Flags
    moments: list[Moment]
    certificate: Certificate


class AuditedPeriod:
    """A period of the promise, audited at once. It is certified by the promise's own functions."""

    def __init__(self, promise: Promise, secret: bytes) -> None:
        """secret: of the coin, 1 to 64 bytes."""
        self.promise = promise
        self._key = audit_coin.period_key(secret, _SOURCE, 1)
        self._now = period.following(Period(), promise)

    @property
    def has_alarm(self) -> bool:
        """Return whether audits warned. The stage then asks about every frame."""
        return self._now.alarmed

    def draws(self, number: int, is_wrong: bool) -> bool:
        """Count a frame whose result is fixed; return whether it was audited."""
        if self.has_alarm:
            return False
        at = FrameTime(Position(1, number), None)
        self._now, is_drawn = period.serve(self._now, self.promise, self._key, at)
        if is_drawn:
            self._now = period.settle(self._now, self.promise, is_wrong)
        return is_drawn

    def closed(self) -> Certificate:
        """Return the certificate."""
        return certificate.close(self._now, self.promise, self._key, _SOURCE, "")


def walk(looks: Sequence[Look], policy: Policy, promise: Promise, secret: bytes) -> Walk:
    """Return the outcome of a policy; the promise's period must be as long as `looks`."""
    known = Corrections()
    audits = AuditedPeriod(promise, secret)
    asked, wrong, alarmed = [], [], []
    moments = []
    for number, look in enumerate(looks):
        objects, after = served(known, look.found, look.now_s)
        counts = Counter(each.class_id for each in objects)
        moment = Moment(
            evidence(after, look.found, look.now_s), tuple(sorted(counts.items())) != look.counts
        )
        wants = policy.asks(moment.facts)
        has_alarm = audits.has_alarm
        has_asked = wants or has_alarm
        if has_asked:
            after, _ = learned(known, look.found, look.heavy, look.now_s)
        known = after
        is_wrong = moment.is_wrong and not has_asked
        is_drawn = audits.draws(number, is_wrong)
        if has_asked or is_drawn:
            policy.learns(moment.facts, moment.is_wrong)
        asked.append(has_asked)
        wrong.append(is_wrong)
        alarmed.append(has_alarm)
        moments.append(moment)
    return Walk(
        np.array(asked, np.bool_),
        np.array(wrong, np.bool_),
        np.array(alarmed, np.bool_),
        moments,
        audits.closed(),
    )
