"""A camera over RTSP as FFmpeg's packets: its video track, and its sound if that is wanted."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet

from framegate.pipeline.errors import SourceFault
from framegate.pipeline.ingest.rtsp_camera import Interleaved, RtspSession, UnspokenError
from framegate.stages.decode.rtp import (
    MOST_BYTES,
    AacUnits,
    AccessUnit,
    PictureUnits,
    RtpClock,
    RtpOrigin,
    RtpPacket,
    SoundUnits,
    UnitTooLargeError,
)

_CODECS: Final = {"H264": "h264", "H265": "hevc"}
_PLAIN: Final = {"PCMU", "PCMA", "L16", "OPUS"}
_STATIC: Final = {0: "PCMU/8000", 8: "PCMA/8000"}  # RFC 3551
_OUT_OF_ORDER: Final = re.compile(
    r"packetization-mode=2|sprop-(?:max-don-diff|depack-buf-nalus)=0*[1-9]"
)
_PARAMETER: Final = re.compile(r"([a-z]+)=(\d+)(?=\s*(?:;|$))")
_AAC_HEADS: Final = ("sizelength", "indexlength", "indexdeltalength")
_AAC_UNKNOWN: Final = (
    "constantsize",
    "ctsdeltalength",
    "dtsdeltalength",
    "auxiliarydatasizelength",
)


class MediaPart(NamedTuple):
    """An `m=` part of a description (RFC 4566): its lines, and what they say."""

    lines: str
    kind: str
    payload_type: int
    encoding: str
    parameters: str
    control: str

    def units(self) -> PictureUnits | SoundUnits:
        """What puts its packets together; UnspokenError."""
        if self.kind == "video" and self.encoding in _CODECS:
            if _OUT_OF_ORDER.search(self.parameters) is None:
                return PictureUnits(_CODECS[self.encoding])
        elif self.kind == "audio" and self.encoding in _PLAIN:
            return SoundUnits()
        elif self.kind == "audio" and self.encoding == "MPEG4-GENERIC":
            said = dict(_PARAMETER.findall(self.parameters.lower()))
            bits = [int(said.get(name, 0)) for name in _AAC_HEADS]
            if 0 < bits[0] <= 16 and not any(int(said.get(name, 0)) for name in _AAC_UNKNOWN):
                return AacUnits(*bits)
        raise UnspokenError


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
        mapped = said.get("rtpmap", "").partition(" ")[2] or _STATIC.get(payload_type, "")
        encoding = mapped.partition("/")[0].upper()
        control, more = said.get("control", ""), said.get("fmtp", "")
        found.append(MediaPart(f"m={part}", kind, payload_type, encoding, more, control))
    return found


class _RtpTrack:
    """A track: what comes by its channel as packets of its stream."""

    def __init__(self, part: MediaPart, stream: Any, origin: RtpOrigin | None) -> None:
        self.part, self.stream = part, stream
        self.units = part.units()
        self._base: Fraction = stream.time_base
        self.clock = RtpClock(self._base.denominator, origin)
        self._before: int | None = None

    def packets(self, data: bytes) -> list[Packet[Any]]:
        """Those that are complete with this one; UnitTooLargeError."""
        rtp = RtpPacket.of(data)
        if rtp is None or rtp.payload_type != self.part.payload_type:
            return []
        self.clock.begin(rtp.stamp)
        return [self._packet(each) for each in self.units.add(rtp.stamp, rtp.marker, rtp.payload)]

    def rest(self) -> list[Packet[Any]]:
        """What is there of one, as nothing more came."""
        return [self._packet(each) for each in self.units.rest()]

    def _packet(self, unit: AccessUnit) -> Packet[Any]:
        packet: Packet[Any] = Packet(unit.data)
        ticks = self.clock.ticks(unit.stamp)
        packet.stream, packet.time_base, packet.pts = self.stream, self._base, ticks
        if self.part.kind == "audio" or not self.stream.codec_context.has_b_frames:
            packet.dts = ticks
        if self._before is not None:
            packet.duration = max(0, ticks - self._before)
        self._before = ticks
        packet.is_keyframe = unit.is_key
        packet.opaque = self.clock.captured(unit.stamp)
        return packet


class RtspMedia:
    """The first video track of a camera that plays, and its first of sound; see `Opened`. One
    thread.

    container  what FFmpeg makes of the tracks' description: nothing is read from it
    """

    def __init__(
        self, session: RtspSession, quiet_s: float, more: dict[str, Any], hears: bool
    ) -> None:
        """Play it. OSError, UnspokenError, FFmpegError.

        quiet_s: when nothing came for so long, what is there of a picture is given.
        more: what else FFmpeg is told. hears: its sound as well.
        """
        said = session.description.decode("utf-8", "replace")
        parts = media_parts(said)
        firsts = {part.kind: part for part in reversed(parts)}
        kinds = ("video", "audio") if hears else ("video",)
        wanted = [part for part in parts if part.kind in kinds and part is firsts[part.kind]]
        if "video" not in firsts:
            raise UnspokenError
        for part in wanted:
            part.units()
        self._session, self._quiet_s = session, quiet_s
        lines = said[: said.index("m=")] + "".join(part.lines for part in wanted)
        options = {**more.get("options", {}), "sdp_flags": "custom_io", "protocol_whitelist": ""}
        told = {**more, "format": "sdp", "options": options}
        self.container: InputContainer = av.open(io.BytesIO(lines.encode()), "r", **told)
        try:
            if len(self.container.streams) != len(wanted):
                raise UnspokenError
            origin = RtpOrigin() if len(wanted) > 1 else None
            pairs = zip(wanted, self.container.streams, strict=True)
            tracks = [_RtpTrack(part, stream, origin) for part, stream in pairs]
            channels = session.play([part.control for part in wanted])
        except BaseException:
            self.container.close()
            raise
        self._tracks = dict(zip(channels, tracks, strict=True))

    def packets(self) -> Iterator[Packet[Any]]:
        """Yield the tracks' packets; SourceFault at the end, TimeoutError when nothing came for a
        while: they may be asked for again.

        Each has pts as FFmpeg's demuxer counts it, and when it was captured as its `opaque`.
        """
        try:
            for came in self._session.packets(self._quiet_s):
                if (track := self._tracks.get(came.channel)) is not None:
                    yield from self._packets(track, came)
                elif self._says_goodbye(came):
                    raise self._session.fault("the camera ended the stream", "closed")
        except (SourceFault, TimeoutError):
            for track in self._tracks.values():
                yield from track.rest()
            raise

    def abandon(self) -> None:
        """Nobody wants more: `packets` ends in a second at most. From any thread."""
        self._session.abandon()

    def close(self) -> None:
        """Hang up."""
        self._session.close()

    def _says_goodbye(self, came: Interleaved) -> bool:
        """Take what is no media; return whether no more pictures come."""
        track = self._tracks.get(came.channel - 1)  # RTCP
        return track is not None and track.clock.see(came.data) and track.part.kind == "video"

    def _packets(self, track: _RtpTrack, came: Interleaved) -> list[Packet[Any]]:
        try:
            return track.packets(came.data)
        except UnitTooLargeError:
            what = f"{MOST_BYTES >> 20} MB came and no picture was complete"
        raise self._session.fault(what, "damaged")
