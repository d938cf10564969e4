"""How probable it is that the heavy pass would say something else of a frame than what is served.

A logistic model of a few facts, trained on frames of which it was known (`commands.train_doubt`),
and set right for each source by what its answers then showed.
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
_HEAVY_LEAST, _LIGHT_LEAST = 0.22, 0.31  # scores from which on they say that something is there
_NEAR: Final = 0.08  # how far from it a score is in doubt
_FAR: Final = 12.0  # of a logit: nothing is surer than that
_LEAST_TRUST: Final = 1.0  # that the model as it was trained deserves, and
_MOST_TRUST: Final = 10.0  # that what a source's answers showed deserves, so that it can change


class Evidence(NamedTuple):
    """What there is to say of a frame before heavy is asked.

    never       1 where there was no answer yet, else 0
    age         log(1 + 10 s) since the last one
    changed     square root of the share of the picture that changed
    stirred     log(1 + 10 x), x: the sum of these shares since the last answer
    flips       log(1 + n) frames since the last answer in which something came or went
    surprise    objects in which the last answers differed from what was expected
    near_known  things that are served because heavy saw them, and that it may see no more
    alone       log(1 + n) of what heavy saw and light does not see
    grown       how much a thing that heavy saw has grown or shrunk most: |log| of its area
    new         log(1 + n) things that no answer spoke of,
    new_least   the least score of these, 1 without any, and
    near_new    how many of them are as good as not there
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
    """Of a frame. Pure.

    known  as `served` has it after this frame
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
    """0..1, how close ten-thousandths of a score are to a threshold."""
    return math.exp(-abs(score / 10_000 - least) / _NEAR)


class DoubtBias(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How a source differs from what doubt was trained on.

    offset  to the logit of its doubt
    trust   in it: the information of the frames that it comes from
    """

    offset: float = 0.0
    trust: float = 0.0

    def after(self, doubt: float, was_wrong: bool) -> DoubtBias:
        """Once it is known whether a frame of that doubt would have been served wrong.

        A Newton step from what was known before; only what is given decides.
        """
        trust = min(self.trust + doubt * (1 - doubt), _MOST_TRUST)
        step = (was_wrong - doubt) / (_LEAST_TRUST + trust)
        return DoubtBias(round(self.offset + step, 4), round(trust, 4))


class Weights(NamedTuple):
    """intercept: of the logit; slopes: one for each fact of Evidence."""

    intercept: float
    slopes: Evidence


def doubt(facts: Evidence, weights: Weights, level: DoubtBias = DoubtBias()) -> float:  # noqa: B008
    """The probability, 0..1, that heavy would count objects of some class otherwise."""
    products = map(operator.mul, facts, weights.slopes)
    logit = weights.intercept + level.offset + math.fsum(products)
    return 1 / (1 + math.exp(-min(max(logit, -_FAR), _FAR)))


@lru_cache
def trained(path: Path = WEIGHTS) -> Weights:
    """The weights that come with the program. ValueError where facts and weights do not agree."""
    told: Mapping[str, Any] = tomllib.loads(path.read_text())
    slopes = told["slopes"]
    if tuple(slopes) != Evidence._fields:
        raise ValueError(f"{path.name}: slopes of {tuple(slopes)}; needed: {Evidence._fields}")
    return Weights(told["intercept"], Evidence(**slopes))


def doubt_of(known: Corrections, found: Detections, now_s: float, level: DoubtBias) -> float:
    """doubt of a frame by the trained weights; `known` as `served` has it after this frame."""
    return doubt(evidence(known, found, now_s), trained(), level)
