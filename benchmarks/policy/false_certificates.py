"""Count certificates of broken promises, if the policy learns from the audits of the promise.

No pixels: the features of the frames are those of a recorded hour, in random blocks. The frames
whose light result is wrong are simulated, so many that the promise is about to break. The policy
decides, learns and is audited as in an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.policy.rivals import LearnedDoubt
from benchmarks.policy.walk import AuditedPeriod, Moment
from framegate.pipeline.promise.period import Promise
from framegate.pipeline.promise.statistics import allowed
from framegate.stages.escalate.doubt import Evidence, doubt, trained

PROMISE: Final = Promise(alpha=0.01, frames=1000)
_BLOCK: Final = 25
Random = np.random.Generator


class Situation(NamedTuple):
    """A frame of a simulated period: its features, and how many were served and wrong before it."""

    facts: Evidence
    served: int
    wrong: int


World = Callable[[Random, Situation], bool]  # whether the light result is wrong


def noise(rng: Random, now: Situation) -> bool:
    """The heavy model changes its mind about still pictures, as with a sensor's noise."""
    share = 0.05
    if now.facts.still:
        share = 0.014
    return bool(rng.random() < share)


def late(rng: Random, now: Situation) -> bool:
    """Nothing is wrong in the first three quarters of the period, and much in the last."""
    return bool(now.served > PROMISE.frames * 3 // 4 and rng.random() < 0.09)


def sly(rng: Random, now: Situation) -> bool:
    """Adversary: wrong where the trained model has little doubt, until the promise is broken."""
    if now.wrong > allowed(PROMISE.frames, PROMISE.alpha):
        return False
    return bool(doubt(now.facts, trained()).chance < 0.1 and rng.random() < 0.02)


WORLDS: Final[dict[str, World]] = {"noise": noise, "late": late, "sly": sly}


def rows(
    moments: Sequence[Moment], periods: int, threshold: float, seed: int = 0
) -> list[dict[str, Any]]:
    """Return for each world the shares of periods that broke the promise, are certified, or both.

    periods  of each world
    """
    found = []
    for number, (name, world) in enumerate(WORLDS.items()):
        broken = certified = false = asked = 0
        for index in range(periods):
            rng = np.random.default_rng((seed, number, index))
            is_broken, is_certified, questions = _period(moments, world, threshold, rng)
            broken += is_broken
            certified += is_certified
            false += is_broken and is_certified
            asked += questions
        row = {
            "world": name,
            "periods": periods,
            "asked": round(asked / (periods * PROMISE.frames), 4),
            "broken": round(broken / periods, 5),
            "certified": round(certified / periods, 5),
            "false": round(false / periods, 5),
        }
        print(row, flush=True)
        found.append(row)
    return found


def _period(
    moments: Sequence[Moment], world: World, threshold: float, rng: Random
) -> tuple[bool, bool, int]:
    """Return whether a simulated period broke the promise, is certified, and its questions."""
    policy = LearnedDoubt(threshold)
    audits = AuditedPeriod(PROMISE, rng.bytes(32))
    wrong = asked = number = 0
    while number < PROMISE.frames:
        begin = int(rng.integers(max(1, len(moments) - _BLOCK)))
        for moment in moments[begin : begin + _BLOCK]:
            is_unsure = world(rng, Situation(moment.facts, number, wrong))
            has_asked = policy.asks(moment.facts) or audits.has_alarm
            is_wrong = is_unsure and not has_asked
            is_drawn = audits.draws(number, is_wrong)
            if has_asked or is_drawn:
                policy.learns(moment.facts, is_unsure)
            wrong += is_wrong
            asked += has_asked
            number += 1
            if number == PROMISE.frames:
                break
    is_certified = audits.closed().verdict == "certified"
    return wrong > allowed(PROMISE.frames, PROMISE.alpha), is_certified, asked
