"""A camera over RTSP as FFmpeg's packets: its video track, and its sound if that is wanted."""

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
# A name begins where no letter stands before it: else a long word would be read again from each of
# its letters.
_PARAMETER: Final = re.compile(r"(?<![a-z])([a-z]+)=([0-9]{1,9})(?=\s*(?:;|$))")
_PART: Final = re.compile(r"(?m)^[ \t]*m=")
_AAC_HEADS: Final = ("sizelength", "indexlength", "indexdeltalength")
_MOST_INDEX_BITS: Final = 32
_PAYLOAD_TYPE: Final = re.compile(r"[0-9]{1,3}")
_AAC_UNKNOWN: Final = (
    "constantsize",
    "ctsdeltalength",
    "dtsdeltalength",
    "auxiliarydatasizelength",
)


class ForeignMediaError(UnspokenError):
    """The description has a form that is not put together here; FFmpeg may know how."""


class MediaPart(NamedTuple):
    """An `m=` part of a description (RFC 4566): its lines, and what they say.

    payload_type  -1 where the part names none
    """

    lines: str
    kind: str
    payload_type: int
    encoding: str
    parameters: str
    control: str
    encrypted: bool

    def units(self) -> PictureUnits | SoundUnits:
        """Return what puts its packets together; ForeignMediaError."""
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
            said = dict(_PARAMETER.findall(self.parameters.lower()))
            bits = [int(said.get(name, 0)) for name in _AAC_HEADS]
            unknown = [name for name in _AAC_UNKNOWN if int(said.get(name, 0))]
            if 0 < bits[0] <= 16 and max(bits[1:]) <= _MOST_INDEX_BITS and not unknown:
                return AacUnits(*bits)
        raise ForeignMediaError(f"its {self.kind} is {self.encoding[:40] or 'of no known name'}")


def media_parts(description: str) -> list[MediaPart]:
    """Return what there is to play, in order; any text is allowed.

    description: its lines end with a line feed.
    """
    found = []
    for lines in _PART.split(description)[1:]:
        kind, *words = lines.partition("\n")[0].split() or [""]
        said: dict[str, str] = {}
        for line in lines.split("\n"):
            said.setdefault(*_attribute(line))
        has_type = len(words) > 2 and _PAYLOAD_TYPE.fullmatch(words[2]) is not None
        payload_type = int(words[2]) if has_type else -1
        mapped = said.get("rtpmap", "").partition(" ")[2] or _STATIC.get(payload_type, "")
        part = MediaPart(
            lines=f"m={lines}",
            kind=kind,
            payload_type=payload_type,
            encoding=mapped.partition("/")[0].strip().upper(),
            parameters=said.get("fmtp", ""),
            control=said.get("control", ""),
            encrypted="crypto" in said,
        )
        found.append(part)
    return found


class RtspTracks(NamedTuple):
    """What is wanted of a camera's description: its first video track, and its first of sound.

    head  the lines before the first track
    """

    head: str
    wanted: list[MediaPart]

    @classmethod
    def of(cls, description: bytes, hears: bool) -> RtspTracks:
        """Choose; hears: its sound as well. UnspokenError: it has no pictures."""
        said = description.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
        kinds = ("video", "audio") if hears else ("video",)
        wanted: list[MediaPart] = []
        for part in media_parts(said):
            if part.kind in kinds and part.kind not in [each.kind for each in wanted]:
                wanted.append(part)
        if "video" not in [each.kind for each in wanted]:
            raise UnspokenError("its description names no video track", "no_video_stream")
        return cls(_PART.split(said, maxsplit=1)[0], wanted)

    @property
    def aggregate(self) -> str | None:
        """Return the URL of all tracks together, None where the head names none. As with FFmpeg,
        only a whole URL counts.
        """
        named = [
            value for name, value in map(_attribute, self.head.split("\n")) if name == "control"
        ]
        whole = [value for value in named if is_rtsp(value)]
        return whole[-1] if whole else None

    def described(self, controls: Sequence[str] | None = None) -> str:
        """Return the description of these tracks alone; `controls` take the place of theirs."""
        parts = [part.lines for part in self.wanted]
        if controls is None:
            return self.head + "".join(parts)
        named = [_uncontrolled(self.head)]
        for part, control in zip(parts, controls, strict=True):
            named.append(f"{_uncontrolled(part)}a=control:{control}\n")
        return "".join(named)


def _attribute(line: str) -> tuple[str, str]:
    """Read `a=NAME:VALUE`."""
    name, _, value = line.strip().removeprefix("a=").partition(":")
    return name, value.strip()


def _uncontrolled(lines: str) -> str:
    """Return the lines that do not say where a track is; each ends with a line feed."""
    kept = [line for line in lines.split("\n") if line and _attribute(line)[0] != "control"]
    return "".join(f"{line}\n" for line in kept)


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
        """Play it. OSError, UnspokenError; ForeignMediaError before the camera is asked to play.

        quiet_s: when nothing came for so long, what is there of a picture is given.
        more: what else FFmpeg is told. hears: its sound as well.
        """
        chosen = RtspTracks.of(session.description, hears)
        wanted = chosen.wanted
        for part in wanted:
            part.units()
        self._session, self._quiet_s = session, quiet_s
        lines = chosen.described().encode()
        options = {**more.get("options", {}), "sdp_flags": "custom_io", "protocol_whitelist": ""}
        told = {**more, "format": "sdp", "options": options}
        try:
            self.container: InputContainer = av.open(io.BytesIO(lines), "r", **told)
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
        # Of two tracks with one channel the first has it, as with FFmpeg.
        self._tracks = dict(zip(reversed(channels), reversed(tracks), strict=True))

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
            what = f"{MAX_BYTES >> 20} MB came and no picture was complete"
        raise self._session.fault(what, "damaged")


class RelayedMedia:
    """The same tracks, put together by FFmpeg, which reads a relay in place of the camera. One
    thread.

    container  what FFmpeg reads
    """

    def __init__(
        self,
        session: RtspSession,
        patience_s: float,
        quiet_s: float,
        more: dict[str, Any],
        hears: bool,
    ) -> None:
        """Play it. OSError, UnspokenError, FFmpegError, SourceFault.

        patience_s: seconds for FFmpeg to ask. quiet_s: see `RtspSession.packets`.
        more: what else FFmpeg is told. hears: its sound as well.
        """
        chosen = RtspTracks.of(session.description, hears)
        channels = session.play([part.control for part in chosen.wanted], chosen.aggregate)
        pairs = zip(chosen.wanted, channels, strict=True)
        tracks = [RelayedTrack(part.kind, channel) for part, channel in pairs]
        lines = chosen.described([relayed_control(number) for number in range(len(tracks))])
        self._relay = RtspRelay(session, tracks, lines, patience_s, quiet_s)
        told = {**more, "options": {**more["options"], "rtsp_transport": "tcp"}}
        try:
            self.container: InputContainer = av.open(
                self._relay.url, "r", format="rtsp", metadata_errors="replace", **told
            )
        except BaseException:
            self._relay.close()
            if self._relay.fault is not None:
                raise self._relay.fault from None
            raise

    def packets(self) -> Iterator[Packet[Any]]:
        """Yield the packets of all tracks, an empty one at the end of each; FFmpegError, and
        SourceFault if the camera sent too much for one.

        ExitError (FFmpeg's): nothing came for a while; they may be asked for again.
        """
        for packet in self.container.demux():
            yield packet
            self._relay.begin_packet(packet.stream.type)
        fault = self._relay.fault
        if fault is not None and fault.reason == "damaged":
            raise fault

    def abandon(self) -> None:
        """Make `packets` end in a second at most. From any thread."""
        self._relay.abandon()

    def close(self) -> None:
        """Hang up."""
        self._relay.close()
