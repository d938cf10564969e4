"""When to try again. Pure: the caller sleeps."""

from __future__ import annotations

import errno
from dataclasses import dataclass

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
