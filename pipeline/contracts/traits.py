"""The traits of an episode's object, and the log odds that a filter learned from verdicts gives it.

The run, which mutes episodes, and the review, which learns from verdicts, both use this module, so
a trial over the history gives what the run would have done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

WEIGHTS: Final = 10  # a constant, and one weight for each of the features below

_SURE: Final = 0.99  # greatest score that counts; the log odds of 1 are infinite
_MIN_HEIGHT: Final = 0.005
_USUAL_HEIGHT: Final = 0.15  # of an object; a feature near 0 keeps the weights independent


class Traits(msgspec.Struct, frozen=True):
    """The known facts about the object of an episode when its start is published.

    Of a rule about two objects, it is the first of them.

    score    mean score of its detections so far, 0 to 1
    height   height of its box, 0 to 1 of the picture
    aspect   height of its box divided by its width, in pixels
    x, y     middle of the lower edge of its box, 0 to 1 of the picture
    speed    speed of that point, heights of the box per second
    age_s    seconds since the object was first seen
    still_s  seconds for which it has been standing still
    held     share of the frames with evidence in which no network looked, 0 to 1
    """

    score: float
    height: float
    aspect: float
    x: float
    y: float
    speed: float
    age_s: float
    still_s: float
    held: float

    def features(self) -> tuple[float, ...]:
        """Return the nine numbers that a filter weighs, each about -3 to 3."""
        score = min(max(self.score, 1 - _SURE), _SURE)
        return (
            math.log(score / (1 - score)),
            math.log(max(self.height, _MIN_HEIGHT) / _USUAL_HEIGHT),
            math.log(min(max(self.aspect, 0.05), 20.0)),
            2 * self.x - 1,
            2 * self.y - 1,
            math.log1p(self.speed),
            math.log1p(self.age_s),
            math.log1p(self.still_s),
            self.held,
        )


def log_odds(weights: Sequence[float], traits: Traits) -> float:
    """Return the log odds that an episode is true; below 0, a filter with these weights mutes it.

    weights  WEIGHTS numbers: the constant, then one for each feature
    """
    parts = zip(weights[1:], traits.features(), strict=True)
    return weights[0] + sum(weight * feature for weight, feature in parts)
