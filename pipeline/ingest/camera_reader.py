"""A thread that follows one connection to a camera; the newest frame is in its hand."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from framegate.pipeline.errors import SourceFault
from framegate.pipeline.source import Frame, LiveSource, Source

log = logging.getLogger(__name__)

PERIODS = 20
PASSED_OVER = ("skipped", "late")


class CameraReader(threading.Thread):
    """Opens the source and always drains it: a frame that is not taken is replaced by the next.

    `changed` guards what others read here, and is notified of each frame and of the end. A reader
    that hangs in a read is abandoned: it closes its source and ends when that read returns.

    ended  whether its connection is closed
    """

    def __init__(self, name: str, open_source: Callable[[], Source], changed: threading.Condition):
        super().__init__(name=f"camera-{name}", daemon=True)
        self._camera = name
        self._open_source = open_source
        self._changed = changed
        self._abandoned = False
        self._arrived: deque[float] = deque([time.monotonic()], maxlen=PERIODS)
        self._source: Source | None = None
        self._reported: dict[str, int] = {}
        self._passed_over = 0
        self.hand: Frame | None = None
        self.replaced = 0
        self.frames = 0
        self.ended = False
        self.fault: SourceFault | None = None

    def stalled_at(self, stall_s: float) -> float:
        """Monotonic time at which this is a stall: max(stall_s, 20 frame periods) after the last
        frame, one that is not wanted or too late included; twice as long for the first.
        """
        if not self.frames:
            return self._arrived[-1] + 2 * stall_s
        between = len(self._arrived) - 1
        period = (self._arrived[-1] - self._arrived[0]) / between if between else 0.0
        return self._arrived[-1] + max(stall_s, PERIODS * period)

    def take(self) -> tuple[Frame, int]:
        """The frame in hand, and how many were replaced before it. Call with `changed` held."""
        assert self.hand is not None
        taken = self.hand, self.replaced
        self.hand, self.replaced = None, 0
        return taken

    def news(self) -> Mapping[str, int]:
        """How the source's own counters have grown since this was last asked."""
        counts = dict(self._source.counts) if self._source is not None else {}
        grown = {name: n - self._reported.get(name, 0) for name, n in counts.items()}
        self._reported = counts
        return {name: n for name, n in grown.items() if n}

    def abandon(self) -> None:
        """Nobody takes frames from here any more."""
        with self._changed:
            self._abandoned = True
            source = self._source
        if isinstance(source, LiveSource):
            source.abandon()

    def run(self) -> None:
        """Follow the connection to its end; `fault` then says what that was."""
        fault = SourceFault("the camera ended the stream", "closed")
        source: Source | None = None
        try:
            source = self._open_source()
            with self._changed:
                self._source = source
            self._arrived[-1] = time.monotonic()
            if not self._abandoned:
                self._follow(source)
        except SourceFault as error:
            # Its traceback would hold this thread, and with it the pictures and the decoder.
            fault = SourceFault(str(error), error.reason)
        except Exception as error:
            log.exception("source %s: the decoder failed", self._camera)
            fault = SourceFault(f"the decoder failed: {type(error).__name__}", "damaged")
        try:
            if source is not None:
                source.close()
        except Exception:
            log.exception("source %s: it cannot be closed", self._camera)
        with self._changed:
            self.fault, self.ended = fault, True
            self._changed.notify_all()

    def _follow(self, source: Source) -> None:
        for frame in source:
            with self._changed:
                if self._abandoned:
                    return
                if frame is None:
                    self._see_passed_over(source)
                    continue
                if self.hand is not None:
                    self.replaced += 1
                self.hand = frame
                self.frames += 1
                self._arrived.append(frame.arrived_mono or time.monotonic())
                self._changed.notify_all()

    def _see_passed_over(self, source: Source) -> None:
        """A frame that came and is not given: the camera does not stall."""
        passed_over = sum(source.counts.get(name, 0) for name in PASSED_OVER)
        if passed_over > self._passed_over:
            self._passed_over = passed_over
            self._arrived.append(time.monotonic())
