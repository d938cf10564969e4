"""The least budget of asks that never denies one, for asks at known times. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_FINE: Final = 100  # steps of a rate, a second
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Raise:
    """A key of [escalate] that has less, asks a second of media time, than is needed."""

    key: str
    has: float
    needs: float


def raises(
    times: Sequence[FloatArray], per_s: float, burst: float, all_per_s: float
) -> tuple[Raise, ...]:
    """What must be raised so that no ask is over budget, as [escalate] has it now.

    times  s, ascending: when each source would ask, by its own clock. all_per_s is of cameras: as
           if all sources were, of one worker, and began at once
    """
    together = np.sort(np.concatenate([*times, np.empty(0)]))
    needs = {
        "per_s": (per_s, max((least_per_s(one, burst) for one in times), default=0.0)),
        "all_per_s": (all_per_s, least_per_s(together, None)),
    }
    return tuple(Raise(key, has, least) for key, (has, least) in needs.items() if least > has)


def least_per_s(times: FloatArray, burst: float | None) -> float:
    """The least rate, in hundredths, with which a token bucket has one for each ask.

    burst  its size, >= 1; None: as large as a second's tokens, at least 1. Asks that come so
           close that no rate up to the highest key is enough: that one, 10000
    """
    return _least(lambda rate: _suffices(times, rate, max(1.0, rate) if burst is None else burst))


def _suffices(times: FloatArray, rate: float, burst: float) -> bool:
    """Of any asks in a row, no more than came back since the first, beyond the burst."""
    if not len(times):
        return True
    spent = np.arange(len(times)) - rate * times
    most = float((spent - np.minimum.accumulate(spent)).max())
    return most <= burst - 1 + 1e-6


def _least(enough: Callable[[float], bool]) -> float:
    short, least = -1, 10_000 * _FINE
    while least - short > 1:
        middle = (short + least) // 2
        short, least = (short, middle) if enough(middle / _FINE) else (middle, least)
    return least / _FINE
