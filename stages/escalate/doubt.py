"""Doubt: the probability that the heavy pass would contradict the result of a frame.

It is a logistic regression on a few features, trained on frames with answers of the heavy pass
(`tools/train_doubt.py`). A bias for each source corrects it by later answers.
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
from framegate.stages.escalate.corrections import MAX_AGE_S, Corrections

WEIGHTS: Final = Path(__file__).parent / "doubt.toml"
# Lowest scores of a shown object, as in models/detector/policy.toml.
_HEAVY_MIN_SCORE: Final = 0.34
_LIGHT_MIN_SCORE: Final = 0.39
_NEAR: Final = 0.08  # distance from the lowest score at which its weight has fallen to 1/e
_MAX_LOGIT: Final = 12.0
_TRAINED_TRUST: Final = 1.0  # weight of the trained model
_MAX_TRUST: Final = 10.0  # weight of a source's own frames; bounded, so that the bias can change


class Evidence(NamedTuple):
    """The features of a frame, as inputs of the regression.

    never       1 if the heavy pass has not answered so far, else 0
    age         log(1 + 10 s), s: seconds since its last answer
    changed     square root of the changed share of the picture
    stirred     log(1 + 10 x), x: sum of these shares since the last answer
    flips       log(1 + n), n: frames since the last answer in which an object appeared or
                disappeared
    surprise    mean number of objects in which the last answers differed from the result without
    near_known  number of the heavy pass's objects, weighted by closeness to its lowest score
    alone       log(1 + n), n: objects of the heavy pass that the light network does not detect
    grown       largest change in size of an object of the heavy pass: |log| of its area's ratio
    new         log(1 + n), n: objects that no answer covers
    new_least   lowest score of the new objects; 1 without new objects
    near_new    number of new objects, weighted by closeness to the light network's lowest score
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


def evidence(known: Corrections, detections: Detections, now_s: float) -> Evidence:
    """Return the features of a frame. Pure.

    known  as `served` returns it for this frame
    now_s  the source's clock, seconds
    """
    heavy = [correction for correction in known.known if correction.score]
    new, unrest = known.new, known.unrest
    age_s = MAX_AGE_S
    if known.at_s is not None:
        age_s = min(max(now_s - known.at_s, 0.0), MAX_AGE_S)
    changed_share = 0.0
    if detections.changes is not None:
        changed_share = detections.changes.share
    lowest_new = 1.0
    if new:
        lowest_new = new[-1] / 10_000
    return Evidence(
        never=float(known.at_s is None),
        age=math.log1p(10 * age_s),
        changed=math.sqrt(changed_share),
        stirred=math.log1p(10 * unrest.stirred),
        flips=math.log1p(unrest.flips),
        surprise=unrest.surprise,
        near_known=math.fsum(_closeness(each.score, _HEAVY_MIN_SCORE) for each in heavy),
        alone=math.log1p(sum(each.seen_as < 0 for each in heavy)),
        grown=max((abs(math.log(each.growth)) for each in heavy), default=0.0),
        new=math.log1p(len(new)),
        new_least=lowest_new,
        near_new=math.fsum(_closeness(score, _LIGHT_MIN_SCORE) for score in new),
    )


def _closeness(score: int, threshold: float) -> float:
    """Return the closeness, 0..1, of a score in ten-thousandths to a threshold."""
    return math.exp(-abs(score / 10_000 - threshold) / _NEAR)


class DoubtBias(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The bias of a source's doubt, relative to the training set.

    offset  added to the logit
    trust   Fisher information of the frames from which the offset is estimated
    """

    offset: float = 0.0
    trust: float = 0.0

    def after(self, doubt: float, was_wrong: bool) -> DoubtBias:
        """Return the bias after one more frame: a Newton step. Pure.

        doubt      doubt of the frame, 0..1
        was_wrong  its result without the heavy pass would have been wrong
        """
        trust = min(self.trust + doubt * (1 - doubt), _MAX_TRUST)
        step = (was_wrong - doubt) / (_TRAINED_TRUST + trust)
        return DoubtBias(round(self.offset + step, 4), round(trust, 4))


class Weights(NamedTuple):
    """The trained regression, with one slope for each feature of Evidence."""

    intercept: float
    slopes: Evidence


def doubt(facts: Evidence, weights: Weights, level: DoubtBias = DoubtBias()) -> float:  # noqa: B008
    """Return the probability, 0..1, that the heavy pass counts some class differently."""
    products = map(operator.mul, facts, weights.slopes)
    logit = weights.intercept + level.offset + math.fsum(products)
    return 1 / (1 + math.exp(-min(max(logit, -_MAX_LOGIT), _MAX_LOGIT)))


@lru_cache
def trained(path: Path = WEIGHTS) -> Weights:
    """Return the weights from a file. Raises ValueError if its slopes are not those of Evidence."""
    weights: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    slopes = weights["slopes"]
    if tuple(slopes) != Evidence._fields:
        raise ValueError(f"{path.name}: slopes of {tuple(slopes)}; must be {Evidence._fields}")
    return Weights(weights["intercept"], Evidence(**slopes))


def doubt_of(known: Corrections, detections: Detections, now_s: float, level: DoubtBias) -> float:
    """Return the doubt of a frame, 0..1, with the trained weights; arguments as in `evidence`."""
    return doubt(evidence(known, detections, now_s), trained(), level)
