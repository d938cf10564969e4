"""Differential privacy of a sum with Gaussian noise: the exact relation of noise and epsilon.

One unit adds a vector of length 1 at most to a sum, and each number of the sum gets normal noise of
standard deviation `1 / leakage`. The sums with and without the unit then differ as much as two
normal distributions at the distance `leakage`, so epsilon follows from delta in closed form (Balle
and Wang, "Improving the Gaussian mechanism for differential privacy", ICML 2018, theorem 8).
Several sums about the same unit leak as much as one with the root of the sum of squares (Dong, Roth
and Su, "Gaussian differential privacy", 2022, corollary 2).

Neighbours differ by one unit that is there or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

DELTA: Final = 1e-5
GRID: Final = 2.0**-10  # of a published number, so that its last digits show no arithmetic
_MOST: Final = 64.0  # greatest epsilon and leakage that are searched
_CLOSE: Final = 1e-6

Numbers = npt.NDArray[np.float64]


def delta_of(leakage: float, epsilon: float) -> float:
    """Return the least delta for which sums with this leakage are (epsilon, delta)-private.

    leakage  1 / standard deviation of the noise; 0: nothing is published
    """
    if leakage <= 0:
        return 0.0
    near = leakage / 2 - epsilon / leakage
    far = -leakage / 2 - epsilon / leakage
    return max(float(ndtr(near)) - math.exp(epsilon + float(log_ndtr(far))), 0.0)


def epsilon_of(leakage: float, delta: float = DELTA) -> float:
    """Return the least epsilon for which sums with this leakage are (epsilon, delta)-private.

    It is rounded up by less than a millionth. ValueError if it is above 64.
    """
    if delta_of(leakage, _MOST) > delta:
        raise ValueError(f"epsilon must be at most {_MOST:g}; a leakage of {leakage:g} gives more")
    return _edge(lambda epsilon: delta_of(leakage, epsilon) > delta)[1]


def leakage_of(epsilon: float, delta: float = DELTA) -> float:
    """Return the greatest leakage that is (epsilon, delta)-private, rounded down by a millionth.

    ValueError unless 0 < epsilon <= 64.
    """
    if not 0 < epsilon <= _MOST:
        raise ValueError(f"epsilon must be above 0 and at most {_MOST:g}, got {epsilon:g}")
    return _edge(lambda leakage: delta_of(leakage, epsilon) <= delta)[0]


def _edge(is_below: Callable[[float], bool]) -> tuple[float, float]:
    """Return two close numbers around the edge below which `is_below` is true, by bisection."""
    low, high = 0.0, _MOST
    while high - low > _CLOSE:
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return low, high


def together(leakages: Iterable[float]) -> float:
    """Return the leakage of several sums about the same units."""
    return math.sqrt(sum(leakage**2 for leakage in leakages))


def clipped(vectors: Numbers) -> Numbers:
    """Return vectors, (N, K), each shortened to a length of at most 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    shortened: Numbers = vectors / np.maximum(lengths, 1.0)
    return shortened


def noisy_sum(vectors: Numbers, leakage: float, chance: np.random.Generator) -> Numbers:
    """Return the sum of clipped vectors, (N, K), with noise, (K,), rounded to GRID."""
    noise = chance.normal(0.0, 1 / leakage, vectors.shape[1])
    total: Numbers = np.round((clipped(vectors).sum(axis=0) + noise) / GRID) * GRID
    return total
