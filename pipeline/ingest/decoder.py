"""Decoder threads: what they share (events, credit, epochs, slots), and the one for a file."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import msgspec

from framegate.pipeline.errors import FramegateError, FrameStoreFull, SourceFault
from framegate.pipeline.records import Position
from framegate.pipeline.redaction import redacted
from framegate.pipeline.shared_memory.frame_store import FrameStore
from framegate.pipeline.source import Form, Frame, Guard, Source
from framegate.pipeline.spec import low_water

# -- How far a decoder may run ahead of the slowest reliable reader, in how many picture sizes,
# and how often these may change. Pure; the caller locks.


MOST_SIZES = 2  # whose pixels a source keeps at once: at a change, those of the size before as well
MOST_CHANGES = 30
CHANGES_S = 60.0
_FRAME_S = 1 / 25  # of a frame whose time is not known
_LEAP_S = 10.0


class Credit:
    """Frames handed out and not yet read by all: at most `limit`, oldest first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._in_flight: deque[Position] = deque()

    def __len__(self) -> int:
        return len(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether the next frame must wait."""
        return len(self._in_flight) >= self.limit

    def take(self, position: Position) -> None:
        """A frame goes out; positions come in order."""
        self._in_flight.append(position)

    def release(self, read: Position) -> bool:
        """All reliable readers are at `read`; whether that freed anything."""
        before = len(self._in_flight)
        while self._in_flight and self._in_flight[0] <= read:
            self._in_flight.popleft()
        return len(self._in_flight) < before

    @property
    def low_water(self) -> Position:
        """Where readers must be before more is decoded."""
        return self._in_flight[low_water(len(self._in_flight))]


class Sizes:
    """Forms of pictures whose pixels some reader may still want, MOST_SIZES at most.

    The one that came last stays, as the next frame has it most likely, and whoever looks at the
    source sees the last of them.
    """

    def __init__(self) -> None:
        self._last: dict[Form, Position] = {}  # the last frame of each, in order

    def __iter__(self) -> Iterator[Form]:
        return iter(self._last)

    def waits_for(self, form: Form) -> Position | None:
        """Where readers must be before a frame of this form goes out; None: it may."""
        if form in self._last or len(self._last) < MOST_SIZES:
            return None
        return next(iter(self._last.values()))

    @property
    def oldest(self) -> Position | None:
        """Where readers must be for memory to come free; None where they can free none."""
        return next(iter(self._last.values())) if len(self._last) > 1 else None

    def take(self, form: Form, position: Position) -> bool:
        """A frame goes out; whether its form is another one than those that are held."""
        is_new = self._last.pop(form, None) is None
        self._last[form] = position
        return is_new

    def release(self, read: Position) -> bool:
        """All reliable readers are at `read`; whether that freed any."""
        gone = [form for form, last in list(self._last.items())[:-1] if last <= read]
        for form in gone:
            del self._last[form]
        return bool(gone)


class SizeChanges:
    """Changes of a source's picture size: each is an epoch, hence work for everybody.

    More than MOST_CHANGES within CHANGES_S seconds of the source's time are too many.
    """

    def __init__(self) -> None:
        self._form: Form | None = None
        self._before_s: float | None = None
        self._clock_s = 0.0
        self._at_s: deque[float] = deque(maxlen=MOST_CHANGES)

    def too_many(self, form: Form, time_s: float | None) -> bool:
        """The next picture has this form, at this time (pts, arrival; None: not known)."""
        step = _FRAME_S
        if time_s is not None and self._before_s is not None:
            passed = time_s - self._before_s
            step = passed if 0 <= passed < _LEAP_S else _FRAME_S
        self._before_s = time_s
        self._clock_s += step
        changes = self._form is not None and form != self._form
        self._form = form
        if not changes:
            return False
        full = len(self._at_s) == MOST_CHANGES
        too_many = full and self._clock_s - self._at_s[0] < CHANGES_S
        self._at_s.append(self._clock_s)
        return too_many


def changes_fault() -> str:
    """What is said of a source with too many changes."""
    return (
        f"its picture size changed more than {MOST_CHANGES} times in {CHANGES_S:.0f} s; allowed "
        f"are {MOST_CHANGES}"
    )


log = logging.getLogger(__name__)

GetFrameStore = Callable[[Form], FrameStore]
KeepFrames = Callable[[Iterable[Form]], None]
Announce = Callable[[Position], AbstractContextManager[None]]

FULL_REST_S = 0.5  # between two tries to get memory


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """A frame whose pixels are in the frame store.

    arrived_mono  monotonic seconds
    captured      UNIX seconds by the camera's own clock, None if it tells none
    dropped       frames decoded right before it that a newer one replaced
    key_frame     it was encoded without others
    counts        growth of the source's other counters since the last event
    """

    position: Position
    number: int
    pts: float | None
    form: Form
    arrived_mono: float
    captured: float | None = None
    dropped: int = 0
    key_frame: bool = False
    counts: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """The next frame needs a new epoch: another picture size, or a break in time.

    The thread waits for it.
    """


@dataclass(frozen=True, slots=True)
class Lost:
    """A live source's connection is lost, or could not be made; it is tried again.

    fault   what the trouble is, for people; reason: from errors.FaultReason
    counts  as of Decoded; `dropped` frames were decoded after the last that went out
    """

    fault: str
    reason: str
    dropped: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing follows: the source ended, or cannot go on (`fault`)."""

    counts: Mapping[str, int]
    fault: str | None = None


Event = Decoded | NewEpoch | Lost | Finished


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


def _nothing() -> None:
    """Nobody asks whose event it is."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a decoder thread needs of its worker.

    token          of decode, fences the frame store
    wake           eventfd that tells the loop of a first event
    note           called before that: whose event it is
    announce       says that a frame is in hand, for as long as the block lasts
    careful_until  frames up to here are announced
    keep_frames    lets the frame stores of all other forms go
    """

    open_source: Callable[[Guard], Source]
    frame_store: GetFrameStore
    token: int
    credit_limit: int
    wake: int
    announce: Announce
    careful_until: Position
    keep_frames: KeepFrames = lambda forms: None  # noqa: ARG005
    note: Callable[[], None] = _nothing


class DecoderThread(threading.Thread, ABC):
    """Fills slots of one source and reports events; subclasses say where frames come from.

    The loop takes events with `take`, and tells the thread of freed credit and new epochs.
    """

    patience_s: float
    """How long memory is waited for that does not come free."""

    def __init__(self, name: str, around: Surroundings, start: ResumePoint) -> None:
        super().__init__(name=f"decode-{name}", daemon=True)
        self.source_name = name
        self._around = around
        self._start_point = start
        self._changed = threading.Condition()
        self._stopping = False
        self._finishing = False
        self._epoch: int | None = start.position.epoch if start.open else None
        self._seq = start.position.seq + 1
        self._events: deque[Event] = deque()
        self.credit = Credit(around.credit_limit)
        self._sizes = Sizes()
        self._changes = SizeChanges()
        for frame in start.in_flight:
            self.credit.take(frame.position)
            self._sizes.take(frame.form, frame.position)
        self._form: Form | None = None  # of the frame that waits for room
        self._full = False
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
            freed = self._sizes.release(read)
            if freed:
                self._around.keep_frames(self._sizes)
            if self.credit.release(read) or freed:
                self._changed.notify_all()

    @property
    def waits_for(self) -> Position | None:
        """Where all reliable readers must be before it goes on; None: it waits for no reader."""
        with self._changed:
            if self.credit.full:
                return self.credit.low_water
            if self._full:
                return self._sizes.oldest
            return None if self._form is None else self._sizes.waits_for(self._form)

    def will_fill(self, number: int) -> bool:  # noqa: ARG002
        """Whether it has yet to put the pixels of a committed frame again."""
        return False

    def begin_epoch(self, epoch: int) -> None:
        """The answer to NewEpoch: frames count from 0 in this epoch."""
        with self._changed:
            self._epoch, self._seq = epoch, 0
            self._changed.notify_all()

    def stop(self) -> None:
        """End after the frame in hand, or when all that is in flight has its pixels again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def finish(self) -> None:
        """Stop, and report that nothing follows: the source is removed."""
        self._finishing = True
        self.stop()

    def abandon(self) -> None:
        """End after the frame in hand, whatever is missing: another thread takes over."""
        self.stop()

    # -- the thread's side

    def run(self) -> None:
        """Decode until the end, a fault, or stop(); whatever is raised is an end that is told."""
        try:
            finished = self._decode_to_the_end()
        except Exception as error:
            log.exception("source %s: the decoder failed", self.source_name)
            finished = Finished({}, redacted(f"damaged: the decoder failed: {error!r}"))
        finally:
            self.busy = False
            self._tell()
        if finished is None and self._finishing:
            finished = Finished({})
        if finished is not None:
            self._report(finished)

    def _tell(self) -> None:
        """There is something for the loop."""
        self._around.note()
        os.eventfd_write(self._around.wake, 1)

    @abstractmethod
    def _decode_to_the_end(self) -> Finished | None:
        """How it ended; None if it was stopped, or nothing is to be told."""

    def _close(self, source: Source) -> None:
        """Close it; all that it had to give came before, so an error is no fault of the source."""
        try:
            source.close()
        except Exception:
            log.exception("source %s: it cannot be closed", self.source_name)

    def _is_careful(self) -> bool:
        return self._next_position() <= self._around.careful_until

    def _next_position(self) -> Position:
        return Position(self._epoch or self._start_point.position.epoch, self._seq)

    def _frame_store(self, form: Form) -> FrameStore:
        """Where frames of this form go. Fenced if a decoder with a later token writes there.

        Memory that is short is waited for: that of the size before, or of others, may come free.
        FrameStoreFull if it does not within `patience_s`.
        """
        until = time.monotonic() + self.patience_s
        while True:
            try:
                store = self._around.frame_store(form)
                break
            except FrameStoreFull:
                if self._may_stop() or time.monotonic() > until:
                    raise
                self._rest_without_memory()
        if not store.is_writer(self._around.token):
            store.become_writer(self._around.token)
        return store

    def _may_stop(self) -> bool:
        """Whether it is to stop, and nobody waits for what it is about to put."""
        return self._stopping

    def _rest_without_memory(self) -> None:
        with self._changed:
            self.done += 1  # it waits for a while, and is not hung
            self._full = True
            self._tell()
            self._changed.wait(FULL_REST_S)
            self._full = False

    def _ask_for_epoch(self) -> None:
        """Nothing can be put before the loop's answer."""
        with self._changed:
            self._epoch = None
        self._report(NewEpoch())

    def _take_credit(self, form: Form, dropped: int = 0) -> Position | None:
        """The position of the next frame, once there is room for it; None if stopped before.

        dropped: frames before it that are not put.
        """
        with self._changed:
            while not self._stopping and (self._epoch is None or self._lacks_room(form)):
                self._changed.wait()
            self._form = None
            if self._stopping or self._epoch is None:
                return None
            position = Position(self._epoch, self._seq + dropped)
            self._seq = position.seq + 1
            self.credit.take(position)
            if self._sizes.take(form, position):
                self._around.keep_frames(self._sizes)
            return position

    def _lacks_room(self, form: Form) -> bool:
        if self.credit.full:
            return True
        if self._sizes.waits_for(form) is None:
            return False
        if self._form != form:
            self._form = form
            self._tell()  # the loop asks where readers are
        return True

    def _put(
        self,
        number: int,
        frame: Frame,
        position: Position,
        dropped: int = 0,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Write the frame into its slot and report it."""
        store = self._frame_store(frame.form)
        with store.writing(number % store.slots, position) as pixels:
            frame.write(pixels)
        arrived = frame.arrived_mono or time.monotonic()
        event = Decoded(
            position,
            number,
            frame.pts,
            frame.form,
            arrived,
            frame.captured,
            dropped,
            frame.key_frame,
            counts or {},
        )
        self._report(event)

    def _report(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) == 1:
            self._tell()


# -- A thread that decodes a file into the frame store, as far ahead as its credit allows.


class FileDecoder(DecoderThread):
    """Decodes from the start, skips what is committed, then fills slots; loses nothing."""

    patience_s = 30.0

    def __init__(self, name: str, around: Surroundings, start: ResumePoint) -> None:
        super().__init__(name, around, start)
        self._refills = {frame.number: frame for frame in start.in_flight}

    def will_fill(self, number: int) -> bool:
        """Whether it has yet to put the pixels of a committed frame again."""
        return number in self._refills

    def abandon(self) -> None:
        """End after the frame in hand, whatever is missing: another thread takes over."""
        self._all_refills()
        self.stop()

    def finish(self) -> None:
        """Stop, and report that nothing follows; pixels that readers wait for come no more."""
        self._give_up_refills()
        super().finish()

    def _decode_to_the_end(self) -> Finished | None:
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
                self._close(source)
        if fault is not None:
            self._give_up_refills()
        return Finished(dict(source.counts) if source else {}, fault)

    def _open(self) -> Source:
        if not self._is_careful():
            return self._around.open_source(nullcontext)
        with self._around.announce(self._next_position()):
            return self._around.open_source(nullcontext)

    def _decode(self, source: Source) -> bool:
        """Whether the source came to its end, and that is to be told."""
        form: Form | None = None
        frames, number = iter(source), 0
        while True:
            if self._stopping and not self._refills:
                return False
            if self._start_point.done and number >= self._start_point.number:
                return False
            try:
                if number < self._start_point.number or not self._is_careful():
                    frame = next(frames)
                else:
                    with self._around.announce(self._next_position()):
                        frame = next(frames)
            except StopIteration:
                self._give_up_refills()
                return True
            self.done += 1
            if frame is None:  # one that is not wanted
                continue
            if not self._take(number, frame, form):
                return False
            form, number = frame.form, number + 1

    def _take(self, number: int, frame: Frame, form: Form | None) -> bool:
        """Refill or put the frame; False if stopped meanwhile. form: that of the frame before."""
        if self._changes.too_many(frame.form, frame.pts):
            raise SourceFault(changes_fault(), "sizes")
        if number < self._start_point.number:
            self._refill(number, frame)
            return True
        if self._epoch is None or (form is not None and frame.form != form):
            self._ask_for_epoch()
        position = self._take_credit(frame.form)
        if position is None:
            return False
        self._put(number, frame, position)
        return True

    def _refill(self, number: int, frame: Frame) -> None:
        wanted = self._refills.get(number)
        if wanted is not None and wanted.form == frame.form:
            store = self._frame_store(frame.form)
            slot = number % store.slots
            if not store.holds(slot, wanted.position):
                with store.writing(slot, wanted.position) as pixels:
                    frame.write(pixels)
        with self._changed:
            self._refills.pop(number, None)

    def _may_stop(self) -> bool:
        return self._stopping and not self._refills

    def _give_up_refills(self) -> None:
        """The source cannot be read again: readers need not wait for these pixels."""
        for number, frame in self._all_refills().items():
            with contextlib.suppress(FramegateError):
                store = self._around.frame_store(frame.form)
                store.give_up(number % store.slots, frame.position)

    def _all_refills(self) -> dict[int, InFlight]:
        """Take what is still to be filled: the loop's thread and this one may both give it up."""
        with self._changed:
            taken, self._refills = self._refills, {}
        return taken
