"""Mux packets into the fragments of an MP4, without encoding: tracks, times, parameters.

Invariants:

- All packets between two init parts (a run) share the decoders' parameters and rising times. At a
  change or a break in time, `_needs_run` is set, and the next key frame begins a new run. Until
  then each track's clock is shifted so that its times continue.
- Each track's dts rises strictly, for any input of the camera (`_TrackClock`).
- `_captured` maps the dts of each muxed picture to its capture time, in order.
"""

from __future__ import annotations

import logging
import math
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import av.error
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from framegate.pipeline.recording.alignment import Aligned
from framegate.pipeline.recording.mp4_boxes import NotWhole, boxes
from framegate.pipeline.recording.segment_writer import Take
from framegate.stages.decode.codec_parameters import adts, extra_of, key_frame_size, parameters

log = logging.getLogger(__name__)

FRAGMENT_S: Final = 0.5  # the longest fragment: a killed process loses as much
_STEP_BACK_S: Final = 1.0
LEAP_S: Final = 10.0  # of media between two packets: time broke
_SILENT_S: Final = 5.0  # of media after which a sound track without packets is left out
_HAIR_S: Final = 1e-4
_REORDERED: Final = 16  # the most pictures that are decoded before one that is shown earlier
_STUCK: Final = 25  # packets in a row whose time does not rise
_FLAGS: Final = "empty_moov+default_base_moof+frag_keyframe+frag_discont+skip_trailer"
_MUXING: Final = {
    "movflags": _FLAGS,
    "frag_duration": str(round(FRAGMENT_S * 1e6)),
    "use_editlist": "0",  # the file keeps the source's times
    "avoid_negative_ts": "disabled",
    "flush_packets": "1",
    "max_interleave_delta": "100000",  # microseconds that one track waits for the other
}


class _Bytes:
    """The output of a muxer, as the file object that PyAV needs."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Append bytes."""
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return all bytes and remove them."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


@dataclass(slots=True)
class QueuedPacket:
    """A copy of a packet, because the decoder and the muxer each need their own."""

    track: int
    packet: Packet[Any]
    captured: float
    arrived_mono: float
    extra: bytes = b""  # the decoder's parameters from here on, if the container has new ones


def templates(streams: Sequence[Stream], source: str) -> OutputContainer | None:
    """Return a container with copies of the tracks, because theirs may close meanwhile; None if no
    format stores the video track. QuickTime stores more kinds of sound than MP4.
    """
    for stored in (streams, streams[:1]):
        for form in ("mp4", "mov"):
            container = av.open(_Bytes(), "w", format=form)
            try:
                for stream in stored:
                    container.add_stream_from_template(stream, opaque=True)
            except (ValueError, AttributeError, av.error.FFmpegError):
                continue  # AttributeError: FFmpeg has no decoder for it
            if len(stored) < len(streams):
                log.warning("source %s is recorded without its sound: MP4 cannot store it", source)
            return container
    return None


@dataclass(slots=True)
class _TrackClock:
    """The times of a track, in ticks. Invariant: they rise strictly.

    shift  added to the source's times
    last   the last time
    stuck  packets in a row whose own time did not rise
    """

    base: Fraction
    shift: int = 0
    last: int | None = None
    stuck: int = 0
    last_mono: float = 0.0

    def is_break(self, dts: int) -> bool:
        """Return whether time went back or leapt."""
        if self.last is None:
            return False
        step = float((dts + self.shift - self.last) * self.base)
        return step < -_STEP_BACK_S or step > LEAP_S

    def rising(self, dts: int, now_mono: float) -> int:
        """Return a time for a packet, above the last one. After many packets in a row whose own
        time did not rise, use the host's clock.
        """
        dts += self.shift
        if self.last is not None and dts <= self.last:
            self.stuck += 1
            passed = now_mono - self.last_mono if self.stuck > _STUCK else 0.0
            dts = self.last + max(1, int(min(passed, _STEP_BACK_S) / self.base))
        else:
            self.stuck = 0
        self.last = dts
        self.last_mono = now_mono
        return dts


class Muxing:
    """Muxes packets into fragments for a take. One thread.

    A new init part, and with it a new segment, begins at a key frame after a change of parameters,
    a break in time, the begin or absence of sound, or a change of the take's alignment. Until that
    key frame, times continue.
    """

    def __init__(
        self, take: Take, templates: OutputContainer, recorded: tuple[float, float] | None
    ) -> None:
        """Write to a take.

        templates  has the tracks of the packets, the video track first
        recorded   from `Take.recorded`: earlier packets are not written again
        """
        self._take = take
        self._templates = templates
        self._codecs = [stream.codec_context.name for stream in templates.streams]
        self._extra = [extra_of(stream) for stream in templates.streams]
        self._in_band = b""  # parameters within the last key frame
        self._muxer: OutputContainer | None = None
        self._written = _Bytes()
        self._streams: dict[int, Stream] = {}  # by track, of the muxer
        self._clocks: dict[int, _TrackClock] = {}
        self._captured: deque[tuple[float, float]] = deque()  # of pictures: dts, captured
        self._began_s = 0.0
        self._shift_s = 0.0
        self._has_heard = False  # a packet of sound in this run
        self._needs_run = False
        self._aligned: Aligned | None = None  # of this run
        self._lacks_sound = False
        self._is_adts = False
        contexts = [stream.codec_context for stream in templates.streams]
        self._has_config = len(contexts) > 1 and bool(contexts[1].extradata)
        self._min_s = 0.0  # the earliest time before the first run
        self._recorded = recorded
        self._bad_since: float | None = None  # captured
        self._last = 0.0  # captured: the last packet
        self._undated: list[QueuedPacket] = []
        self._early: deque[QueuedPacket] = deque(maxlen=256)  # sound before its pictures

    def add(self, queued: QueuedPacket) -> None:
        """Take a packet. One that cannot be muxed costs a gap up to the next key frame."""
        self._last = queued.captured
        try:
            self._add(queued)
        except (ValueError, ArithmeticError, struct.error, NotWhole, av.error.FFmpegError) as error:
            if self._bad_since is None:
                self._bad_since = queued.captured
                text = "a packet cannot be recorded; recording continues at the next key frame"
                why = f"{type(error).__name__}: {error}"
                log.warning("source %s: %s: %s", self._take.source, text, why)
            self._muxer = None
            self._recorded = None
        else:
            if self._bad_since is not None and self._muxer is not None:
                self._take.note_loss(self._bad_since, queued.captured, "bad_packet")
                self._bad_since = None

    def finish(self) -> None:
        """Write all held packets."""
        self._end_run()
        if self._bad_since is not None:
            self._take.note_loss(self._bad_since, self._last, "bad_packet")
            self._bad_since = None

    def _add(self, queued: QueuedPacket) -> None:
        packet = queued.packet
        if self._muxer is None and self._is_undated(queued):
            return
        dts = self._dts_of(queued)
        seconds = float(dts * packet.time_base)
        if queued.track:
            if not self._open_sound(queued):
                return
        elif queued.extra or packet.is_keyframe:
            self._see_parameters(queued)
        if self._muxer is None:
            self._min_s = min(self._min_s, seconds)
        if self._is_recorded(queued, seconds):
            return
        is_key = not queued.track and packet.is_keyframe
        if is_key and self._muxer is not None and self._must_begin_run(dts, seconds):
            self._end_run()
        if self._muxer is None:
            if not is_key and (queued.track or self._recorded is None):
                return
            self._begin_run(packet, seconds)
            self._recorded = None
            for early in list(self._early):
                self._mux(early, early.packet.dts or 0)
            self._early.clear()
        self._mux(queued, dts)

    def _dts_of(self, queued: QueuedPacket) -> int:
        """Return a packet's decoding time; without one, that after the last packet, or its pts."""
        packet = queued.packet
        if packet.dts is not None:
            return packet.dts
        clock = self._clocks.get(queued.track)
        if clock is None or clock.last is None:
            return packet.pts or 0
        dts = clock.last - clock.shift + max(1, packet.duration or 0)
        return dts if packet.pts is None else min(dts, packet.pts)

    def _is_undated(self, queued: QueuedPacket) -> bool:
        """Return whether a packet is held until one has a decoding time: the first packets of some
        files have none. The held ones then get times that lead up to it.
        """
        packet = queued.packet
        held = self._undated
        if packet.dts is None and packet.pts is not None and len(held) < _REORDERED:
            held.append(queued)
            return True
        if queued.track and held:
            held.append(queued)
            return len(held) <= 4 * _REORDERED
        if held:
            self._undated = []
            pictures = [other.packet for other in held if other.track == queued.track]
            for n, picture in enumerate(reversed(pictures), 1):
                if picture.dts is None:
                    step = n * max(1, packet.duration or 0)
                    picture.dts = picture.pts if packet.dts is None else packet.dts - step
            for other in held:
                self._add(other)
        return False

    def _is_recorded(self, queued: QueuedPacket, seconds: float) -> bool:
        """Return whether a packet of a file that is read again was recorded before, or is new sound
        that waits for the first new picture.
        """
        if self._recorded is None:
            return False
        pictures_end, sound_end = self._recorded
        if not queued.track:
            return seconds < pictures_end - _HAIR_S
        if seconds >= sound_end - _HAIR_S:
            self._early.append(queued)
        return True

    def _must_begin_run(self, dts: int, seconds: float) -> bool:
        """Return whether a new run must begin at this key frame."""
        if 1 in self._streams and not self._has_heard and seconds - self._began_s > _SILENT_S:
            self._lacks_sound = True
            self._needs_run = True
        return self._needs_run or self._clocks[0].is_break(dts) or self._is_aligned_anew()

    def _is_aligned_anew(self) -> bool:
        """Return whether pictures from here on would not be found by the clock of this run."""
        if self._take.alignment is None:
            return False
        now = self._take.alignment.now()
        if now is None or self._aligned is None:
            return now is not self._aligned
        return now.differs(self._aligned)

    def _begin_run(self, first: Packet[Any], seconds: float) -> None:
        """Begin a run with a new init part."""
        self._written.take()
        self._min_s = min(self._min_s, seconds)  # time may have stepped to below zero
        base = first.time_base
        form = self._templates.format.name
        muxer = av.open(self._written, "w", format=form, container_options=dict(_MUXING))
        self._streams = {}
        self._clocks = {}
        ahead = max(0.0, -self._min_s)
        ticks = math.ceil(ahead / base)
        for track, template in enumerate(self._templates.streams):
            if track and (self._lacks_sound or not self._is_sound_known()):
                continue
            stream = muxer.add_stream_from_template(template, opaque=True)
            extra = self._extra[track]
            if track == 0 and self._in_band:
                extra = self._in_band
            if extra:
                stream.codec_context.extradata = extra
            context: Any = stream.codec_context
            if track == 0 and (self._in_band or not context.width):
                context.width, context.height = key_frame_size(self._codecs[0], extra, first)
            if self._codecs[track] == "hevc":
                stream.codec_context.codec_tag = "hvc1"  # the tag that browsers and QuickTime play
            self._streams[track] = stream
        muxer.start_encoding()
        shift_s = float(ticks * base)
        self._begin_in_take(shift_s)
        self._clocks[0] = _TrackClock(base, ticks)
        self._captured.clear()
        self._muxer = muxer
        self._began_s = seconds
        self._shift_s = shift_s
        self._has_heard = False
        self._needs_run = False
        self._min_s = min(0.0, self._min_s)

    def _begin_in_take(self, shift_s: float) -> None:
        """Give the init part to the take. shift_s: the file's times minus those of its packets."""
        init = self._written.take()
        if self._take.alignment is None:
            self._take.begin(init, shift_s)
            return
        self._aligned = self._take.alignment.now()
        if self._aligned is None:  # nothing is decoded: the files are found by capture time only
            self._take.begin(init, shift_s, epoch=0)
        else:
            self._take.begin(init, shift_s - self._aligned.offset_s, self._aligned.epoch)

    def _end_run(self) -> None:
        muxer, self._muxer = self._muxer, None
        if muxer is not None:
            muxer.close()
            self._hand_over()
        self._take.finish()

    def _mux(self, queued: QueuedPacket, dts: int) -> None:
        assert self._muxer is not None
        stream = self._streams.get(queued.track)
        if stream is None:
            return
        packet = queued.packet
        base = packet.time_base
        clock = self._clocks.get(queued.track)
        if clock is None:
            clock = _TrackClock(base, round(self._shift_s / base))
            self._clocks[queued.track] = clock
        if clock.is_break(dts):
            assert clock.last is not None
            clock.shift = clock.last + max(1, packet.duration or 0) - dts
            self._needs_run = True
        shown = (dts if packet.pts is None else packet.pts) + clock.shift
        packet.dts = clock.rising(dts, queued.arrived_mono)
        packet.pts = max(packet.dts, shown)
        if packet.dts < 0:
            return  # sound before the first picture
        if queued.track:
            self._has_heard = True
        else:
            self._captured.append((float(packet.dts * base), queued.captured))
        packet.stream = stream
        self._muxer.mux_one(packet)
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the muxer's whole fragments to the take."""
        data = self._written.take()
        begin = 0
        for box in boxes(data):
            if box.kind == b"moof":
                begin = box.at
            elif box.kind == b"mdat":
                self._take.fragment(data[begin : box.end], self._captured_of)

    def _captured_of(self, dts_s: float) -> float:
        """Return the capture time of a picture; calls are in order of `dts_s`."""
        known = self._captured
        while len(known) > 1 and known[1][0] <= dts_s + _HAIR_S:
            known.popleft()
        return known[0][1]

    # -- the decoders' parameters

    def _see_parameters(self, queued: QueuedPacket) -> None:
        """Note a packet's parameters; a change requires a new run."""
        if queued.extra and queued.extra != self._extra[0]:
            self._extra[0] = queued.extra
            self._in_band = b""
            self._needs_run = True
            return
        if self._extra[0].startswith(b"\1"):
            return  # AVCC or HVCC: the parameters are in the container
        in_band = parameters(self._codecs[0], memoryview(queued.packet))
        if in_band and in_band != self._in_band:
            if self._in_band or in_band != self._extra[0]:
                self._needs_run = True
            self._in_band = in_band

    def _open_sound(self, queued: QueuedPacket) -> bool:
        """Remove an ADTS header, which MP4 stores once in its head. Return False if the packet has
        none where it needs one.
        """
        if self._lacks_sound:
            self._lacks_sound = False
            self._needs_run = True
        if self._codecs[1] != "aac" or (self._has_config and not self._is_adts):
            return True
        old = queued.packet
        data = bytes(old)
        header = adts(data)
        if header is None:
            return False
        self._is_adts = True
        config, size = header
        if config != self._extra[1]:
            self._needs_run = bool(self._extra[1]) or self._muxer is not None
            self._extra[1] = config
        bare: Packet[Any] = Packet(data[size:])
        bare.pts = old.pts
        bare.dts = old.dts
        bare.duration = old.duration
        bare.time_base = old.time_base
        bare.is_keyframe = True
        queued.packet = bare
        return True

    def _is_sound_known(self) -> bool:
        """Return whether the sound's parameters are known."""
        return self._codecs[1] != "aac" or bool(self._extra[1])
