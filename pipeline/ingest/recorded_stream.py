"""Keep the stream of a camera connected that is recorded while another of its streams is decoded.

`camera_connection` decodes the other one. Neither waits for the other, except that the first frame
waits a few seconds for the size of the recorded pictures, in whose pixels results are.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import Form, PacketSource, SoundBlock
from framegate.pipeline.ingest.arrivals import Arrivals
from framegate.pipeline.ingest.credit import CHANGES_S, SizeChanges
from framegate.pipeline.ingest.recorded_sound import RecordedSound
from framegate.pipeline.recording.alignment import Alignment
from framegate.pipeline.recording.segment_writer import Take
from framegate.pipeline.system.retry import camera_backoff

log = logging.getLogger(__name__)

RecordedSize = tuple[int, int]

STABLE_S = 10.0  # a connection that lasted longer resets the backoff
REFUSED_FAILURES = 40  # the backoff after a refused login, as if so many attempts had failed
CLOSED_FOR_OTHERS = (
    "this host cannot reach the store, so it closed the stream, which another host may open"
)


@dataclass(frozen=True, slots=True)
class RecordedStreamState:
    """An event: the stream was connected, or is away because of `fault`, a reason and words."""

    fault: str | None = None


class StallWatch(threading.Thread):
    """Abandons a connection once no picture arrives, so that its iteration ends.

    The thread that iterates cannot do so: its read lasts as long as the camera keeps the connection
    and sends nothing, or only sound.

    has_stalled  set before the connection is abandoned
    """

    def __init__(self, name: str, stream: PacketSource, stall_s: float) -> None:
        """Start no thread; `start` does. stall_s: as in Request."""
        super().__init__(name=f"stall-{name}", daemon=True)
        self.has_stalled = False
        self._stream = stream
        self._stall_s = stall_s
        self._lock = threading.Lock()
        self._arrivals = Arrivals()
        self._is_first = True
        self._has_ended = threading.Event()

    def see(self, arrived_mono: float) -> None:
        """Note a picture. Any thread."""
        with self._lock:
            self._is_first = False
            self._arrivals.add(arrived_mono)

    def end(self) -> None:
        """Let the thread end. Any thread."""
        self._has_ended.set()

    def run(self) -> None:
        """Wait until the connection stalls or `end`."""
        while (left := self._left_s()) > 0:
            if self._has_ended.wait(left):
                return
        self.has_stalled = True
        self._stream.abandon()

    def _left_s(self) -> float:
        with self._lock:
            at = self._arrivals.stalled_at(self._stall_s, is_first=self._is_first)
        return at - time.monotonic()


class RecordedStream(threading.Thread):
    """Connects for ever, with backoff, and reads packets; each connection has its own take.

    `changed` guards the attributes that other threads read, and is notified when they change.

    alignment  relates the clocks of the recorded and of the decoded stream
    size       width and height of the pictures, as last seen; None if there was none. A change
               begins an epoch, so a size that changes too often (see SizeChanges) is not followed
               until it was the same for CHANGES_S
    has_tried  the size is known, or the first attempt failed
    is_heard   its sound is decoded, because the decoded stream has none
    """

    def __init__(
        self,
        name: str,
        open_stream: Callable[[Take | None], PacketSource],
        new_take: Callable[[Alignment], Take | None],
        changed: threading.Condition,
        report: Callable[[RecordedStreamState], None],
        stall_s: float,
        max_retry_s: float,
        size: RecordedSize | None = None,
    ) -> None:
        """Start no connection; `start` does.

        new_take  returns the Take for a connection; None: the source is not recorded
        report    takes the events
        stall_s   as in Request
        size      as an earlier worker saw it
        """
        super().__init__(name=f"recorded-{name}", daemon=True)
        self.alignment = Alignment()
        self.size = size
        self.has_tried = size is not None
        self.is_heard = False
        self._sound = RecordedSound()
        self._source_name = name
        self._open_stream = open_stream
        self._new_take = new_take
        self._changed = changed
        self._report = report
        self._stall_s = stall_s
        self._backoff = camera_backoff(max_retry_s)
        self._changes = SizeChanges()
        self._seen = size
        self._seen_since = 0.0
        self._is_followed = True  # the size that was seen
        self._stopping = False
        self._is_kept_closed = False
        self._stream: PacketSource | None = None
        self._is_away: bool | None = None  # as reported

    def stop(self) -> None:
        """End the connection, and finish the recording in this thread. No event is reported after
        `stop` returned: the loop that takes them may be gone.
        """
        with self._changed:
            self._stopping = True
            stream = self._stream
            self._changed.notify_all()
        if stream is not None:
            stream.abandon()

    def keep_closed(self, is_closed: bool) -> None:
        """Close the connection, and open no other one until it is allowed again. Any thread."""
        with self._changed:
            self._is_kept_closed = is_closed
            stream = self._stream
            self._changed.notify_all()
        if is_closed and stream is not None:
            stream.abandon()

    def take_sound(self, until_s: float | None, epoch: int) -> tuple[tuple[SoundBlock, ...], int]:
        """Return the blocks of sound that ended by a time of an epoch's decoded frames, and the
        number of blocks that were dropped since the last call. None: all blocks.
        """
        with self._changed:
            return self._sound.take(until_s, epoch), self._sound.take_dropped()

    def run(self) -> None:
        """Connect until `stop`."""
        failures = 0
        while self._may_connect():
            began = time.monotonic()
            try:
                self._read_to_its_end()
            except SourceFault as error:
                fault, reason = f"{error.reason}: {error}", error.reason
            except Exception as error:
                log.exception("source %s: its recorded stream failed", self._source_name)
                fault, reason = f"damaged: it cannot be read ({type(error).__name__})", "damaged"
            else:
                if self._stopping:
                    return
                fault, reason = f"closed: {CLOSED_FOR_OTHERS}", "closed"
            is_stable = self._is_away is False and time.monotonic() - began > STABLE_S
            failures = 1 if is_stable else failures + 1
            self._note(fault)
            if reason == "permission":  # frequent attempts may lock the account
                failures = REFUSED_FAILURES
            self._rest(failures)

    def _may_connect(self) -> bool:
        """Wait while the camera is kept closed; return False if stopped."""
        with self._changed:
            while self._is_kept_closed and not self._stopping:
                self._changed.wait()
            return not self._stopping

    def _read_to_its_end(self) -> None:
        """Connect and read; return if stopped or kept closed. SourceFault."""
        stream = self._open_stream(self._new_take(self.alignment))
        with self._changed:
            self._stream = stream
        watch = StallWatch(self._source_name, stream, self._stall_s)
        try:
            watch.start()
            self._read(stream, watch)
        finally:
            watch.end()
            with self._changed:
                self._stream = None
            stream.close()

    def _read(self, stream: PacketSource, watch: StallWatch) -> None:
        if self._must_close():  # before `stop` or `keep_closed` could abandon the stream
            return
        try:
            for has_arrived in stream:
                if self._must_close():
                    return
                stream.is_heard = self.is_heard
                self._keep_sound(stream.take_sound())
                now = time.monotonic()
                if watch.has_stalled:
                    break
                if has_arrived:
                    watch.see(now)
                    self._see(stream.size, now)
        except SourceFault:
            if self._stopping:
                return
            if not watch.has_stalled:
                raise
        if watch.has_stalled:
            raise SourceFault(f"no picture for {self._stall_s:.1f} s", "stalled")

    def _must_close(self) -> bool:
        return self._stopping or self._is_kept_closed

    def _keep_sound(self, blocks: Sequence[SoundBlock]) -> None:
        """Keep blocks for the frames of their time. Before the clocks are related, drop them."""
        if not blocks:
            return
        aligned = self.alignment.now()
        if aligned is not None:
            with self._changed:
                self._sound.put(blocks, aligned.offset_s, aligned.epoch)

    def _see(self, size: RecordedSize | None, now: float) -> None:
        if size is not None:
            has_too_many = self._changes.too_many(Form(*size), now)
            if size != self._seen:
                self._seen = size
                self._seen_since = now
                self._is_followed = not has_too_many
            elif now - self._seen_since >= CHANGES_S:
                self._is_followed = True
        is_new = size != self.size and self._is_followed
        if size is not None and (is_new or not self.has_tried):
            with self._changed:
                self.size = size
                self.has_tried = True
                self._changed.notify_all()
        if self._is_away is not False:
            self._note(None)

    def _note(self, fault: str | None) -> None:
        """Report a change, and that an attempt ended."""
        self._is_away = fault is not None
        with self._changed:
            self.has_tried = self.has_tried or fault is not None
            self._changed.notify_all()
            if not self._stopping:
                self._report(RecordedStreamState(fault))

    def _rest(self, failures: int) -> None:
        until = time.monotonic() + self._backoff.delay_s(failures, random.random())
        with self._changed:
            while not self._stopping and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
