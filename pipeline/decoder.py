"""A thread that decodes one source into the frame store, as far ahead as its credit allows."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import msgspec

from pipeline.credit import Credit
from pipeline.errors import FramegateError, SourceFault
from pipeline.frame_store import FrameStore
from pipeline.records import Position
from pipeline.redaction import redacted
from pipeline.source import Form, Frame, Source

log = logging.getLogger(__name__)

GetFrameStore = Callable[[Form], FrameStore]
Announce = Callable[[Position], AbstractContextManager[None]]


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """A frame whose pixels are in the frame store."""

    position: Position
    number: int
    pts: float | None
    form: Form
    decoded_mono: float


@dataclass(frozen=True, slots=True)
class NewForm:
    """The next frame has another picture size: it needs a new epoch. The thread waits for it."""

    number: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing follows: the source ended, or cannot go on (`fault`)."""

    counts: Mapping[str, int]
    fault: str | None = None


Event = Decoded | NewForm | Finished


@dataclass(frozen=True, slots=True)
class InFlight:
    """A committed frame that some reliable reader has not read yet."""

    position: Position
    number: int
    form: Form


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a decoder goes on: `number` frames are committed, `position` is the last one's.

    open       its epoch goes on (if the picture size does)
    done       nothing is left to commit: decode only what is in flight
    in_flight  committed frames whose pixels must be there again
    """

    position: Position
    number: int = 0
    open: bool = False
    done: bool = False
    in_flight: tuple[InFlight, ...] = field(default=())


class DecoderThread(threading.Thread):
    """Decodes from the start, skips what is committed, then fills slots and reports events.

    The loop takes events with `take`, and tells the thread of freed credit and new epochs.
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[], Source],
        frame_store: GetFrameStore,
        start: ResumePoint,
        token: int,
        credit_limit: int,
        wake: int,
        announce: Announce,
        careful_until: Position,
    ) -> None:
        super().__init__(name=f"decode-{name}", daemon=True)
        self.source_name = name
        self._open_source = open_source
        self._get_frame_store = frame_store
        self._token = token
        self._start_point = start
        self._refills = {frame.number: frame for frame in start.in_flight}
        self._wake = wake
        self._announce = announce
        self._careful_until = careful_until
        self._changed = threading.Condition()
        self._stopping = False
        self._epoch: int | None = start.position.epoch if start.open else None
        self._seq = start.position.seq + 1
        self._events: deque[Event] = deque()
        self.credit = Credit(credit_limit)
        for frame in start.in_flight:
            self.credit.take(frame.position)
        self.done = 0
        self.busy = True

    # -- the loop's side

    def first(self) -> Event | None:
        """The oldest event that was not taken."""
        return self._events[0] if self._events else None

    def take(self) -> Event:
        """Take the oldest event."""
        return self._events.popleft()

    def release(self, read: Position) -> None:
        """All reliable readers are at `read`."""
        with self._changed:
            if self.credit.release(read):
                self._changed.notify()

    def begin_epoch(self, epoch: int) -> None:
        """The answer to NewForm: frames count from 0 in this epoch."""
        with self._changed:
            self._epoch, self._seq = epoch, 0
            self._changed.notify()

    def stop(self) -> None:
        """End after the frame in hand, or when all that is in flight has its pixels again."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def abandon(self) -> None:
        """End after the frame in hand, whatever is missing: another thread takes over."""
        self._refills.clear()
        self.stop()

    # -- the thread's side

    def run(self) -> None:
        """Decode until the end, a fault, or stop()."""
        try:
            finished = self._decode_to_the_end()
        finally:
            self.busy = False
            os.eventfd_write(self._wake, 1)
        if finished is not None:
            self._report(finished)

    def _decode_to_the_end(self) -> Finished | None:
        """How it ended; None if it was stopped, or nothing is to be told."""
        source: Source | None = None
        fault: str | None = None
        try:
            source = self._open()
            if not self._decode(source):
                return None
        except SourceFault as error:
            fault = f"{error.reason}: {error}"
        except FramegateError as error:
            fault = str(error)
        except Exception as error:
            log.exception("source %s: the decoder failed", self.source_name)
            fault = redacted(f"damaged: the decoder failed: {error!r}")
        finally:
            if source is not None:
                source.close()
        if fault is not None:
            self._give_up_refills()
        return Finished(dict(source.counts) if source else {}, fault)

    def _open(self) -> Source:
        if not self._is_careful():
            return self._open_source()
        with self._announce(self._next_position()):
            return self._open_source()

    def _decode(self, source: Source) -> bool:
        """Whether the source came to its end, and that is to be told."""
        form: Form | None = None
        frames = iter(source)
        for number in itertools.count():
            if self._stopping and not self._refills:
                return False
            if self._start_point.done and number >= self._start_point.number:
                return False
            if number < self._start_point.number or not self._is_careful():
                frame = next(frames, None)
            else:
                with self._announce(self._next_position()):
                    frame = next(frames, None)
            if frame is None:
                self._give_up_refills()
                return True
            if not self._take(number, frame, form):
                return False
            form = frame.form
        return True

    def _take(self, number: int, frame: Frame, form: Form | None) -> bool:
        """Refill or put the frame; False if stopped meanwhile. form: that of the frame before."""
        self.done += 1
        if number < self._start_point.number:
            self._refill(number, frame)
            return True
        if self._epoch is None or (form is not None and frame.form != form):
            self._epoch = None
            self._report(NewForm(number))
        return self._put(number, frame)

    def _is_careful(self) -> bool:
        return self._next_position() <= self._careful_until

    def _next_position(self) -> Position:
        return Position(self._epoch or self._start_point.position.epoch, self._seq)

    def _refill(self, number: int, frame: Frame) -> None:
        wanted = self._refills.pop(number, None)
        if wanted is None or wanted.form != frame.form:
            return
        store = self._frame_store(frame.form)
        slot = number % store.slots
        if not store.holds(slot, wanted.position):
            with store.writing(slot, wanted.position) as pixels:
                frame.write(pixels)

    def _give_up_refills(self) -> None:
        """The source cannot be read again: readers need not wait for these pixels."""
        for number, frame in self._refills.items():
            with contextlib.suppress(FramegateError):
                store = self._frame_store(frame.form)
                store.give_up(number % store.slots, frame.position)

    def _frame_store(self, form: Form) -> FrameStore:
        """Where frames of this form go. Fenced if a decoder with a later token writes there."""
        store = self._get_frame_store(form)
        if not store.is_writer(self._token):
            store.become_writer(self._token)
        return store

    def _put(self, number: int, frame: Frame) -> bool:
        with self._changed:
            while not self._stopping and (self._epoch is None or self.credit.full):
                self._changed.wait()
            if self._stopping or self._epoch is None:
                return False
            position = Position(self._epoch, self._seq)
            self._seq += 1
            self.credit.take(position)
        store = self._frame_store(frame.form)
        with store.writing(number % store.slots, position) as pixels:
            frame.write(pixels)
        self._report(Decoded(position, number, frame.pts, frame.form, time.monotonic()))
        return True

    def _report(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) == 1:
            os.eventfd_write(self._wake, 1)
