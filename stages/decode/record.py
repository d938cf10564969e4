"""Packets of a connection as they came, on their way to a take.

The thread that reads the packets hands them over and goes on; another one muxes and writes. What
does not fit between the two is lost for a camera, up to the next key frame, and told; a file waits.

Of a file nothing is written before its epoch is known: what lay under none would be recorded once
more by who reads the file again. Its first picture tells the epoch, so until then its reader does
not wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from fractions import Fraction
from typing import Any, Final

from av.packet import Packet

from framegate.pipeline.recording.tables import GapReason, RecordingLost
from framegate.pipeline.recording.take import Take
from framegate.pipeline.system.clocks import camera_time
from framegate.stages.decode.container import Opened, reported_captured, seconds_of
from framegate.stages.decode.muxing import LEAP_S, Came, Muxing, templates

log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 32 << 20
PATIENCE_S: Final = 2.0
_BATCH_S: Final = 0.25  # for which packets are let gather: a wake-up costs more than a packet
_MICROSECOND: Final = Fraction(1, 1_000_000)
_NEW: Final = "new_extradata"


class PacketRecorder:
    """Records one connection. `hear` and `close` in the thread that reads it, which waits for the
    disk only if the source is a file.
    """

    def __init__(self, take: Take, opened: Opened, *, live: bool) -> None:
        """Listen to it from now on."""
        self._take, self._live = take, live
        self._changed = threading.Condition()
        self._queue: deque[Came] = deque()
        self._nbytes = 0
        self._dropping: float | None = None  # captured: since when nothing fits
        self._over = False
        self._thread: threading.Thread | None = None
        self._stamps = _Stamps(opened, live)
        streams = [opened.stream, *([opened.sound] if opened.sound is not None else [])]
        self._templates = templates(streams, take.source)
        if self._templates is None:
            take.refuse("no MP4 holds its pictures")
            return
        held = streams[: len(self._templates.streams)]
        self._tracks = {stream.index: n for n, stream in enumerate(held)}
        self._thread = threading.Thread(target=self._run, name=f"record-{take.source}", daemon=True)
        self._thread.start()
        opened.listeners.append(self.hear)

    # -- the thread that reads

    def hear(self, packet: Packet[Any]) -> None:
        """Take a packet of any track."""
        track = self._tracks.get(packet.stream_index)
        if track is None or not packet.size:
            return
        arrived_mono = time.monotonic()
        copy: Packet[Any] = Packet(memoryview(packet))  # type: ignore[arg-type]  # it takes any buffer
        copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
        copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
        captured = self._stamps.captured(packet, copy, arrived_mono)
        new = bytes(packet.get_sidedata(_NEW)) if packet.has_sidedata(_NEW) else b""
        came = Came(track, copy, captured, arrived_mono, new)
        with self._changed:
            if self._is_full(packet.size) and not self._wait_for_room(packet.size):
                self._dropping = self._dropping or captured
                return
            if self._dropping is not None:
                if track or not packet.is_keyframe:
                    return
                why: GapReason = "slow_disk" if self._live else "no_picture"
                self._take.lost(self._dropping, captured, why)
                self._dropping = None
            if not self._queue or self._nbytes > QUEUE_BYTES // 2:
                self._changed.notify_all()
            self._queue.append(came)
            self._nbytes += packet.size

    def _is_full(self, size: int) -> bool:
        return self._nbytes + size > QUEUE_BYTES and bool(self._queue)

    def _may_write(self) -> bool:
        return self._live or self._take.knows_epoch

    def _wait_for_room(self, size: int) -> bool:
        """Of a file that is being written, wait until it fits; False if it does not."""
        while self._is_full(size) and not self._live and not self._over and self._may_write():
            self._changed.notify_all()
            self._changed.wait(1.0)
        return not self._is_full(size)

    def close(self) -> None:
        """Nothing more comes: what has come is written, and that waited for; of a camera for
        PATIENCE_S at most.
        """
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE_S if self._live else None)

    # -- the thread that writes

    def _run(self) -> None:
        assert self._templates is not None
        try:
            muxing: Muxing | None = None
            while (came := self._next()) is not None:
                if muxing is None:  # only now is it known which epoch a file goes on with
                    recorded = None if self._live else self._take.recorded()
                    muxing = Muxing(self._take, self._templates, recorded)
                for one in came:
                    muxing.add(one)
            if muxing is not None:
                muxing.finish()
        except (RecordingLost, OSError) as error:
            log.warning("source %s: it is not recorded any more: %s", self._take.source, error)
        except Exception:
            log.exception("source %s: its recording failed", self._take.source)
        finally:
            with self._changed:
                self._over = True
                self._queue.clear()
                self._nbytes = 0
                self._changed.notify_all()
            self._take.close()

    def _next(self) -> list[Came] | None:
        """What has come, once there is a little of it and it may be written; None at the end."""
        with self._changed:
            while not self._over and not self._queue:
                self._changed.wait()
            if not self._over:
                self._changed.wait(_BATCH_S)
            while not self._over and not self._may_write():
                self._changed.wait(_BATCH_S)
            if not self._queue or not self._may_write():
                return None
            came = list(self._queue)
            self._queue.clear()
            self._nbytes = 0
            self._changed.notify_all()
        due_from = self._take.due_from
        if due_from is not None:  # it was read ahead; its result says when it is due
            for one in came:
                one.captured = max(one.captured, due_from + (seconds_of(one.packet) or 0.0))
        return came


class _Stamps:
    """When packets of a connection were taken, and their times where the container has none."""

    def __init__(self, opened: Opened, live: bool) -> None:
        self._by_arrival = live and not opened.has_times
        self._evenly = opened.container.format.name == "hls"
        self._first_mono: float | None = None
        self._last: tuple[float, float] | None = None  # seconds of the media, and captured

    def captured(self, packet: Packet[Any], copy: Packet[Any], arrived_mono: float) -> float:
        """UNIX seconds; by arrival, where the camera does not tell, or its clock is wrong. Sets the
        times of `copy` as those of its frame are set: from the first packet's arrival on, where
        FFmpeg made them up.
        """
        now = time.time()
        told = camera_time(reported_captured(packet), now)
        if self._by_arrival:
            first = self._first_mono = self._first_mono or arrived_mono
            copy.time_base = _MICROSECOND
            copy.pts = copy.dts = round((arrived_mono - first) / _MICROSECOND)
        if told is not None or not self._evenly or copy.dts is None or copy.time_base is None:
            return now if told is None else told
        # HLS brings a segment at once: what is in it was taken one after the other.
        at = float(copy.dts * copy.time_base)
        if self._last is not None and 0 <= at - self._last[0] < LEAP_S:
            now = max(now, self._last[1] + at - self._last[0])
        self._last = (at, now)
        return now
