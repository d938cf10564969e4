"""Whether it is worth its cost to look answers up: switched off by itself while hits are rare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_LEAST: Final = 0.05  # share of hits from which on it pays: a pass costs some 20 to 60 look-ups
_TRIED: Final = 2048  # look-ups over which that is judged
_SAMPLED: Final = 16  # while off, one in so many inputs is looked up
_ENOUGH: Final = 8  # hits among them that switch it on at once


@dataclass(frozen=True, slots=True)
class Worth:
    """Where it stands; pure.

    on           whether all inputs are looked up, or a sample of them
    tried, hits  since that was last judged
    """

    on: bool = True
    tried: int = 0
    hits: int = 0

    def asks(self, number: int) -> bool:
        """Whether an input is to be looked up; while off that depends on its number.

        By a digest of the input, what comes again is in the sample again; by a count, not.
        """
        return self.on or number % _SAMPLED == 0

    def after(self, hit: bool) -> Worth:
        """Where it stands after one look-up."""
        tried, hits = self.tried + 1, self.hits + hit
        if not self.on and hits >= _ENOUGH:
            return Worth()
        if tried < (_TRIED if self.on else _TRIED // _SAMPLED):
            return Worth(self.on, tried, hits)
        return Worth(hits >= _LEAST * tried)
