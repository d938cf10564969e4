"""An early warning that results have become worse than promised: a Shiryaev-Roberts e-detector.

For each of some worse mean losses it runs the sum, over all moments at which things may have
changed, of the wealth won since by betting on that loss. As long as each audit's loss is `target`
at most in the mean, whatever went before, the sum grows by at most one an audit in the mean:
audits until it reaches `threshold` are at least `threshold` in the mean. (Shin, Ramdas, Rinaldo:
"E-detectors", 2022.) It is a warning, and certifies nothing. Pure.
"""

from __future__ import annotations

from typing import Final

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
