"""Which of several settings may be used: Learn then Test, on frames drawn at random from footage.

Settings stand on one path, fixed on other footage, from the one that errs least to the one that
costs least. Each is tested against the null hypothesis that more than alpha of frames are wrong
with it, by the exact binomial test. Walking along the path and stopping at the first that is not
rejected keeps the chance of accepting any bad one within delta, without dividing it (Angelopoulos
et al., "Learn then Test", 2021). What is accepted holds for this footage, and for what is like it:
a forecast, no promise.

Frames must be drawn independently of each other, with replacement, and stay in the drawn order.
Pure.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def binomial_p(errors: IntArray, frames: int, alpha: float) -> FloatArray:
    """p-values (J,) of J settings of which `errors` (J,) of `frames` frames were wrong."""
    p_values: FloatArray = scipy.special.bdtr(errors, frames, alpha)
    return p_values


def fixed_sequence(p_values: FloatArray, delta: float) -> int:
    """How many settings are accepted, from the first (safest) on; 0: none, escalate everything."""
    rejected = p_values <= delta
    return len(rejected) if rejected.all() else int(np.argmin(rejected))


def least_alpha(errors: int, frames: int, delta: float) -> float:
    """What these frames could certify: the smallest alpha with a binomial p-value up to delta."""
    return 1.0 if errors >= frames else float(scipy.special.bdtri(errors, frames, delta))


def more_frames(errors: int, frames: int, alpha: float, delta: float) -> int | None:
    """How many more frames certify alpha, if the next ones are wrong as often as these.

    0 if these do; None if they are wrong too often for any number. By the binomial test.
    """
    if errors >= alpha * frames:
        return None

    def suffice(more: int) -> bool:
        every = frames + more
        return bool(scipy.special.bdtr(math.ceil(errors * every / frames), every, alpha) <= delta)

    enough = 0
    while not suffice(enough):
        enough = max(1, 2 * enough)
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if suffice(middle) else (middle, enough)
    return enough
