"""Delays between attempts, and a circuit breaker. Pure: the caller has the clock and sleeps."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from framegate.pipeline.contracts.queries import BreakerState

OUT_OF_MEANS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)
)
"""Error numbers of a system that has no descriptor, memory or port left; this may pass."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: `first_s`, doubled with each failure up to `most_s`.

    Random jitter takes up to half of each delay. With the defaults and `chance` 1 the delays are
    0.02, 0.04, 0.08, ... 5 s.

    held    number of further delays that stay at `held_s` before they double again
    held_s  the delay at which they stay
    """

    first_s: float = 0.02
    most_s: float = 5.0
    held: int = 0
    held_s: float = 0.0

    def delay_s(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after `failures` failures in a row, >= 1. chance: 0 to 1"""
        doublings = min(failures, 40) - 1
        full = self.first_s * 2.0**doublings
        if self.held and full > self.held_s:
            full = max(self.held_s, self.first_s * 2.0 ** (doublings - self.held))
        return min(full, self.most_s) * (0.5 + 0.5 * chance)


def camera_backoff(most_s: float) -> Backoff:
    """Return the delays between attempts to connect a camera. most_s: the longest of them

    Many cameras allow one session. One that moved to this host is free when its old host has closed
    it, 10 s after that host lost the store. So after 1.5 s the delays stay at 2 s for 20 s, with
    jitter at least for 10 s, before they double again.
    """
    return Backoff(min(0.5, most_s), most_s, held=10, held_s=2.0)


_FAILURES = 3
_REST = Backoff(first_s=0.5, most_s=10.0)


@dataclass(frozen=True, slots=True)
class Breaker:
    """A circuit breaker, which limits queries to a place that fails. Immutable.

    closed: all queries are sent. open, after _FAILURES failures in a row: none until `until_s`.
    half_open: one query, the probe, was sent, and its outcome decides. All times are seconds of a
    clock of the caller.

    failures  failures in a row
    until_s   time at which a probe may be sent while the breaker is open
    probing   whether the probe was sent
    since_s   time of the first of these failures; None if there is none
    """

    failures: int = 0
    until_s: float = 0.0
    probing: bool = False
    since_s: float | None = None

    @property
    def state(self) -> BreakerState:
        """Return the state; see the class."""
        if self.failures < _FAILURES:
            return "closed"
        if self.probing:
            return "half_open"
        return "open"

    def lets_out(self, now_s: float) -> bool:
        """Return whether a query may be sent now."""
        return self.state == "closed" or (self.state == "open" and now_s >= self.until_s)

    def sent(self) -> Breaker:
        """Return the breaker after a query was sent."""
        if self.state == "closed":
            return self
        return replace(self, probing=True)

    def answered(self) -> Breaker:
        """Return the breaker after the place answered."""
        return Breaker()

    def failed(self, now_s: float, chance: float) -> Breaker:
        """Return the breaker after the place failed. chance: 0 to 1, spreads clients over time

        A failure while the breaker is open is of an older query, and changes nothing.
        """
        if self.state == "open":
            return self
        failures = self.failures + 1
        rest_s = 0.0
        if failures >= _FAILURES:
            rest_s = _REST.delay_s(failures - _FAILURES + 1, chance)
        since_s = self.since_s
        if since_s is None:
            since_s = now_s
        return Breaker(failures, now_s + rest_s, since_s=since_s)
