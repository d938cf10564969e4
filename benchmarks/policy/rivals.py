"""The policies that are compared: the one that ships, and what is simpler or better known.

Each has one setting, from asking often to asking rarely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from benchmarks.policy.walk import Moment, Policy
from framegate.stages.audit.open_audits import Doubt
from framegate.stages.escalate.corrections import MAX_AGE_S
from framegate.stages.escalate.doubt import Evidence, LearnedWeights, Weights, doubt, trained

_LEARNED_LATER: Final = ("still", "same", "settled")  # features that the fixed doubt does not have
_EXPIRES_S: Final = MAX_AGE_S - 0.25  # a frame at 5 per second before the answer expires


class FixedDoubt:
    """The trained weights, and a bias for each camera: a Newton step for each answer and audit."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        weights = trained()
        slopes = weights.slopes._replace(**dict.fromkeys(_LEARNED_LATER, 0.0))
        self._weights = Weights(weights.intercept, slopes)
        self._bias = 0.0
        self._trust = 0.0
        self._chance = 0.0

    def asks(self, facts: Evidence) -> bool:
        """Return whether the doubt reaches the threshold."""
        weights = self._weights._replace(intercept=self._weights.intercept + self._bias)
        self._chance = doubt(facts, weights).chance
        return self._chance >= self._threshold

    def learns(self, facts: Evidence, was_wrong: bool) -> None:  # noqa: ARG002
        """Correct the bias."""
        self._trust = min(self._trust + self._chance * (1 - self._chance), 10.0)
        self._bias += (was_wrong - self._chance) / (1 + self._trust)


class HandRule:
    """Ask while anything changes, once more when it has stopped, and before the answer expires.

    margin  a changing frame with the objects of the answer is not asked about if their scores are
            far from the least score: `near_known` below this. 0: all changing frames
    """

    def __init__(self, margin: float) -> None:
        self._margin = margin

    def asks(self, facts: Evidence) -> bool:
        """Return what the rule says."""
        age_s = math.expm1(facts.age) / 10
        if facts.never or facts.settled or age_s >= _EXPIRES_S:
            return True
        if facts.still:
            return False
        return not facts.same or facts.near_known >= self._margin

    def learns(self, facts: Evidence, was_wrong: bool) -> None:
        """Learn nothing."""


class LinUcb:
    """The bandit LinUCB of river with two arms, rewarded by what an action costs.

    cost  of a question; a wrong frame costs 1. Without a question, the reward is known only if the
          frame was audited
    """

    def __init__(self, cost: float) -> None:
        from river.bandit import LinUCBDisjoint  # of the extra `bench`

        self._cost = cost
        self._bandit: Any = LinUCBDisjoint(seed=0)

    def asks(self, facts: Evidence) -> bool:
        """Return the arm with the higher upper confidence bound."""
        arm = self._bandit.pull(["ask", "serve"], context=_context(facts))
        return bool(arm == "ask")

    def learns(self, facts: Evidence, was_wrong: bool) -> None:
        """Reward both arms: an answer or an audit tells what each would have cost."""
        self._bandit.update("ask", _context(facts), -self._cost)
        self._bandit.update("serve", _context(facts), -float(was_wrong))


def _context(facts: Evidence) -> dict[str, float]:
    return {"one": 1.0, **facts._asdict()}


class LearnedDoubt:
    """The doubt that ships: its weights are learned from each answer and audit.

    start      weights at the beginning
    is_frozen  they stay as they are
    """

    def __init__(
        self, threshold: float, start: LearnedWeights | None = None, is_frozen: bool = False
    ) -> None:
        self._threshold = threshold
        self.weights = start or LearnedWeights()
        self._is_frozen = is_frozen
        self._doubt = Doubt(0.0)

    def asks(self, facts: Evidence) -> bool:
        """Return whether the doubt reaches the threshold."""
        self._doubt = doubt(facts, trained(), self.weights)
        return self._doubt.chance >= self._threshold

    def learns(self, facts: Evidence, was_wrong: bool) -> None:  # noqa: ARG002
        """Correct the weights."""
        if not self._is_frozen:
            self.weights = self.weights.after(self._doubt, was_wrong)


def taught_by(moments: Sequence[Moment]) -> LearnedWeights:
    """Return the weights after frames of which the heavy model's answers are known."""
    weights = LearnedWeights()
    for moment in moments:
        weights = weights.after(doubt(moment.facts, trained(), weights), moment.is_wrong)
    return weights


@dataclass(frozen=True, slots=True)
class Rival:
    """A kind of policy, and its settings from asking often to asking rarely."""

    name: str
    settings: tuple[float, ...]
    make: Callable[[float], Policy]


_THRESHOLDS: Final = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.08, 0.12)
FIXED: Final = "fixed doubt"
SHIPPED: Final = "learned doubt"


def rivals(before: LearnedWeights) -> list[Rival]:
    """Return the policies; LinUCB only if river is installed (the extra `bench`).

    before  weights learned in the hour that chooses the settings
    """

    def frozen(threshold: float) -> Policy:
        return LearnedDoubt(threshold, before, is_frozen=True)

    found = [
        Rival(FIXED, _THRESHOLDS, FixedDoubt),
        Rival("hand rule", (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2), HandRule),
        Rival("logistic of another hour", _THRESHOLDS, frozen),
        Rival(SHIPPED, _THRESHOLDS, LearnedDoubt),
    ]
    if find_spec("river") is None:
        print("LinUCB is left out: it needs river, of the extra `bench`")
    else:
        found.append(Rival("LinUCB", (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2), LinUcb))
    return found
