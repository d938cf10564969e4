"""The statistics of the promise: how many errors audits may find, and an early warning.

Each of a period's frames is audited by a coin of its own that falls with the same probability
(`share`) and is thrown when the frame's result is fixed. If more frames are wrong than allowed, the
coins of the first (allowed + 1) wrong ones, in time order, are independent of each other whatever
made these frames wrong, earlier coins included: the number of them that are caught is binomial. So
a period with too many wrong frames has at most `k_max` caught with a probability of at most
`delta`. No frame need be independent of another. Pure.
"""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from typing import Final

import numpy as np
import scipy

_STEP: Final = 1e-6  # shares of audited frames are whole multiples of it: short in a certificate


def allowed(frames: int, alpha: float) -> int:
    """How many of `frames` frames may be wrong: alpha (0..1) of them, as alpha is written."""
    return math.floor(Fraction(str(alpha)) * frames)


def k_max(frames: int, alpha: float, share: float, delta: float) -> int:
    """The most wrong frames that audits may find in a period that is certified; -1: none will do.

    The largest k such that P(Bin(allowed + 1, share) <= k) <= delta.
    """
    wrong = allowed(frames, alpha) + 1
    chances = scipy.special.bdtr(np.arange(wrong), wrong, share)
    return int(np.searchsorted(chances, delta, side="right")) - 1


def most_wrong(frames: int, caught: int, share: float, delta: float) -> int:
    """An upper bound on how many of `frames` frames are wrong where audits found `caught`.

    It holds with probability 1 - delta if what is served does not depend on audits of the same
    period: who may stop being wrong when the bound looks good can beat it. `k_max`, which is fixed
    before the period, cannot be beaten so.
    """

    def is_unlikely(wrong: int) -> bool:
        return bool(scipy.special.bdtr(caught, wrong, share) <= delta)

    return caught + bisect.bisect_left(range(caught + 1, frames + 1), True, key=is_unlikely)


def share_for(frames: int, alpha: float, delta: float, errors: int) -> float:
    """The smallest share of frames to audit so that `k_max` is at least `errors`, in (0, 1].

    Where fewer wrong frames than that are allowed at all: so that all of these may be caught.
    """
    most = allowed(frames, alpha)
    exact = float(scipy.special.bdtri(min(errors, most), most + 1, delta))
    return min(1.0, round((math.floor(exact / _STEP) + 1) * _STEP, 6))


# -- An early warning that results have become worse than promised: a Shiryaev-Roberts e-detector.
# For each of some worse mean losses it runs the sum, over all moments at which things may have
# changed, of the wealth won since by betting on that loss. As long as each audit's loss is
# `target` at most in the mean, whatever went before, the sum grows by at most one an audit in the
# mean: audits until it reaches `threshold` are at least `threshold` in the mean. (Shin, Ramdas,
# Rinaldo: "E-detectors", 2022.) It is a warning, and certifies nothing. Pure.


WORSE: Final = (2.0, 4.0, 8.0, 16.0)  # mean losses, in multiples of the target
QUIET: Final = (0.0,) * len(WORSE)
_MOST: Final = 1e300


def after(sums: tuple[float, ...], loss: float, target: float) -> tuple[float, ...]:
    """The sums after one more audit with `loss` 0..1; target 0..1, exclusive."""
    return tuple(
        min(_MOST, (1 + held) * (1 + _bet(worse * target, target) * (loss - target)))
        for held, worse in zip(sums, WORSE, strict=True)
    )


def is_alarm(sums: tuple[float, ...], threshold: float) -> bool:
    """Whether it is time to warn: falsely once in `threshold` audits in the mean, at most."""
    return sum(sums) / len(sums) >= threshold


def _bet(worse: float, target: float) -> float:
    """For losses of 0 and 1 the best bet on a mean of `worse`: their likelihood ratio."""
    worse = min(worse, (1 + target) / 2)
    return (worse - target) / (target * (1 - target))
