"""How probable it is that the heavy pass would say something else of a frame than what is served.

A logistic model of a few facts, trained on frames of which it was known (`stages.train_doubt`), and
set right for each source by what its answers then showed.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from stages.corrections import MOST_AGE_S, Corrections
from stages.detections import Detections

WEIGHTS: Final = Path(__file__).parent / "doubt.toml"
_HEAVY_LEAST, _LIGHT_LEAST = 0.22, 0.31  # scores from which on they say that something is there
_NEAR: Final = 0.08  # how far from it a score is in doubt
_FAR: Final = 30.0  # of a logit
_PRIOR: Final = 4.0  # answers' worth of trust in the model as it was trained
_MOST_TRUST: Final = 50.0  # answers that a source's level is made of, so that it can change


class Evidence(NamedTuple):
    """What there is to say of a frame before heavy is asked.

    never        1 where there was no answer yet, else 0
    age          log(1 + 10 s) since the last one
    changed      square root of the share of the picture that changed
    stirred      log(1 + 10 x), x: the sum of these shares since the last answer
    looked       1 where light looked at any of it, else 0
    whole_age    log(1 + s) since it looked at the whole
    flips        log(1 + n) frames since the last answer in which something came or went
    surprise     objects in which the last answers differed from what was expected
    known        log(1 + n) things that are served because heavy saw them
    near_known   of these, how many heavy may see no more, or may have seen in vain
    alone        how many of them light does not see, and
    alone_least  the least score of these, 1 without any
    gone         of what the last answer spoke of, how much is gone
    grown        how much a known thing grew or shrank most: |log| of its area
    new          log(1 + n) things that no answer spoke of,
    new_best     the best score of these, 0 without any,
    new_least    the least one, 1 without any, and
    near_new     how many of them are as good as not there
    """

    never: float
    age: float
    changed: float
    stirred: float
    looked: float
    whole_age: float
    flips: float
    surprise: float
    known: float
    near_known: float
    alone: float
    alone_least: float
    gone: float
    grown: float
    new: float
    new_best: float
    new_least: float
    near_new: float


def evidence(known: Corrections, found: Detections, now_s: float) -> Evidence:
    """Of a frame. Pure.

    known  as `served` has it after this frame
    """
    there = [one for one in known.known if one.score]
    alone = [one.score for one in there if one.seen_as < 0]
    age_s = MOST_AGE_S if known.at_s is None else min(now_s - known.at_s, MOST_AGE_S)
    new, unrest = known.new, known.unrest
    return Evidence(
        never=float(known.at_s is None),
        age=math.log1p(10 * max(0.0, age_s)),
        changed=math.sqrt(found.changes.share) if found.changes else 0.0,
        stirred=math.log1p(10 * unrest.stirred),
        looked=float(found.looked != "no"),
        whole_age=math.log1p(max(0.0, found.age_s)),
        flips=math.log1p(unrest.flips),
        surprise=unrest.surprise,
        known=math.log1p(len(there)),
        near_known=sum(_near(one.score, _HEAVY_LEAST) for one in there),
        alone=math.log1p(len(alone)),
        alone_least=min(alone, default=10_000) / 10_000,
        gone=math.log1p(max(0, unrest.told - len(known.known))),
        grown=max((abs(math.log(one.growth)) for one in there), default=0.0),
        new=math.log1p(len(new)),
        new_best=new[0] / 10_000 if new else 0.0,
        new_least=new[-1] / 10_000 if new else 1.0,
        near_new=sum(_near(score, _LIGHT_LEAST) for score in new),
    )


def _near(score: int, least: float) -> float:
    """0..1, how close ten-thousandths of a score are to a threshold."""
    return math.exp(-abs(score / 10_000 - least) / _NEAR)
