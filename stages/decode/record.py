"""The packets of a connection on their way to a take.

The reading thread queues copies of packets; another thread muxes and writes them. If the queue is
full, a camera's packets are dropped up to the next key frame, and noted; for a file the reader
waits.

Invariant: no packet of a file is written before the file's epoch is known. A file recorded under no
epoch would be recorded again when a restarted decoder reads the file again. The first decoded
picture announces the epoch, so the reader does not wait for room until then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from fractions import Fraction
from typing import Any, Final

from av.packet import Packet

from framegate.pipeline.recording.alignment import Alignment
from framegate.pipeline.recording.index_tables import GapReason, RecordingLost, gap_reason
from framegate.pipeline.recording.segment_writer import Take
from framegate.pipeline.system.clocks import camera_time
from framegate.stages.decode.muxing import LEAP_S, Muxing, QueuedPacket, templates
from framegate.stages.decode.open_video import Opened, reported_captured, seconds_of

log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 32 << 20
PATIENCE_S: Final = 2.0
_BATCH_S: Final = 0.25  # to collect packets: a wake-up costs more than a packet
_ALIGN_S: Final = 5.0  # for which packets wait for the first decoded frame of another connection
_MICROSECOND: Final = Fraction(1, 1_000_000)
_NEW: Final = "new_extradata"


class PacketRecorder:
    """Records one connection. The reading thread calls `hear` and `close`; it waits for the disk
    only if the source is a file.
    """

    def __init__(self, take: Take, opened: Opened, *, live: bool) -> None:
        """Start to listen to the packets."""
        self._take = take
        self._live = live
        self._changed = threading.Condition()
        self._queue: deque[QueuedPacket] = deque()
        self._nbytes = 0
        self._dropping: float | None = None  # captured: the first dropped packet
        self._losses: list[tuple[float, float]] = []  # captured: dropped packets to be noted
        self._heard = 0.0  # captured: the last packet
        self._over = False
        self._thread: threading.Thread | None = None
        self._alignment = take.alignment
        self._align_until = time.monotonic() + _ALIGN_S
        if self._alignment is not None:
            self._alignment.begin_packets()
        self._stamps = _Stamps(opened, live, self._alignment)
        streams: list[Any] = [opened.stream]
        if opened.sound is not None:
            streams.append(opened.sound)
        self._templates = templates(streams, take.source)
        if self._templates is None:
            take.refuse("MP4 cannot store its pictures")
            return
        held = streams[: len(self._templates.streams)]
        self._tracks = {stream.index: n for n, stream in enumerate(held)}
        self._thread = threading.Thread(target=self._run, name=f"record-{take.source}", daemon=True)
        self._thread.start()
        opened.listeners.append(self.hear)

    # -- the reading thread

    def hear(self, packet: Packet[Any]) -> None:
        """Take a packet of any track."""
        track = self._tracks.get(packet.stream_index)
        if track is None or not packet.size:
            return
        arrived_mono = time.monotonic()
        copy: Packet[Any] = Packet(memoryview(packet))  # type: ignore[arg-type]  # it takes any buffer
        copy.pts = packet.pts
        copy.dts = packet.dts
        copy.duration = packet.duration
        copy.time_base = packet.time_base
        copy.is_keyframe = packet.is_keyframe
        captured = self._stamps.captured(packet, copy, arrived_mono, track)
        parameters = bytes(packet.get_sidedata(_NEW)) if packet.has_sidedata(_NEW) else b""
        queued = QueuedPacket(track, copy, captured, arrived_mono, parameters)
        with self._changed:
            self._heard = captured
            if self._is_full(packet.size) and not self._wait_for_room(packet.size):
                if self._dropping is None:
                    self._dropping = captured
                return
            if self._dropping is not None:
                if track or not packet.is_keyframe:
                    return
                # The other thread notes it: the take's index is of that thread.
                self._losses.append((self._dropping, captured))
                self._dropping = None
            if not self._queue or self._nbytes > QUEUE_BYTES // 2:
                self._changed.notify_all()
            self._queue.append(queued)
            self._nbytes += packet.size

    def _is_full(self, size: int) -> bool:
        return self._nbytes + size > QUEUE_BYTES and bool(self._queue)

    def _may_write(self) -> bool:
        if self._alignment is not None:
            is_late = self._over or time.monotonic() > self._align_until
            return is_late or self._alignment.now() is not None
        return self._live or self._take.knows_epoch

    def _wait_for_room(self, size: int) -> bool:
        """Wait for room if a file is being written; return whether there is room."""
        while self._is_full(size) and not self._live and not self._over and self._may_write():
            self._changed.notify_all()
            self._changed.wait(1.0)
        return not self._is_full(size)

    def close(self) -> None:
        """End the recording once all queued packets are written; for a camera, wait for that at
        most PATIENCE_S.
        """
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE_S if self._live else None)

    # -- the writing thread

    def _run(self) -> None:
        assert self._templates is not None
        at: float | None = None  # captured: the last packet in hand
        try:
            muxing: Muxing | None = None
            while (packets := self._next()) is not None:
                at = packets[0].captured
                self._note_losses()
                if muxing is None:  # a file's epoch is known only now
                    recorded = None if self._live else self._take.recorded()
                    muxing = Muxing(self._take, self._templates, recorded)
                for packet in packets:
                    at = packet.captured
                    muxing.add(packet)
            if muxing is not None:
                muxing.finish()
            self._note_losses(ends=True)
        except Exception as error:
            log.exception("source %s: its recording failed", self._take.source)
            self._lose_rest(error, at)
        finally:
            with self._changed:
                self._over = True
                self._queue.clear()
                self._nbytes = 0
                self._changed.notify_all()
            self._take.close()

    def _note_losses(self, *, ends: bool = False) -> None:
        """Note the packets that found no room. ends: also those dropped up to the connection's end,
        unless they are of a file whose epoch was never known: it is recorded from its start later.
        """
        with self._changed:
            if ends and self._dropping is not None and self._may_write():
                self._losses.append((self._dropping, self._heard))
                self._dropping = None
            losses, self._losses = self._losses, []
        why: GapReason = "slow_disk" if self._live else "no_picture"
        for since, until in losses:
            self._take.note_loss(since, until, why)

    def _lose_rest(self, error: Exception, at: float | None) -> None:
        """Drop all packets up to the end of the connection, and note that with an error as reason.

        at  captured: the packet that was being recorded
        """
        self._take.refuse(f"{type(error).__name__}: {error}")
        while self._next() is not None:
            pass
        self._note_losses(ends=True)
        if at is not None:
            why: GapReason = "bad_packet"
            if isinstance(error, (RecordingLost, OSError)):
                why = gap_reason(error)
            self._take.note_loss(at, max(at, self._heard), why)

    def _next(self) -> list[QueuedPacket] | None:
        """Return a batch of queued packets once they may be written; None at the end."""
        with self._changed:
            while not self._over and not self._queue:
                self._changed.wait()
            if not self._over:
                self._changed.wait(_BATCH_S)
            while not self._over and not self._may_write():
                self._changed.wait(_BATCH_S)
            if not self._queue or not self._may_write():
                return None
            packets = list(self._queue)
            self._queue.clear()
            self._nbytes = 0
            self._changed.notify_all()
        due_from = self._take.due_from
        if due_from is not None:  # the file is read ahead; its frames are due later
            for queued in packets:
                due = due_from + (seconds_of(queued.packet) or 0.0)
                queued.captured = max(queued.captured, due)
        return packets


class _Stamps:
    """The capture times of a connection's packets, and time stamps if the container has none."""

    def __init__(self, opened: Opened, live: bool, alignment: Alignment | None) -> None:
        self._alignment = alignment
        self._by_arrival = live and not opened.has_times
        self._evenly = opened.container.format.name == "hls"
        self._first_mono: float | None = None
        self._last: tuple[float, float] | None = None  # seconds of the media, and captured

    def captured(
        self, packet: Packet[Any], copy: Packet[Any], arrived_mono: float, track: int
    ) -> float:
        """Return UNIX seconds: the camera's time if it is reported and plausible, else the arrival.

        Without time stamps, set those of `copy` as those of its frame are: from the first packet's
        arrival on.
        """
        now = time.time()
        if self._by_arrival:
            if self._first_mono is None:
                self._first_mono = arrived_mono
            copy.time_base = _MICROSECOND
            copy.pts = round((arrived_mono - self._first_mono) / _MICROSECOND)
            copy.dts = copy.pts
        reported = self._reported(packet, copy, arrived_mono, track, now)
        if reported is not None:
            return reported
        if not self._evenly or copy.dts is None or copy.time_base is None:
            return now
        # The packets of an HLS segment arrive at once but were captured one after the other.
        at = float(copy.dts * copy.time_base)
        if self._last is not None and 0 <= at - self._last[0] < LEAP_S:
            now = max(now, self._last[1] + at - self._last[0])
        self._last = (at, now)
        return now

    def _reported(
        self, packet: Packet[Any], copy: Packet[Any], arrived_mono: float, track: int, now: float
    ) -> float | None:
        """Return the capture time by the camera's clock, None without a plausible one."""
        reported = reported_captured(packet)
        if self._alignment is None:
            return camera_time(reported, now)
        pts = seconds_of(copy)
        if not track:
            self._alignment.see_packet(pts, arrived_mono, reported)
        return self._alignment.captured(pts, reported, now)
