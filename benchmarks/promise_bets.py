"""Simulated periods whose promise is about boxes: bets made before the period, and bets that learn.

Frames have few kinds: `kinds` (periods, frames) says which, `losses` what each kind's is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.promise_periods import BoolArray, FloatArray, independent
from pipeline import betting
from pipeline.calibration import betting_p
from pipeline.promise import box_loss, target_of

KindArray = npt.NDArray[np.int8]

_BOXES: Final = 4  # of the heavy model in a frame, where at most twice as many count
_MOST: Final = 8


def losses_of(alpha: float) -> FloatArray:
    """Losses of the kinds: 0 good, 1 all boxes differ, 2 good and twice as many boxes."""
    frames = ((0, _BOXES), (_BOXES, _BOXES), (0, _MOST))
    return np.array([box_loss(differing, boxes, alpha, _MOST) for differing, boxes in frames])


def good_start(
    rng: np.random.Generator, coins: BoolArray, alpha: float
) -> tuple[KindArray, BoolArray]:
    """A crowd without an error in the first half of the period, then few boxes and many errors.

    Just too many boxes differ. Kinds, and which frames are wrong.
    """
    half = coins.shape[1] // 2
    boxes = _MOST * half + _BOXES * (coins.shape[1] - half)
    errors = int(alpha * boxes / _BOXES) + 1
    wrong = np.zeros(coins.shape, bool)
    wrong[:, half:] = independent(rng, coins[:, half:], errors, 0)
    kinds = wrong.astype(np.int8)
    kinds[:, :half] = 2
    return kinds, wrong


def certified(
    kinds: KindArray, coins: BoolArray, alpha: float, terms: tuple[float, float]
) -> BoolArray:
    """Which periods (P,) the bets of the promise certify at (share, delta)."""
    share, delta = terms
    losses = losses_of(alpha)
    counts = np.stack([((kinds == kind) & coins).sum(axis=1) for kind in range(len(losses))])
    factors = [betting.after(betting.START, x, target_of("boxes", alpha), share) for x in losses]
    wealths = np.exp(counts.T @ np.log(np.array(factors)))
    enough: BoolArray = wealths.mean(axis=1) >= 1 / delta
    return enough


def certified_by_learning(
    kinds: KindArray, coins: BoolArray, alpha: float, delta: float
) -> BoolArray:
    """The same by Waudby-Smith and Ramdas' bets in the order of time: a naive rule."""
    losses, target = losses_of(alpha), target_of("boxes", alpha)
    p_values = [
        betting_p(losses[row[coin]][None, :], target, delta)[0]
        for row, coin in zip(kinds, coins, strict=True)
    ]
    return np.array(p_values) <= delta
