"""A camera or other live stream as an iterator of frames: its clock, its pace, its backlog."""

from __future__ import annotations

import time
from collections import ChainMap, OrderedDict
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import nullcontext
from fractions import Fraction
from types import MappingProxyType
from typing import Final

import av
import av.error
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from framegate.pipeline.contracts.errors import FaultReason, SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import DecoderGuard, Request
from framegate.pipeline.recording.take import Take
from framegate.stages.decode.container import (
    DecodeOptions,
    Opened,
    check_packet,
    open_video,
    orientation_of,
    seconds_of,
    told_captured,
)
from framegate.stages.decode.frame import (
    DecodedFrame,
    FrameChoice,
    Orientations,
)
from framegate.stages.decode.record import PacketRecorder
from framegate.stages.decode.sound import SoundTap

# -- When frames were captured by a camera's own clock, as RTCP sender reports tell.


_KEPT: Final = 64


class CameraClock:
    """Matches packets to the frames that come out of the decoder later, by pts. One thread."""

    def __init__(self) -> None:
        self._captured: OrderedDict[int, float] = OrderedDict()

    def see(self, packet: Packet[VideoStream]) -> None:
        """Take note of a packet on its way to the decoder."""
        captured = told_captured(packet)
        if packet.pts is None or captured is None:
            return
        self._captured[packet.pts] = captured
        if len(self._captured) > _KEPT:
            self._captured.popitem(last=False)

    def of(self, frame: av.VideoFrame) -> float | None:
        """UNIX seconds at which the camera took the frame, None if it has not told."""
        return self._captured.pop(frame.pts, None) if frame.pts is not None else None


# -- Frames that come in heaps, a segment's at once as over HLS, given at the pace of their pts.
# Pure: the caller sleeps.


_AHEAD_S: Final = 60.0


class EvenPace:
    """When each frame is due. Times are seconds, `now` is monotonic. One thread.

    The first frame is due at once. A frame that is late, without pts, before the one given last or
    implausibly far ahead is due at once, and the later ones follow from it.
    """

    def __init__(self) -> None:
        self._shift: float | None = None
        self._last: float | None = None

    def due(self, pts: float | None, now: float) -> float:
        """The monotonic time at which a frame that is there now is due, >= now."""
        if pts is None:
            return now
        back = self._last is not None and pts < self._last
        self._last = pts
        if self._shift is None or back or not 0 <= pts + self._shift - now <= _AHEAD_S:
            self._shift = now - pts
        return pts + self._shift


# -- Whether a camera's packets are taken slower than they come, so that they wait unseen. Pure.
# By their time stamps, or, where these are made up, by whether one ever has to be waited for.


_LATE_S: Final = 1.0
_LASTING_S: Final = 1.0
_DRIFT: Final = 1e-3
_STEP_BACK_S: Final = 1.0
_LEAP_S: Final = 10.0


class Backlog:
    """One connection. Times are seconds; `now` is monotonic, when a packet was read.

    A packet is as late as its reading is behind that of the timeliest packet of late, by their
    time stamps. Late for a moment is a burst; late for longer than a second means that the decoder
    does not keep up. The clocks may drift by a thousandth.
    """

    def __init__(self) -> None:
        self._least: float | None = None
        self._before = (0.0, 0.0)
        self._late_since: float | None = None

    def grows(self, pts: float | None, now: float) -> bool:
        """Return whether it has been there for long, with this packet."""
        if pts is None:
            return False
        step, passed = pts - self._before[0], now - self._before[1]
        self._before = (pts, now)
        offset = now - pts
        if self._least is None or not -_STEP_BACK_S <= step <= _LEAP_S:
            self._least, self._late_since = offset, None
            return False
        self._least = min(self._least + passed * _DRIFT, offset)
        if offset - self._least < _LATE_S:
            self._late_since = None
            return False
        if self._late_since is None:
            self._late_since = now
        return now - self._late_since > _LASTING_S


class Unread:
    """One connection whose packets say no times: it is behind when none had to be waited for in
    longer than a burst may last. `now` is monotonic seconds, when a packet was read.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def grows(self, waited: bool, now: float) -> bool:
        """Return whether packets have been waiting for long; waited: this one was not there yet."""
        if waited or self._since is None:
            self._since = now
        return now - self._since > _LATE_S + _LASTING_S


_SIGN_S: Final = 0.5
_MICROSECOND: Final = Fraction(1, 1_000_000)
_INTRA_ONLY: Final = frozenset({"mjpeg", "mjpegb", "rawvideo", "png", "jpeg2000"})


class CameraSource:
    """Every wanted frame of one connection (`framegate.Source`); it is never read again.

    Out     DecodedFrame as they come, with pts as the camera states it, the moment of arrival, and
            the camera's own clock where RTCP tells it; None for what is skipped or late, and when
            nothing came for a while: who iterates decides when that is a stall. Where the camera
            states no times (MJPEG over HTTP), pts is when a picture came, from the first one on.
            HLS brings a segment at once: its frames are given as their pts say, and arrive when
            they are given. Each has the blocks of sound that have ended by its pts
    Counts  damaged: packets that do not decode and are skipped, and frames that the decoder marks
            as damaged, which are given; skipped: packets or frames that are not wanted;
            late: packets left out because decoding fell behind; and those of SoundTap
    Fails   SourceFault at construction (see open_video) and while iterating: closed, no_memory,
            damaged (more in a row than allowed). It never just ends
    Thread  all of it in one thread
    """

    def __init__(
        self,
        request: Request,
        options: DecodeOptions,
        guard: DecoderGuard = nullcontext,
        take: Take | None = None,
    ) -> None:
        """take: its packets are recorded in it."""
        self._request, self._options, self._guard = request, options, guard
        hears = bool(request.sound) or take is not None
        opened = open_video(request, options, at_once=True, hears=hears)
        self.codec = opened.stream.codec_context.codec.canonical_name
        self._tally = {"damaged": 0, "skipped": 0, "late": 0}
        self.counts: Mapping[str, int] = MappingProxyType(self._tally)
        self._opened = opened
        self._tap: SoundTap | None = None
        # Sound has no clock in common with pictures whose times are those of their arrival.
        if request.sound and opened.sound is not None and opened.has_times:
            self._tap = SoundTap(opened.sound, request.sound, guard)
            opened.listeners.append(self._tap.hear)
            self.counts = ChainMap(self._tally, self._tap.counts)
        self.recorder = None if take is None else PacketRecorder(take, opened, live=True)
        self._frames: Generator[DecodedFrame | None] | None = None

    def __iter__(self) -> Iterator[DecodedFrame | None]:
        """Return the one iterator of this source."""
        if self._frames is None:
            packets = self._packets(self._opened)
            if not self._opened.has_times:
                packets = _by_arrival(packets)
            if self._opened.container.format.name == "hls":
                self._frames = _evenly(self._decode(self._opened, packets))
            else:
                self._frames = self._decode(self._opened, self._timely(packets))
        return self._frames

    def abandon(self) -> None:
        """Nobody takes frames any more: iterating ends at the next packet, over HTTP in a second;
        elsewhere a read that is under way is waited out.
        """
        self._opened.abandon()

    def close(self) -> None:
        """Close connection and decoder; frames already given stay valid."""
        if self._frames is not None:
            self._frames.close()
        self._opened.close()
        if self.recorder is not None:
            self.recorder.close()

    def _decode(
        self, opened: Opened, packets: Iterable[Packet[VideoStream] | None]
    ) -> Generator[DecodedFrame | None]:
        converter, orientations, clock = VideoReformatter(), Orientations(), CameraClock()
        choice = FrameChoice(self._request.frames)
        choose_packets = self.codec in _INTRA_ONLY  # what is not wanted need not be decoded
        in_a_row = 0
        for packet in packets:
            if packet is None:
                yield None
                continue
            arrived = time.monotonic()
            clock.see(packet)
            wanted = choice.takes_packet(packet.is_keyframe)
            if wanted and choose_packets:
                wanted = choice.takes(seconds_of(packet))
            if not wanted:
                self._tally["skipped"] += 1
                yield None
                continue
            may_take = choose_packets or choice.may_take(seconds_of(packet))
            try:
                with self._guard():
                    frames = opened.decode(packet, may_take)
            except av.error.FFmpegError as error:
                in_a_row += 1
                check_packet(self._request.url, packet, self._options)
                self._skip(in_a_row, error)
                continue
            if not may_take:
                yield None  # a sign of life: of its picture nothing may come
            for frame in frames:
                in_a_row = 0
                self._tally["skipped"] += choice.left_out(frame.time)
                self._tally["damaged"] += frame.is_corrupt
                if choose_packets or choice.takes(frame.time):
                    orientation = orientation_of(
                        self._request.url, frame, orientations, self._options
                    )
                    given = DecodedFrame(frame, converter, orientation, arrived, clock.of(frame))
                    if self._tap is not None:
                        given.sound = self._tap.take(given.pts)
                    yield given
                else:
                    self._tally["skipped"] += 1
                    yield None

    def _packets(self, opened: Opened) -> Iterator[Packet[VideoStream] | None]:
        """Yield the track's packets, None when nothing came for a while; SourceFault at the end."""
        while True:
            try:
                for packet in opened.packets():
                    if packet.size:
                        yield packet
                what = "the camera ended the stream"
            except av.error.ExitError:
                yield None
                continue
            except av.error.FFmpegError as error:
                what = f"the connection was lost ({type(error).__name__})"
            except TimeoutError:
                yield None
                continue
            raise self._fault("closed", what)

    def _timely(
        self, packets: Iterable[Packet[VideoStream] | None]
    ) -> Iterator[Packet[VideoStream] | None]:
        """Leave packets out, up to a key frame, when decoding falls behind: they would wait in the
        connection, where nobody sees how late they are.
        """
        opened, behind = self._opened, False
        backlog, unread = Backlog(), Unread()
        for packet in packets:
            if packet is not None:
                now = time.monotonic()
                if opened.has_times:
                    late = backlog.grows(seconds_of(packet), now)
                else:
                    late = opened.body is not None and unread.grows(opened.body.waited, now)
                if late:
                    behind = True
                elif packet.is_keyframe:
                    behind = False
                if behind:
                    self._tally["late"] += 1
                    yield None
                    continue
            yield packet

    def _fault(self, reason: FaultReason, what: str) -> SourceFault:
        return SourceFault(f"{shown(self._request.url, camera=True)}: {what}", reason)

    def _skip(self, in_a_row: int, error: av.error.FFmpegError) -> None:
        self._tally["damaged"] += 1
        if in_a_row > self._options.max_damaged:
            what = f"{in_a_row} packets in a row do not decode ({type(error).__name__})"
            raise self._fault("damaged", what)


def _evenly(frames: Generator[DecodedFrame | None]) -> Generator[DecodedFrame | None]:
    """Give frames when their pts say; between them a sign of life now and then."""
    pace = EvenPace()
    for frame in frames:
        if frame is not None:
            frame.arrived_mono = due = pace.due(frame.pts, time.monotonic())
            while (left := due - time.monotonic()) > 0:
                time.sleep(min(left, _SIGN_S))
                if left > _SIGN_S:
                    yield None
        yield frame


def _by_arrival(
    packets: Iterable[Packet[VideoStream] | None],
) -> Iterator[Packet[VideoStream] | None]:
    """Stamp packets with the seconds from the first one's arrival: FFmpeg's stamps are made up."""
    first: float | None = None
    for packet in packets:
        if packet is not None:
            now = time.monotonic()
            first = now if first is None else first
            packet.time_base = _MICROSECOND
            packet.pts = packet.dts = round((now - first) / _MICROSECOND)
        yield packet
