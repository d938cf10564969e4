"""Frames that come in heaps, a segment's at once as over HLS, given at the pace of their pts. Pure:
the caller sleeps.
"""

from __future__ import annotations

from typing import Final

_AHEAD_S: Final = 60.0


class EvenPace:
    """When each frame is due. Times are seconds, `now` is monotonic. One thread.

    The first frame is due at once. A frame that is late, without pts, before the one given last or
    implausibly far ahead is due at once, and the later ones follow from it.
    """

    def __init__(self) -> None:
        self._shift: float | None = None
        self._last: float | None = None

    def due(self, pts: float | None, now: float) -> float:
        """The monotonic time at which a frame that is there now is due, >= now."""
        if pts is None:
            return now
        back = self._last is not None and pts < self._last
        self._last = pts
        if self._shift is None or back or not 0 <= pts + self._shift - now <= _AHEAD_S:
            self._shift = now - pts
        return pts + self._shift
