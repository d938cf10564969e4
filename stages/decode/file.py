"""A video file, local or behind a URL, as an iterator of planar YUV frames.

The source compares the file with its container's claims about the tracks, so that it detects a
truncated file.
"""

from __future__ import annotations

import re
import time
from collections import ChainMap
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av
import av.error
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Request
from framegate.pipeline.recording.segment_writer import Take
from framegate.stages.decode.frame import DecodedFrame, FrameChoice, Orientations
from framegate.stages.decode.lazy import DuePicture, lazy_decoder
from framegate.stages.decode.open_video import (
    Opened,
    check_packet,
    is_url,
    open_video,
    orientation_of,
    refusal,
    seconds_of,
)
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.record import PacketRecorder
from framegate.stages.decode.sound import SoundTap

_DEFAULT: Final = DecodeOptions()
# A camera's rate is measured on this many frames or for this long.
_RATE_FRAMES: Final = 16
_RATE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Probe:
    """The properties of a file by its container and its first frame.

    codec           FFmpeg's name
    width, height   pixels, after turning by `rotation` degrees clockwise
    fps             frames per second: measured for a camera, else the container's claim; None if
                    unknown
    frames, duration_s   claims of the container, None if it makes none
    sound           codec, hertz and channels of the sound track, None without one that can be
                    decoded
    """

    codec: str
    width: int
    height: int
    fps: float | None
    frames: int | None
    duration_s: float | None
    pix_fmt: str
    rotation: int
    live: bool
    sound: tuple[str, int, int] | None = None


class FileSource:
    """The frames that FFmpeg decodes from the first video track (`framegate.Source`).

    Frames  DecodedFrame in the decoder's order: planar YUV 4:2:0 uint8 with its own size, matrix
            and range, and pts in seconds (may be unordered, may be None). None for a frame that
            `frames` of the request leaves out. Each frame has the blocks of sound that end before
            the next pts, the last frame all that are left
    Counts  damaged: packets skipped because they do not decode; truncated: 1 if the file ended
            before its container's claim; skipped: packets and frames that are not wanted; and those
            of SoundTap and LazyDecoder
    Errors  SourceFault from the constructor (see open_video) and the iteration (damaged, truncated,
            empty, no_memory)
    Thread  one iterator in one thread; close() from any thread once that one has stopped
    """

    def __init__(
        self,
        request: Request | str,
        options: DecodeOptions = _DEFAULT,
        take: Take | None = None,
    ) -> None:
        """request: the path of a file requests all its frames; take: records the packets."""
        if isinstance(request, str):
            request = Request(request)
        self._request = request
        self.place = request.url
        self.options = options
        self.live = request.live
        hears = bool(self._request.sound) or take is not None
        opened = open_video(self._request, options, hears=hears)
        rate = None
        if opened.has_times or not self.live:
            rate = claimed_rate(opened.stream)
        self.has_times = opened.has_times
        self.codec = opened.stream.codec_context.codec.canonical_name
        self.claimed_fps = None if rate is None else float(rate)
        self.claimed_s = claimed_duration_s(opened)
        self.duration_frames = claimed_frames(opened)
        self.sound = described_sound(opened)
        self._tally = {"damaged": 0, "truncated": 0, "skipped": 0}
        counts = [self._tally]
        self._opened: Opened | None = opened
        self._tap: SoundTap | None = None
        if self._request.sound and opened.sound is not None and opened.has_times:
            self._tap = SoundTap(opened.sound, self._request.sound)
            opened.listeners.append(self._tap.hear)
            counts.append(self._tap.counts)
        self.recorder: PacketRecorder | None = None
        if take is not None:
            self.recorder = PacketRecorder(take, opened, live=False)
        self._converter = VideoReformatter()
        self._orientations = Orientations()
        self._choice = FrameChoice(request.frames)
        self._n_decoded = 0
        self._damaged_in_a_row = 0
        self._lazy = lazy_decoder(request, options, opened, self._decoded)
        if self._lazy is not None:
            counts.append(self._lazy.counts)
        self.counts: Mapping[str, int] = ChainMap(*counts)
        self._frames: Generator[DecodedFrame | None] | None = None

    def frames(self) -> Iterator[DecodedFrame]:
        """Return an iterator of the wanted frames, without the None of the others."""
        return (frame for frame in self if frame is not None)

    def __iter__(self) -> Iterator[DecodedFrame | None]:
        """Return the only iterator of this source. ValueError once it is closed."""
        if self._opened is None:
            raise ValueError(f"{shown(self.place)}: this source is closed")
        if self._frames is None:
            self._frames = self._decode(self._opened)
            if self._tap is not None:
                self._frames = _with_sound(self._frames, self._tap)
        return self._frames

    def counted(self) -> tuple[int, int]:
        """Read the file without decoding; return its approximate frames, and its key frames.

        It returns no frames afterwards. The count ends where the file cannot be read.
        """
        if self._opened is None:
            raise ValueError(f"{shown(self.place)}: this source is closed")
        n_packets = 0
        n_key = 0
        with suppress(av.error.FFmpegError):
            for packet in self._opened.packets():
                if packet.size > 0:
                    n_packets += 1
                    n_key += packet.is_keyframe
        self.close()
        return n_packets, n_key

    def close(self) -> None:
        """Close file and decoder; a second call is harmless. Returned frames stay valid."""
        frames, self._frames = self._frames, None
        opened, self._opened = self._opened, None
        if frames is not None:
            frames.close()
        if opened is not None:
            opened.close()
            if self.recorder is not None:
                self.recorder.close()

    def _decode(self, opened: Opened) -> Generator[DecodedFrame | None]:
        # Invariant: the iteration yields once for each decoded or skipped picture, None for a
        # skipped one. `_n_decoded` counts the pictures that the decoder returned.
        truncation = TruncationCheck()
        choice = self._choice
        for packet in self._packets(opened):
            truncation.see(packet)
            if packet.size and not choice.takes_packet(packet.is_keyframe):
                self._tally["skipped"] += 1
                yield None
                continue
            for frame, _, undecoded in self._pictures(packet):
                for _ in range(choice.left_out(frame.time)):
                    self._tally["skipped"] += 1
                    yield None
                if not choice.takes(frame.time):
                    self._tally["skipped"] += 1
                    yield None
                    continue
                orientation = orientation_of(self.place, frame, self._orientations, self.options)
                decoded = DecodedFrame(frame, self._converter, orientation)
                decoded.undecoded = undecoded
                if opened.recorded is not None:
                    _set_recorded_times(decoded, opened.recorded.begins)
                yield decoded
        for _ in range(choice.left_out()):
            self._tally["skipped"] += 1
            yield None
        self._tally["truncated"] = int(truncation.is_early(opened))
        if self._n_decoded == 0:
            raise self._no_frames()

    def _pictures(self, packet: Packet[VideoStream]) -> Iterator[DuePicture]:
        """Yield the pictures that are due after a packet."""
        if self._lazy is not None:
            yield from self._lazy.pictures(packet, 0.0)
            return
        may_take = self._choice.may_take(seconds_of(packet))
        for frame in self._decoded(packet, may_take):
            yield DuePicture(frame, 0.0)

    def _decoded(self, packet: Packet[VideoStream], may_take: bool = True) -> list[av.VideoFrame]:
        """Return the pictures that a packet completes; [] if it is damaged."""
        assert self._opened is not None
        try:
            frames = self._opened.decode(packet, may_take)
        except av.error.FFmpegError as error:
            self._damaged_in_a_row += 1
            check_packet(self.place, packet, self.options)
            self._skip(self._damaged_in_a_row, error)
            return []
        if frames:
            self._damaged_in_a_row = 0
        self._n_decoded += len(frames)
        return frames

    def _packets(self, opened: Opened) -> Iterator[Packet[VideoStream]]:
        """Yield the track's packets; where the file cannot be read further, count it and end."""
        try:
            yield from opened.packets()
            return
        except av.error.FFmpegError as error:
            failure = type(error).__name__
        if is_url(self.place):
            yield opened.flush()  # the pictures of the packets that were read
            raise refusal(self.place, "truncated", f"the connection was lost ({failure})")
        self._tally["damaged"] += 1
        yield opened.flush()

    def _skip(self, damaged_in_a_row: int, error: av.error.FFmpegError) -> None:
        self._tally["damaged"] += 1
        if damaged_in_a_row > self.options.max_damaged:
            where = f"{damaged_in_a_row} packets in a row after frame {self._n_decoded}"
            raise refusal(self.place, "damaged", f"{where} do not decode ({type(error).__name__})")

    def _no_frames(self) -> SourceFault:
        if self._tally["truncated"]:
            return refusal(self.place, "truncated", "cut off before its first frame was complete")
        damaged = self._tally["damaged"]
        if damaged:
            text = f"none of its frames decodes (packets skipped: {damaged})"
            return refusal(self.place, "damaged", text)
        return refusal(self.place, "empty", "its video track has no frames")


def _set_recorded_times(frame: DecodedFrame, begins: float) -> None:
    """Set when a frame of a recording, and undecoded ones before it, were captured.

    begins: UNIX seconds at time 0
    """
    if frame.pts is not None:
        frame.captured = begins + frame.pts
    frame.undecoded = tuple(
        other._replace(captured=begins + other.pts)
        for other in frame.undecoded
        if other.pts is not None
    )


def _with_sound(
    frames: Generator[DecodedFrame | None], tap: SoundTap
) -> Generator[DecodedFrame | None]:
    """Hold each frame until the next one, whose pts decides which sound belongs to it."""
    held: DecodedFrame | None = None
    try:
        for frame in frames:
            if frame is None:
                yield None
                continue
            if held is not None:
                held.sound = tap.take(frame.pts)
                yield held
            held = frame
    except SourceFault:
        if held is not None:
            held.sound = tap.take(None)
            yield held
        raise
    if held is not None:
        held.sound = tap.take_rest()
        yield held


def probe(request: Request | str, options: DecodeOptions = _DEFAULT) -> Probe:
    """Open a file or camera, decode its first frame and describe it. SourceFault as FileSource.

    A camera's rate is measured on its next frames, for _RATE_S at most: cameras often claim a wrong
    rate, and MJPEG claims none.
    """
    source = FileSource(request, options)
    try:
        frames = source.frames()
        first = next(frames)
        rate = _measured_fps(source, first, frames) if source.live else None
        return Probe(
            codec=source.codec,
            width=first.form.width,
            height=first.form.height,
            fps=rate or source.claimed_fps,
            frames=source.duration_frames,
            duration_s=source.claimed_s,
            pix_fmt=first.pix_fmt,
            rotation=first.rotation,
            live=source.live,
            sound=source.sound,
        )
    finally:
        source.close()


def _measured_fps(
    source: FileSource, first: DecodedFrame, frames: Iterator[DecodedFrame]
) -> float | None:
    """Return the frames per second that a camera sends, by its time stamps, else by arrival; None
    if too few frames came.
    """
    arrived = [time.monotonic()]
    times = [first.pts]
    with suppress(SourceFault):
        for frame in frames:
            arrived.append(time.monotonic())
            times.append(frame.pts)
            if len(times) == _RATE_FRAMES or arrived[-1] - arrived[0] > _RATE_S:
                break
    if not source.has_times:
        return rate_of(arrived)
    return rate_of([pts for pts in times if pts is not None]) or rate_of(arrived)


def rate_of(times: Sequence[float]) -> float | None:
    """Return the rate of frames with these times in seconds; None for fewer than three or if no
    time passes.
    """
    passed = max(times, default=0.0) - min(times, default=0.0)
    if len(times) < 3 or passed <= 0:
        return None
    return (len(times) - 1) / passed


_HOURS: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_SLACK_S: Final = 0.1


def claimed_rate(stream: VideoStream) -> Fraction | None:
    """Return the container's claim of frames per second. It is never used to count time."""
    return stream.average_rate or stream.guessed_rate or None


def claimed_duration_s(opened: Opened) -> float | None:
    """Return the seconds that the container claims for the track, else for the whole file."""
    if opened.recorded is not None:
        return opened.recorded.seconds
    stream = opened.stream
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if opened.container.duration is None:
        return None
    return opened.container.duration / av.time_base


def claimed_frames(opened: Opened) -> int | None:
    """Return the frames that the container claims, or that follow from its duration and rate."""
    if opened.stream.frames > 0:
        return opened.stream.frames
    rate = claimed_rate(opened.stream)
    seconds = claimed_duration_s(opened)
    if not rate or not seconds or seconds <= 0:
        return None
    return round(seconds * rate)


def _track_duration_s(opened: Opened) -> float | None:
    """Return the seconds claimed for the video track itself, which sound may outlast."""
    tag = opened.stream.metadata.get("DURATION", "")  # of Matroska: HH:MM:SS.fraction
    match = _HOURS.fullmatch(tag.strip("\0 "))
    if match is not None:
        hours, minutes, seconds = match.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if opened.stream.duration is None and len(opened.container.streams) > 1:
        return None
    return claimed_duration_s(opened)


def described_sound(opened: Opened) -> tuple[str, int, int] | None:
    """Return codec, hertz and channels of the sound track by its container; None without a track
    that can be decoded.
    """
    if opened.sound is None:
        return None
    codec = opened.sound.codec_context
    return codec.name, codec.sample_rate, codec.channels


class TruncationCheck:
    """Compares the packets of a track with its container's claims.

    mp4 counts its packets exactly. Other containers claim a duration at best. The missing time must
    then be longer than any pause within the track, because the last frame's length is unknown.
    """

    def __init__(self) -> None:
        self._packets = 0
        self._is_cut = False
        self._end: int | None = None
        self._longest_pause = 0

    def see(self, packet: Packet[VideoStream]) -> None:
        """Note a packet, in reading order. The empty packet at the end does not count."""
        if packet.size == 0:
            return
        self._packets += 1
        self._is_cut = packet.is_corrupt
        if packet.pts is not None:
            end = packet.pts + (packet.duration or 0)
            if self._end is not None:
                self._longest_pause = max(self._longest_pause, end - self._end)
            self._end = end if self._end is None else max(end, self._end)

    def is_early(self, opened: Opened) -> bool:
        """Return whether the last packet was cut or claimed packets are missing."""
        if self._is_cut:
            return True
        if opened.container.format.name.startswith("mov"):
            return self._is_short_mp4(opened.stream)
        claim = _track_duration_s(opened)
        tick = opened.stream.time_base
        if claim is None or tick is None or self._end is None:
            return False
        first = min(opened.stream.start_time or 0, 0)
        slack = max(_SLACK_S, 2 * float(self._longest_pause * tick))
        return float((self._end - first) * tick) + slack < claim

    def _is_short_mp4(self, stream: VideoStream) -> bool:
        if self._packets >= stream.frames:
            return False
        if self._end is None or stream.duration is None:
            return True
        # An edit list may omit packets that the index counts, but then it shortens the track, too.
        return self._end - (stream.start_time or 0) < stream.duration
