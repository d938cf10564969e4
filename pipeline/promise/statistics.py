"""The statistics of the promise: the number of errors that audits may find, and an early warning.

Each frame of a period has a coin that selects it for an audit with probability `share`. The coin is
thrown when the frame's result is fixed. If more frames are wrong than allowed, the coins of the
first (allowed + 1) wrong frames, in time order, are independent of each other, regardless of the
cause of these errors, earlier coins included. So the number of these frames that audits catch is
binomial, and a period with too many wrong frames has at most `k_max` caught with a probability of
at most `delta`. The frames need not be independent. Pure functions.
"""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from typing import Final

# NumPy and SciPy are imported where they compute: each worker loads this module, few promise.

_STEP: Final = 1e-6  # shares of audited frames are multiples of it, so certificates are short


def allowed(frames: int, alpha: float) -> int:
    """Return how many of `frames` frames may be wrong; alpha (0..1) is taken as a decimal."""
    return math.floor(Fraction(str(alpha)) * frames)


def k_max(frames: int, alpha: float, share: float, delta: float) -> int:
    """Return the maximum number of wrong frames that audits may find in a certified period.

    It is the largest k with P(Bin(allowed + 1, share) <= k) <= delta, or -1 if there is none.
    """
    import numpy as np
    import scipy

    wrong = allowed(frames, alpha) + 1
    chances = scipy.special.bdtr(np.arange(wrong), wrong, share)
    return int(np.searchsorted(chances, delta, side="right")) - 1


def most_wrong(frames: int, caught: int, share: float, delta: float) -> int:
    """Return an upper bound on the wrong frames of `frames` if audits caught `caught` of them.

    It is valid with probability 1 - delta if the results do not depend on audits of the same
    period; a server that stops to err when the bound looks good can exceed it. `k_max` is fixed
    before the period and has no such condition.
    """
    import scipy

    def is_unlikely(wrong: int) -> bool:
        return bool(scipy.special.bdtr(caught, wrong, share) <= delta)

    return caught + bisect.bisect_left(range(caught + 1, frames + 1), True, key=is_unlikely)


def share_for(frames: int, alpha: float, delta: float, errors: int) -> float:
    """Return the smallest share of frames to audit, in (0, 1], with which `k_max` >= `errors`.

    If fewer wrong frames are allowed, their number replaces `errors`.
    """
    import scipy

    max_wrong = allowed(frames, alpha)
    exact = float(scipy.special.bdtri(min(errors, max_wrong), max_wrong + 1, delta))
    return min(1.0, round((math.floor(exact / _STEP) + 1) * _STEP, 6))


# -- An early warning that results are worse than promised: a Shiryaev-Roberts e-detector.
# For each mean loss in WORSE it keeps a sum over all possible times of a change. A term is the
# wealth that bets on that loss have won since that time. While the expected loss of each audit is
# at most `target`, for any past, the expected growth of the sum is at most 1 for each
# audit, so the mean number of audits until the sum reaches `threshold` is at least `threshold`.
# (Shin, Ramdas, Rinaldo: "E-detectors", 2022.) It is a warning and certifies nothing.


WORSE: Final = (2.0, 4.0, 8.0, 16.0)  # mean losses, in multiples of the target
QUIET: Final = (0.0,) * len(WORSE)
_MAX_SUM: Final = 1e300  # avoids infinity


def after(sums: tuple[float, ...], loss: float, target: float) -> tuple[float, ...]:
    """Return the sums after another audit with a loss in 0..1; 0 < target < 1."""
    return tuple(
        min(_MAX_SUM, (1 + before) * (1 + _bet(worse * target, target) * (loss - target)))
        for before, worse in zip(sums, WORSE, strict=True)
    )


def is_alarm(sums: tuple[float, ...], threshold: float) -> bool:
    """Return whether to warn; false alarms are at least `threshold` audits apart in the mean."""
    return sum(sums) / len(sums) >= threshold


def _bet(worse: float, target: float) -> float:
    """Return the best bet on a mean loss of `worse`, for losses of 0 or 1: the likelihood ratio."""
    worse = min(worse, (1 + target) / 2)
    return (worse - target) / (target * (1 - target))
