"""What other thresholds of doubt would have cost and got wrong, told by audited frames. Pure.

An audited frame tells of every threshold at once: one at or below its doubt would have asked, and
been right; one above would have served what was there without asking. So nothing is tried out on
what is served. Thresholds form one path from "ask always" to "ask never".

What was there without asking had been taught by the answers that the threshold in use brought; a
much higher one would have brought fewer. So the next threshold is at most one step up the path.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from framegate.pipeline.promise.calibration import binomial_p, fixed_sequence

PATH: Final = (0.0, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.01)
_MOST: Final = 8000  # frames; then older ones count half


class Arms(msgspec.Struct, frozen=True, array_like=True):
    """frames  that told; wrong, asked  of these, for each threshold of PATH."""

    frames: int = 0
    wrong: tuple[int, ...] = (0,) * len(PATH)
    asked: tuple[int, ...] = (0,) * len(PATH)

    def after(self, doubt: float, is_wrong: bool) -> Arms:
        """With one more frame: its doubt, and whether what was there without asking was wrong."""
        known = self if self.frames < _MOST else self._halved()
        asks = [doubt >= least for least in PATH]
        wrong = tuple(n + (is_wrong and not ask) for n, ask in zip(known.wrong, asks, strict=True))
        asked = tuple(n + ask for n, ask in zip(known.asked, asks, strict=True))
        return Arms(known.frames + 1, wrong, asked)

    def certified(self, alpha: float, delta: float) -> float | None:
        """The cheapest threshold shown not to be wrong on more than alpha (0..1) of frames, with
        confidence 1 - delta; None: the frames are too few to show it even of asking always.
        """
        p_values = binomial_p(np.array(self.wrong), self.frames, alpha)
        accepted = fixed_sequence(p_values, delta)
        return PATH[accepted - 1] if accepted else None

    def next_after(self, least: float, alpha: float, delta: float) -> float:
        """The threshold to use after a period with `least`: inside what is certified."""
        found = self.certified(alpha, delta)
        return least if found is None else min(found, cheaper(least))

    def _halved(self) -> Arms:
        # Rounded up: forgetting must not make anything look better than it was.
        wrong = tuple(-(-n // 2) for n in self.wrong)
        return Arms(self.frames // 2, wrong, tuple(n // 2 for n in self.asked))


def cheaper(least: float) -> float:
    """The next threshold of PATH above, but asking never: who never asks is never taught."""
    return min((one for one in PATH[:-1] if one > least), default=least)


def safer(least: float) -> float:
    """The next threshold of PATH below; asking always has none."""
    return max((one for one in PATH if one < least), default=PATH[0])
