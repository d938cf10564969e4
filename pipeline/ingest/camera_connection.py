"""Keep a camera connected: detect a stall, connect again with backoff, and queue its frames.

One thread (CameraDecoder) connects and puts frames into the frame store. Another (`camera_reader`)
reads one connection and decodes its frames into a `frame_queue`, which may drop some. `launcher`
starts these threads; `feed` makes records of the frames. `system/retry` has the pauses between two
attempts. Invariants:

- Each connection has its own CameraReader and FrameQueue, so frames of an earlier connection can
  never enter a later epoch.
- At most one abandoned reader still runs beside a new one. A camera that hangs would otherwise cost
  a thread and a connection at each attempt.
- Each frame that leaves the queue is either put or counted in `_unreported`, so it is reported with
  the next frame or the loss.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from framegate.pipeline.contracts.drops import NO_DROPS, Drops
from framegate.pipeline.contracts.errors import FramegateError, SourceFault
from framegate.pipeline.contracts.records import START
from framegate.pipeline.contracts.source import Frame, SoundBlock, Source
from framegate.pipeline.contracts.spec import CAREFUL_FRAMES
from framegate.pipeline.ingest.arrivals import STALL_PERIODS
from framegate.pipeline.ingest.camera_reader import CameraReader
from framegate.pipeline.ingest.credit import SizeChanges, changes_fault
from framegate.pipeline.ingest.decoder import DecoderContext, DecoderThread
from framegate.pipeline.ingest.decoder_events import Lost, ResumePoint, SourceEnded
from framegate.pipeline.ingest.frame_queue import TakenFrame
from framegate.pipeline.ingest.recorded_stream import CLOSED_FOR_OTHERS, RecordedStream
from framegate.pipeline.recording.segment_writer import Take
from framegate.pipeline.system.retry import camera_backoff

log = logging.getLogger(__name__)

STABLE_S = 10.0  # a connection that lasted longer resets the backoff
STEP_BACK_S = 1.0
LEAP_S = 10.0
RARELY = ("permission", "sizes")  # faults that frequent attempts make worse
# The first frame of an epoch waits so long for the size of the recorded stream: frame_queue drops
# no frame meanwhile, because MAX_EPOCH_WAIT_S is longer and MAX_FRAMES are more at 25 per second.
SIZE_S = 2.5
RECORDED_END_S = 1.0  # that a stopped decoder waits for the end of its recorded stream
RARELY_FAILURES = 40  # the backoff after one of these, as if so many attempts had failed
# A camera that is stopped or removed waits so long in all until the frames of held packets are put.
LAST_S = 2.0
LAST_POLL_S = 0.05  # the end of the held packets wakes no thread


class CameraDecoder(DecoderThread):
    """Connects forever, with backoff; each connection is a new epoch.

    A CameraReader decodes frames as they arrive. Without credit they wait in its FrameQueue; the
    frames that the queue drops are reported with the next frame. A stall counts as a lost
    connection (CameraReader.stalled_at), and so do too many changes of the picture size
    (credit.SizeChanges, for each connection). A lost connection's reader is abandoned.

    Of a camera with two streams, the smaller one is decoded. A RecordedStream reads the other one;
    the size of its pictures is that of all results of an epoch.
    """

    patience_s = 2.0

    def __init__(
        self,
        name: str,
        context: DecoderContext,
        start: ResumePoint,
        stall_s: float,
        max_retry_s: float,
    ) -> None:
        """stall_s: as in Request; max_retry_s: the longest wait between two attempts."""
        super().__init__(name, context, start)
        self._epoch = None
        self._number = start.n_decoded
        self._abandoned: list[CameraReader] = []
        self._reader: CameraReader | None = None  # the connected one
        self._is_kept_closed = False
        self._is_last = False  # stopped; only the frames of held packets are still put
        self._unreported = NO_DROPS  # frames that were taken from the reader and not reported
        self._stall_s = stall_s
        self._backoff = camera_backoff(max_retry_s)
        self._new_recorded: Callable[[], RecordedStream] | None = None
        if context.open_recorded is not None:
            self._new_recorded = functools.partial(
                RecordedStream,
                name,
                functools.partial(context.open_recorded, self._guard),
                functools.partial(context.new_take, 0),
                self._changed,
                self._report_from_outside,
                stall_s,
                max_retry_s,
                start.shown,
            )
            self._recorded = self._new_recorded()

    def stop(self) -> None:
        """End after the frame in hand. Frames of held packets are decoded and put first, for at
        most LAST_S: with `decode = "always"` they would have been.
        """
        with self._changed:
            if self._reader is None or not self._reader.n_pending:
                super().stop()
                return
            if self._is_last:
                return
            self._is_last = True
            self._changed.notify_all()
        limit = threading.Timer(LAST_S, super().stop)
        limit.daemon = True
        try:
            limit.start()
        except RuntimeError:  # the system has no thread for it now
            super().stop()

    def abandon(self) -> None:
        """End after the frame in hand: another thread takes over."""
        super().stop()

    def keep_closed(self, is_closed: bool) -> None:
        """Close the connection, and open no other one until it is allowed again. Any thread."""
        with self._changed:
            self._is_kept_closed = is_closed
            reader = self._reader
            self._changed.notify_all()
        if is_closed and reader is not None:
            reader.abandon()
        if self._recorded is not None:
            self._recorded.keep_closed(is_closed)

    def _decode_to_the_end(self) -> SourceEnded | None:
        if self._recorded is None:
            return self._decode_for_ever()
        failures = 0
        while (lost := self._start(self._recorded)) is not None:
            self._report(lost)
            failures += 1
            self._rest(failures, lost.reason)
            if self._stopping:
                return None
            self._renew_recorded()
        try:
            return self._decode_for_ever()
        finally:
            self._recorded.stop()
            # A camera may allow one connection to a stream, and the next decoder opens it again.
            self._recorded.join(RECORDED_END_S)

    def _renew_recorded(self) -> None:
        """Make another thread for the recorded stream: Python 3.13 starts none that could not be
        started before.
        """
        assert self._new_recorded is not None
        recorded = self._new_recorded()
        with self._changed:
            recorded.keep_closed(self._is_kept_closed)
            self._recorded = recorded

    def _decode_for_ever(self) -> SourceEnded | None:
        failures = 0
        while self._await_abandoned():
            began = time.monotonic()
            if self._recorded is None:
                self._recorded_in = self._worker.new_take(0)
            self._recorded_epoch = 0
            open_source = functools.partial(self._open, self._recorded_in)
            reader = CameraReader(self.source_name, open_source, self._changed, self._is_wanted)
            lost = self._start(reader) or self._follow_to_its_end(reader)
            if lost is None:
                return None
            if lost.reason == "died":
                return SourceEnded(lost.counts, f"{lost.reason}: {lost.fault}")
            if self._recorded is not None:  # say which of the streams
                lost = replace(lost, fault=f"look_at: {lost.fault}")
            self._report(lost)
            is_stable = reader.frames and time.monotonic() - began > STABLE_S
            failures = 1 if is_stable else failures + 1
            self._rest(failures, lost.reason)
        return None

    def _start(self, reader: threading.Thread) -> Lost | None:
        """Start a thread; return a loss if the system has no thread for it now."""
        # A reader that never started must not join `_abandoned`: it would never end.
        try:
            reader.start()
        except RuntimeError as error:
            return Lost(f"it cannot be read now: {error}", "no_memory")
        return None

    def _follow_to_its_end(self, reader: CameraReader) -> Lost | None:
        self._reader = reader
        try:
            return self._follow(reader)
        except Exception as error:
            return self._not_put(reader, error)
        finally:
            self._reader = None
            self._stopping = self._stopping or self._is_last
            if reader.n_pending:
                text = "source %s: %d packets that were held undecoded are lost"
                log.warning(text, self.source_name, reader.n_pending)
            reader.abandon()
            self._abandoned.append(reader)

    def _is_wanted(self) -> bool:
        if self._is_last or self._has_new_size():
            return True
        store = self._last_store
        return store is not None and store.is_wanted(time.monotonic())

    def _has_new_size(self) -> bool:
        """Return whether the size of the recorded stream changed, which begins an epoch."""
        return self._recorded is not None and self._recorded.size != self._shown

    def _await_abandoned(self) -> bool:
        """Wait until at most one abandoned reader is left and the camera is not kept closed; return
        False if stopped.
        """
        with self._changed:
            while not self._stopping:
                self._abandoned = [reader for reader in self._abandoned if not reader.ended]
                if len(self._abandoned) <= 1 and not self._is_kept_closed:
                    return True
                self._changed.wait()
        return False

    def _rest(self, failures: int, reason: str) -> None:
        """Wait before the next attempt. The wait is long after a refused login, because attempts
        may lock the account, and after too many sizes.
        """
        if reason in RARELY:
            failures = RARELY_FAILURES
        until = time.monotonic() + self._backoff.delay_s(failures, random.random())
        with self._changed:
            while not self._stopping:
                left = until - time.monotonic()
                if left <= 0:
                    return
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
            n_undecoded = len(before.undecoded)
            self._unreported = Drops(taken.dropped + n_undecoded + 1, taken.burst)
            if self._changes.too_many(before.form, before.arrived_mono):
                return self._lost(reader, SourceFault(changes_fault(), "sizes"), opened)
            position = self._take_credit(before.form, taken.dropped + n_undecoded)
            if position is None:
                return None
            self.done += 1
            drops = Drops(taken.dropped, taken.burst)
            counts = dict(reader.news())
            sound = self._sound_of(reader, taken, position.epoch, counts)
            self._put(
                self._number, before, position, drops, counts, sound, None, taken.camera_events
            )
            self._unreported = NO_DROPS
            self._number += 1

    def _sound_of(
        self, reader: CameraReader, taken: TakenFrame, epoch: int, counts: dict[str, int]
    ) -> Sequence[SoundBlock]:
        """Return the sound that a frame carries: of its own stream if that has any, else of the
        recorded one, whose dropped blocks are added to `counts`.
        """
        if self._recorded is None:
            return taken.sound
        self._recorded.is_heard = not reader.has_sound
        if reader.has_sound:
            return taken.sound
        blocks, n_dropped = self._recorded.take_sound(taken.frame.pts, epoch)
        if n_dropped:
            counts["sound_dropped"] = counts.get("sound_dropped", 0) + n_dropped
        return blocks

    def _take_from(self, reader: CameraReader, before: Frame | None) -> TakenFrame | None:
        """Take the next frame; return None if it needs a new epoch first."""
        # One lock for the check and the take: a drop in between would put another frame first.
        with self._changed:
            reader.waiting.expire(time.monotonic())
            first = reader.waiting.first
            if before is not None and is_break(before, first):
                return None
            # Frames that were not decoded look like the frame before, so none begins an epoch. A
            # calm source is woken meanwhile (`_is_wanted`).
            begins_decoded = not (first is not None and first.undecoded)
            if begins_decoded and self._has_new_size():
                return None
            self._changed.notify_all()  # the reader may wait for room
            return reader.waiting.take()

    def _await_frame(self, reader: CameraReader, even_without_room: bool) -> SourceFault | None:
        """Wait until there is a frame and room for it; return the fault if no frame will come.

        Frames that are queued when the connection ends are still put, unless they expire before.
        """
        with self._changed:
            while not self._stopping:
                if self._is_kept_closed:
                    return SourceFault(CLOSED_FOR_OTHERS, "closed")
                waiting = reader.waiting
                now = time.monotonic()
                if self._is_last and not (waiting or reader.n_pending):
                    self._stopping = True
                    break
                if waiting and (even_without_room or not self.credit.full):
                    return None
                if reader.fault is not None and (not waiting or now > waiting.first_expires_s):
                    return reader.fault
                until = reader.stalled_at(self._stall_s)
                if until <= now:
                    silence = f"no first frame in {2 * self._stall_s:.1f} s"
                    if reader.frames:
                        periods = f"{STALL_PERIODS} frame periods"
                        silence = f"no frame for {self._stall_s:.1f} s and for {periods}"
                    return SourceFault(silence, "stalled")
                if reader.fault is not None:
                    until = min(until, waiting.first_expires_s)
                if self._is_last:
                    until = min(until, now + LAST_POLL_S)
                self._changed.wait(until - now)
        return None

    def _await_epoch(self, reader: CameraReader) -> bool:
        """Ask for an epoch for the queued frames and wait for it; return False if stopped."""
        self._ask_for_epoch()
        with self._changed:
            reader.waiting.await_epoch()
            self._await_size()
            while not self._stopping and self._epoch is None:
                self._changed.wait()
            reader.waiting.begin_epoch(time.monotonic())
            return not self._stopping

    def _await_size(self) -> None:
        """Wait a few seconds for the size of the recorded stream, and use it from here on.

        `_changed` is held. Without a size, results are in the pixels of the decoded stream.
        """
        if self._recorded is None:
            return
        until = time.monotonic() + SIZE_S
        while not self._stopping and not self._recorded.has_tried:
            left = until - time.monotonic()
            if left <= 0:
                break
            self._changed.wait(left)
        self._shown = self._recorded.size

    def _lost(self, reader: CameraReader, fault: SourceFault, opened: bool) -> Lost:
        with self._changed:
            waited = reader.waiting.clear()
            n_pending = reader.n_pending
        dropped = self._unreported.dropped + waited.dropped + n_pending
        burst = self._unreported.burst + waited.burst
        self._unreported = NO_DROPS
        if not opened:  # the frames belong to no epoch
            dropped = burst = 0
        return Lost(str(fault), fault.reason, dropped, reader.news(), burst)

    def _not_put(self, reader: CameraReader, error: Exception) -> Lost:
        """Return the loss of a connection whose frame could not be put; the thread reconnects."""
        if isinstance(error, FramegateError):  # for example, no memory for a picture
            return self._lost(reader, SourceFault(str(error), "no_memory"), opened=True)
        log.exception("source %s: a frame could not be put", self.source_name)
        fault = f"a frame could not be put: {type(error).__name__}"
        return self._lost(reader, SourceFault(fault, "damaged"), opened=True)

    def _open(self, take: Take | None) -> Source:
        return self._open_with(self._guard, take)

    def _is_careful(self) -> bool:
        """Return whether to announce a frame: the first CAREFUL_FRAMES after a crash, in any epoch,
        because each connection begins one.
        """
        careful = self._worker.careful_until > START
        return careful and self._number - self._start_point.n_decoded < CAREFUL_FRAMES

    @contextmanager
    def _guard(self) -> Iterator[None]:
        if not self._is_careful():
            yield
            return
        with self._worker.announce(self._next_position()):
            yield


def is_break(before: Frame, frame: Frame | None) -> bool:
    """Return whether a frame needs a new epoch: its form differs, or its time stamp went back or
    moved further than this host's clock.
    """
    if frame is None:
        return False
    if frame.form != before.form:
        return True
    if before.pts is None or frame.pts is None:
        return False
    step = frame.pts - before.pts
    passed = (frame.arrived_mono or 0.0) - (before.arrived_mono or 0.0)
    return step < -STEP_BACK_S or step > passed + LEAP_S
