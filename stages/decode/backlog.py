"""Whether a camera's packets are taken slower than they come, so that they wait unseen. Pure.

By their time stamps, or, where these are made up, by whether one ever has to be waited for.
"""

from __future__ import annotations

from typing import Final

_LATE_S: Final = 1.0
_LASTING_S: Final = 1.0
_DRIFT: Final = 1e-3
_STEP_BACK_S: Final = 1.0
_LEAP_S: Final = 10.0


class Backlog:
    """One connection. Times are seconds; `now` is monotonic, when a packet was read.

    A packet is as late as its reading is behind that of the timeliest packet of late, by their
    time stamps. Late for a moment is a burst; late for longer than a second means that the decoder
    does not keep up. The clocks may drift by a thousandth.
    """

    def __init__(self) -> None:
        self._least: float | None = None
        self._before = (0.0, 0.0)
        self._late_since: float | None = None

    def grows(self, pts: float | None, now: float) -> bool:
        """Whether it has been there for long, with this packet."""
        if pts is None:
            return False
        step, passed = pts - self._before[0], now - self._before[1]
        self._before = (pts, now)
        offset = now - pts
        if self._least is None or not -_STEP_BACK_S <= step <= _LEAP_S:
            self._least, self._late_since = offset, None
            return False
        self._least = min(self._least + passed * _DRIFT, offset)
        if offset - self._least < _LATE_S:
            self._late_since = None
            return False
        if self._late_since is None:
            self._late_since = now
        return now - self._late_since > _LASTING_S


class Unread:
    """One connection whose packets say no times: it is behind when none had to be waited for in
    longer than a burst may last. `now` is monotonic seconds, when a packet was read.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def grows(self, waited: bool, now: float) -> bool:
        """Whether packets have been waiting for long; waited: this one was not there yet."""
        if waited or self._since is None:
            self._since = now
        return now - self._since > _LATE_S + _LASTING_S
