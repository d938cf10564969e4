"""Open a video file or URL, or say why it cannot be used."""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import av
import av.error
from av.audio.stream import AudioStream
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from framegate.pipeline.config.sources import path_fault
from framegate.pipeline.contracts.errors import FaultReason, SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.frame import Orientation, Orientations, Unconvertible
from framegate.stages.decode.http_camera import HttpBody
from framegate.stages.decode.rtsp.media import ForeignMediaError, RelayedMedia, RtspMedia
from framegate.stages.decode.rtsp.messages import UnspokenError, is_rtsp
from framegate.stages.decode.rtsp.session import RtspSession

WEBCAM: Final = "webcam:"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_ART: Final = frozenset({"tty", "bin", "xbin", "adf", "idf"})  # FFmpeg draws any text file
_ALLOWED: Final = (
    "allowed: a regular file, webcam:N, or a URL (rtsp, http, ...) with a video track that FFmpeg "
    "decodes"
)
_NO_VIDEO: Final = {"missing", "empty", "not_video", "no_video_stream", "unsupported_codec"}
_NO_END: Final = "the list of files does not say where it ends, and no more of them came"
_NO_INDEX: Final = "cut off before its index (moov box) was complete, so no frame can be found"
_LOCKED: Final = (
    av.error.HTTPUnauthorizedError,
    av.error.HTTPForbiddenError,
    PermissionError,
)
# SOF0 to SOF15; C4, C8 and CC are no frame headers
_FRAME_HEADS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HEAD_BYTES: Final = 1 << 18  # of a picture that may be of many megabytes
_NO_TIMES: Final = 0x80  # AVFMT_NOTIMESTAMPS
_LISTS: Final = (b"<",)  # DASH
_LOCAL_LISTS: Final = (b"#EXTM3U", b"<MPD", b"ffconcat")
_LIST_HEAD: Final = 1 << 12
_MOST_BOXES: Final = 1000  # before the index; what has more was made to be walked for minutes
_MP4_BOXES: Final = (b"ftyp", b"mdat", b"free", b"skip", b"wide", b"moov")


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of decode.

    threads         decoder threads for each source. One thread needs the least CPU per frame, has
                    the least delay, and repairs damaged streams the same way each time
    max_damaged     damaged packets in a row after which the source ends
    max_pixels      pixels of a picture; a larger picture is refused before memory is allocated
    open_timeout_s  seconds to open a URL or a playlist
    read_timeout_s  seconds to wait for the next bytes of a file over the network. For a camera,
                    [live] stall_s applies
    hwaccel         auto: decode on the graphics unit where FFmpeg finds one, otherwise on the CPU.
                    off: on the CPU
    """

    threads: int = field(default=1, metadata={"least": 1, "most": 64})
    max_damaged: int = field(default=250, metadata={"least": 0})
    max_pixels: int = field(default=1 << 26, metadata={"least": 1})
    open_timeout_s: float = field(default=10.0, metadata={"least": 0.1})
    read_timeout_s: float = field(default=30.0, metadata={"least": 0.1})
    hwaccel: Literal["auto", "off"] = "off"


@dataclass(frozen=True, slots=True)
class Opened:
    """A container with the video track to decode; whoever holds it closes it.

    sound      its first sound track for which there is a decoder, None where it has none
    body       of a camera over HTTP: what the container reads
    rtsp       of a camera over RTSP: gives the packets, and only it reads the container
    listeners  are called with each packet of both tracks, as it came, in reading order and before
               anybody decodes it, the empty one at a track's end included. Without any, the sound
               track is not read. Thread: that of `packets`
    """

    container: InputContainer
    stream: VideoStream
    sound: AudioStream | None = None
    body: HttpBody | None = None
    rtsp: RtspMedia | RelayedMedia | None = None
    listeners: list[Callable[[Packet[Any]], None]] = field(default_factory=list)

    @property
    def has_times(self) -> bool:
        """Return whether its time stamps are its own; where the container has none, FFmpeg counts
        25 frames a second, or what the codec claims.
        """
        kind = self.container.format
        return not kind.flags & _NO_TIMES and not kind.name.endswith("_pipe")

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield the video track's packets, an empty one at the end; FFmpegError or SourceFault.

        ExitError (FFmpeg's) or TimeoutError: nothing came for a while, of a live one; they may be
        asked for again.
        """
        if self.rtsp is not None:
            for each in self.rtsp.packets():
                for listener in self.listeners:
                    listener(each)
                if each.stream is self.stream:
                    yield each
            return
        both = [self.stream, self.sound] if self.listeners and self.sound else [self.stream]
        for packet in self.container.demux(both):
            for listener in self.listeners:
                listener(packet)
            if packet.stream is self.stream:  # its index says 0 of the empty one at the end
                yield packet  # type: ignore[misc]
            if self.body is not None:
                self.body.begin_packet()

    def decode(self, packet: Packet[VideoStream], wanted: bool = True) -> list[av.VideoFrame]:
        """Return the pictures that are complete with this packet; FFmpegError.

        wanted: False leaves its own picture undecoded where no other one needs it.
        """
        self.stream.codec_context.skip_frame = "DEFAULT" if wanted else "NONREF"
        return self.stream.decode(packet)

    def close(self) -> None:
        """Close the container, and hang up."""
        self.container.close()
        for connection in (self.body, self.rtsp):
            if connection is not None:
                connection.close()

    def abandon(self) -> None:
        """Let who reads end, in a second at most, where that can be told: nobody wants more."""
        for connection in (self.body, self.rtsp):
            if connection is not None:
                connection.abandon()


def seconds_of(packet: Packet[Any]) -> float | None:
    """When what is in a packet is shown, by its time stamp; None without one."""
    if packet.pts is None or packet.time_base is None:
        return None
    return packet.pts * packet.time_base.numerator / packet.time_base.denominator


def told_captured(packet: Packet[Any]) -> float | None:
    """UNIX seconds at which a camera took what is in a packet by its own clock, as RTCP sender
    reports tell (RFC 3550 6.4); None if it has not told.

    FFmpeg ties each packet to the last report: side data "prft" (AVProducerReferenceTime), whose
    first eight bytes are microseconds of UNIX time. RtspMedia says it as `opaque`.
    """
    if packet.opaque is not None:
        return float(packet.opaque)  # type: ignore[arg-type]  # RtspMedia puts nothing else there
    if packet.pts is None or not packet.has_sidedata("prft"):
        return None
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return float(microseconds / 1e6)


def is_url(place: str) -> bool:
    """Tell a URL (`scheme://...`) from a path."""
    return _URL.match(place) is not None


def is_webcam(place: str) -> bool:
    """Tell `webcam:N` from a path."""
    number = place.removeprefix(WEBCAM)
    return place.startswith(WEBCAM) and number.isascii() and number.isdigit()


def refusal(place: str, reason: FaultReason, what: str) -> SourceFault:
    """Build the fault that says where, what is wrong, and, of a place that is no video, what is
    allowed.
    """
    advice = f"; {_ALLOWED}" if reason in _NO_VIDEO else ""
    return SourceFault(f"{shown(place)}: {what}{advice}", reason)


def check_size(place: str, width: int, height: int, options: DecodeOptions) -> None:
    """Raise SourceFault (no_memory) for a picture above `max_pixels`."""
    if width * height > options.max_pixels:
        what = f"a picture of {width}x{height} is above the limit of {options.max_pixels} pixels"
        raise refusal(place, "no_memory", what)


def check_packet(place: str, packet: Packet[VideoStream], options: DecodeOptions) -> None:
    """Raise SourceFault (no_memory) if what FFmpeg did not decode says it is too large."""
    size = _stated_size(bytes(memoryview(packet)[:_HEAD_BYTES]))
    if size is not None:
        check_size(place, *size, options)


def orientation_of(
    place: str, frame: av.VideoFrame, known: Orientations, options: DecodeOptions
) -> Orientation:
    """Return how to turn and mirror `frame`; SourceFault (no_memory, unsupported_codec) for one
    that is too large, or whose pixel format nothing converts.
    """
    check_size(place, frame.width, frame.height, options)
    try:
        return known.of(frame)
    except Unconvertible as error:
        what = f"its pixel format {frame.format.name} cannot be converted"
        raise refusal(place, "unsupported_codec", what) from error


def _stated_size(picture: bytes) -> tuple[int, int] | None:
    """Read width and height from the head of a PNG or JPEG picture."""
    if picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) >= 24:
        return int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big")
    at = 2 if picture.startswith(b"\xff\xd8") else len(picture)
    while at + 9 <= len(picture) and picture[at] == 0xFF:
        if picture[at + 1] in _FRAME_HEADS:
            rows, columns = picture[at + 5 : at + 7], picture[at + 7 : at + 9]
            return int.from_bytes(columns, "big"), int.from_bytes(rows, "big")
        at += 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
    return None


def open_video(
    request: Request, options: DecodeOptions, at_once: bool = False, hears: bool = False
) -> Opened:
    """Open it and choose its first video track that is no cover picture.

    at_once: do not look ahead to guess a live stream's frame rate, which costs seconds.
    hears: its sound is wanted, if it has any.

    SourceFault: missing (a file, a URL's path), unreachable, permission, empty, not_video,
    truncated, no_video_stream, unsupported_codec, no_memory (a picture above the limit).
    """
    place = request.url
    if not is_url(place) and not is_webcam(place):
        fault = path_fault(place)
        if fault is not None:
            raise refusal(place, *fault)
    body = _ask(request, options) if request.live and _is_http(place) else None
    rtsp = _play(request, options, at_once, hears) if is_rtsp(place) else None
    container: InputContainer | None = rtsp.container if rtsp is not None else None
    try:
        if container is None:
            container = _open(request, options, at_once, body)
        stream = _video_track(place, container)
        context = stream.codec_context
        check_size(place, context.width, context.height, options)
        context.options = {**context.options, **_size_limit(options)}
        stream.thread_count = options.threads
        stream.thread_type = "FRAME" if options.threads > 1 else "SLICE"
    except BaseException:
        if container is not None:
            container.close()
        for connection in (body, rtsp):
            if connection is not None:
                connection.close()
        raise
    if body is not None:
        body.allow(None if at_once else options.read_timeout_s)
    return Opened(container, stream, _sound_track(container), body, rtsp)


def _play(
    request: Request, options: DecodeOptions, at_once: bool, hears: bool
) -> RtspMedia | RelayedMedia:
    """Return a camera over RTSP that plays: read by us, or by FFmpeg where only that knows what it
    sends. SourceFault.
    """
    began = time.monotonic()
    how = _how(request, options, at_once)
    quiet_s = min(1.0, request.stall_s / 2)
    failure: Exception
    try:
        session = RtspSession(request.url, options.open_timeout_s, request.transport)
        try:
            if request.live and at_once:
                with suppress(ForeignMediaError):
                    more = {key: said for key, said in how.items() if key != "timeout"}
                    return RtspMedia(session, quiet_s, more, hears)
            return RelayedMedia(session, options.open_timeout_s, quiet_s, how, hears)
        except BaseException:
            session.close()
            raise
    except UnspokenError as error:
        raise refusal(request.url, error.reason, str(error)) from None
    except (av.error.FFmpegError, OSError) as error:
        failure = error
    raise _remote_fault(request.url, failure, time.monotonic() - began >= options.open_timeout_s)


def _ask(request: Request, options: DecodeOptions) -> HttpBody | None:
    """The answer of a camera; None where FFmpeg must ask itself, as what comes names more files."""
    body = HttpBody(request.url, options.open_timeout_s)
    try:
        if not body.peek(1).startswith(_LISTS) and not body.peek(7).startswith(b"#EXTM3U"):
            body.allow(options.open_timeout_s)
            return body
    except BaseException:
        body.close()
        raise
    body.close()
    return None


def _open(
    request: Request, options: DecodeOptions, at_once: bool, body: HttpBody | None
) -> InputContainer:
    place, more = request.url, _how(request, options, at_once)
    began = time.monotonic()
    where: str | HttpBody
    try:
        if body is not None:
            where = body
            # What comes may be a list of other places, local files too, or a description of a
            # broadcast, for which FFmpeg would wait where nobody can stop it.
            more["options"]["protocol_whitelist"] = ""
            if body.kind.startswith("multipart/"):
                more["format"] = "mpjpeg"
                body.peek_line()
        elif is_url(place):
            scheme, rest = place.split("://", 1)
            where = f"{scheme.lower()}://{rest}"  # FFmpeg knows no capitals
        elif is_webcam(place):
            where = f"/dev/video{place.removeprefix(WEBCAM)}"
        else:
            # Without the scheme FFmpeg takes what stands before a colon in a name for a protocol.
            where = f"file:{os.path.abspath(place)}"
        container: InputContainer = av.open(where, "r", metadata_errors="replace", **more)
        return container
    except (av.error.FFmpegError, OSError, ValueError) as error:
        failure: Exception = error
    # FFmpeg's text repeats the URL with its password: the fault must not carry it as its cause.
    timed_out = time.monotonic() - began >= options.open_timeout_s
    if is_url(place) or is_webcam(place):
        raise _remote_fault(place, failure, timed_out)
    if timed_out and _is_list(place):
        raise refusal(place, "truncated", _NO_END)
    raise _file_fault(place, failure)


def _how(request: Request, options: DecodeOptions, at_once: bool) -> dict[str, Any]:
    """What is told to FFmpeg beside the place."""
    more: dict[str, Any] = {"format": "video4linux2,v4l2"} if is_webcam(request.url) else {}
    if is_url(request.url):
        # FFmpeg's parser gives a picture when the next one begins, or when a read times out: a last
        # picture that came as late as a stall would put the stall off. HLS survives no time-out.
        live_rtsp = request.live and is_rtsp(request.url)
        read_s = request.stall_s / 2 if live_rtsp else options.read_timeout_s
        more["timeout"] = (options.open_timeout_s, read_s)
    elif not is_webcam(request.url) and _is_list(request.url):
        more["timeout"] = (options.open_timeout_s, options.read_timeout_s)
    # To guess a frame rate FFmpeg looks 3 to 8 s ahead, and gives at once what came meanwhile.
    how = {"fpsprobesize": "0"} if at_once else {}
    how |= _size_limit(options)  # looking for what is in there, FFmpeg decodes as well
    if is_rtsp(request.url):
        # RTSP says before the first packet what comes: no need to look at any.
        ahead = {"probesize": "32"} if at_once else {"analyzeduration": "500000"}
        how |= ahead
    more["options"] = how
    if options.hwaccel == "auto" and (devices := hwdevices_available()):
        more["hwaccel"] = HWAccel(devices[0], allow_software_fallback=True)
    return more


def _is_list(path: str) -> bool:
    """Return whether a file may list others: FFmpeg waits for ever for what is to come into a
    playlist that does not say where it ends.
    """
    head = b""
    with suppress(OSError), open(path, "rb") as file:  # that it has gone, FFmpeg will say
        head = file.read(_LIST_HEAD)
    return any(word in head for word in _LOCAL_LISTS)


def _size_limit(options: DecodeOptions) -> dict[str, str]:
    """What keeps FFmpeg from making room for a larger picture. It counts what the codec adds to
    whole blocks as well, so check_size is what decides.
    """
    return {"max_pixels": str(options.max_pixels * 9 // 8 + (1 << 16))}


def _is_http(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def _remote_fault(place: str, error: Exception, timed_out: bool) -> SourceFault:
    if isinstance(error, _LOCKED):
        return refusal(place, "permission", "the user name and password in use do not open it")
    if isinstance(error, av.error.HTTPNotFoundError | FileNotFoundError):
        what = "no such device here" if is_webcam(place) else "it is not there; its host answers"
        return refusal(place, "missing", what)
    if timed_out or isinstance(error, av.error.ExitError | TimeoutError):
        return refusal(place, "unreachable", "it does not answer in time")
    if isinstance(error, av.error.InvalidDataError):
        return refusal(place, "not_video", "what answers there is not a video stream")
    return refusal(place, "unreachable", f"it cannot be reached ({type(error).__name__})")


def _file_fault(path: str, error: Exception) -> SourceFault:
    if isinstance(error, _LOCKED):
        return refusal(path, "permission", "no permission to read it")
    if _lost_its_index(path):
        return refusal(path, "truncated", _NO_INDEX)
    return refusal(path, "not_video", "this is not a video")


def _lost_its_index(path: str) -> bool:
    """Tell an mp4 without a whole moov box: the boxes are those of an mp4 and end without it."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        at = 0
        for _ in range(_MOST_BOXES):
            if at + 8 > size:
                return at > 0
            file.seek(at)
            head = file.read(16)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            if at == 0 and name not in _MP4_BOXES:
                return False
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if name == b"moov":
                return at + length > size
            if length < 8:
                return at > 0
            at += length
    return False


def _video_track(place: str, container: InputContainer) -> VideoStream:
    if container.format.name in _ART:
        raise refusal(place, "not_video", "this is a text file, not a video")
    cover = Disposition.attached_pic
    tracks = [track for track in container.streams.video if not track.disposition & cover]
    if not tracks and not is_url(place) and not is_webcam(place) and _lost_its_index(place):
        raise refusal(place, "truncated", _NO_INDEX)
    if not tracks:
        kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
        what = f"there is no video track in it ({', '.join(kinds) or 'no track at all'})"
        raise refusal(place, "no_video_stream", what)
    # PyAV has no context where FFmpeg has no decoder, though its stubs promise one.
    if getattr(tracks[0], "codec_context", None) is None:
        raise refusal(place, "unsupported_codec", "there is no decoder for its video track")
    return tracks[0]


def _sound_track(container: InputContainer) -> AudioStream | None:
    # As with a video track, PyAV has no context where FFmpeg has no decoder.
    found = (s for s in container.streams.audio if getattr(s, "codec_context", None) is not None)
    return next(found, None)
