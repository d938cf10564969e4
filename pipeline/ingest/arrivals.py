"""When a connection stalls, by the arrivals of its frames or packets."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

STALL_PERIODS: Final = 20


class Arrivals:
    """The last arrivals of a connection, monotonic seconds. The caller guards it.

    It begins with the time at which the connection was made, or its attempt began.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque([time.monotonic()], maxlen=STALL_PERIODS)

    @property
    def last(self) -> float:
        """Return the last arrival."""
        return self._times[-1]

    def begin(self) -> None:
        """Note that the connection was made, before the first arrival."""
        self._times[-1] = time.monotonic()

    def add(self, arrived_mono: float) -> None:
        """Note an arrival."""
        self._times.append(arrived_mono)

    def stalled_at(self, stall_s: float, *, is_first: bool) -> float:
        """Return the monotonic time at which the connection stalls if nothing more arrives.

        That is `stall_s` or STALL_PERIODS periods after the last arrival, the later of both: a
        camera that sends a frame a minute does not stall between two.

        is_first: no frame has arrived so far; the first one has twice `stall_s`.
        """
        if is_first:
            return self.last + 2 * stall_s
        periods = len(self._times) - 1
        period_s = (self.last - self._times[0]) / max(periods, 1)
        return self.last + max(stall_s, STALL_PERIODS * period_s)
