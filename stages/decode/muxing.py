"""Packets into the fragments of an MP4, never encoded again: their tracks, times, parameters."""

from __future__ import annotations

import logging
import math
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import av.error
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from framegate.pipeline.recording.boxes import NotWhole, boxes
from framegate.pipeline.recording.take import Take

log = logging.getLogger(__name__)

FRAGMENT_S: Final = 0.5  # most of a fragment: what a killed process has not written
_STEP_BACK_S: Final = 1.0
LEAP_S: Final = 10.0  # of media from a packet to the next: time broke
_SILENT_S: Final = 5.0  # of media in which a sound track that was named has not come
_HAIR_S: Final = 1e-4
_PARAMETER_BYTES: Final = 4096  # at the head of a packet, in which parameters are looked for
_AAC_LC: Final = 2
_AAC_RATES: Final = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
)
_REORDERED: Final = 16  # pictures at most that are decoded before one that is shown earlier
_STUCK: Final = 25  # packets in a row whose time does not go on
_FLAGS: Final = "empty_moov+default_base_moof+frag_keyframe+frag_discont+skip_trailer"
_MUXING: Final = {
    "movflags": _FLAGS,
    "frag_duration": str(round(FRAGMENT_S * 1e6)),
    "use_editlist": "0",  # times of the file are those of the source
    "avoid_negative_ts": "disabled",
    "flush_packets": "1",
    "max_interleave_delta": "100000",  # microseconds for which one track waits for the other
}
# Of Annex B streams: the types of NAL units that say how the others are to be decoded.
_PARAMETERS: Final[Mapping[str, tuple[int, int, frozenset[int]]]] = {
    "h264": (0, 0x1F, frozenset((7, 8))),
    "hevc": (1, 0x3F, frozenset((32, 33, 34))),
}


class _Bytes:
    """What a muxer has written; a file, as PyAV wants it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Add to it."""
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """All of it, which is then gone from here."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


@dataclass(slots=True)
class Came:
    """A packet of a track: a copy, so that the decoder and the muxer have each their own."""

    track: int
    packet: Packet[Any]
    captured: float
    arrived_mono: float
    extra: bytes = b""  # parameters that hold from this packet on, where the container says them


def templates(streams: Sequence[Stream], source: str) -> OutputContainer | None:
    """A container of its own with copies of the tracks: their container may close meanwhile. None
    if nothing holds the video track; MP4 does not hold all sound, QuickTime does more of it.
    """
    for wanted in (streams, streams[:1]):
        for form in ("mp4", "mov"):
            made = av.open(_Bytes(), "w", format=form)
            try:
                for stream in wanted:
                    made.add_stream_from_template(stream, opaque=True)
            except (ValueError, AttributeError, av.error.FFmpegError):
                continue  # AttributeError: FFmpeg has no decoder for it
            if len(wanted) < len(streams):
                log.warning("source %s is recorded without its sound: no MP4 holds it", source)
            return made
    return None


@dataclass(slots=True)
class _TrackClock:
    """A track's time, in ticks: rising, whatever comes.

    shift  what it is ahead of the source's
    last   the last one that was given
    stuck  packets in a row that did not rise
    """

    base: Fraction
    shift: int = 0
    last: int | None = None
    stuck: int = 0
    last_mono: float = 0.0

    def is_break(self, dts: int) -> bool:
        """Return whether time went back, or leapt."""
        if self.last is None:
            return False
        step = float((dts + self.shift - self.last) * self.base)
        return step < -_STEP_BACK_S or step > LEAP_S

    def rising(self, dts: int, now_mono: float) -> int:
        """Give a packet a time above that of the one before. Where many in a row do not rise, the
        clock here says how much later they came.
        """
        dts += self.shift
        if self.last is not None and dts <= self.last:
            self.stuck += 1
            passed = now_mono - self.last_mono if self.stuck > _STUCK else 0.0
            dts = self.last + max(1, int(min(passed, _STEP_BACK_S) / self.base))
        else:
            self.stuck = 0
        self.last, self.last_mono = dts, now_mono
        return dts


class Muxing:
    """Gives a take the fragments of packets. One thread.

    A new init part, and with it a new segment, begins at a key frame where parameters changed, time
    broke, or sound came, or never did. Between a break and that key frame time just goes on.
    """

    def __init__(
        self, take: Take, templates: OutputContainer, recorded: tuple[float, float] | None
    ) -> None:
        """Write packets to a take.

        templates  holds the tracks that packets may be of, the video track first
        recorded   as `Take.recorded` returns it: packets before are not written again
        """
        self._take, self._templates = take, templates
        self._codecs = [stream.codec_context.name for stream in templates.streams]
        self._extra = [_extra_of(stream) for stream in templates.streams]
        self._in_band = b""  # parameters that came within the last key frame
        self._muxer: OutputContainer | None = None
        self._written = _Bytes()
        self._streams: dict[int, Stream] = {}  # by track, of the muxer
        self._clocks: dict[int, _TrackClock] = {}
        self._captured: deque[tuple[float, float]] = deque()  # of pictures, by when decoded
        self._began_s = 0.0
        self._shift_s = 0.0
        self._heard = self._anew = self._lacks_sound = self._is_adts = False
        contexts = [stream.codec_context for stream in templates.streams]
        self._has_config = len(contexts) > 1 and bool(contexts[1].extradata)
        self._least_s = 0.0
        self._recorded = recorded
        self._bad_since: float | None = None  # captured
        self._undated: list[Came] = []
        self._early: deque[Came] = deque(maxlen=256)  # sound that came before its pictures

    def add(self, came: Came) -> None:
        """Take a packet."""
        try:
            self._add(came)
        except (ValueError, ArithmeticError, struct.error, NotWhole, av.error.FFmpegError) as error:
            if self._bad_since is None:
                self._bad_since = came.captured
                what = "a packet cannot be recorded, nor those up to a key frame that can"
                log.warning("source %s: %s: %s", self._take.source, what, type(error).__name__)
            self._muxer, self._recorded = None, None
        else:
            if self._bad_since is not None and self._muxer is not None:
                self._take.lost(self._bad_since, came.captured, "bad_packet")
                self._bad_since = None

    def finish(self) -> None:
        """Write what is held."""
        self._end_run()

    def _add(self, came: Came) -> None:
        packet, clock = came.packet, self._clocks.get(came.track)
        if self._muxer is None and self._is_undated(came):
            return
        base, dts = packet.time_base, packet.dts
        if dts is None and clock is not None and clock.last is not None:
            dts = clock.last - clock.shift + max(1, packet.duration or 0)
            dts = dts if packet.pts is None else min(dts, packet.pts)
        elif dts is None:
            dts = packet.pts or 0
        seconds = float(dts * base)
        if came.track:
            if not self._open_sound(came):
                return
        elif came.extra or packet.is_keyframe:
            self._see_parameters(came)
        if self._muxer is None:
            self._least_s = min(self._least_s, seconds)
        if self._is_recorded(came, seconds):
            return
        is_key = not came.track and packet.is_keyframe
        if is_key and self._muxer is not None and self._wants_anew(dts, seconds):
            self._end_run()
        if self._muxer is None:
            if not is_key and (came.track or self._recorded is None):
                return
            self._begin_run(packet, seconds)
            self._recorded = None
            for early in list(self._early):
                self._mux(early, early.packet.dts or 0)
            self._early.clear()
        self._mux(came, dts)

    def _is_undated(self, came: Came) -> bool:
        """Return whether a packet is held until one tells when it is to be decoded: of some files
        the first ones do not.
        """
        packet, held = came.packet, self._undated
        if packet.dts is None and packet.pts is not None and len(held) < _REORDERED:
            held.append(came)
            return True
        if came.track and held:
            held.append(came)
            return len(held) <= 4 * _REORDERED
        if held:
            self._undated = []
            pictures = [one.packet for one in held if one.track == came.track]
            for n, one in enumerate(reversed(pictures), 1):
                if one.dts is None:
                    step = n * max(1, packet.duration or 0)
                    one.dts = one.pts if packet.dts is None else packet.dts - step
            for each in held:
                self._add(each)
        return False

    def _is_recorded(self, came: Came, seconds: float) -> bool:
        """Return whether a packet of a file that is read again was recorded before; sound that was
        not waits for the first picture that was not.
        """
        if self._recorded is None:
            return False
        ends = self._recorded[1 if came.track else 0]
        if seconds < ends - _HAIR_S:
            return True
        if came.track:
            self._early.append(came)
        return came.track > 0

    def _wants_anew(self, dts: int, seconds: float) -> bool:
        """Return whether a new run is to begin at this key frame."""
        if 1 in self._streams and not self._heard and seconds - self._began_s > _SILENT_S:
            self._lacks_sound = self._anew = True
        return self._anew or self._clocks[0].is_break(dts)

    def _begin_run(self, first: Packet[Any], seconds: float) -> None:
        """Begin with a new init part."""
        self._written.taken()
        base = first.time_base
        form = self._templates.format.name
        muxer = av.open(self._written, "w", format=form, container_options=dict(_MUXING))
        self._streams, self._clocks = {}, {}
        ahead = max(0.0, -self._least_s)
        ticks = math.ceil(ahead / base)
        for track, template in enumerate(self._templates.streams):
            if track and (self._lacks_sound or not self._is_sound_known()):
                continue
            stream = muxer.add_stream_from_template(template, opaque=True)
            extra = (self._in_band or self._extra[0]) if track == 0 else self._extra[track]
            if extra:
                stream.codec_context.extradata = extra
            context: Any = stream.codec_context
            if track == 0 and (self._in_band or not context.width):
                context.width, context.height = _size(self._codecs[0], extra, first)
            if self._codecs[track] == "hevc":
                stream.codec_context.codec_tag = "hvc1"  # what browsers and QuickTime play
            self._streams[track] = stream
        muxer.start_encoding()
        shift_s = float(ticks * base)
        self._take.begin(self._written.taken(), shift_s)
        self._clocks[0] = _TrackClock(base, ticks)
        self._captured.clear()
        self._muxer, self._began_s = muxer, seconds
        self._shift_s, self._heard, self._anew = shift_s, False, False
        self._least_s = min(0.0, self._least_s)

    def _end_run(self) -> None:
        muxer, self._muxer = self._muxer, None
        if muxer is not None:
            muxer.close()
            self._hand_over()
        self._take.finish()

    def _mux(self, came: Came, dts: int) -> None:
        assert self._muxer is not None
        stream = self._streams.get(came.track)
        if stream is None:
            return
        packet, base = came.packet, came.packet.time_base
        clock = self._clocks.get(came.track)
        if clock is None:
            clock = self._clocks[came.track] = _TrackClock(base, round(self._shift_s / base))
        if clock.is_break(dts):
            assert clock.last is not None
            clock.shift = clock.last + max(1, packet.duration or 0) - dts
            self._anew = True
        shown = (dts if packet.pts is None else packet.pts) + clock.shift
        packet.dts = clock.rising(dts, came.arrived_mono)
        packet.pts = max(packet.dts, shown)
        if packet.dts < 0:
            return  # sound before the first picture
        if came.track:
            self._heard = True
        else:
            self._captured.append((float(packet.dts * base), came.captured))
        packet.stream = stream
        self._muxer.mux_one(packet)
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the take what the muxer has written: whole fragments."""
        data = self._written.taken()
        begin = 0
        for box in boxes(data):
            if box.kind == b"moof":
                begin = box.at
            elif box.kind == b"mdat":
                self._take.fragment(data[begin : box.end], self._captured_of)

    def _captured_of(self, dts_s: float) -> float:
        """When a picture was taken; pictures are asked for in order."""
        known = self._captured
        while len(known) > 1 and known[1][0] <= dts_s + _HAIR_S:
            known.popleft()
        return known[0][1]

    # -- what decoders need to know beforehand

    def _see_parameters(self, came: Came) -> None:
        """Note parameters; others than before want a new init part."""
        if came.extra and came.extra != self._extra[0]:
            self._extra[0], self._in_band, self._anew = came.extra, b"", True
            return
        if self._extra[0].startswith(b"\1"):
            return  # they stand there, and units have lengths before them
        found = parameters(self._codecs[0], memoryview(came.packet))
        if found and found != self._in_band:
            self._anew = self._anew or bool(self._in_band) or found != self._extra[0]
            self._in_band = found

    def _open_sound(self, came: Came) -> bool:
        """Take an ADTS header off, which an MP4 has once for all; False if it cannot be used."""
        if self._lacks_sound:
            self._lacks_sound, self._anew = False, True
        if self._codecs[1] != "aac" or (self._has_config and not self._is_adts):
            return True
        data = bytes(came.packet)
        said = adts(data)
        if said is None:
            return False
        self._is_adts = True
        config, header = said
        if config != self._extra[1]:
            self._anew = bool(self._extra[1]) or self._muxer is not None
            self._extra[1] = config
        bare: Packet[Any] = Packet(data[header:])
        old = came.packet
        bare.pts, bare.dts, bare.duration = old.pts, old.dts, old.duration
        bare.time_base, bare.is_keyframe = old.time_base, True
        came.packet = bare
        return True

    def _is_sound_known(self) -> bool:
        """Return whether an MP4 can say how its sound is to be decoded."""
        return self._codecs[1] != "aac" or bool(self._extra[1])


def _extra_of(stream: Stream) -> bytes:
    """What a decoder needs beforehand. Of AAC that says it in each packet (ADTS): by its rate."""
    context: Any = stream.codec_context
    if context.extradata:
        return bytes(context.extradata)
    if context.name != "aac" or context.sample_rate not in _AAC_RATES:
        return b""
    rate, channels = _AAC_RATES.index(context.sample_rate), context.layout.nb_channels
    return _aac_config(_AAC_LC, rate, 7 if channels == 8 else channels)


def _size(codec: str, extra: bytes, key: Packet[Any]) -> tuple[int, int]:
    """Width and height of a key frame: of a camera they are not known before one was decoded, and
    after new parameters they are others. FFmpegError, ValueError.
    """
    decoder: Any = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    if extra:
        decoder.extradata = extra
    frames = [*decoder.decode(Packet(memoryview(key))), *decoder.decode(None)]  # type: ignore[arg-type]
    if not frames:
        raise ValueError("a key frame of which no picture comes")
    return frames[0].width, frames[0].height


def _aac_config(kind: int, rate: int, channels: int) -> bytes:
    """An AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1). rate: index of a rate."""
    return struct.pack(">H", kind << 11 | rate << 7 | channels << 3)


def adts(data: bytes) -> tuple[bytes, int] | None:
    """The AudioSpecificConfig that an ADTS header stands for, and its length; None if it is none
    (ISO/IEC 13818-7, 6.2).
    """
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return None
    kind, rate = (data[2] >> 6) + 1, data[2] >> 2 & 0xF
    channels = (data[2] & 1) << 2 | data[3] >> 6
    return _aac_config(kind, rate, channels), 7 if data[1] & 1 else 9


def parameters(codec: str, packet: memoryview) -> bytes:
    """The parameter sets within a packet of an Annex B stream, as such a stream; b"" if none."""
    if codec not in _PARAMETERS:
        return b""
    shift, mask, kinds = _PARAMETERS[codec]
    data = bytes(packet[:_PARAMETER_BYTES])
    if not data.startswith((b"\0\0\1", b"\0\0\0\1")):
        return b""
    found = b""
    for unit in data.split(b"\0\0\1")[1:]:
        if unit and unit[0] >> shift & mask in kinds:
            found += b"\0\0\0\1" + unit.rstrip(b"\0")
    return found
