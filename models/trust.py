"""How far answers that are nearly right may be served: as far as checks of them say, at any time.

Each check bets: against "at least `share` of answers are wrong" and against "at most `share` are".
What a bet has made of one unit reaches 1 / doubt with a probability of at most `doubt` where it
bets against what is true, however often one looks, and whatever made one begin when one did
(Ville). The bets are mixtures of likelihood ratios over all shares on the other side, with a
density of q ** -1/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import scipy

# Errors in a trial where `share` of answers are wrong: at its end it is forgotten; at the least, a
# trial that goes badly may be given up for a fresh one.
MOST: Final = 20
LEAST: Final = 2
Standing = Literal["open", "earned", "lost"]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trust:
    """What checks of one kind of answer said, trial after trial, each with bets of its own; pure.

    trial    from 1 on
    checked  answers of this trial that were computed, too
    wrong    of these, those that said something else
    """

    standing: Standing = "open"
    trial: int = 1
    checked: int = 0
    wrong: int = 0

    def after(self, wrong: bool, share: float, doubt: float) -> Trust:
        """After one more check.

        Where never less than `share` of answers are wrong, trust is ever earned, in all trials
        together, with a probability of at most `doubt`: the trial j has doubt / (j (j + 1)) of it.
        Without an error that takes 455 checks for a share of .01 and a doubt of .05, with one 750
        (299 and 473 show it to who fixes their number beforehand and looks once).

        It is lost where more than the share is shown to be wrong, in a trial for nothing with a
        probability of at most `doubt`, and over where a whole trial did not show anew that less is:
        once more is wrong, it outlasts the next trial with a probability of at most `doubt`.
        """
        checked, errors, was = self.checked + 1, self.wrong + wrong, self.standing
        spent = 1 if was == "earned" else self.trial * (self.trial + 1)
        is_bad = log_won_by_many(checked, errors, share) >= -math.log(doubt)
        if log_won_by_few(checked, errors, share) >= math.log(spent / doubt):
            return Trust("earned", self.trial)
        if is_bad and (was == "earned" or checked * share >= LEAST):
            return Trust("lost", self.trial + 1)
        if checked * share >= MOST:
            return Trust("lost" if was == "lost" else "open", self.trial + 1)
        return Trust("lost" if is_bad else was, self.trial, checked, errors)


def log_won_by_few(checked: npt.ArrayLike, wrong: npt.ArrayLike, share: float) -> FloatArray:
    """What who bet on fewer errors made of one unit, as logarithm; of each pair of numbers."""
    return _log_won(checked, wrong, share, scipy.special.betainc, math.sqrt(share))


def log_won_by_many(checked: npt.ArrayLike, wrong: npt.ArrayLike, share: float) -> FloatArray:
    """What who bet on more errors made of one unit, as logarithm; of each pair of numbers."""
    return _log_won(checked, wrong, share, scipy.special.betaincc, 1 - math.sqrt(share))


def _log_won(
    checked: npt.ArrayLike, wrong: npt.ArrayLike, share: float, part: Any, norm: float
) -> FloatArray:
    """The logarithm of the mean over q on one side of share of the likelihood of q to its own."""
    errors = np.asarray(wrong, np.float64)
    right = np.asarray(checked, np.float64) - errors
    with np.errstate(divide="ignore"):  # no likelihood at all is -inf
        side = np.log(part(errors + 0.5, right + 1, share))
    likelihood = scipy.special.betaln(errors + 0.5, right + 1) + side - math.log(2 * norm)
    won: FloatArray = likelihood - errors * math.log(share) - right * math.log1p(-share)
    return won
