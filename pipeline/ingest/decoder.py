"""The thread that decodes a source: the part that files and cameras share, and its events.

It numbers the frames of an epoch; `store_waits` gets the epochs from the store.

Invariants between the thread and the ingest loop:

- A frame has a position before it is written, and it is written before it is reported.
- The thread holds at most `credit.limit` frames that some reliable reader has not read, in at most
  MAX_SIZES picture sizes. So a slot that a reader may still want is never overwritten.
- While `_epoch` is None no frame gets a position; `begin_epoch` ends that.
- `_changed` guards everything that both sides change, except the events: the thread appends at one
  end of the deque, the loop takes from the other, and both are atomic.
"""

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

from framegate.pipeline.contracts.drops import NO_DROPS, Drops
from framegate.pipeline.contracts.errors import FrameStoreFull
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.source import (
    CameraEvent,
    DecoderGuard,
    Form,
    Frame,
    PacketSource,
    SoundBlock,
    Source,
    UndecodedFrame,
)
from framegate.pipeline.ingest.credit import Credit, SizeChanges, Sizes
from framegate.pipeline.ingest.decoder_events import (
    Decoded,
    Event,
    NewEpoch,
    ResumePoint,
    SourceEnded,
)
from framegate.pipeline.ingest.recorded_stream import (
    RecordedSize,
    RecordedStream,
)
from framegate.pipeline.recording.segment_writer import Take
from framegate.pipeline.shared_memory.frame_store import FrameStore, SoundStore
from framegate.pipeline.shared_memory.masks import Masks
from framegate.pipeline.shared_memory.packet_store import PacketStore

log = logging.getLogger(__name__)

KeepFrames = Callable[[Iterable[Form]], None]
Announce = Callable[[Position], AbstractContextManager[None]]

FULL_REST_S = 0.5  # between two attempts to get memory


@dataclass(frozen=True, slots=True)
class DecoderContext:
    """The services of the worker that a decoder thread uses.

    open_source    opens the source with a guard and, optionally, the Take to record it in
    frame_store    returns the frame store for a form. Raises FrameStoreFull
    token          fencing token of decode, for the frame store
    wake           eventfd that wakes the loop
    note           called before a wake-up: names the source that has an event
    announce       reports a frame as in hand while the block runs
    careful_until  frames up to this position are announced
    sound_store    returns the store for blocks of sound. Raises FrameStoreFull
    packet_store   returns the store for packets of undecoded frames. Raises FrameStoreFull
    keep_frames    frees the frame stores of all other forms
    new_take       returns the Take for a connection, given its epoch (0: unknown) and, if it is not
                   the decoded one, its alignment; None: the source is not recorded
    open_recorded  opens, with a guard, the stream that is recorded while another one is decoded;
                   None: the source has one stream
    masks          blanks parts of each frame
    due_from       returns when pts 0 of a file at its own pace is due, monotonic seconds, given pts
                   and arrival of a frame that is put; None: frames are due at once
    """

    open_source: Callable[..., Source]
    frame_store: Callable[[Form], FrameStore]
    token: int
    credit_limit: int
    wake: int
    announce: Announce
    careful_until: Position
    sound_store: Callable[[], SoundStore] | None = None
    packet_store: Callable[[], PacketStore] | None = None
    keep_frames: KeepFrames = lambda forms: None  # noqa: ARG005
    note: Callable[[], None] = lambda: None
    new_take: Callable[..., Take | None] = lambda epoch, alignment=None: None  # noqa: ARG005
    open_recorded: Callable[[DecoderGuard, Take | None], PacketSource] | None = None
    masks: Masks = field(default_factory=lambda: Masks(()))
    due_from: Callable[[float | None, float], float | None] = lambda pts, ready: None  # noqa: ARG005


class DecoderThread(threading.Thread, ABC):
    """Decodes one source into the frame store and reports events; subclasses open the source.

    The loop takes events with `first` and `take`, and reports read frames with `release`.

    max_sound_s  seconds of unread sound at which the thread waits
    patience_s   how long the thread waits for memory that is short
    done         grows with each decoded frame
    busy         the thread still decodes
    lasts_s      duration of a file by its container, once it is open
    """

    patience_s: float
    max_sound_s = math.inf

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
        self.credit = Credit(context.credit_limit, self.max_sound_s)
        self._sizes = Sizes()
        self._changes = SizeChanges()
        for frame in start.in_flight:
            self.credit.take(frame.position)
            self._sizes.take(frame.form, frame.position)
        self._form: Form | None = None  # of the frame that waits for room for its size
        self._lacks_sound = False  # there was no memory for the last sound
        self._lacks_packets = False  # there was no memory for the last packets
        self._lacks_memory = False  # the memory of another size must be freed first
        self._recorded: RecordedStream | None = None  # apart from the decoded stream
        self._shown: RecordedSize | None = None  # as in records.Record
        self._last_store: FrameStore | None = None
        self._recorded_in: Take | None = None
        self._recorded_epoch = 0  # that the Take knows
        self.done = 0
        self.busy = True
        self.lasts_s: float | None = None

    # -- the loop's side

    def first(self) -> Event | None:
        """Return the oldest event, None if there is none."""
        return self._events[0] if self._events else None

    def take(self) -> Event:
        """Take the oldest event."""
        return self._events.popleft()

    def release(self, read: Position) -> None:
        """Free the frames that all reliable readers have read: those up to `read`."""
        with self._changed:
            freed = self._sizes.release(read)
            if freed:
                self._worker.keep_frames(self._sizes)
            if self.credit.release(read) or freed:
                self._changed.notify_all()

    @property
    def waits_for(self) -> Position | None:
        """Return the position that all reliable readers must reach before the thread continues."""
        with self._changed:
            if self.credit.full:
                return self.credit.low_water
            if self._lacks_memory:
                return self._sizes.oldest
            return None if self._form is None else self._sizes.waits_for(self._form)

    def will_fill(self, number: int) -> bool:  # noqa: ARG002
        """Return whether the thread will write the pixels of this committed frame again."""
        return False

    def begin_epoch(self, epoch: int) -> None:
        """Answer NewEpoch: the next frame has number 0 of this epoch."""
        with self._changed:
            self._epoch = epoch
            self._seq = 0
            self._changed.notify_all()

    def stop(self) -> None:
        """End after the frame in hand, or once all frames in flight have their pixels again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def finish(self) -> None:
        """Stop, then report the end: the source was removed."""
        self._finishing = True
        self.stop()

    def keep_closed(self, is_closed: bool) -> None:
        """Close the connection of a camera, or allow it again. Any thread. A file ignores it."""

    def abandon(self) -> None:
        """End after the frame in hand, even if pixels are missing: another thread takes over."""
        self.stop()

    # -- the thread's side

    def run(self) -> None:
        """Decode until the end, a fault, or stop(); report any exception as an end with a fault."""
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
        self._worker.note()
        os.eventfd_write(self._worker.wake, 1)

    @abstractmethod
    def _decode_to_the_end(self) -> SourceEnded | None:
        """Decode; return the end, None if stopped or if there is nothing to report."""

    def _open_with(self, guard: DecoderGuard, take: Take | None) -> Source:
        """Open the source, and record it in `take` if there is one."""
        open_source = self._worker.open_source
        return open_source(guard) if take is None else open_source(guard, take)

    def _close(self, source: Source) -> None:
        """Close a source. An error is only logged: all frames came before it."""
        try:
            source.close()
        except Exception:
            log.exception("source %s: it cannot be closed", self.source_name)

    def _is_careful(self) -> bool:
        return self._next_position() <= self._worker.careful_until

    def _next_position(self) -> Position:
        return Position(self._epoch or self._start_point.position.epoch, self._seq)

    def _frame_store(self, form: Form) -> FrameStore:
        """Return the frame store for a form. Fenced: a decoder with a later token writes there.

        Wait for short memory, because another size or source may free it. FrameStoreFull: none was
        freed within `patience_s`.
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
        """Return whether to stop without the frame in hand, because no reader waits for it."""
        return self._stopping

    def _rest_without_memory(self) -> None:
        with self._changed:
            self.done += 1  # so that the supervisor does not take the waiting thread for a hung one
            self._lacks_memory = True
            self._wake_loop()
            self._changed.wait(FULL_REST_S)
            self._lacks_memory = False

    def _ask_for_epoch(self) -> None:
        """Report that the next frame needs an epoch; no frame is put before the loop's answer."""
        with self._changed:
            self._epoch = None
        self._report(NewEpoch())

    def _take_credit(
        self, form: Form, passed: int = 0, sound: Sequence[SoundBlock] = ()
    ) -> Position | None:
        """Wait for room, then return the position of the next frame; None if stopped before.

        passed: the frames before it that are dropped or were not decoded. These need no credit:
        there is a decoded frame after each group of them. sound: the blocks that it carries.
        """
        with self._changed:
            while not self._stopping and (self._epoch is None or self._lacks_room(form)):
                self._changed.wait()
            self._form = None
            if self._stopping or self._epoch is None:
                return None
            position = Position(self._epoch, self._seq + passed)
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
            self._wake_loop()  # the loop then asks for the readers' positions
        return True

    def _put(
        self,
        number: int,
        frame: Frame,
        position: Position,
        drops: Drops = NO_DROPS,
        counts: Mapping[str, int] | None = None,
        sound: Sequence[SoundBlock] = (),
        undecoded: Sequence[UndecodedFrame] | None = None,
        camera_events: tuple[CameraEvent, ...] | None = None,
    ) -> None:
        """Write the frame into its slot, and its sound into the sound store, then report it.

        undecoded: those of its undecoded frames that are reported; None: all
        camera_events: see Frame; with those of dropped frames
        """
        if undecoded is None:
            undecoded = frame.undecoded
        self._last_store = self._frame_store(frame.form)
        # Packets first: see SharedViews.undecoded_pixels.
        self._put_packets(undecoded, number, position.epoch)
        self._fill(self._last_store, number, frame, position)
        arrived = frame.arrived_mono or time.monotonic()
        if self._recorded_in is not None and position.epoch != self._recorded_epoch:
            due_from = self._worker.due_from(frame.pts, arrived)
            if due_from is not None:
                due_from += time.time() - time.monotonic()  # from monotonic to UNIX seconds
            self._recorded_in.announce_epoch(position.epoch, frame.pts, due_from)
            self._recorded_epoch = position.epoch
        if self._recorded is not None:
            self._recorded.alignment.see_frame(position.epoch, frame.pts, arrived, frame.captured)
        sound_span: tuple[int, int] | None = None
        if sound and self._put_sound(sound, position.epoch):
            sound_span = (sound[0].number, len(sound))
        elif sound:
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
            sound_span,
            counts or {},
            self._shown,
            undecoded,
            camera_events,
        )
        self._report(event)

    def _fill(self, store: FrameStore, number: int, frame: Frame, position: Position) -> None:
        """Write the frame's pixels into its slot, then blank the masked parts.

        No reader sees a slot that is being written. The decoder's own picture is not masked,
        because later pictures refer to it.
        """
        with store.writing(number, position) as pixels:
            frame.write(pixels)
            self._worker.masks.blank(pixels, frame.form)

    def _put_sound(self, sound: Sequence[SoundBlock], epoch: int) -> bool:
        """Store these blocks; return False if there is no memory: the pictures continue."""
        assert self._worker.sound_store is not None
        try:
            store = self._worker.sound_store()
        except FrameStoreFull as error:
            if not self._lacks_sound:
                log.warning("source %s: its sound is dropped: %s", self.source_name, error)
            self._lacks_sound = True
            return False
        for block in sound:
            store.put(epoch, block, self._worker.token)
        return True

    def _put_packets(self, undecoded: Sequence[UndecodedFrame], number: int, epoch: int) -> None:
        """Store the packets of the undecoded frames before frame `number`, if they are kept.

        Without memory for them, an audit of such a frame counts as lost.
        """
        if not (undecoded and undecoded[0].packets):
            return
        assert self._worker.packet_store is not None
        polygons = self._worker.masks.polygons
        try:
            store = self._worker.packet_store()
        except FrameStoreFull as error:
            if not self._lacks_packets:
                log.warning("source %s: audits will be lost: %s", self.source_name, error)
            self._lacks_packets = True
            return
        store.put(epoch, number, undecoded[0].packets, polygons, self._worker.token)

    def _report(self, event: Event) -> None:
        # Only the first event wakes the loop, which takes all events that are due. Otherwise each
        # frame that a file has ready ahead of its pace would wake it.
        self._events.append(event)
        if len(self._events) == 1:
            self._wake_loop()

    def _report_from_outside(self, event: Event) -> None:
        """Report an event of another thread. Always wake the loop: if both threads append at the
        same time, neither may see its event as the first.
        """
        self._events.append(event)
        self._wake_loop()
