"""A camera's tracks over RTSP as FFmpeg's packets: the video track and, if wanted, the sound."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
import av.error
from av.container import InputContainer
from av.packet import Packet

from framegate.pipeline.contracts.errors import SourceFault
from framegate.stages.decode.rtsp.messages import UnspokenError, is_rtsp
from framegate.stages.decode.rtsp.packets import (
    MAX_BYTES,
    AacUnits,
    AccessUnit,
    PictureUnits,
    RtpClock,
    RtpOrigin,
    RtpPacket,
    SoundUnits,
    UnitTooLargeError,
)
from framegate.stages.decode.rtsp.relay import RelayedTrack, RtspRelay, relayed_control
from framegate.stages.decode.rtsp.session import Interleaved, RtspSession

_CODECS: Final = {"H264": "h264", "H265": "hevc"}
_PLAIN: Final = {"PCMU", "PCMA", "L16", "OPUS"}
_STATIC: Final = {0: "PCMU/8000", 8: "PCMA/8000"}  # RFC 3551
_OUT_OF_ORDER: Final = re.compile(
    r"packetization-mode=2|sprop-(?:max-don-diff|depack-buf-nalus)=0*[1-9]"
)
# A name begins after a character that is not a letter: otherwise a long word would be matched again
# from each of its letters.
_PARAMETER: Final = re.compile(r"(?<![a-z])([a-z]+)=([0-9]{1,9})(?=\s*(?:;|$))")
_PART: Final = re.compile(r"(?m)^[ \t]*m=")
_AAC_HEADS: Final = ("sizelength", "indexlength", "indexdeltalength")
_MAX_INDEX_BITS: Final = 32
_PAYLOAD_TYPE: Final = re.compile(r"[0-9]{1,3}")
_AAC_UNKNOWN: Final = (
    "constantsize",
    "ctsdeltalength",
    "dtsdeltalength",
    "auxiliarydatasizelength",
)


class ForeignMediaError(UnspokenError):
    """The description uses a format that is not assembled here; FFmpeg may support it."""


class MediaPart(NamedTuple):
    """An `m=` part of a description (RFC 4566): its lines, and their attributes.

    payload_type  -1 if the part names none
    """

    lines: str
    kind: str
    payload_type: int
    encoding: str
    parameters: str
    control: str
    encrypted: bool

    def units(self) -> PictureUnits | SoundUnits:
        """Return the assembler of the part's packets; ForeignMediaError."""
        if self.encrypted:
            raise ForeignMediaError(f"its {self.kind} is encrypted (SRTP)")
        if self.payload_type < 0:
            raise ForeignMediaError(f"its {self.kind} has no payload type")
        if self.kind == "video" and self.encoding in _CODECS:
            if _OUT_OF_ORDER.search(self.parameters) is None:
                return PictureUnits(_CODECS[self.encoding])
        elif self.kind == "audio" and self.encoding in _PLAIN:
            return SoundUnits()
        elif self.kind == "audio" and self.encoding == "MPEG4-GENERIC":
            values = dict(_PARAMETER.findall(self.parameters.lower()))
            bits = [int(values.get(name, 0)) for name in _AAC_HEADS]
            unknown = [name for name in _AAC_UNKNOWN if int(values.get(name, 0))]
            if 0 < bits[0] <= 16 and max(bits[1:]) <= _MAX_INDEX_BITS and not unknown:
                return AacUnits(*bits)
        raise ForeignMediaError(f"its {self.kind} is {self.encoding[:40] or 'of no known name'}")


def media_parts(description: str) -> list[MediaPart]:
    """Return the tracks of a description, in order. Any text is allowed.

    description: its lines end with a line feed.
    """
    parts = []
    for lines in _PART.split(description)[1:]:
        kind, *words = lines.partition("\n")[0].split() or [""]
        attributes: dict[str, str] = {}
        for line in lines.split("\n"):
            attributes.setdefault(*_attribute(line))
        has_type = len(words) > 2 and _PAYLOAD_TYPE.fullmatch(words[2]) is not None
        payload_type = int(words[2]) if has_type else -1
        mapped = attributes.get("rtpmap", "").partition(" ")[2] or _STATIC.get(payload_type, "")
        part = MediaPart(
            lines=f"m={lines}",
            kind=kind,
            payload_type=payload_type,
            encoding=mapped.partition("/")[0].strip().upper(),
            parameters=attributes.get("fmtp", ""),
            control=attributes.get("control", ""),
            encrypted="crypto" in attributes,
        )
        parts.append(part)
    return parts


class RtspTracks(NamedTuple):
    """The wanted tracks of a description: the first video track and, if wanted, the first sound.

    head  the lines before the first track
    """

    head: str
    wanted: list[MediaPart]

    @classmethod
    def of(cls, description: bytes, hears: bool) -> RtspTracks:
        """Choose the tracks. hears: with sound. UnspokenError: there is no video track."""
        text = description.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
        missing = ["video", "audio"] if hears else ["video"]
        wanted: list[MediaPart] = []
        for part in media_parts(text):
            if part.kind in missing:
                missing.remove(part.kind)
                wanted.append(part)
        if "video" in missing:
            raise UnspokenError("its description names no video track", "no_video_stream")
        return cls(_PART.split(text, maxsplit=1)[0], wanted)

    @property
    def aggregate(self) -> str | None:
        """Return the URL of all tracks together, None if the head names none. As in FFmpeg, only a
        whole URL counts.
        """
        url = None
        for line in self.head.split("\n"):
            name, value = _attribute(line)
            if name == "control" and is_rtsp(value):
                url = value
        return url

    def described(self, controls: Sequence[str] | None = None) -> str:
        """Return the description of these tracks alone; `controls` replace their own."""
        parts = [part.lines for part in self.wanted]
        if controls is None:
            return self.head + "".join(parts)
        named = [_uncontrolled(self.head)]
        for part, control in zip(parts, controls, strict=True):
            named.append(f"{_uncontrolled(part)}a=control:{control}\n")
        return "".join(named)


def _attribute(line: str) -> tuple[str, str]:
    """Return name and value of `a=NAME:VALUE`."""
    name, _, value = line.strip().removeprefix("a=").partition(":")
    return name, value.strip()


def _uncontrolled(lines: str) -> str:
    """Return the lines without the `control` attribute; each ends with a line feed."""
    kept = [line for line in lines.split("\n") if line and _attribute(line)[0] != "control"]
    return "".join(f"{line}\n" for line in kept)


class _RtpTrack:
    """A track: assembles the packets of its channel into packets of its stream."""

    def __init__(self, part: MediaPart, stream: Any, origin: RtpOrigin | None) -> None:
        self.part = part
        self.stream = stream
        self.units = part.units()
        self._base: Fraction = stream.time_base
        self.clock = RtpClock(self._base.denominator, origin)
        self._before: int | None = None

    def packets(self, data: bytes) -> list[Packet[Any]]:
        """Return the packets that this one completes; UnitTooLargeError."""
        rtp = RtpPacket.of(data)
        if rtp is None or rtp.payload_type != self.part.payload_type:
            return []
        self.clock.begin(rtp.stamp)
        return [self._packet(unit) for unit in self.units.add(rtp.stamp, rtp.marker, rtp.payload)]

    def rest(self) -> list[Packet[Any]]:
        """Return the begun packet, if any: nothing came for a while."""
        return [self._packet(unit) for unit in self.units.rest()]

    def _packet(self, unit: AccessUnit) -> Packet[Any]:
        packet: Packet[Any] = Packet(unit.data)
        ticks = self.clock.ticks(unit.stamp)
        packet.stream = self.stream
        packet.time_base = self._base
        packet.pts = ticks
        if self.part.kind == "audio" or not self.stream.codec_context.has_b_frames:
            packet.dts = ticks
        if self._before is not None:
            packet.duration = max(0, ticks - self._before)
        self._before = ticks
        packet.is_keyframe = unit.is_key
        packet.opaque = self.clock.captured(unit.stamp)
        return packet


class RtspMedia:
    """The playing tracks of a camera, read by this client; see `Opened`. One thread.

    container  FFmpeg's view of the description, for its codecs; nothing is read from it
    """

    def __init__(
        self, session: RtspSession, quiet_s: float, arguments: dict[str, Any], hears: bool
    ) -> None:
        """Start playback. OSError, UnspokenError; ForeignMediaError before the camera is asked.

        quiet_s    after so long without a packet, a begun picture is returned
        arguments  further arguments of av.open
        hears      with sound
        """
        chosen = RtspTracks.of(session.description, hears)
        wanted = chosen.wanted
        for part in wanted:
            part.units()
        self._session = session
        self._quiet_s = quiet_s
        lines = chosen.described().encode()
        options = {
            **arguments.get("options", {}),
            "sdp_flags": "custom_io",
            "protocol_whitelist": "",
        }
        sdp = {**arguments, "format": "sdp", "options": options}
        try:
            self.container: InputContainer = av.open(io.BytesIO(lines), "r", **sdp)
        except av.error.FFmpegError as error:
            raise ForeignMediaError(f"its description is refused ({error.strerror})") from None
        try:
            if len(self.container.streams) != len(wanted):
                raise ForeignMediaError("its description is not understood")
            origin = RtpOrigin() if len(wanted) > 1 else None
            pairs = zip(wanted, self.container.streams, strict=True)
            tracks = [_RtpTrack(part, stream, origin) for part, stream in pairs]
            channels = session.play([part.control for part in wanted], chosen.aggregate)
        except BaseException:
            self.container.close()
            raise
        # If two tracks have one channel, the first gets its packets, as in FFmpeg.
        self._tracks = dict(zip(reversed(channels), reversed(tracks), strict=True))

    def packets(self) -> Iterator[Packet[Any]]:
        """Yield the tracks' packets. SourceFault at the end; TimeoutError if nothing came for a
        while: call it again to continue.

        pts is that of FFmpeg's demuxer, `opaque` the UNIX seconds of the capture.
        """
        try:
            for piece in self._session.packets(self._quiet_s):
                track = self._tracks.get(piece.channel)
                if track is not None:
                    yield from self._packets(track, piece)
                elif self._is_goodbye(piece):
                    raise self._session.fault("the camera ended the stream", "closed")
        except (SourceFault, TimeoutError):
            for track in self._tracks.values():
                yield from track.rest()
            raise

    def abandon(self) -> None:
        """Make `packets` end within a second. Any thread."""
        self._session.abandon()

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def _is_goodbye(self, piece: Interleaved) -> bool:
        """Take an RTCP packet; return whether it ends the video track."""
        track = self._tracks.get(piece.channel - 1)
        return track is not None and track.clock.see(piece.data) and track.part.kind == "video"

    def _packets(self, track: _RtpTrack, piece: Interleaved) -> list[Packet[Any]]:
        try:
            return track.packets(piece.data)
        except UnitTooLargeError:
            text = f"{MAX_BYTES >> 20} MB arrived without a complete picture"
        raise self._session.fault(text, "damaged")


class RelayedMedia:
    """The playing tracks of a camera, assembled by FFmpeg, which reads a relay. One thread.

    container  reads the relay
    """

    def __init__(
        self,
        session: RtspSession,
        patience_s: float,
        quiet_s: float,
        arguments: dict[str, Any],
        hears: bool,
    ) -> None:
        """Start playback. OSError, UnspokenError, FFmpegError, SourceFault.

        patience_s  seconds for FFmpeg's requests to the relay
        quiet_s     see `RtspSession.packets`
        arguments   further arguments of av.open
        hears       with sound
        """
        chosen = RtspTracks.of(session.description, hears)
        channels = session.play([part.control for part in chosen.wanted], chosen.aggregate)
        pairs = zip(chosen.wanted, channels, strict=True)
        tracks = [RelayedTrack(part.kind, channel) for part, channel in pairs]
        lines = chosen.described([relayed_control(number) for number in range(len(tracks))])
        self._relay = RtspRelay(session, tracks, lines, patience_s, quiet_s)
        options = {**arguments["options"], "rtsp_transport": "tcp"}
        relayed = {**arguments, "format": "rtsp", "options": options}
        try:
            self.container: InputContainer = av.open(
                self._relay.url, "r", metadata_errors="replace", **relayed
            )
        except BaseException:
            self._relay.close()
            if self._relay.fault is not None:
                raise self._relay.fault from None
            raise

    def packets(self) -> Iterator[Packet[Any]]:
        """Yield the packets of all tracks, an empty one at the end of each. FFmpegError, and
        SourceFault if the camera sent too much for one.

        ExitError (FFmpeg's): nothing came for a while; call it again to continue.
        """
        for packet in self.container.demux():
            yield packet
            self._relay.begin_packet(packet.stream.type)
        fault = self._relay.fault
        if fault is not None and fault.reason == "damaged":
            raise fault

    def abandon(self) -> None:
        """Make `packets` end within a second. Any thread."""
        self._relay.abandon()

    def close(self) -> None:
        """Close relay and session."""
        self._relay.close()
