"""When a file's frame is due at its own pace. Pure: the caller waits."""

from __future__ import annotations

SLACK_S = 0.001


class Pace:
    """`fast`: at once. `realtime`: as far after the first frame as its pts is after the first's.

    A frame without pts, or with one before its forerunner's, is due together with that one.
    Frames due within SLACK_S go together: a wake-up costs more than a millisecond early.
    """

    def __init__(self, name: str, shift: float | None = None) -> None:
        """name: a PaceName; shift: of the Pace that this one goes on for, if any."""
        self._realtime = name == "realtime"
        self._shift = shift if self._realtime else None
        self._last = float("-inf")

    @property
    def shift(self) -> float | None:
        """Monotonic seconds at which pts 0 is due; None before the first frame, or if `fast`."""
        return self._shift

    def wait_s(self, pts: float | None, ready: float, now: float) -> float:
        """Seconds until the next frame is due, 0 for now. ready, now: monotonic seconds."""
        if not self._realtime:
            return 0.0
        wait = self._due(pts, ready) - now
        return wait if wait > SLACK_S else 0.0

    def passed(self, pts: float | None, ready: float) -> None:
        """The frame went out."""
        if self._realtime:
            self._last = self._due(pts, ready)

    def _due(self, pts: float | None, ready: float) -> float:
        if pts is None:
            return max(self._last, ready if self._shift is None else self._last)
        if self._shift is None:
            self._shift = ready - pts
        return max(self._last, self._shift + pts)
