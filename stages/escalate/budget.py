"""How often may be asked: a token bucket in media time. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Budget:
    """per_s: asks a second of media time, >= 0; burst: asks at once after a rest, >= 1."""

    per_s: float
    burst: float


class Tokens(msgspec.Struct, frozen=True, array_like=True):
    """Asks that were left at a moment of the source's clock, seconds; None: never any spent."""

    left: float | None = None
    at_s: float = 0.0

    def now(self, now_s: float, budget: Budget) -> float:
        """Asks that are left."""
        if self.left is None:
            return budget.burst
        return min(budget.burst, self.left + max(0.0, now_s - self.at_s) * budget.per_s)

    def spent(self, now_s: float, budget: Budget) -> Tokens:
        """After one more ask. One beyond the budget, as after an alarm, leaves no debt: else who
        asked much then would long not ask where in doubt, and ring the alarm again.
        """
        return Tokens(round(max(0.0, self.now(now_s, budget) - 1.0), 4), round(now_s, 3))
