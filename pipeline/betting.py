"""Bets against a period's promise where losses are fractions: who wins enough certifies it.

A loss is 0..1 and the promise is that the mean loss over all of a period's frames is at most
`target`. Before the period begins the bets are fixed. A frame with loss x that its coin chose
multiplies the wealth of the bet c by

    1 + (exp(c (target - x)) - 1) / share,

any other by 1. Before its coin is thrown, the factor that is to be expected of a frame is so
exp(c (target - x)), whatever its loss depends on, earlier coins included. Over a period whose
promise is broken these multiply to exp(c frames (target - mean)) <= 1: the wealth is a
nonnegative martingale times at most one, so it reaches 1 / delta with a probability of at most
delta (Markov). Bets that follow what was seen within a period, as Waudby-Smith and Ramdas' do (JRSS
B 2024), gain more where frames come in random order, but weigh frames unequally: a period that
begins well and ends badly wins them a certificate that it does not deserve.

For losses 0 and 1 without a caught one this is the exact binomial test. Pure.
"""

from __future__ import annotations

import math
from typing import Final

BETS: Final = (0.95, 0.7)  # shares of the boldest bet that cannot end in debt
START: Final = (1.0,) * len(BETS)
_ALL: Final = 1 - 1e-9  # where every frame is audited, the boldest bet has no limit
_MOST: Final = 1e300  # a wealth is cut there: less is on the safe side


def after(
    wealths: tuple[float, ...], loss: float, target: float, share: float
) -> tuple[float, ...]:
    """The wealth of each bet after one more audited frame.

    loss    0..1; target  0..1, exclusive; share  of frames audited, above 0
    """
    boldest = -math.log1p(-min(share, _ALL)) / (1 - target)
    return tuple(
        min(_MOST, wealth * (1 + math.expm1(boldest * bet * (target - loss)) / share))
        for wealth, bet in zip(wealths, BETS, strict=True)
    )


def wealth_of(wealths: tuple[float, ...]) -> float:
    """What all bets have together, of one unit spread evenly over them."""
    return sum(wealths) / len(wealths)
