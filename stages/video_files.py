"""Open a video file or URL, and say clearly why it cannot be used."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.errors import FaultReason, SourceFault
from pipeline.redaction import shown
from pipeline.source import Request

WEBCAM: Final = "webcam:"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_ART: Final = frozenset({"tty", "bin", "xbin", "adf", "idf"})  # FFmpeg draws any text file
_ALLOWED: Final = (
    "allowed: a regular file, webcam:N, or a URL (rtsp, http, ...) with a video track that FFmpeg "
    "decodes"
)
_NO_VIDEO: Final = {"missing", "empty", "not_video", "no_video_stream", "unsupported_codec"}
_NO_INDEX: Final = "cut off before its index (moov box) was complete, so no frame can be found"
_LOCKED: Final = (
    av.error.HTTPUnauthorizedError,
    av.error.HTTPForbiddenError,
    av.error.PermissionError,
)
_MP4_BOXES: Final = (b"ftyp", b"mdat", b"free", b"skip", b"wide", b"moov")


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How to open and decode.

    threads         decoder threads, >= 1. One costs the least CPU a frame, has the least delay and
                    repairs damaged streams the same way each time; more are FFmpeg's frame threads
    max_damaged     more packets in a row than this that do not decode end the source
    max_pixels      larger pictures are refused
    open_timeout_s, read_timeout_s   for URLs; the latter not for live ones (Request.stall_s)
    hwaccel         auto: decode on the graphics unit where FFmpeg can, else on the CPU; off
    """

    threads: int = field(default=1, metadata={"least": 1, "most": 64})
    max_damaged: int = field(default=250, metadata={"least": 0})
    max_pixels: int = field(default=1 << 26, metadata={"least": 1})
    open_timeout_s: float = field(default=10.0, metadata={"least": 0.1})
    read_timeout_s: float = field(default=30.0, metadata={"least": 0.1})
    hwaccel: Literal["auto", "off"] = "off"


@dataclass(frozen=True, slots=True)
class Opened:
    """A container with the video track to decode; whoever holds it closes the container."""

    container: InputContainer
    stream: VideoStream


def is_url(place: str) -> bool:
    """Tell a URL (`scheme://...`) from a path."""
    return _URL.match(place) is not None


def is_webcam(place: str) -> bool:
    """Tell `webcam:N` from a path."""
    return place.startswith(WEBCAM) and place.removeprefix(WEBCAM).isdigit()


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


def open_video(request: Request, options: DecodeOptions, at_once: bool = False) -> Opened:
    """Open it and choose its first video track that is no cover picture.

    at_once: do not look ahead to guess a live stream's frame rate, which costs seconds.

    SourceFault: missing (a file, a URL's path), unreachable, permission, empty, not_video,
    truncated, no_video_stream, unsupported_codec, no_memory (a picture above the limit).
    """
    place = request.url
    if not is_url(place) and not is_webcam(place):
        _check_file(place)
    container = _open(request, options, at_once)
    try:
        stream = _video_track(place, container)
        check_size(place, stream.codec_context.width, stream.codec_context.height, options)
        stream.thread_count = options.threads
        stream.thread_type = "FRAME" if options.threads > 1 else "SLICE"
    except BaseException:
        container.close()
        raise
    return Opened(container, stream)


def _check_file(path: str) -> None:
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise refusal(path, "not_video", "this is a directory")
        if not stat.S_ISREG(found.st_mode):
            raise refusal(path, "not_video", "this is a pipe or device, which cannot be read again")
        with open(path, "rb"):
            pass
    except PermissionError as error:
        raise refusal(path, "permission", "no permission to read it") from error
    except (OSError, ValueError) as error:  # absent, a name too long, a NUL in it, a loop of links
        raise refusal(path, "missing", "there is no such file") from error
    if found.st_size == 0:
        raise refusal(path, "empty", "the file is empty")


def _open(request: Request, options: DecodeOptions, at_once: bool) -> InputContainer:
    place, more = request.url, _how(request, options, at_once)
    began = time.monotonic()
    try:
        if is_url(place):
            where = place
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
    if is_url(place) or is_webcam(place):
        raise _remote_fault(place, failure, time.monotonic() - began >= options.open_timeout_s)
    raise _file_fault(place, failure)


def _how(request: Request, options: DecodeOptions, at_once: bool) -> dict[str, Any]:
    """What is told to FFmpeg beside the place."""
    more: dict[str, Any] = {"format": "video4linux2,v4l2"} if is_webcam(request.url) else {}
    if is_url(request.url):
        # FFmpeg's parser gives a picture when the next one begins, or when a read times out: a last
        # picture that came as late as a stall would put the stall off. HLS survives no time-out.
        live_rtsp = request.live and _is_rtsp(request.url)
        read_s = request.stall_s / 2 if live_rtsp else options.read_timeout_s
        more["timeout"] = (options.open_timeout_s, read_s)
    # To guess a frame rate FFmpeg looks 3 to 8 s ahead, and gives at once what came meanwhile.
    how = {"fpsprobesize": "0"} if at_once else {}
    if _is_rtsp(request.url):
        # RTSP says before the first packet what comes: no need to look at any.
        ahead = {"probesize": "32"} if at_once else {"analyzeduration": "500000"}
        how |= {"rtsp_transport": request.transport, **ahead}
    if how:
        more["options"] = how
    if options.hwaccel == "auto" and (devices := hwdevices_available()):
        more["hwaccel"] = HWAccel(devices[0], allow_software_fallback=True)
    return more


def _is_rtsp(place: str) -> bool:
    return place.startswith(("rtsp://", "rtsps://"))


def _remote_fault(place: str, error: Exception, timed_out: bool) -> SourceFault:
    if isinstance(error, _LOCKED):
        return refusal(place, "permission", "the user name and password in use do not open it")
    if isinstance(error, av.error.HTTPNotFoundError | av.error.FileNotFoundError):
        what = "no such device here" if is_webcam(place) else "it is not there; its host answers"
        return refusal(place, "missing", what)
    if timed_out or isinstance(error, av.error.ExitError):
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
        while at + 8 <= size:
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
                break
            at += length
    return at > 0


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
