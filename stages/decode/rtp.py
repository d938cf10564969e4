"""H.264 and H.265 of an RTSP camera, a picture when its last packet came.

FFmpeg's demuxer cuts them where the next picture begins, a whole frame interval later: it does not
hand on RTP's marker. Packets here are otherwise what its would be, byte for byte.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from framegate.pipeline.errors import SourceFault
from framegate.pipeline.ingest.rtsp_camera import RtspSession, UnspokenError

MOST_BYTES: Final = 16 << 20  # of a picture
TRUSTED: Final = 5

_START: Final = b"\0\0\0\1"
_HZ: Final = 90_000
_TICK: Final = Fraction(1, _HZ)
_CODECS: Final = {"H264/90000": "h264", "H265/90000": "hevc"}
_UNSPOKEN: Final = re.compile(
    r"packetization-mode=2|sprop-(?:max-don-diff|depack-buf-nalus)=0*[1-9]"  # units out of order
)
_NTP_ERA_S: Final = 2_208_988_800  # from 1900 to 1970
_SENDER_REPORT: Final = 200
_GOODBYE: Final = 203
_RECOVERY_POINT: Final = 6


# -- What a description says (RFC 4566).


class MediaPart(NamedTuple):
    """An `m=` part: its lines, and what they say; codec: of known video, else empty."""

    lines: str
    kind: str
    payload_type: int
    codec: str
    control: str


def media_parts(description: str) -> list[MediaPart]:
    """What there is to play, in order."""
    found = []
    for part in re.split(r"(?m)^m=", description)[1:]:
        kind, *words = part.partition("\n")[0].split()
        said: dict[str, str] = {}
        for line in part.splitlines():
            name, _, value = line.strip().removeprefix("a=").partition(":")
            said.setdefault(name, value.strip())
        payload_type = int(words[2]) if len(words) > 2 and words[2].isdecimal() else -1
        encoding = said.get("rtpmap", "").partition(" ")[2].upper()
        codec = "" if _UNSPOKEN.search(said.get("fmtp", "")) else _CODECS.get(encoding, "")
        found.append(MediaPart(f"m={part}", kind, payload_type, codec, said.get("control", "")))
    return found


# -- Payloads to access units. Pure. What begins one is what FFmpeg's parsers take for it.


class AccessUnit(NamedTuple):
    """A coded picture and what stands before it, as Annex B; stamp: of its first packet."""

    data: bytes
    stamp: int
    is_key: bool


class Depacketiser:
    """Puts access units of H.264 (RFC 6184) or H.265 (RFC 7798) together; of one track.

    A unit is over when the next begins; with RTP's marker as well, once that was right with
    TRUSTED units in a row. A camera that marks where a unit goes on is never believed again.
    """

    def __init__(self, codec: str) -> None:
        """codec: h264 or hevc."""
        self._is_h264 = codec == "h264"
        self._parts: list[bytes] = []
        self._size = self._stamp = 0
        self._has_slice = self._is_key = self._recovers = self._ends = False
        self._first_block = 0
        self._right: int | None = 0  # units that ended with a marker; None: one did not

    def add(self, stamp: int, marker: bool, payload: bytes) -> list[AccessUnit]:
        """Take a packet; give the units that are over. ValueError: too large a unit."""
        over: list[AccessUnit] = []
        if self._is_h264:
            at, fragment, aggregate, most = 1, 28, 24, 23
        else:
            at, fragment, aggregate, most = 2, 49, 48, 47
        if len(payload) < at:
            return over
        kind = self._kind(payload)
        if kind == fragment:
            if payload[at : at + 1] >= b"\x80":
                self._begin(self._head(payload) + payload[at + 1 :], stamp, over)
            elif self._parts or self._has_slice:
                self._go_on()
                self._keep(payload[at + 1 :])
        elif kind == aggregate:
            while at + 2 < len(payload):
                begin = at + 2
                at = begin + (payload[at] << 8 | payload[at + 1])
                if begin + 1 < at <= len(payload):
                    self._begin(payload[begin:at], stamp, over)
        elif kind <= most:
            self._begin(payload, stamp, over)
        self._ends = marker and self._has_slice
        if self._ends and self._right is not None and self._right >= TRUSTED:
            over.append(self._taken())
        return over

    def rest(self) -> list[AccessUnit]:
        """Give what is there of the unit: nothing more came for long."""
        return [self._taken()] if self._has_slice and self._parts else []

    def _kind(self, unit: bytes) -> int:
        return unit[0] & 31 if self._is_h264 else unit[0] >> 1 & 63

    def _head(self, payload: bytes) -> bytes:
        """The header of the unit that begins with this fragment."""
        if self._is_h264:
            return bytes((payload[0] & 0xE0 | payload[1] & 31,))
        return bytes((payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]))

    def _begin(self, unit: bytes, stamp: int, over: list[AccessUnit]) -> None:
        kind = self._kind(unit)
        is_slice, begins = (self._h264_role if self._is_h264 else self._hevc_role)(kind, unit)
        if begins and self._has_slice:
            if self._parts:
                over.append(self._taken())
            if self._right is not None:
                self._right = self._right + 1 if self._ends else 0
            self._has_slice = self._recovers = self._ends = False
        else:
            self._go_on()
        if not self._parts:
            self._stamp = stamp
        if not self._is_h264:
            self._is_key |= is_slice and kind >= 16
        elif kind == 6:
            self._recovers |= _recovers(unit)
        elif is_slice:
            self._is_key |= kind == 5 or self._recovers
        self._has_slice |= is_slice
        self._keep(_START)
        self._keep(unit)

    def _h264_role(self, kind: int, unit: bytes) -> tuple[bool, bool]:
        """Return whether it is a slice, and whether it begins a unit if one has slices."""
        if kind not in (1, 2, 5):
            return False, 6 <= kind <= 9
        before, self._first_block = self._first_block, _first_block(unit)
        return True, self._first_block <= before

    def _hevc_role(self, kind: int, unit: bytes) -> tuple[bool, bool]:
        """Return whether it is a picture's first slice, and whether it begins a unit."""
        if unit[0] & 1 or unit[1] >> 3:  # of another layer
            return False, False
        if kind <= 9 or 16 <= kind <= 21:
            return (unit[2:3] >= b"\x80",) * 2
        return False, 32 <= kind <= 37 or kind == 39 or 41 <= kind <= 44 or 48 <= kind <= 55

    def _go_on(self) -> None:
        if self._ends:
            self._right, self._ends = None, False

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > MOST_BYTES:
            raise ValueError("too large a picture")

    def _taken(self) -> AccessUnit:
        unit = AccessUnit(b"".join(self._parts), self._stamp, self._is_key)
        self._parts.clear()
        self._size, self._is_key = 0, False
        return unit


def _first_block(unit: bytes) -> int:
    """first_mb_in_slice: the first number of an H.264 slice, ue(v)."""
    bits = int.from_bytes(unit[1:9].ljust(8, b"\0"))
    zeros = 64 - bits.bit_length()
    return (bits >> max(0, 63 - 2 * zeros)) - 1


def _recovers(unit: bytes) -> bool:
    """Return whether a unit of H.264 SEI says that decoding may begin here."""
    left = unit[1:]
    while len(left) > 2:
        told = []
        for _ in range(2):  # kind and length, 255 for each byte of 255
            more = len(left) - len(left.lstrip(b"\xff"))
            told.append(255 * more + (left[more] if more < len(left) else 0))
            left = left[more + 1 :]
        if told[0] == _RECOVERY_POINT:
            return True
        left = left[told[1] :]
    return False


# -- Access units to packets.


class RtpClock:
    """Times of a track: ticks from its first packet on, and by the camera's clock. One thread."""

    def __init__(self) -> None:
        self._last = self._ticks = 0
        self._first: int | None = None
        self._told: tuple[int, float] | None = None

    def ticks(self, stamp: int) -> int:
        """The stamp without its wraps."""
        if self._first is None:
            self._first = self._last = stamp
        self._ticks += _signed(stamp - self._last)
        self._last = stamp
        return self._ticks

    def see(self, packet: bytes) -> bool:
        """Take a packet of RTCP: a sender report ties stamps to UNIX seconds. Return whether the
        camera says goodbye (RFC 3550, 6.4.1 and 6.6).
        """
        is_over, at = False, 0
        while at + 4 <= len(packet):
            kind, words = packet[at + 1], int.from_bytes(packet[at + 2 : at + 4])
            if kind == _SENDER_REPORT and at + 20 <= len(packet):
                seconds, part, stamp = struct.unpack_from("!III", packet, at + 8)
                self._told = stamp, seconds - _NTP_ERA_S + part / (1 << 32)
            is_over |= kind == _GOODBYE
            at += 4 + 4 * words
        return is_over

    def captured(self, stamp: int) -> float | None:
        """UNIX seconds, None before the camera has told."""
        if self._told is None:
            return None
        return self._told[1] + _signed(stamp - self._told[0]) / _HZ


def _signed(difference: int) -> int:
    """A difference of 32-bit numbers that wrap."""
    return (difference + (1 << 31)) % (1 << 32) - (1 << 31)


class RtpVideo:
    """The first video track of a camera that plays; see `Opened`. One thread.

    container  what FFmpeg makes of the track's description: nothing is read from it
    """

    def __init__(
        self, session: RtspSession, quiet_s: float, more: dict[str, Any], hears: bool
    ) -> None:
        """Play it. OSError, UnspokenError, FFmpegError.

        quiet_s: when nothing came for so long, what is there of a picture is given.
        more: what else FFmpeg is told. hears: not where there is sound as well.
        """
        said = session.description.decode("utf-8", "replace")
        tracks = media_parts(said)
        track = next((one for one in tracks if one.kind == "video"), None)
        has_sound = any(one.kind == "audio" for one in tracks)
        if track is None or not track.codec or (hears and has_sound):
            raise UnspokenError
        self._session, self._quiet_s = session, quiet_s
        self._payload_type = track.payload_type
        self._units, self._clock = Depacketiser(track.codec), RtpClock()
        self._before: int | None = None
        lines = said[: said.index("m=")] + track.lines
        options = {**more.get("options", {}), "sdp_flags": "custom_io", "protocol_whitelist": ""}
        told = {**more, "format": "sdp", "options": options}
        self.container: InputContainer = av.open(io.BytesIO(lines.encode()), "r", **told)
        try:
            (self._channel,) = session.play([track.control])
        except BaseException:
            self.container.close()
            raise

    def packets(self, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
        """Yield the track's pictures as packets of the container's `stream`; SourceFault at the
        end, TimeoutError when nothing came for a while: they may be asked for again.

        Each has pts as FFmpeg's demuxer counts it, and when it was captured as its `opaque`.
        """
        try:
            for came in self._session.packets(self._quiet_s):
                if came.channel == self._channel:
                    for unit in self._over(came.data):
                        yield self._packet(unit, stream)
                elif came.channel == self._channel + 1 and self._clock.see(came.data):
                    raise self._session.fault("the camera ended the stream", "closed")
        except (SourceFault, TimeoutError):
            yield from (self._packet(unit, stream) for unit in self._units.rest())
            raise

    def abandon(self) -> None:
        """Nobody wants more: `packets` ends in a second at most. From any thread."""
        self._session.abandon()

    def close(self) -> None:
        """Hang up."""
        self._session.close()

    def _over(self, data: bytes) -> list[AccessUnit]:
        """The units that are over with this packet (RFC 3550, 5.1)."""
        if len(data) < 12:
            return []
        head, marked, _, stamp = struct.unpack_from("!BBHI", data)
        if head >> 6 != 2 or marked & 127 != self._payload_type:
            return []
        begin, end = 12 + 4 * (head & 15), len(data)
        if head & 0x10 and begin + 4 <= end:
            begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4])
        if head & 0x20:
            end -= data[-1]
        try:
            return self._units.add(stamp, marked >= 128, data[begin:end])
        except ValueError:
            what = f"{MOST_BYTES >> 20} MB came and no picture was complete"
            raise self._session.fault(what, "damaged") from None

    def _packet(self, unit: AccessUnit, stream: VideoStream) -> Packet[VideoStream]:
        packet: Packet[Any] = Packet(unit.data)
        ticks = self._clock.ticks(unit.stamp)
        packet.stream, packet.time_base = stream, _TICK
        packet.pts = ticks
        if not stream.codec_context.has_b_frames:
            packet.dts = ticks
        if self._before is not None:
            packet.duration = max(0, ticks - self._before)
        self._before = ticks
        packet.is_keyframe = unit.is_key
        packet.opaque = self._clock.captured(unit.stamp)
        return packet
