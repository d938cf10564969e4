"""Open a video file or URL, or raise a fault with the reason.

`camera` and `file` decode the packets and skip damaged ones.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

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
from framegate.pipeline.contracts.recorded_range import is_recorded
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.camera_login import LOGIN_REFUSED
from framegate.stages.decode.frame import Orientation, Orientations, Unconvertible
from framegate.stages.decode.http_camera import HttpBody, unreached
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.recorded import RecordedMedia
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
_NO_END: Final = "its list of files has no end mark, and no more files were added"
_NO_INDEX: Final = "cut off before its index (moov box) was complete, so no frame can be read"
_LOCKED: Final = (
    av.error.HTTPUnauthorizedError,
    av.error.HTTPForbiddenError,
    PermissionError,
)
# SOF0 to SOF15; C4, C8 and CC are not frame headers
_FRAME_HEADS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HEAD_BYTES: Final = 1 << 18  # read of a picture that may have many megabytes
_NO_TIMES: Final = 0x80  # AVFMT_NOTIMESTAMPS
_LISTS: Final = (b"<",)  # DASH
_LOCAL_LISTS: Final = (b"#EXTM3U", b"<MPD", b"ffconcat")
_LIST_HEAD: Final = 1 << 12
_MAX_BOXES: Final = 1000  # before the index; a file with more was made to be walked for minutes
_MP4_BOXES: Final = (b"ftyp", b"mdat", b"free", b"skip", b"wide", b"moov")


@dataclass(frozen=True, slots=True)
class Opened:
    """A container and its video track to decode. The owner closes it.

    sound      the first sound track with a decoder, None without one
    body       the HTTP answer that the container reads, of a camera over HTTP
    rtsp       the source of packets of a camera over RTSP; nothing else reads the container
    recorded   the source of packets of a range of a recording; nothing else reads the container
    listeners  called with each packet of both tracks, in reading order and before it is decoded,
               also with the empty packet at a track's end. Without a listener the sound track is
               not read. Thread: that of `packets`
    """

    container: InputContainer
    stream: VideoStream
    sound: AudioStream | None = None
    body: HttpBody | None = None
    rtsp: RtspMedia | RelayedMedia | None = None
    recorded: RecordedMedia | None = None
    listeners: list[Callable[[Packet[Any]], None]] = field(default_factory=list)

    @property
    def has_times(self) -> bool:
        """Return whether the time stamps are the container's. Without any, FFmpeg assumes 25 frames
        a second or the codec's claim.
        """
        kind = self.container.format
        return not kind.flags & _NO_TIMES and not kind.name.endswith("_pipe")

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield the video track's packets, an empty one at the end. FFmpegError, SourceFault.

        ExitError (FFmpeg's) or TimeoutError: a live source sent nothing for a while; call it again
        to continue. A camera over HTTP raises neither, and sound prevents both, so a step may last
        until `abandon`.
        """
        media = self.rtsp or self.recorded
        if media is not None:
            for packet in media.packets():
                for listener in self.listeners:
                    listener(packet)
                if packet.stream is self.stream:
                    yield packet
            return
        tracks: list[VideoStream | AudioStream] = [self.stream]
        if self.listeners and self.sound:
            tracks.append(self.sound)
        for packet in self.container.demux(tracks):
            for listener in self.listeners:
                listener(packet)
            if packet.stream is self.stream:  # the index is 0 for any empty packet
                yield packet  # type: ignore[misc]
            if self.body is not None:
                self.body.begin_packet()

    def decode(self, packet: Packet[VideoStream], wanted: bool = True) -> list[av.VideoFrame]:
        """Return the pictures that this packet completes. FFmpegError.

        wanted: False skips the packet's own picture if no other one needs it.
        """
        self.stream.codec_context.skip_frame = "DEFAULT" if wanted else "NONREF"
        return self.stream.decode(packet)

    def flush(self) -> Packet[VideoStream]:
        """Return an empty packet, with which a decoder returns its last pictures."""
        flush: Packet[VideoStream] = Packet()  # type: ignore[assignment]
        flush.time_base = self.stream.time_base or Fraction(1)  # of these pictures
        return flush

    def restart(self) -> None:
        """Let the decoder begin again, with a key frame."""
        self.stream.codec_context.flush_buffers()

    def close(self) -> None:
        """Close the container and the connection."""
        self.container.close()
        for connection in (self.body, self.rtsp):
            if connection is not None:
                connection.close()

    def abandon(self) -> None:
        """Make a read by another thread end, within a second where the connection allows it."""
        for connection in (self.body, self.rtsp):
            if connection is not None:
                connection.abandon()


def seconds_of(packet: Packet[Any]) -> float | None:
    """Return when a packet's content is shown, by its time stamp; None without one."""
    if packet.pts is None or packet.time_base is None:
        return None
    return packet.pts * packet.time_base.numerator / packet.time_base.denominator


def reported_captured(packet: Packet[Any]) -> float | None:
    """Return the UNIX seconds at which a camera captured a packet's content, by its own clock; None
    if it sent no RTCP sender report (RFC 3550 6.4).

    FFmpeg derives it from the last report: side data "prft" (AVProducerReferenceTime) begins with
    eight bytes of microseconds of UNIX time. RtspMedia stores the seconds in `opaque`.
    """
    if packet.opaque is not None:
        return float(packet.opaque)  # type: ignore[arg-type]  # RtspMedia stores nothing else there
    if packet.pts is None or not packet.has_sidedata("prft"):
        return None
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return float(microseconds / 1e6)


def is_url(place: str) -> bool:
    """Return whether a place is a URL (`scheme://...`) and not a path."""
    return _URL.match(place) is not None


def is_webcam(place: str) -> bool:
    """Return whether a place is `webcam:N` and not a path."""
    number = place.removeprefix(WEBCAM)
    return place.startswith(WEBCAM) and number.isascii() and number.isdigit()


def refusal(place: str, reason: FaultReason, text: str) -> SourceFault:
    """Return a fault with the place, the text and, if the place is not a video, what is allowed."""
    advice = f"; {_ALLOWED}" if reason in _NO_VIDEO else ""
    return SourceFault(f"{shown(place)}: {text}{advice}", reason)


def check_size(place: str, width: int, height: int, options: DecodeOptions) -> None:
    """Raise SourceFault (no_memory) for a picture above `max_pixels`."""
    if width * height > options.max_pixels:
        text = f"a picture of {width}x{height} is above the limit of {options.max_pixels} pixels"
        raise refusal(place, "no_memory", text)


def check_packet(place: str, packet: Packet[VideoStream], options: DecodeOptions) -> None:
    """Raise SourceFault (no_memory) if a packet that does not decode claims a too large picture."""
    size = _stated_size(bytes(memoryview(packet)[:_HEAD_BYTES]))
    if size is not None:
        check_size(place, *size, options)


def orientation_of(
    place: str, frame: av.VideoFrame, known: Orientations, options: DecodeOptions
) -> Orientation:
    """Return how to turn and mirror `frame`. SourceFault: no_memory for a too large picture,
    unsupported_codec for a pixel format that cannot be converted.
    """
    check_size(place, frame.width, frame.height, options)
    try:
        return known.of(frame)
    except Unconvertible as error:
        text = f"its pixel format {frame.format.name} cannot be converted"
        raise refusal(place, "unsupported_codec", text) from error


def _stated_size(picture: bytes) -> tuple[int, int] | None:
    """Return width and height from the head of a PNG or JPEG picture."""
    if picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) >= 24:
        return int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big")
    at = 2 if picture.startswith(b"\xff\xd8") else len(picture)
    while at + 9 <= len(picture) and picture[at] == 0xFF:
        if picture[at + 1] in _FRAME_HEADS:
            rows = int.from_bytes(picture[at + 5 : at + 7], "big")
            columns = int.from_bytes(picture[at + 7 : at + 9], "big")
            return columns, rows
        at += 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
    return None


def open_video(
    request: Request, options: DecodeOptions, at_once: bool = False, hears: bool = False
) -> Opened:
    """Open a place and choose its first video track that is not a cover picture.

    at_once  do not estimate a live stream's frame rate, which costs seconds
    hears    the sound is wanted, if there is any

    SourceFault: missing (a file, a URL's path), unreachable, permission, empty, not_video,
    truncated, no_video_stream, unsupported_codec, no_memory (a picture above the limit).
    """
    place = request.url
    recorded: RecordedMedia | None = None
    if is_recorded(place):
        recorded = _opened_recording(place)
    elif not is_url(place) and not is_webcam(place):
        fault = path_fault(place)
        if fault is not None:
            raise refusal(place, *fault)
    body: HttpBody | None = None
    rtsp: RtspMedia | RelayedMedia | None = None
    container: InputContainer | None = None
    if request.live and _is_http(place):
        body = _request_body(request, options)
    if is_rtsp(place):
        rtsp = _play(request, options, at_once, hears)
        container = rtsp.container
    if recorded is not None:
        container = recorded.container
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
    return Opened(container, stream, _sound_track(container), body, rtsp, recorded)


def _opened_recording(place: str) -> RecordedMedia:
    try:
        return RecordedMedia(place)
    except (av.error.FFmpegError, OSError) as error:
        raise refusal(place, "damaged", f"its first file cannot be read: {error}") from error


def _play(
    request: Request, options: DecodeOptions, at_once: bool, hears: bool
) -> RtspMedia | RelayedMedia:
    """Return the media of a camera over RTSP, playing. FFmpeg reads it only if this client does not
    know its codecs. SourceFault.
    """
    began = time.monotonic()
    arguments = _arguments(request, options, at_once)
    quiet_s = min(1.0, request.stall_s / 2)
    failure: Exception
    try:
        session = RtspSession(request.url, options.open_timeout_s, request.transport)
        try:
            if request.live and at_once:
                with suppress(ForeignMediaError):
                    probing = {name: v for name, v in arguments.items() if name != "timeout"}
                    return RtspMedia(session, quiet_s, probing, hears)
            return RelayedMedia(session, options.open_timeout_s, quiet_s, arguments, hears)
        except BaseException:
            session.close()
            raise
    except UnspokenError as error:
        raise refusal(request.url, error.reason, str(error)) from None
    except (av.error.FFmpegError, OSError) as error:
        failure = error
    raise _remote_fault(request.url, failure, time.monotonic() - began >= options.open_timeout_s)


def _request_body(request: Request, options: DecodeOptions) -> HttpBody | None:
    """Return a camera's answer; None if it lists more files, which only FFmpeg can request."""
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
    place = request.url
    arguments = _arguments(request, options, at_once)
    began = time.monotonic()
    target: str | HttpBody
    try:
        if body is not None:
            target = body
            # The answer may list other places, also local files, or describe a broadcast, for which
            # FFmpeg would wait without a limit. An empty list of protocols prevents both.
            arguments["options"]["protocol_whitelist"] = ""
            if body.kind.startswith("multipart/"):
                arguments["format"] = "mpjpeg"
                body.peek_line()
        elif is_url(place):
            scheme, rest = place.split("://", 1)
            target = f"{scheme.lower()}://{rest}"  # FFmpeg accepts only lower case
        elif is_webcam(place):
            target = f"/dev/video{place.removeprefix(WEBCAM)}"
        else:
            # Without a scheme FFmpeg takes the part of a file name before a colon for a protocol.
            target = f"file:{os.path.abspath(place)}"
        container: InputContainer = av.open(target, "r", metadata_errors="replace", **arguments)
        return container
    except (av.error.FFmpegError, OSError, ValueError) as error:
        failure: Exception = error
    # Outside the except block: FFmpeg's text repeats the URL with its password, so it must not
    # become the fault's cause.
    timed_out = time.monotonic() - began >= options.open_timeout_s
    if is_url(place) or is_webcam(place):
        raise _remote_fault(place, failure, timed_out)
    if timed_out and _is_list(place):
        raise refusal(place, "truncated", _NO_END)
    raise _file_fault(place, failure)


def _arguments(request: Request, options: DecodeOptions, at_once: bool) -> dict[str, Any]:
    """Return the arguments of av.open except the place."""
    arguments: dict[str, Any] = {}
    if is_webcam(request.url):
        arguments["format"] = "video4linux2,v4l2"
    elif is_url(request.url):
        # FFmpeg's parser returns a picture when the next one begins, or at a read timeout. A last
        # picture that came as late as a stall would delay its detection, so the timeout is half of
        # it. HLS does not survive a timeout.
        is_live_rtsp = request.live and is_rtsp(request.url)
        read_s = request.stall_s / 2 if is_live_rtsp else options.read_timeout_s
        arguments["timeout"] = (options.open_timeout_s, read_s)
    elif _is_list(request.url):
        arguments["timeout"] = (options.open_timeout_s, options.read_timeout_s)
    ffmpeg = _size_limit(options)  # FFmpeg decodes pictures while it probes
    if at_once:
        # To estimate a frame rate FFmpeg buffers 3 to 8 s, then returns all of it at once.
        ffmpeg["fpsprobesize"] = "0"
    if is_rtsp(request.url):
        # An RTSP description names the codecs, so no packet needs to be probed.
        ffmpeg |= {"probesize": "32"} if at_once else {"analyzeduration": "500000"}
    arguments["options"] = ffmpeg
    if options.hwaccel == "auto" and (devices := hwdevices_available()):
        arguments["hwaccel"] = HWAccel(devices[0], allow_software_fallback=True)
    return arguments


def _is_list(path: str) -> bool:
    """Return whether a file may list others: FFmpeg waits without a limit for the next file of a
    playlist without an end mark.
    """
    head = b""
    with suppress(OSError), open(path, "rb") as file:  # FFmpeg reports a missing file
        head = file.read(_LIST_HEAD)
    return any(word in head for word in _LOCAL_LISTS)


def _size_limit(options: DecodeOptions) -> dict[str, str]:
    """Return the option that keeps FFmpeg from allocating a larger picture. FFmpeg's count includes
    padding to whole blocks, so check_size decides.
    """
    return {"max_pixels": str(options.max_pixels * 9 // 8 + (1 << 16))}


def _is_http(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def _remote_fault(place: str, error: Exception, timed_out: bool) -> SourceFault:
    if isinstance(error, _LOCKED):
        return refusal(place, "permission", LOGIN_REFUSED)
    if isinstance(error, av.error.HTTPNotFoundError | FileNotFoundError):
        text = "no such device here" if is_webcam(place) else "it is not there; its host answers"
        return refusal(place, "missing", text)
    if timed_out or isinstance(error, av.error.ExitError | TimeoutError):
        return refusal(place, "unreachable", "it does not answer in time")
    if isinstance(error, av.error.InvalidDataError):
        return refusal(place, "not_video", "its answer is not a video stream")
    return refusal(place, "unreachable", unreached(error))


def _file_fault(path: str, error: Exception) -> SourceFault:
    if isinstance(error, _LOCKED):
        return refusal(path, "permission", "no permission to read it")
    if _lost_its_index(path):
        return refusal(path, "truncated", _NO_INDEX)
    return refusal(path, "not_video", "this is not a video")


def _lost_its_index(path: str) -> bool:
    """Return whether a file's boxes are those of an mp4 and end before a whole moov box."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        at = 0  # the begin of a box
        for _ in range(_MAX_BOXES):
            if at + 8 > size:
                return at > 0
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            name = head[4:8]
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
        text = f"there is no video track in it ({', '.join(kinds) or 'no track at all'})"
        raise refusal(place, "no_video_stream", text)
    # PyAV has no context without a decoder, although its stubs promise one.
    if getattr(tracks[0], "codec_context", None) is None:
        raise refusal(place, "unsupported_codec", "there is no decoder for its video track")
    return tracks[0]


def _sound_track(container: InputContainer) -> AudioStream | None:
    # As with a video track, PyAV has no context without a decoder.
    tracks = (t for t in container.streams.audio if getattr(t, "codec_context", None) is not None)
    return next(tracks, None)
