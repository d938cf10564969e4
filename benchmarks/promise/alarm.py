"""Count the audits that the alarm of the promise needs, in many simulated runs at once."""

from __future__ import annotations

from typing import Final

import numpy as np

from benchmarks.promise.periods import FloatArray, IntArray
from framegate.pipeline.promise import statistics
from framegate.pipeline.promise.period import Promise

_PROMISE: Final = Promise(alpha=0.01)
_WRONG: Final = statistics.after(statistics.QUIET, 1.0, _PROMISE.alpha)
_RIGHT: Final = statistics.after(statistics.QUIET, 0.0, _PROMISE.alpha)


def audits_to_alarm(
    rng: np.random.Generator,
    rate: float,
    runs: int,
    most: int,
    before: tuple[float, int] = (0.0, 0),
) -> IntArray:
    """Audits (runs,) until the default promise's alarm, `most` where there was none until then.

    rate    0..1 of audits that find an error; before  another rate for so many audits, which are
            not counted: runs with an alarm in them are left out
    """
    sums = [np.zeros(runs) for _ in statistics.WORSE]
    rang = np.full(runs, before[1] + most)
    for audit in range(before[1] + most):
        wrong = rng.random(runs) < (rate if audit >= before[1] else before[0])
        sums = [_after(held, wrong, i) for i, held in enumerate(sums)]
        warns = np.mean(sums, axis=0) >= _PROMISE.alarm_audits
        rang = np.where(warns, np.minimum(rang, audit + 1), rang)
    counted: IntArray = rang[rang > before[1]] - before[1]
    return counted


def _after(held: FloatArray, wrong: np.ndarray, i: int) -> FloatArray:
    # From nothing, `after` gives the factor by which one audit multiplies 1 + the sum.
    after: FloatArray = np.minimum(1e9, (1 + held) * np.where(wrong, _WRONG[i], _RIGHT[i]))
    return after
