"""A camera or other live stream as an iterator of frames: its clock, its pace, its backlog.

Invariants of the loop over packets:

- A packet is read as soon as it arrives. If decoding falls behind, packets are dropped up to the
  next key frame (`_timely`); none ages in the connection.
- A step of the iteration may last as long as no picture arrives, over HTTP and with sound. So the
  caller detects a stall in another thread, and ends the iteration with `abandon`. Over RTSP without
  sound, a step returns within about a second, if only with None.
- A frame's capture time is that of its own packet (CameraClock), although the decoder returns
  frames later and in another order.
"""

from __future__ import annotations

import logging
import time
from collections import ChainMap, OrderedDict
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import nullcontext
from fractions import Fraction
from typing import Final

import av
import av.error
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from framegate.pipeline.contracts.errors import FaultReason, SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import DecoderGuard, Request, UndecodedFrame
from framegate.pipeline.recording.segment_writer import Take
from framegate.stages.decode.camera_events import CameraEvents
from framegate.stages.decode.frame import (
    DecodedFrame,
    FrameChoice,
    Orientations,
)
from framegate.stages.decode.lazy import DuePicture, lazy_decoder
from framegate.stages.decode.open_video import (
    Opened,
    check_packet,
    open_video,
    orientation_of,
    reported_captured,
    seconds_of,
)
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.record import PacketRecorder
from framegate.stages.decode.sound import SoundTap

log = logging.getLogger(__name__)

_KEPT: Final = 64  # packets whose frames the decoder has not returned; more were damaged


class CameraClock:
    """The capture times of packets, by pts, until the decoder returns their frames. One thread."""

    def __init__(self) -> None:
        self._captured: OrderedDict[int, float] = OrderedDict()

    def see(self, packet: Packet[VideoStream]) -> None:
        """Note a packet on its way to the decoder."""
        captured = reported_captured(packet)
        if packet.pts is None or captured is None:
            return
        self._captured[packet.pts] = captured
        if len(self._captured) > _KEPT:
            self._captured.popitem(last=False)

    def of(self, frame: av.VideoFrame) -> float | None:
        """Return the UNIX seconds of a frame's capture, None if the camera did not report it."""
        if frame.pts is None:
            return None
        return self._captured.pop(frame.pts, None)


_AHEAD_S: Final = 60.0


class EvenPace:
    """The due times of frames that arrive in segments, as over HLS. The caller sleeps. One thread.

    Times are seconds; `now` is monotonic. The first frame is due at once. So is a frame that is
    late, has no pts, goes back in time, or is implausibly far ahead; later frames follow from it.
    """

    def __init__(self) -> None:
        self._shift: float | None = None
        self._last: float | None = None

    def due(self, pts: float | None, now: float) -> float:
        """Return the monotonic time, >= now, at which a frame that is here now is due."""
        if pts is None:
            return now
        goes_back = self._last is not None and pts < self._last
        self._last = pts
        if self._shift is None or goes_back or not 0 <= pts + self._shift - now <= _AHEAD_S:
            self._shift = now - pts
        return pts + self._shift


_LATE_S: Final = 1.0
_LASTING_S: Final = 1.0
_DRIFT: Final = 1e-3  # between the two clocks
_WAITING_SHARE: Final = 0.5  # of the time, by which a slow clock is told from a slow decoder
_STEP_BACK_S: Final = 1.0
_LEAP_S: Final = 10.0


class Backlog:
    """Detects that the packets of a connection are read slower than they arrive. One connection.

    A packet's lateness is the growth of `now - pts` over its recent minimum. Short lateness is a
    burst; more than a second of it means that the decoder does not keep up, or that the clock of
    the camera is slow. With a slow clock, the reader waits for packets most of the time.
    """

    def __init__(self) -> None:
        self._min_offset: float | None = None
        self._last_pts = 0.0
        self._last_read = 0.0
        self._late_since: float | None = None
        self._waited_s = 0.0  # since then

    def grows(self, pts: float | None, now: float, waited_s: float) -> bool:
        """Note a packet; return whether packets have been late for long.

        now       the monotonic time at which it was read
        waited_s  how long the reader waited for it
        """
        if pts is None:
            return False
        step = pts - self._last_pts
        passed = now - self._last_read
        self._last_pts = pts
        self._last_read = now
        offset = now - pts
        if self._min_offset is None or not -_STEP_BACK_S <= step <= _LEAP_S:
            self._min_offset = offset
            self._late_since = None
            return False
        self._min_offset = min(self._min_offset + passed * _DRIFT, offset)
        if offset - self._min_offset < _LATE_S:
            self._late_since = None
            return False
        if self._late_since is None:
            self._late_since, self._waited_s = now, 0.0
        else:
            self._waited_s += waited_s
        late_s = now - self._late_since
        if late_s <= _LASTING_S:
            return False
        if self._waited_s > late_s * _WAITING_SHARE:  # nothing is unread
            self._min_offset = offset
            self._late_since = None
            return False
        return True


class Unread:
    """The same for a connection without time stamps: packets are late if none had to be awaited for
    longer than a burst may last. `now` is monotonic seconds.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def grows(self, waited: bool, now: float) -> bool:
        """Note a packet; waited: it was not here when the read began."""
        if waited or self._since is None:
            self._since = now
        return now - self._since > _LATE_S + _LASTING_S


_SIGN_S: Final = 0.5  # the longest time without a sign of life while a frame is not due
_MICROSECOND: Final = Fraction(1, 1_000_000)
_INTRA_ONLY: Final = frozenset({"mjpeg", "mjpegb", "rawvideo", "png", "jpeg2000"})


class CameraSource:
    """The frames of one connection (`framegate.Source`). It is iterated once, in one thread.

    Frames  DecodedFrame as they arrive, with the camera's pts, the arrival and, if RTCP reports it,
            the camera's capture time. None for a skipped or late frame, and when no packet arrived
            for a while. Without time stamps (MJPEG over HTTP), pts is the arrival, from the first
            frame on. Frames of an HLS segment are returned at the pace of their pts, and arrive
            then. Each frame has the blocks of sound that ended by its pts
    Counts  damaged: packets that do not decode and are skipped, and returned frames that the
            decoder marks as damaged; skipped: packets or frames that are not wanted;
            late: packets dropped because decoding fell behind; and those of SoundTap and
            LazyDecoder
    Errors  SourceFault from the constructor (see open_video) and the iteration: closed, no_memory,
            damaged (too many in a row). The iteration always ends with one
    """

    def __init__(
        self,
        request: Request,
        options: DecodeOptions,
        guard: DecoderGuard = nullcontext,
        take: Take | None = None,
    ) -> None:
        """take: records the packets; guard: encloses each call of the decoder."""
        self._request = request
        self._options = options
        self._guard = guard
        hears = bool(request.sound) or take is not None
        opened = open_video(request, options, at_once=True, hears=hears)
        self.codec = opened.stream.codec_context.codec.canonical_name
        self._tally = {"damaged": 0, "skipped": 0, "late": 0}
        counts = [self._tally]
        self._opened = opened
        self._tap: SoundTap | None = None
        # Without time stamps the pictures' times are arrivals, which sound has no relation to.
        if request.sound and opened.sound is not None and opened.has_times:
            self._tap = SoundTap(opened.sound, request.sound, guard)
            opened.listeners.append(self._tap.hear)
            counts.append(self._tap.counts)
        self.recorder: PacketRecorder | None = None
        if take is not None:
            self.recorder = PacketRecorder(take, opened, live=True)
        self._converter = VideoReformatter()
        self._orientations = Orientations()
        self._clock = CameraClock()
        self._choice = FrameChoice(request.frames)
        self._chooses_packets = self.codec in _INTRA_ONLY  # no other picture needs a skipped one
        self._damaged_in_a_row = 0
        self._lazy = lazy_decoder(request, options, opened, self._decoded)
        if self._lazy is not None:
            counts.append(self._lazy.counts)
        self._events: CameraEvents | None = None
        self.counts: Mapping[str, int] = ChainMap(*counts)
        self._frames: Generator[DecodedFrame | None] | None = None

    @property
    def has_sound(self) -> bool:
        """Return whether its frames can carry sound."""
        return self._tap is not None

    @property
    def is_lazy(self) -> bool:
        """Return whether it is decoded lazily, which its codec and container may not allow."""
        return self._lazy is not None

    @property
    def n_held(self) -> int:
        """Return how many packets were held undecoded so far."""
        if self._lazy is None:
            return 0
        return self._lazy.n_held

    @property
    def n_pending(self) -> int:
        """Return the number of held packets whose frames are not returned yet. Any thread."""
        if self._lazy is None:
            return 0
        return self._lazy.n_pending

    def ask(self) -> None:
        """Decode all frames for a second or two. Thread: that of the iteration."""
        if self._lazy is not None:
            self._lazy.ask()

    def __iter__(self) -> Iterator[DecodedFrame | None]:
        """Return the only iterator of this source."""
        if self._frames is None:
            self._start_events()
            packets = self._packets(self._opened)
            if not self._opened.has_times:
                packets = _by_arrival(packets)
            if self._opened.container.format.name == "hls":
                self._frames = _evenly(self._decode(packets))
            else:
                self._frames = self._decode(self._timely(packets))
        return self._frames

    def abandon(self) -> None:
        """End the iteration at the next packet; over HTTP and RTSP within a second. Any thread."""
        self._opened.abandon()
        if self._events is not None:
            self._events.stop()

    def close(self) -> None:
        """Close connection and decoder. Frames that were returned stay valid."""
        if self._frames is not None:
            self._frames.close()
        self._opened.close()
        if self._events is not None:
            self._events.stop()
        if self.recorder is not None:
            self.recorder.close()

    def _start_events(self) -> None:
        """Listen to the camera's own events, if they are wanted."""
        request = self._request
        if not request.events:
            return
        events = CameraEvents(request.name, request.events, request.url)
        try:
            events.start()
        except RuntimeError as error:
            place = shown(request.events, True)
            log.warning("source %s: no events by ONVIF from %s: %s", request.name, place, error)
            return
        self._events = events

    def _decode(
        self, packets: Iterable[Packet[VideoStream] | None]
    ) -> Generator[DecodedFrame | None]:
        try:
            for packet in packets:
                events = self._events
                if self._lazy is not None and events is not None and events.must_wake():
                    self._lazy.ask("event")
                if packet is None:
                    if self._lazy is not None:
                        yield from self._taken(self._lazy.overdue(time.monotonic()))
                    yield None
                    continue
                has_frame = False
                for frame in self._taken(self._pictures(packet, time.monotonic())):
                    has_frame = True
                    yield frame
                if not has_frame:
                    yield None  # a sign of life
        except SourceFault:
            if self._lazy is not None:
                yield from self._taken(self._lazy.rest())
            raise

    def _pictures(self, packet: Packet[VideoStream], arrived: float) -> Iterable[DuePicture]:
        """Return the pictures that are due after a packet."""
        choice = self._choice
        is_wanted = choice.takes_packet(packet.is_keyframe)
        if is_wanted and self._chooses_packets:
            is_wanted = choice.takes(seconds_of(packet))
        if not is_wanted:
            self._tally["skipped"] += 1
            return ()
        if self._lazy is not None:
            return self._lazy.pictures(packet, arrived)
        may_take = self._chooses_packets or choice.may_take(seconds_of(packet))
        return [DuePicture(frame, arrived) for frame in self._decoded(packet, may_take)]

    def _taken(self, pictures: Iterable[DuePicture]) -> Iterator[DecodedFrame]:
        """Yield the pictures that are wanted, with their times and sound."""
        choice = self._choice
        for frame, arrived, undecoded in pictures:
            self._tally["skipped"] += choice.left_out(frame.time)
            self._tally["damaged"] += frame.is_corrupt
            if not (self._chooses_packets or choice.takes(frame.time)):
                self._tally["skipped"] += 1
                continue
            orientation = orientation_of(
                self._request.url, frame, self._orientations, self._options
            )
            captured = self._clock.of(frame)
            if self._events is not None and undecoded:
                undecoded = tuple(self._with_events(self._events, each) for each in undecoded)
            decoded = DecodedFrame(
                frame, self._converter, orientation, arrived, captured, undecoded
            )
            if self._events is not None:
                decoded.camera_events = self._events.until(arrived)
            if self._tap is not None:
                decoded.sound = self._tap.take(decoded.pts)
            yield decoded

    @staticmethod
    def _with_events(events: CameraEvents, frame: UndecodedFrame) -> UndecodedFrame:
        """Return an undecoded frame with the events of the camera until it arrived."""
        assert frame.arrived_mono is not None
        return frame._replace(camera_events=events.until(frame.arrived_mono))

    def _decoded(self, packet: Packet[VideoStream], may_take: bool = True) -> list[av.VideoFrame]:
        """Return the pictures that a packet completes; [] if it is damaged."""
        self._clock.see(packet)
        try:
            with self._guard():
                frames = self._opened.decode(packet, may_take)
        except av.error.FFmpegError as error:
            self._damaged_in_a_row += 1
            check_packet(self._request.url, packet, self._options)
            self._skip(self._damaged_in_a_row, error)
            return []
        if frames:
            self._damaged_in_a_row = 0
        return frames

    def _packets(self, opened: Opened) -> Iterator[Packet[VideoStream] | None]:
        """Yield the track's packets, None if none arrived for a while; SourceFault at the end."""
        while True:
            try:
                for packet in opened.packets():
                    if packet.size:
                        yield packet
                fault = "the camera ended the stream"
            except (av.error.ExitError, TimeoutError):
                yield None
                continue
            except av.error.FFmpegError as error:
                fault = f"the connection was lost ({type(error).__name__})"
            raise self._fault("closed", fault)

    def _timely(
        self, packets: Iterable[Packet[VideoStream] | None]
    ) -> Iterator[Packet[VideoStream] | None]:
        """Drop packets up to a key frame when decoding falls behind. They would otherwise age in
        the connection, where their age is not visible.
        """
        opened = self._opened
        backlog = Backlog()
        unread = Unread()
        is_behind = False
        asked = time.monotonic()
        waited_s = 0.0  # for this packet, also by reads that ended without one
        for packet in packets:
            now = time.monotonic()
            waited_s += now - asked
            if packet is not None:
                if opened.has_times:
                    is_late = backlog.grows(seconds_of(packet), now, waited_s)
                else:
                    is_late = opened.body is not None and unread.grows(opened.body.waited, now)
                waited_s = 0.0
                if is_late:
                    is_behind = True
                elif packet.is_keyframe:
                    is_behind = False
                if is_behind:
                    self._tally["late"] += 1
                    packet = None
            yield packet
            asked = time.monotonic()

    def _fault(self, reason: FaultReason, text: str) -> SourceFault:
        return SourceFault(f"{shown(self._request.url, camera=True)}: {text}", reason)

    def _skip(self, damaged_in_a_row: int, error: av.error.FFmpegError) -> None:
        self._tally["damaged"] += 1
        if damaged_in_a_row > self._options.max_damaged:
            cause = type(error).__name__
            raise self._fault(
                "damaged", f"{damaged_in_a_row} packets in a row do not decode ({cause})"
            )


def _evenly(frames: Generator[DecodedFrame | None]) -> Generator[DecodedFrame | None]:
    """Return frames when they are due by their pts, and None now and then before that."""
    pace = EvenPace()
    for frame in frames:
        if frame is not None:
            due = pace.due(frame.pts, time.monotonic())
            frame.arrived_mono = due
            while (left := due - time.monotonic()) > 0:
                time.sleep(min(left, _SIGN_S))
                if left > _SIGN_S:
                    yield None
        yield frame


def _by_arrival(
    packets: Iterable[Packet[VideoStream] | None],
) -> Iterator[Packet[VideoStream] | None]:
    """Stamp packets with the seconds since the first arrival; FFmpeg's stamps are invented."""
    first: float | None = None
    for packet in packets:
        if packet is not None:
            now = time.monotonic()
            if first is None:
                first = now
            packet.time_base = _MICROSECOND
            packet.pts = round((now - first) / _MICROSECOND)
            packet.dts = packet.pts
        yield packet
