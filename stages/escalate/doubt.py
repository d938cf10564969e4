"""Doubt: the probability that the heavy pass would contradict the result of a frame.

It is a logistic regression on a few features, trained on frames with answers of the heavy pass
(`tools/train_doubt.py`). Each source learns the weights of some features from its
answers and audits.
"""

from __future__ import annotations

import itertools
import math
import operator
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from framegate.stages.audit.open_audits import Doubt
from framegate.stages.detections import Detections
from framegate.stages.escalate.corrections import MAX_AGE_S, Corrections

WEIGHTS: Final = Path(__file__).parent / "doubt.toml"
# Lowest scores of a shown object, as in models/detector/policy.toml.
_HEAVY_MIN_SCORE: Final = 0.34
_LIGHT_MIN_SCORE: Final = 0.39
_NEAR: Final = 0.08  # distance from the lowest score at which its weight has fallen to 1/e
_MAX_LOGIT: Final = 12.0


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
    still       1 if neither picture nor objects changed since the last answer, else 0
    same        1 if all objects are those of the last answer, and all of these are shown, else 0
    settled     1 if the picture changed in the frame of the last answer and not since, else 0
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
    still: float
    same: float
    settled: float


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
    is_still = known.at_s is not None and not unrest.stirred and not unrest.flips
    is_same = known.at_s is not None and not new and len(heavy) == known.answered
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
        still=float(is_still),
        same=float(is_same),
        settled=float(is_still and known.was_moving),
    )


def _closeness(score: int, threshold: float) -> float:
    """Return the closeness, 0..1, of a score in ten-thousandths to a threshold."""
    return math.exp(-abs(score / 10_000 - threshold) / _NEAR)


# -- The weights that a source learns: logistic regression with a Gaussian prior, frame by frame.
# The prior is the trained model. Audits are drawn by a coin, so they teach about frames that no
# threshold would have asked about.


LEARNED: Final = ("changed", "surprise", "near_known", "new_least", "still", "same", "settled")
_PRIOR: Final = 1.0  # variance of a weight before the first frame, and its maximum
_DRIFT: Final = 1e-4  # added to each variance by a frame, so that the weights can follow a scene
_LEAST_CHANCE: Final = 0.002  # a rare error of a frame without doubt must not throw the weights


class LearnedWeights(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The weights of a source, relative to the trained ones, and their uncertainty.

    offsets     added to the intercept and to the slopes in LEARNED; (): zeros
    covariance  of the offsets, upper triangle by rows; (): that of the prior
    """

    offsets: tuple[float, ...] = ()
    covariance: tuple[float, ...] = ()

    def logit(self, facts: tuple[float, ...]) -> float:
        """Return what the offsets add to the logit of a frame."""
        return math.fsum(map(operator.mul, self.offsets, facts))

    def after(self, doubt: Doubt, was_wrong: bool) -> LearnedWeights:
        """Return the weights after one more frame: a step of the extended Kalman filter. Pure.

        doubt      of the frame
        was_wrong  its result without the heavy pass would have been wrong
        """
        n = len(doubt.facts)
        if not n:  # a frame that an older version drew for an audit
            return self
        chance = min(max(doubt.chance, _LEAST_CHANCE), 1 - _LEAST_CHANCE)
        rows = self._rows(n)
        towards = [math.fsum(map(operator.mul, row, doubt.facts)) for row in rows]
        variance = math.fsum(map(operator.mul, towards, doubt.facts))
        weight = chance * (1 - chance)
        gain = 1 / (1 + weight * variance)
        step = gain * (was_wrong - doubt.chance)
        offsets = self.offsets or (0.0,) * n
        moved = [
            round(offset + step * each, 5) for offset, each in zip(offsets, towards, strict=True)
        ]
        for i, row in enumerate(rows):
            for j in range(n):
                row[j] -= gain * weight * towards[i] * towards[j]
            row[i] += _DRIFT
        scales = [math.sqrt(min(1.0, _PRIOR / rows[i][i])) for i in range(n)]
        covariance = [round(rows[i][j] * scales[i] * scales[j], 7) for i, j in _upper(n)]
        return LearnedWeights(tuple(moved), tuple(covariance))

    def _rows(self, n: int) -> list[list[float]]:
        """Return the covariance as n rows of n."""
        rows = [[0.0] * n for _ in range(n)]
        if not self.covariance:
            for i in range(n):
                rows[i][i] = _PRIOR
            return rows
        for (i, j), value in zip(_upper(n), self.covariance, strict=True):
            rows[i][j] = rows[j][i] = value
        return rows


@lru_cache
def _upper(n: int) -> tuple[tuple[int, int], ...]:
    """Return row and column of each element of the upper triangle of an n by n matrix."""
    return tuple(itertools.combinations_with_replacement(range(n), 2))


class Weights(NamedTuple):
    """The trained regression, with one slope for each feature of Evidence."""

    intercept: float
    slopes: Evidence


def doubt(
    frame: Evidence,
    weights: Weights,
    learned: LearnedWeights = LearnedWeights(),  # noqa: B008
) -> Doubt:
    """Return the doubt about a frame: whether the heavy pass counts some class differently."""
    facts = (1.0, *(getattr(frame, name) for name in LEARNED))
    logit = weights.intercept + math.fsum(map(operator.mul, frame, weights.slopes))
    logit += learned.logit(facts)
    return Doubt(1 / (1 + math.exp(-min(max(logit, -_MAX_LOGIT), _MAX_LOGIT))), facts)


@lru_cache
def trained(path: Path = WEIGHTS) -> Weights:
    """Return the weights from a file. Raises ValueError if its slopes are not those of Evidence."""
    weights: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    slopes = weights["slopes"]
    if tuple(slopes) != Evidence._fields:
        raise ValueError(f"{path.name}: slopes of {tuple(slopes)}; must be {Evidence._fields}")
    return Weights(weights["intercept"], Evidence(**slopes))


def doubt_of(
    known: Corrections, detections: Detections, now_s: float, learned: LearnedWeights
) -> Doubt:
    """Return the doubt about a frame, with the trained weights; arguments as in `evidence`."""
    return doubt(evidence(known, detections, now_s), trained(), learned)
