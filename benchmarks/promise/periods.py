"""Simulated periods of the promise, many at once: which frames are wrong, and who is certified.

Arrays of shape (periods, frames) are bool: `wrong`, and `coins` that chose a frame. A scenario
makes exactly `errors` frames of each period wrong, so a period with more than are allowed is known
to break its promise. Scenarios that react see each coin only after its frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from framegate.pipeline.promise.statistics import k_max

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Scenario = Callable[[np.random.Generator, BoolArray, int, int], BoolArray]

_BURST: Final = (25, 400)  # frames, both included
_REST: Final = 200  # frames that the wary adversary lies low after it was caught


def throw(rng: np.random.Generator, periods: int, frames: int, share: float) -> BoolArray:
    """Coins of so many periods."""
    return rng.random((periods, frames), np.float32) < share


def certified(wrong: BoolArray, coins: BoolArray, most: int) -> BoolArray:
    """Which periods (P,) the promise certifies, where all audits come back and no alarm rings."""
    caught: BoolArray = (wrong & coins).sum(axis=1) <= most
    return caught


def independent(
    rng: np.random.Generator,
    coins: BoolArray,
    errors: int,
    most: int,  # noqa: ARG001
) -> BoolArray:
    """Wrong frames anywhere."""
    wrong = np.zeros(coins.shape, bool)
    for row in wrong:
        row[rng.choice(len(row), errors, replace=False, shuffle=False)] = True
    return wrong


def bursts(
    rng: np.random.Generator,
    coins: BoolArray,
    errors: int,
    most: int,  # noqa: ARG001
) -> BoolArray:
    """Wrong frames in bursts of 25 to 400, the last one cut to the number of errors."""
    wrong = np.zeros(coins.shape, bool)
    frames = coins.shape[1]
    for row in wrong:
        lengths = rng.integers(_BURST[0], _BURST[1] + 1, size=errors // _BURST[0] + 1)
        ends = np.minimum(np.cumsum(lengths), errors)
        good = np.sort(rng.integers(0, frames - errors + 1, size=len(ends)))
        begin = 0
        for end, before in zip(ends.tolist(), good.tolist(), strict=True):
            row[before + begin : before + end] = True
            begin = end
    return wrong


def one_burst(
    rng: np.random.Generator,
    coins: BoolArray,
    errors: int,
    most: int,  # noqa: ARG001
) -> BoolArray:
    """All wrong frames in a row."""
    begins = rng.integers(0, coins.shape[1] - errors + 1, size=len(coins))
    after = np.arange(coins.shape[1]) - begins[:, None]
    wrong: BoolArray = (after >= 0) & (after < errors)
    return wrong


def policy_change(rng: np.random.Generator, coins: BoolArray, errors: int, most: int) -> BoolArray:
    """In mid-period audits so far choose the next policy: little caught, then a bold one.

    Half of the errors come in the first half of the period. The bold policy makes the others in a
    row at the end, the careful one makes them anywhere in the second half.
    """
    half, early = coins.shape[1] // 2, errors // 2
    first = independent(rng, coins[:, :half], early, most)
    careful = independent(rng, coins[:, half:], errors - early, most)
    bold = np.zeros(careful.shape, bool)
    bold[:, early - errors :] = True
    caught = (first & coins[:, :half]).sum(axis=1, keepdims=True)
    return np.hstack([first, np.where(2 * caught <= most, bold, careful)])


def wary(
    rng: np.random.Generator,
    coins: BoolArray,
    errors: int,
    most: int,  # noqa: ARG001
) -> BoolArray:
    """Adversary: errs at every frame from some moment on, but lies low for a while when caught."""
    begins = rng.integers(0, coins.shape[1] // 2, size=len(coins))
    quiet_until = begins

    def errs(frame: int, caught: BoolArray, total: IntArray) -> BoolArray:  # noqa: ARG001
        nonlocal quiet_until
        quiet_until = np.where(caught, frame + _REST, quiet_until)
        dares: BoolArray = quiet_until <= frame
        return dares

    return _reacting(coins, errors, errs)


def unseen(rng: np.random.Generator, coins: BoolArray, errors: int, most: int) -> BoolArray:
    """Adversary: keeps what was caught so far below what the certificate forgives by then."""
    restless = rng.random((coins.shape[1], 1)) < 0.1
    frames = coins.shape[1]

    def errs(frame: int, caught: BoolArray, total: IntArray) -> BoolArray:  # noqa: ARG001
        dares: BoolArray = (total <= most * frame / frames) & restless[frame]
        return dares

    return _reacting(coins, errors, errs)


def _reacting(
    coins: BoolArray, errors: int, errs: Callable[[int, BoolArray, IntArray], BoolArray]
) -> BoolArray:
    """Frame by frame: `errs` knows whether the frame before was caught, and how many were so far.

    When as many errors are left to be made as frames, all frames are wrong.
    """
    periods, frames = coins.shape
    by_frame = np.ascontiguousarray(coins.T)
    wrong = np.zeros((frames, periods), bool)
    left = np.full(periods, errors)
    caught, total = np.zeros(periods, bool), np.zeros(periods, np.int64)
    for frame in range(frames):
        wrong[frame] = (errs(frame, caught, total) & (left > 0)) | (left >= frames - frame)
        left -= wrong[frame]
        caught = wrong[frame] & by_frame[frame]
        total += caught
    return np.ascontiguousarray(wrong.T)


SCENARIOS: Final[dict[str, Scenario]] = {
    "independent": independent,
    "bursts": bursts,
    "one_burst": one_burst,
    "policy_change": policy_change,
    "wary_adversary": wary,
    "unseen_adversary": unseen,
}


def first_frames(wrong: BoolArray, audits: int, alpha: float, delta: float) -> BoolArray:
    """A naive rule: audit the first frames of the period instead of random ones."""
    most = _most_of(audits, alpha, delta)[-1]
    shown: BoolArray = wrong[:, :audits].sum(axis=1) <= most
    return shown


def first_good_look(wrong: BoolArray, coins: BoolArray, alpha: float, delta: float) -> BoolArray:
    """A naive rule: after each audit ask whether it would do for a period that ends now."""
    most = _most_of(int(coins.sum(axis=1).max()), alpha, delta)
    looks = (row[coin].cumsum() for row, coin in zip(wrong, coins, strict=True))
    return np.array([(caught <= most[: len(caught)]).any() for caught in looks])


def _most_of(audits: int, alpha: float, delta: float) -> IntArray:
    """Errors that 1, 2, ... `audits` independent frames may have: the binomial test at alpha."""
    found, most = -1, np.empty(audits, np.int64)
    for frames in range(1, audits + 1):
        while bdtr(found + 1, frames, alpha) <= delta:
            found += 1
        most[frames - 1] = found
    return most


def false_rate(
    scenario: Scenario,
    rng: np.random.Generator,
    periods: int,
    frames: int,
    errors: int,
    terms: tuple[float, float, float],
) -> float:
    """Share of periods with so many errors that are certified at (alpha, share, delta)."""
    alpha, share, delta = terms
    most = k_max(frames, alpha, share, delta)
    coins = throw(rng, periods, frames, share)
    return float(certified(scenario(rng, coins, errors, most), coins, most).mean())
