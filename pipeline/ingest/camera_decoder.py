"""A camera: one thread keeps it connected, another decodes a connection's frames into a queue."""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from framegate.pipeline.contracts.errors import FramegateError, SourceFault
from framegate.pipeline.contracts.records import START
from framegate.pipeline.contracts.source import STALL_PERIODS, Frame, LiveSource, Source, stalled_at
from framegate.pipeline.contracts.spec import CAREFUL_FRAMES
from framegate.pipeline.ingest.credit import SizeChanges, changes_fault
from framegate.pipeline.ingest.decoder import (
    DecoderContext,
    DecoderThread,
    Lost,
    ResumePoint,
    SourceEnded,
)
from framegate.pipeline.ingest.frame_queue import NO_DROPS, Drops, FrameQueue, TakenFrame
from framegate.pipeline.recording.take import Take
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
STABLE_S = 10.0
STEP_BACK_S = 1.0
LEAP_S = 10.0
RARELY = ("permission", "sizes")  # what trying again soon makes worse
PASSED_OVER = ("skipped", "late")  # counters of frames that came and were not given


class CameraDecoder(DecoderThread):
    """Connects for ever, with backoff; each connection is a new epoch.

    Frames are decoded as they come, by a CameraReader; without credit they wait in its FrameQueue,
    and those that it dropped are reported with the next frame. A stall is a loss
    (source.stalled_at), and so is a picture size that changes too often (credit.SizeChanges, of
    each connection). Each loss gives the reader up whole. One that was given up may hang in a read
    and still have to end, but only one beside a new one: else a camera that hangs would take a
    thread and a connection each time.
    """

    patience_s = 2.0

    def __init__(
        self,
        name: str,
        context: DecoderContext,
        start: ResumePoint,
        stall_s: float,
        retry_most_s: float,
    ) -> None:
        super().__init__(name, context, start)
        self._epoch = None
        self._number = start.number
        self._given_up: list[CameraReader] = []
        self._unreported = NO_DROPS  # frames that were taken from the reader and not reported
        self._stall_s = stall_s
        self._backoff = Backoff(min(RETRY_FIRST_S, retry_most_s), retry_most_s)

    def _decode_to_the_end(self) -> SourceEnded | None:
        failures = 0
        while self._await_given_up():
            began = time.monotonic()
            self._recorded_in, self._recorded_epoch = self._worker.new_take(0), 0
            open_source = functools.partial(self._open, self._recorded_in)
            reader = CameraReader(self.source_name, open_source, self._changed)
            lost = self._start(reader) or self._follow_to_its_end(reader)
            if lost is None:
                return None
            if lost.reason == "died":
                return SourceEnded(lost.counts, f"{lost.reason}: {lost.fault}")
            self._report(lost)
            stable = reader.frames and time.monotonic() - began > STABLE_S
            failures = 1 if stable else failures + 1
            self._rest(failures, lost.reason)
        return None

    def _start(self, reader: CameraReader) -> Lost | None:
        """Start a reader; a loss if the system has no thread for it now. One that never began is
        not given up: it would be waited for, and never end.
        """
        try:
            reader.start()
        except RuntimeError as error:
            return Lost(f"it cannot be read now: {error}", "no_memory")
        return None

    def _follow_to_its_end(self, reader: CameraReader) -> Lost | None:
        try:
            return self._follow(reader)
        except Exception as error:
            return self._not_put(reader, error)
        finally:
            reader.abandon()
            self._given_up.append(reader)

    def _await_given_up(self) -> bool:
        """Wait until one at most is left of the connections given up; False if stopped."""
        with self._changed:
            while not self._stopping:
                self._given_up = [reader for reader in self._given_up if not reader.ended]
                if len(self._given_up) <= 1:
                    return True
                self._changed.wait()
        return False

    def _rest(self, failures: int, reason: str) -> None:
        """Wait before the next try; long after a wrong password, which may lock an account, and
        after sizes that change all the time.
        """
        if reason in RARELY:
            failures = 40
        until = time.monotonic() + self._backoff.delay_s(failures, random.random())
        with self._changed:
            while not self._stopping and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _follow(self, reader: CameraReader) -> Lost | None:
        """Put frames until the connection is lost; None if stopped."""
        before: Frame | None = None
        opened = False
        self._changes = SizeChanges()
        while True:
            fault = self._await_frame(reader, even_without_room=not opened)
            if self._stopping:
                return None
            if fault is not None:
                return self._lost(reader, fault, opened)
            taken = self._take_from(reader, before) if opened else None
            if taken is None:
                if not self._await_epoch(reader):
                    return None
                opened, before = True, None
                continue
            before = taken.frame
            self._unreported = Drops(taken.dropped + 1, taken.burst)
            if self._changes.too_many(before.form, before.arrived_mono):
                return self._lost(reader, SourceFault(changes_fault(), "sizes"), opened)
            position = self._take_credit(before.form, taken.dropped)
            if position is None:
                return None
            self.done += 1
            drops = Drops(taken.dropped, taken.burst)
            self._put(self._number, before, position, drops, reader.news(), taken.sound)
            self._unreported = NO_DROPS
            self._number += 1

    def _take_from(self, reader: CameraReader, before: Frame | None) -> TakenFrame | None:
        """Take the frame that is next; None if it needs a new epoch first."""
        with self._changed:  # the frame that is judged is the one that is taken
            reader.waiting.expire(time.monotonic())
            if before is not None and is_break(before, reader.waiting.first):
                return None
            return reader.waiting.take()

    def _await_frame(self, reader: CameraReader, even_without_room: bool) -> SourceFault | None:
        """Wait until there is a frame and room for it; return why no more comes, None otherwise.

        Frames that wait when the connection ends are given, unless they have to wait too long.
        """
        with self._changed:
            while not self._stopping:
                waiting, now = reader.waiting, time.monotonic()
                if waiting and (even_without_room or not self.credit.full):
                    return None
                if reader.fault is not None and (not waiting or now > waiting.first_expires_s):
                    return reader.fault
                until = reader.stalled_at(self._stall_s)
                if until <= now:
                    periods = f"{STALL_PERIODS} frame periods"
                    what = f"no frame for {self._stall_s:.1f} s or {periods}"
                    return SourceFault(what, "stalled")
                if reader.fault is not None:
                    until = min(until, waiting.first_expires_s)
                self._changed.wait(until - now)
        return None

    def _await_epoch(self, reader: CameraReader) -> bool:
        """Ask for an epoch for the frames that wait, and wait for it; False if stopped before."""
        self._ask_for_epoch()
        with self._changed:
            reader.waiting.hold()
            while not self._stopping and self._epoch is None:
                self._changed.wait()
            reader.waiting.release(time.monotonic())
            return not self._stopping

    def _lost(self, reader: CameraReader, fault: SourceFault, opened: bool) -> Lost:
        with self._changed:
            waited = reader.waiting.clear()
        dropped = self._unreported.dropped + waited.dropped
        burst = self._unreported.burst + waited.burst
        self._unreported = NO_DROPS
        if not opened:  # they belong to no epoch
            dropped = burst = 0
        return Lost(str(fault), fault.reason, dropped, reader.news(), burst)

    def _not_put(self, reader: CameraReader, error: Exception) -> Lost:
        """The loss of a connection of which a frame could not be put: the camera is tried again."""
        if isinstance(error, FramegateError):  # no room for its pictures, say
            return self._lost(reader, SourceFault(str(error), "no_memory"), opened=True)
        log.exception("source %s: a frame could not be put", self.source_name)
        what = f"a frame could not be put: {type(error).__name__}"
        return self._lost(reader, SourceFault(what, "damaged"), opened=True)

    def _open(self, take: Take | None) -> Source:
        return self._open_with(self._guard, take)

    def _is_careful(self) -> bool:
        """Return whether frames are announced: so many after a death, whatever their epoch, as each
        connection begins one.
        """
        careful = self._worker.careful_until > START
        return careful and self._number - self._start_point.number < CAREFUL_FRAMES

    @contextmanager
    def _guard(self) -> Iterator[None]:
        if not self._is_careful():
            yield
            return
        with self._worker.announce(self._next_position()):
            yield


def is_break(before: Frame, frame: Frame | None) -> bool:
    """Return whether a frame needs a new epoch: another form, time stamps that went back, or that
    leapt by what the clock here has not seen pass.
    """
    if frame is None or frame.form != before.form:
        return frame is not None
    if before.pts is None or frame.pts is None:
        return False
    step = frame.pts - before.pts
    passed = (frame.arrived_mono or 0.0) - (before.arrived_mono or 0.0)
    return step < -STEP_BACK_S or step > passed + LEAP_S


class CameraReader(threading.Thread):
    """Opens the source and always drains it, into a queue that is bounded.

    `changed` guards what others read here, and is notified of each frame and of the end. A reader
    that hangs in a read is abandoned: it closes its source and ends when that read returns.

    waiting  its frames that were not taken
    ended    whether its connection is closed
    """

    def __init__(self, name: str, open_source: Callable[[], Source], changed: threading.Condition):
        super().__init__(name=f"camera-{name}", daemon=True)
        self._camera = name
        self._open_source = open_source
        self._changed = changed
        self._abandoned = False
        self._arrived: deque[float] = deque([time.monotonic()], maxlen=STALL_PERIODS)
        self._source: Source | None = None
        self._reported: dict[str, int] = {}
        self._passed_over = 0
        self.waiting = FrameQueue()
        self.frames = 0
        self.ended = False
        self.fault: SourceFault | None = None

    def stalled_at(self, stall_s: float) -> float:
        """Monotonic time at which this is a stall, see source.stalled_at; a frame that is not
        wanted, or too late, counts as an arrival, too.
        """
        return stalled_at(self._arrived, self.frames > 0, stall_s)

    def news(self) -> Mapping[str, int]:
        """How the source's own counters have grown since this was last asked."""
        counts = dict(self._source.counts) if self._source is not None else {}
        if self.waiting.unheard:
            counts["sound_dropped"] = counts.get("sound_dropped", 0) + self.waiting.unheard
        grown = {name: n - self._reported.get(name, 0) for name, n in counts.items()}
        self._reported = counts
        return {name: n for name, n in grown.items() if n}

    def abandon(self) -> None:
        """Let the thread end: nobody takes frames from it any more."""
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
                came_s = frame.arrived_mono or time.monotonic()
                self.waiting.put(frame, came_s)
                self.frames += 1
                self._arrived.append(came_s)
                self._changed.notify_all()

    def _see_passed_over(self, source: Source) -> None:
        """Count a frame that came and is not given as an arrival: the camera does not stall."""
        passed_over = sum(source.counts.get(name, 0) for name in PASSED_OVER)
        if passed_over > self._passed_over:
            self._passed_over = passed_over
            self._arrived.append(time.monotonic())
