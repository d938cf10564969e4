"""Doubt: how probable it is that the heavy pass would contradict what is served of a frame.

A logistic regression on a few facts, trained on frames that the heavy pass had seen, too
(`tools/train_doubt.py`). For each source a bias corrects it by the answers that came since.
"""

from __future__ import annotations

import math
import operator
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from framegate.stages.detections import Detections
from framegate.stages.escalate.corrections import MOST_AGE_S, Corrections

WEIGHTS: Final = Path(__file__).parent / "doubt.toml"
_HEAVY_LEAST, _LIGHT_LEAST = 0.29, 0.42  # least scores of an object, as models/detector/policy.toml
_NEAR: Final = 0.08  # distance from the least score over which doubt fades
_FAR: Final = 12.0  # bound of a logit
_LEAST_TRUST: Final = 1.0  # weight of the model as it was trained
_MOST_TRUST: Final = 10.0  # bound of a source's weight: it must be able to change


class Evidence(NamedTuple):
    """The facts that doubt is computed from: the regression's inputs, of one frame.

    never       1 if the heavy pass has not answered yet, else 0
    age         log(1 + 10 s), s: seconds since its last answer
    changed     square root of the share of the picture that changed
    stirred     log(1 + 10 x), x: the sum of these shares since the last answer
    flips       log(1 + n), n: frames since the last answer in which an object came or went
    surprise    objects by which the last answers differed from what was expected
    near_known  objects of the heavy pass whose scores are close to its least score, weighted
    alone       log(1 + n), n: objects of the heavy pass that the light network does not see
    grown       the most that an object of the heavy pass grew or shrank: |log| of its area
    new         log(1 + n), n: objects that no answer was about
    new_least   the least score of these; 1 if there are none
    near_new    how many of these have scores close to the light network's least score, weighted
    """

    never: float
    age: float
    changed: float
    stirred: float
    flips: float
    surprise: float
    near_known: float
    alone: float
    grown: float
    new: float
    new_least: float
    near_new: float


def evidence(known: Corrections, found: Detections, now_s: float) -> Evidence:
    """Return the facts of a frame. Pure.

    known  as `served` returns it for this frame
    now_s  the source's clock, seconds
    """
    there = [one for one in known.known if one.score]
    age_s = MOST_AGE_S if known.at_s is None else min(max(now_s - known.at_s, 0.0), MOST_AGE_S)
    new, unrest = known.new, known.unrest
    return Evidence(
        never=float(known.at_s is None),
        age=math.log1p(10 * age_s),
        changed=math.sqrt(found.changes.share) if found.changes else 0.0,
        stirred=math.log1p(10 * unrest.stirred),
        flips=math.log1p(unrest.flips),
        surprise=unrest.surprise,
        near_known=math.fsum(_near(one.score, _HEAVY_LEAST) for one in there),
        alone=math.log1p(sum(one.seen_as < 0 for one in there)),
        grown=max((abs(math.log(one.growth)) for one in there), default=0.0),
        new=math.log1p(len(new)),
        new_least=new[-1] / 10_000 if new else 1.0,
        near_new=math.fsum(_near(score, _LIGHT_LEAST) for score in new),
    )


def _near(score: int, least: float) -> float:
    """Return 0..1, how close a score in ten-thousandths is to a threshold."""
    return math.exp(-abs(score / 10_000 - least) / _NEAR)


class DoubtBias(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How much more or less a source's frames are in doubt than those of the training set.

    offset  added to the logit
    trust   Fisher information of the frames that the offset was estimated from
    """

    offset: float = 0.0
    trust: float = 0.0

    def after(self, doubt: float, was_wrong: bool) -> DoubtBias:
        """Return the bias after one more frame: a Newton step. Pure.

        doubt      of the frame, 0..1
        was_wrong  whether it would have been served wrong without the heavy pass
        """
        trust = min(self.trust + doubt * (1 - doubt), _MOST_TRUST)
        step = (was_wrong - doubt) / (_LEAST_TRUST + trust)
        return DoubtBias(round(self.offset + step, 4), round(trust, 4))


class Weights(NamedTuple):
    """The trained regression. slopes: one for each fact of Evidence."""

    intercept: float
    slopes: Evidence


def doubt(facts: Evidence, weights: Weights, level: DoubtBias = DoubtBias()) -> float:  # noqa: B008
    """Return the probability, 0..1, that the heavy pass would count some class otherwise."""
    products = map(operator.mul, facts, weights.slopes)
    logit = weights.intercept + level.offset + math.fsum(products)
    return 1 / (1 + math.exp(-min(max(logit, -_FAR), _FAR)))


@lru_cache
def trained(path: Path = WEIGHTS) -> Weights:
    """Return the weights of a file. ValueError if its names are not those of Evidence."""
    told: Mapping[str, Any] = tomllib.loads(path.read_text())
    slopes = told["slopes"]
    if tuple(slopes) != Evidence._fields:
        raise ValueError(f"{path.name}: slopes of {tuple(slopes)}; needed: {Evidence._fields}")
    return Weights(told["intercept"], Evidence(**slopes))


def doubt_of(known: Corrections, found: Detections, now_s: float, level: DoubtBias) -> float:
    """Return the doubt, 0..1, of a frame by the trained weights; arguments as in `evidence`."""
    return doubt(evidence(known, found, now_s), trained(), level)
