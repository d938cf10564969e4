"""Schedule the sources of the ingest loop: when a frame is due, and which sources have work."""

from __future__ import annotations

import logging
import time
from collections import deque
from heapq import heappop, heappush
from typing import Final

log = logging.getLogger(__name__)

SLACK_S: Final = 0.001  # frames due within this time are taken together
_LONG_S: Final = 30.0  # a frame that is due later than this gets a log line
_RETRY_S: Final = 1.0  # the delay before a decoder that could not be started is tried again


class Agenda:
    """The sources that have work now, and the times at which the others will have some.

    One thread, except that any thread may call `note` and `waiting`. The cost of a turn depends on
    the awake sources only, not on the number of sleeping ones.
    """

    def __init__(self) -> None:
        self.awake: set[str] = set()
        self._noted: deque[str] = deque()  # by decoder threads
        self._dues: dict[str, float] = {}  # when the next frame of a sleeping source is due
        # A heap; an entry that differs from _dues is void.
        self._by_due: list[tuple[float, str]] = []
        self._retries: dict[str, float] = {}  # when to start a source's decoder again

    def note(self, source: str) -> None:
        """Wake a source at the next turn: its thread has an event. Any thread."""
        self._noted.append(source)

    def waiting(self) -> list[str]:
        """Return the sources whose next frame is decoded and due later. Any thread."""
        now = time.monotonic()
        return [source for source, due in list(self._dues.items()) if due > now]

    def wake_due(self, now: float) -> list[str]:
        """Wake the sources that were noted or are due; return those to start again."""
        while self._noted:
            self.awake.add(self._noted.popleft())
        while self._by_due and self._by_due[0][0] <= now + SLACK_S:
            due, source = heappop(self._by_due)
            if self._dues.get(source) == due:
                del self._dues[source]
                self.awake.add(source)
        retries = [source for source, due in self._retries.items() if due <= now]
        for source in retries:
            del self._retries[source]
        return retries

    def rest(self, source: str, due: float | None, is_away: bool = False) -> None:
        """Let a source sleep until `due` (monotonic seconds); None: until an event wakes it.

        is_away: the source is a camera that is not connected, so no frame is due.
        """
        self.awake.discard(source)
        before = self._dues.get(source)
        if due is None:
            self._dues.pop(source, None)
        elif before is None or abs(due - before) > SLACK_S:
            self._dues[source] = due
            heappush(self._by_due, (due, source))
            wait = due - time.monotonic()
            if before is None and wait >= _LONG_S and not is_away:
                log.info("source %s: its next frame is due in %.0f s", source, wait)

    def retry(self, source: str) -> None:
        """Start the source's decoder again after a short delay."""
        self._retries[source] = time.monotonic() + _RETRY_S

    def forget(self, source: str) -> None:
        """Drop all times of a source."""
        self._dues.pop(source, None)
        self._retries.pop(source, None)

    def due_in(self) -> float | None:
        """Return seconds until the next source is due; None if none waits for a time."""
        dues = list(self._retries.values())
        if self._by_due:
            dues.append(self._by_due[0][0])
        if not dues:
            return None
        return max(0.0, min(dues) - time.monotonic())


class Pace:
    """The due times of a file's frames. It never waits itself.

    `fast`: at once. `realtime`: as long after the first frame as its pts is after the first pts.
    A frame without pts, or with an earlier pts than the frame before, is due together with that
    frame. Frames due within SLACK_S are taken together: a wake-up costs more than the millisecond.
    """

    def __init__(self, name: str, shift: float | None = None) -> None:
        """Start a pace. name: a PaceName; shift: of the earlier pace that this one continues."""
        self._realtime = name == "realtime"
        self._shift: float | None = None
        if self._realtime:
            self._shift = shift
        self._last = float("-inf")

    @property
    def shift(self) -> float | None:
        """Monotonic seconds at which pts 0 is due; None before the first frame, or if `fast`."""
        return self._shift

    def wait_s(self, pts: float | None, ready: float, now: float) -> float:
        """Return seconds until the frame is due, 0 for now. ready, now: monotonic seconds."""
        if not self._realtime:
            return 0.0
        wait = self._due(pts, ready) - now
        if wait <= SLACK_S:
            return 0.0
        return wait

    def passed(self, pts: float | None, ready: float) -> None:
        """Note that the frame was taken."""
        if self._realtime:
            self._last = self._due(pts, ready)

    def due_from(self, pts: float | None, ready: float) -> float | None:
        """Note that the frame was taken, and return when pts 0 is due; see `shift`."""
        self.passed(pts, ready)
        return self._shift

    def _due(self, pts: float | None, ready: float) -> float:
        if pts is None:
            if self._shift is None:
                return max(self._last, ready)
            return self._last
        if self._shift is None:
            self._shift = ready - pts
        return max(self._last, self._shift + pts)
