"""When to try again, and when not to try at all. Pure: the caller has the clock and sleeps."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from framegate.pipeline.contracts.queries import BreakerState

OUT_OF_MEANS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)
)
"""Error numbers of a system without a descriptor, memory or port for us; it may have one soon."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter of half: `first_s`, doubled to `most_s`."""

    first_s: float = 0.02
    most_s: float = 5.0

    def delay_s(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row (>= 1); chance in 0..1."""
        full = min(self.first_s * 2.0 ** (min(failures, 40) - 1), self.most_s)
        return full * (0.5 + 0.5 * chance)


_FAILURES = 3
_REST = Backoff(first_s=0.5, most_s=10.0)


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker: whether to ask a place that may be away. Each event gives the next value.

    All times are seconds of one clock of the caller's.

    failures  in a row
    until_s   when a probe may go out, once it is open
    probing   one query is out to see whether the place is back
    since_s   when the first of these failures was; None: there is none
    """

    failures: int = 0
    until_s: float = 0.0
    probing: bool = False
    since_s: float | None = None

    @property
    def state(self) -> BreakerState:
        """closed: all queries go out; open: none; half_open: one, and its answer decides."""
        if self.failures < _FAILURES:
            return "closed"
        return "half_open" if self.probing else "open"

    def lets_out(self, now_s: float) -> bool:
        """Return whether a query may go out now."""
        return self.state == "closed" or (self.state == "open" and now_s >= self.until_s)

    def sent(self) -> Breaker:
        """Return the value once a query went out."""
        return self if self.state == "closed" else replace(self, probing=True)

    def answered(self) -> Breaker:
        """Return the value once the place answered: it is there."""
        return Breaker()

    def failed(self, now_s: float, chance: float) -> Breaker:
        """Return the value once the place failed; chance in 0..1 spreads those who ask over time.

        A query that went out before the breaker opened, and fails after, says nothing new.
        """
        if self.state == "open":
            return self
        failures = self.failures + 1
        opened = failures - _FAILURES + 1
        rest = _REST.delay_s(opened, chance) if opened > 0 else 0.0
        return Breaker(
            failures, now_s + rest, since_s=now_s if self.since_s is None else self.since_s
        )
