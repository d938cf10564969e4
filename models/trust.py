"""How far answers that are nearly right may be served: as far as checks of them say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scipy.special import bdtr, bdtrc

_MOST: Final = 1024  # checks; beyond it all count half, so that what was long ago is forgotten


@dataclass(frozen=True, slots=True)
class Trust:
    """What checks of one kind of answer said; pure.

    checked  answers that were computed, too
    wrong    of these, those that said something else
    """

    checked: int = 0
    wrong: int = 0

    def after(self, wrong: bool) -> Trust:
        """After one more check."""
        checked, errors = self.checked + 1, self.wrong + wrong
        if checked < _MOST:
            return Trust(checked, errors)
        return Trust(checked // 2, (errors + 1) // 2)

    def is_earned(self, share: float, doubt: float) -> bool:
        """Whether so few errors have at most the probability `doubt` where `share` were wrong.

        Without an error that takes 299 checks for a share of .01 and a doubt of .05.
        """
        return bool(bdtr(self.wrong, self.checked, share) <= doubt)

    def is_lost(self, share: float, doubt: float) -> bool:
        """Whether so many errors have at most the probability `doubt` where `share` were wrong."""
        return self.wrong > 0 and bool(bdtrc(self.wrong - 1, self.checked, share) <= doubt)
