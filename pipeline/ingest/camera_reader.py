"""Read one connection of a camera, and queue its decoded frames.

`camera_connection` makes the connections and takes the frames. The reader does not wait for the
pipeline: a full queue drops frames, so packets do not age in the connection. Only for the frames of
packets that it held it waits, PATIENCE_S in all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import LazySource, LiveSource, Source
from framegate.pipeline.ingest.arrivals import Arrivals
from framegate.pipeline.ingest.frame_queue import FrameQueue

log = logging.getLogger(__name__)

# The reader waits so long in all until the pipeline takes the frames of held packets. Meanwhile it
# does not read the connection; packets that are read a second late for a second are dropped.
PATIENCE_S: Final = 2.0
PASSED_OVER: Final = ("skipped", "late")  # counters of frames that arrived and were not decoded


class CameraReader(threading.Thread):
    """The thread that reads one connection into a bounded queue.

    `changed` guards the attributes that other threads read; each frame and the end notify it. A
    reader that hangs in a read is abandoned: it closes its source when that read returns.

    waiting  the decoded frames that were not taken
    frames   the number of decoded frames
    has_sound  its frames can carry sound; not every Source states it
    fault    the reason of the end, once it ended
    ended    the connection is closed
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[], Source],
        changed: threading.Condition,
        is_wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """is_wanted: returns whether a lazy source must decode all frames now."""
        super().__init__(name=f"camera-{name}", daemon=True)
        self._is_wanted = is_wanted
        self._camera = name
        self._open_source = open_source
        self._changed = changed
        self._abandoned = False
        self._arrivals = Arrivals()
        self._source: Source | None = None
        self._lazy: LazySource | None = None
        self._reported: dict[str, int] = {}
        self._passed_over = 0
        self._patience_s = PATIENCE_S  # left for this group of held frames
        self.waiting = FrameQueue()
        self.frames = 0
        self.has_sound = True
        self.ended = False
        self.fault: SourceFault | None = None

    @property
    def n_pending(self) -> int:
        """Return the number of held packets whose frames did not reach the queue. Any thread."""
        if self._lazy is None:
            return 0
        return self._lazy.n_pending

    def stalled_at(self, stall_s: float) -> float:
        """Return the monotonic time at which the connection stalls if no further frame arrives.

        See Arrivals. A skipped or late frame counts as an arrival.
        """
        return self._arrivals.stalled_at(stall_s, is_first=not self.frames)

    def news(self) -> Mapping[str, int]:
        """Return the growth of the source's own counters since the last call."""
        counts = dict(self._source.counts) if self._source is not None else {}
        if self.waiting.unheard:
            counts["sound_dropped"] = counts.get("sound_dropped", 0) + self.waiting.unheard
        grown = {name: n - self._reported.get(name, 0) for name, n in counts.items()}
        self._reported = counts
        return {name: n for name, n in grown.items() if n}

    def abandon(self) -> None:
        """Let the thread end: its frames are no longer wanted."""
        with self._changed:
            self._abandoned = True
            source = self._source
        if isinstance(source, LiveSource):
            source.abandon()

    def run(self) -> None:
        """Read the connection to its end, then set `fault` and `ended`."""
        fault = SourceFault("the camera ended the stream", "closed")
        source: Source | None = None
        try:
            source = self._open_source()
            self.has_sound = getattr(source, "has_sound", True)
            with self._changed:
                self._source = source
            self._arrivals.begin()
            if not self._abandoned:
                self._follow(source)
        except SourceFault as error:
            # A new exception: the traceback of this one would keep the thread's frames and decoder.
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
        lazy = self._lazy = _lazy(source)
        for frame in source:
            if lazy is not None and self._is_wanted():
                lazy.ask()
            with self._changed:
                if self._abandoned:
                    return
                if frame is None:
                    self._see_passed_over(source, _held_by(lazy))
                    continue
                queued = arrived = frame.arrived_mono or time.monotonic()
                was_held = _held_by(lazy) > 0 and arrived < self._arrivals.last
                if was_held:
                    self._await_room()
                    queued = time.monotonic()
                else:
                    self._arrivals.add(arrived)
                    self._patience_s = PATIENCE_S
                self.waiting.put(frame, queued, was_held=was_held)
                self.frames += 1
                self._changed.notify_all()

    def _await_room(self) -> None:
        """Wait until the queue has room for a frame whose packet was held: held frames come at
        once. After PATIENCE_S for all of them, the queue drops frames as usual.
        """
        began = time.monotonic()
        until = began + self._patience_s
        now = began
        while now < until and not (self.waiting.has_room or self._abandoned):
            self._changed.wait(until - now)
            now = time.monotonic()
        self._patience_s -= now - began

    def _see_passed_over(self, source: Source, held: int) -> None:
        """Count a skipped, late or held packet as an arrival: the camera does not stall."""
        passed_over = sum(source.counts.get(name, 0) for name in PASSED_OVER)
        passed_over += held
        if passed_over > self._passed_over:
            self._passed_over = passed_over
            self._arrivals.add(time.monotonic())


def _lazy(source: Source) -> LazySource | None:
    """Return the source if it decodes lazily. Once for a connection: the check takes 12 us."""
    if isinstance(source, LazySource) and source.is_lazy:
        return source
    return None


def _held_by(lazy: LazySource | None) -> int:
    """Return how many packets a source has held undecoded so far."""
    if lazy is None:
        return 0
    return lazy.n_held
