"""When each source of the ingest loop has something to do."""

from __future__ import annotations

import logging
import time
from collections import deque
from heapq import heappop, heappush
from typing import Final

from framegate.pipeline.ingest.feed import SLACK_S

log = logging.getLogger(__name__)

_LONG_S: Final = 30.0  # a frame that is due so late is worth a line in the log
_AGAIN_S: Final = 1.0  # after which a decoder that could not be started is tried again


class Agenda:
    """Which sources have something to do now, and when the others will have.

    One thread; `note` and `waiting` from any. A turn of the loop costs what the awake ones cost,
    whatever number sleeps.
    """

    def __init__(self) -> None:
        self.awake: set[str] = set()
        self._noted: deque[str] = deque()  # by decoder threads
        self._dues: dict[str, float] = {}  # of sources that sleep until their next frame is due
        self._by_due: list[tuple[float, str]] = []  # a heap; what `_dues` does not say is void
        self._retries: dict[str, float] = {}  # when to start a source's decoder again

    def note(self, source: str) -> None:
        """Wake a source at the next turn: its thread has something. Any thread."""
        self._noted.append(source)

    def waiting(self) -> list[str]:
        """Sources whose next frame is decoded and not yet due at its own pace. Any thread."""
        now = time.monotonic()
        return [source for source, due in list(self._dues.items()) if due > now]

    def wake_due(self, now: float) -> list[str]:
        """Wake sources that were noted or whose time has come; gives those whose decoder is to be
        started again.
        """
        while self._noted:
            self.awake.add(self._noted.popleft())
        while self._by_due and self._by_due[0][0] <= now + SLACK_S:
            due, source = heappop(self._by_due)
            if self._dues.get(source) == due:
                del self._dues[source]
                self.awake.add(source)
        again = [source for source, due in self._retries.items() if due <= now]
        for source in again:
            del self._retries[source]
        return again

    def rest(self, source: str, due: float | None, is_away: bool = False) -> None:
        """Let a source sleep until then (monotonic seconds); None: until something wakes it.

        is_away: it is a camera that is away, and no frame is due
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
        """Have the source's decoder started again, a little later."""
        self._retries[source] = time.monotonic() + _AGAIN_S

    def forget(self, source: str) -> None:
        """Expect nothing of a source any more."""
        self._dues.pop(source, None)
        self._retries.pop(source, None)

    def due_in(self) -> float | None:
        """Seconds until some source's time comes; None: no source waits for a time."""
        dues = [*self._by_due[:1], *((due, "") for due in self._retries.values())]
        return max(0.0, min(dues)[0] - time.monotonic()) if dues else None
