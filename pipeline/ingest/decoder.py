"""The thread that decodes a source: what those of files and cameras share, and their events."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import msgspec

from framegate.pipeline.contracts.errors import FrameStoreFull
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.source import DecoderGuard, Form, Frame, SoundBlock, Source
from framegate.pipeline.ingest.credit import Credit, SizeChanges, Sizes
from framegate.pipeline.ingest.frame_queue import NO_DROPS, Drops
from framegate.pipeline.ingest.masks import Masks
from framegate.pipeline.recording.take import Take
from framegate.pipeline.shared_memory.frame_store import FrameStore, SoundStore

log = logging.getLogger(__name__)

KeepFrames = Callable[[Iterable[Form]], None]
Announce = Callable[[Position], AbstractContextManager[None]]

FULL_REST_S = 0.5  # between two tries to get memory


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """A frame whose pixels are in the frame store.

    arrived_mono  monotonic seconds
    captured      UNIX seconds by the camera's own clock, None if it tells none
    dropped       frames decoded right before it that were not put
    burst         of these, frames that a burst brought beyond the bound (frame_queue)
    key_frame     it was encoded without others
    sound         as of records.Record
    counts        growth of the source's other counters since the last event
    """

    position: Position
    number: int
    pts: float | None
    form: Form
    arrived_mono: float
    captured: float | None = None
    dropped: int = 0
    burst: int = 0
    key_frame: bool = False
    sound: tuple[int, int] | None = None
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
    counts  as of Decoded; `dropped` frames, `burst` of them in a burst, were decoded after the last
            that went out
    """

    fault: str
    reason: str
    dropped: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    burst: int = 0


@dataclass(frozen=True, slots=True)
class SourceEnded:
    """Nothing follows: the source ended, or cannot go on (`fault`)."""

    counts: Mapping[str, int]
    fault: str | None = None


Event = Decoded | NewEpoch | Lost | SourceEnded


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


@dataclass(frozen=True, slots=True)
class DecoderContext:
    """What a decoder thread needs of its worker.

    open_source    opens the source with a guard, and with the Take to record it in, if any
    frame_store    gives where frames of a form go. FrameStoreFull
    token          of decode, fences the frame store
    wake           eventfd that tells the loop of a first event
    note           called before that: says whose event it is
    announce       says that a frame is in hand, for as long as the block lasts
    careful_until  frames up to here are announced
    sound_store    gives where blocks of sound go. FrameStoreFull
    keep_frames    lets the frame stores of all other forms go
    new_take       what to record a connection in, of which the epoch is known or 0; None: in none
    masks          what of each frame is blanked; None: nothing
    due_from       of a file at its own pace, given pts and readiness of a frame that is put: when
                   pts 0 is due, monotonic seconds; None: frames are due at once
    """

    open_source: Callable[..., Source]
    frame_store: Callable[[Form], FrameStore]
    token: int
    credit_limit: int
    wake: int
    announce: Announce
    careful_until: Position
    sound_store: Callable[[], SoundStore] | None = None
    keep_frames: KeepFrames = lambda forms: None  # noqa: ARG005
    note: Callable[[], None] = lambda: None
    new_take: Callable[[int], Take | None] = lambda epoch: None  # noqa: ARG005
    masks: Masks | None = None
    due_from: Callable[[float | None, float], float | None] = lambda pts, ready: None  # noqa: ARG005


class DecoderThread(threading.Thread, ABC):
    """Decodes one source into the frame store and reports events; subclasses say from where.

    The loop takes events with `first` and `take`, and tells the thread of freed credit and new
    epochs. `_changed` guards what both sides touch, but for the events: a deque's two ends need
    no lock.

    most_sound_s  seconds of unread sound with which it waits
    patience_s  how long memory is waited for that does not come free
    done        grows with what is decoded
    busy        whether it still decodes
    lasts_s     of a file, as its container says, once it is open
    """

    patience_s: float
    most_sound_s = math.inf

    def __init__(self, name: str, context: DecoderContext, start: ResumePoint) -> None:
        super().__init__(name=f"decode-{name}", daemon=True)
        self.source_name = name
        self._worker = context
        self._start_point = start
        self._changed = threading.Condition()
        self._stopping = False
        self._finishing = False
        self._epoch: int | None = start.position.epoch if start.open else None
        self._seq = start.position.seq + 1
        self._events: deque[Event] = deque()
        self.credit = Credit(context.credit_limit, self.most_sound_s)
        self._sizes = Sizes()
        self._changes = SizeChanges()
        for frame in start.in_flight:
            self.credit.take(frame.position)
            self._sizes.take(frame.form, frame.position)
        self._form: Form | None = None  # of the frame that waits for its size to have room
        self._lacks_sound = False  # there was no memory for it
        self._lacks_memory = False  # another size must go before there is room for this one
        self._recorded_in: Take | None = None
        self._recorded_epoch = 0  # that it was told of
        self.done = 0
        self.busy = True
        self.lasts_s: float | None = None

    # -- the loop's side

    def first(self) -> Event | None:
        """The oldest event that was not taken."""
        return self._events[0] if self._events else None

    def take(self) -> Event:
        """Take the oldest event."""
        return self._events.popleft()

    def release(self, read: Position) -> None:
        """Take it that all reliable readers are at `read`."""
        with self._changed:
            freed = self._sizes.release(read)
            if freed:
                self._worker.keep_frames(self._sizes)
            if self.credit.release(read) or freed:
                self._changed.notify_all()

    @property
    def waits_for(self) -> Position | None:
        """Where all reliable readers must be before it goes on; None: it waits for no reader."""
        with self._changed:
            if self.credit.full:
                return self.credit.low_water
            if self._lacks_memory:
                return self._sizes.oldest
            return None if self._form is None else self._sizes.waits_for(self._form)

    def will_fill(self, number: int) -> bool:  # noqa: ARG002
        """Return whether the thread has yet to put the pixels of a committed frame again."""
        return False

    def begin_epoch(self, epoch: int) -> None:
        """Answer NewEpoch: frames count from 0 in this epoch."""
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
        """Decode until the end, a fault, or stop(); whatever is raised is reported as an end."""
        try:
            finished = self._decode_to_the_end()
        except Exception as error:
            log.exception("source %s: the decoder failed", self.source_name)
            finished = SourceEnded({}, redacted(f"damaged: the decoder failed: {error!r}"))
        finally:
            self.busy = False
            self._wake_loop()
        if finished is None and self._finishing:
            finished = SourceEnded({})
        if finished is not None:
            self._report(finished)

    def _wake_loop(self) -> None:
        """Wake the loop: there is something for it."""
        self._worker.note()
        os.eventfd_write(self._worker.wake, 1)

    @abstractmethod
    def _decode_to_the_end(self) -> SourceEnded | None:
        """Decode; gives how it ended, None if it was stopped, or nothing is to be reported."""

    def _open_with(self, guard: DecoderGuard, take: Take | None) -> Source:
        """Open the source, to be recorded if there is something to record it in."""
        open_source = self._worker.open_source
        return open_source(guard) if take is None else open_source(guard, take)

    def _close(self, source: Source) -> None:
        """Close a source; all that it had to give came before, so an error is no fault of it."""
        try:
            source.close()
        except Exception:
            log.exception("source %s: it cannot be closed", self.source_name)

    def _is_careful(self) -> bool:
        return self._next_position() <= self._worker.careful_until

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
                store = self._worker.frame_store(form)
                break
            except FrameStoreFull:
                if self._may_stop() or time.monotonic() > until:
                    raise
                self._rest_without_memory()
        if not store.is_writer(self._worker.token):
            store.become_writer(self._worker.token)
        return store

    def _may_stop(self) -> bool:
        """Return whether to stop, as nobody waits for what is about to be put."""
        return self._stopping

    def _rest_without_memory(self) -> None:
        with self._changed:
            self.done += 1  # it waits for a while, and is not hung
            self._lacks_memory = True
            self._wake_loop()
            self._changed.wait(FULL_REST_S)
            self._lacks_memory = False

    def _ask_for_epoch(self) -> None:
        """Nothing can be put before the loop's answer."""
        with self._changed:
            self._epoch = None
        self._report(NewEpoch())

    def _take_credit(
        self, form: Form, dropped: int = 0, sound: Sequence[SoundBlock] = ()
    ) -> Position | None:
        """The position of the next frame, once there is room for it; None if stopped before.

        dropped: frames before it that are not put; sound: that it carries
        """
        with self._changed:
            while not self._stopping and (self._epoch is None or self._lacks_room(form)):
                self._changed.wait()
            self._form = None
            if self._stopping or self._epoch is None:
                return None
            position = Position(self._epoch, self._seq + dropped)
            self._seq = position.seq + 1
            self.credit.take(position, sum(block.seconds for block in sound))
            if self._sizes.take(form, position):
                self._worker.keep_frames(self._sizes)
            return position

    def _lacks_room(self, form: Form) -> bool:
        if self.credit.full:
            return True
        if self._sizes.waits_for(form) is None:
            return False
        if self._form != form:
            self._form = form
            self._wake_loop()  # the loop asks where readers are
        return True

    def _put(
        self,
        number: int,
        frame: Frame,
        position: Position,
        drops: Drops = NO_DROPS,
        counts: Mapping[str, int] | None = None,
        sound: Sequence[SoundBlock] = (),
    ) -> None:
        """Write the frame into its slot, and the sound that it carries; report it."""
        self._fill(self._frame_store(frame.form), number, frame, position)
        arrived = frame.arrived_mono or time.monotonic()
        if self._recorded_in is not None and position.epoch != self._recorded_epoch:
            due = self._worker.due_from(frame.pts, arrived)
            due_from = None if due is None else time.time() - time.monotonic() + due
            self._recorded_in.tell_epoch(position.epoch, frame.pts, due_from)
            self._recorded_epoch = position.epoch
        kept = bool(sound) and self._put_sound(sound, position.epoch)
        if sound and not kept:
            counts = {**(counts or {}), "sound_dropped": len(sound)}
        event = Decoded(
            position,
            number,
            frame.pts,
            frame.form,
            arrived,
            frame.captured,
            drops.dropped,
            drops.burst,
            frame.key_frame,
            (sound[0].number, len(sound)) if kept else None,
            counts or {},
        )
        self._report(event)

    def _fill(self, store: FrameStore, number: int, frame: Frame, position: Position) -> None:
        """Write the frame's pixels into its slot, but for what is masked: a slot that is being
        written is read by nobody. Not in the decoder's own picture: later ones refer to it.
        """
        masks = self._worker.masks
        with store.writing(number, position) as pixels:
            frame.write(pixels)
            if masks is not None:
                masks.blank(pixels, frame.form)

    def _put_sound(self, sound: Sequence[SoundBlock], epoch: int) -> bool:
        """Keep these blocks; False where there is no memory for them: the pictures go on."""
        assert self._worker.sound_store is not None
        try:
            store = self._worker.sound_store()
        except FrameStoreFull as error:
            if not self._lacks_sound:
                log.warning("source %s: its sound is not heard: %s", self.source_name, error)
            self._lacks_sound = True
            return False
        for block in sound:
            store.put(epoch, block, self._worker.token)
        return True

    def _report(self, event: Event) -> None:
        # The loop takes events until there is none or the first has its time: it is woken for the
        # first only. Else each of the frames that a file has ready ahead of its pace would wake it.
        self._events.append(event)
        if len(self._events) == 1:
            self._wake_loop()
