"""A video file, here or behind a URL, as an iterator of planar YUV frames.

It checks whether the file keeps what its container claims about the tracks, so that a truncated
file is noticed.
"""

from __future__ import annotations

import re
import time
from collections import ChainMap
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final

import av
import av.error
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Request
from framegate.pipeline.recording.take import Take
from framegate.stages.decode.container import (
    DecodeOptions,
    Opened,
    check_packet,
    is_url,
    open_video,
    orientation_of,
    refusal,
    seconds_of,
)
from framegate.stages.decode.frame import DecodedFrame, FrameChoice, Orientations
from framegate.stages.decode.record import PacketRecorder
from framegate.stages.decode.sound import SoundTap

_DEFAULT: Final = DecodeOptions()
# A camera's rate is measured on so many frames, or for so long.
_RATE_FRAMES: Final = 16
_RATE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file is, by its container and its first frame.

    codec       FFmpeg's name
    width, height   pixels, after turning by `rotation` degrees clockwise
    fps             frames per second: of a camera as measured, else as the container claims; None
                    where neither is known
    frames, duration_s   claims of the container, None where it makes none
    sound           codec, hertz and channels of its sound track, None where it has none that can
                    be decoded
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
    """Every frame that FFmpeg decodes from the first video track (`framegate.Source`).

    Out     DecodedFrame in the decoder's order: planar YUV 4:2:0 uint8 with its own size, matrix
            and range, and pts in seconds (may be unordered, may be None); None for what is not
            wanted, which `frames` leaves out. Each has the blocks of sound that end before the
            next one's pts, the last one all that is left
    Counts  damaged: packets skipped because they do not decode; truncated: 1 once the file has
            ended before what its container counts; skipped: packets and frames that are not wanted;
            and those of SoundTap
    Fails   SourceFault at construction (see open_video) and while iterating (damaged, truncated,
            empty, no_memory)
    Thread  one iterator in one thread; close() from any thread once that one has stopped
    """

    def __init__(
        self,
        request: Request | str,
        options: DecodeOptions = _DEFAULT,
        take: Take | None = None,
    ) -> None:
        """request: a file's path stands for all its frames. take: what to record it in."""
        self._request = Request(request) if isinstance(request, str) else request
        self.place, self.options = self._request.url, options
        self.live = self._request.live
        hears = bool(self._request.sound) or take is not None
        opened = open_video(self._request, options, hears=hears)
        rate = claimed_rate(opened.stream) if opened.has_times or not self.live else None
        self.has_times = opened.has_times
        self.codec = opened.stream.codec_context.codec.canonical_name
        self.claimed_fps = None if rate is None else float(rate)
        self.claimed_s = claimed_duration_s(opened)
        self.duration_frames = claimed_frames(opened)
        self.sound = described_sound(opened)
        self._tally = {"damaged": 0, "truncated": 0, "skipped": 0}
        self.counts: Mapping[str, int] = MappingProxyType(self._tally)
        self._opened: Opened | None = opened
        self._tap: SoundTap | None = None
        if self._request.sound and opened.sound is not None and opened.has_times:
            self._tap = SoundTap(opened.sound, self._request.sound)
            opened.listeners.append(self._tap.hear)
            self.counts = ChainMap(self._tally, self._tap.counts)
        self.recorder = None if take is None else PacketRecorder(take, opened, live=False)
        self._frames: Generator[DecodedFrame | None] | None = None

    def frames(self) -> Iterator[DecodedFrame]:
        """Give the wanted frames only."""
        return (frame for frame in self if frame is not None)

    def __iter__(self) -> Iterator[DecodedFrame | None]:
        """Return the one iterator of this source; ValueError once it is closed."""
        if self._opened is None:
            raise ValueError(f"{shown(self.place)}: this source is closed")
        if self._frames is None:
            self._frames = self._decode(self._opened)
            if self._tap is not None:
                self._frames = _with_sound(self._frames, self._tap)
        return self._frames

    def counted(self) -> tuple[int, int]:
        """Read it through without decoding: about how many frames it has, and how many key frames.

        It gives no frames afterwards. A file that cannot be read further ends there.
        """
        if self._opened is None:
            raise ValueError(f"{shown(self.place)}: this source is closed")
        n_packets = n_key = 0
        with suppress(av.error.FFmpegError):
            for packet in self._opened.packets():
                n_packets += packet.size > 0
                n_key += packet.size > 0 and packet.is_keyframe
        self.close()
        return n_packets, n_key

    def close(self) -> None:
        """Close file and decoder; again is harmless. Frames already given stay valid."""
        frames, self._frames = self._frames, None
        opened, self._opened = self._opened, None
        if frames is not None:
            frames.close()
        if opened is not None:
            opened.close()
            if self.recorder is not None:
                self.recorder.close()

    def _decode(self, opened: Opened) -> Generator[DecodedFrame | None]:
        converter, orientations, truncation = VideoReformatter(), Orientations(), TruncationCheck()
        choice = FrameChoice(self._request.frames)
        given = in_a_row = 0
        for packet in self._packets(opened):
            truncation.see(packet)
            if packet.size and not choice.takes_packet(packet.is_keyframe):
                self._tally["skipped"] += 1
                yield None
                continue
            try:
                frames = opened.decode(packet, choice.may_take(seconds_of(packet)))
            except av.error.FFmpegError as error:
                in_a_row += 1
                check_packet(self.place, packet, self.options)
                self._skip(in_a_row, given, error)
                continue
            if frames:
                in_a_row = 0
            for frame in frames:
                given += 1
                for _ in range(choice.left_out(frame.time)):
                    self._tally["skipped"] += 1
                    yield None
                if not choice.takes(frame.time):
                    self._tally["skipped"] += 1
                    yield None
                    continue
                orientation = orientation_of(self.place, frame, orientations, self.options)
                yield DecodedFrame(frame, converter, orientation)
        for _ in range(choice.left_out()):
            self._tally["skipped"] += 1
            yield None
        self._tally["truncated"] = int(truncation.is_early(opened))
        if given == 0:
            raise self._nothing()

    def _packets(self, opened: Opened) -> Iterator[Packet[VideoStream]]:
        """Yield the track's packets; a file that cannot be read further ends, and is counted."""
        try:
            yield from opened.packets()
            return
        except av.error.FFmpegError as error:
            failure = type(error).__name__
        if is_url(self.place):
            raise refusal(self.place, "truncated", f"the connection was lost ({failure})")
        self._tally["damaged"] += 1
        flush = Packet()
        flush.time_base = opened.stream.time_base or Fraction(1)
        yield flush  # type: ignore[misc]  # an empty packet makes the decoder give what it holds

    def _skip(self, in_a_row: int, given: int, error: av.error.FFmpegError) -> None:
        self._tally["damaged"] += 1
        if in_a_row > self.options.max_damaged:
            where = f"{in_a_row} packets in a row after frame {given}"
            raise refusal(self.place, "damaged", f"{where} do not decode ({type(error).__name__})")

    def _nothing(self) -> SourceFault:
        if self._tally["truncated"]:
            return refusal(self.place, "truncated", "cut off before its first frame was complete")
        if skipped := self._tally["damaged"]:
            what = f"none of its frames decodes (packets skipped: {skipped})"
            return refusal(self.place, "damaged", what)
        return refusal(self.place, "empty", "its video track has no frames")


def _with_sound(
    frames: Generator[DecodedFrame | None], tap: SoundTap
) -> Generator[DecodedFrame | None]:
    """Hold each frame until the next one tells which sound ended with it."""
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
    """Open it, decode its first frame, and say what it is; SourceFault as FileSource.

    The rate of a camera is measured on its next frames, for _RATE_S at most: what a camera claims
    is often wrong, and MJPEG claims nothing.
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
    """Return the frames per second that a camera sends, by its own times or else by arrival; None
    if too few frames came.
    """
    arrived = [time.monotonic()]
    taken = [first.pts]
    with suppress(SourceFault):
        for frame in frames:
            arrived.append(time.monotonic())
            taken.append(frame.pts)
            if len(taken) == _RATE_FRAMES or arrived[-1] - arrived[0] > _RATE_S:
                break
    own = [pts for pts in taken if pts is not None] if source.has_times else []
    return rate_of(own) or rate_of(arrived)


def rate_of(times: Sequence[float]) -> float | None:
    """Return frames per second of frames with these times in seconds, None for fewer than three or
    where no time passes.
    """
    passed = max(times, default=0.0) - min(times, default=0.0)
    if len(times) < 3 or passed <= 0:
        return None
    return (len(times) - 1) / passed


_HOURS: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_SLACK_S: Final = 0.1


def claimed_rate(stream: VideoStream) -> Fraction | None:
    """Return the frames a second that the container claims; never used to count time."""
    return stream.average_rate or stream.guessed_rate or None


def claimed_duration_s(opened: Opened) -> float | None:
    """Return the seconds that the container claims for the track, else for the whole file."""
    stream, container = opened.stream, opened.container
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def claimed_frames(opened: Opened) -> int | None:
    """Return the frames that the container claims, or that follow from its duration and rate."""
    if opened.stream.frames > 0:
        return opened.stream.frames
    rate, seconds = claimed_rate(opened.stream), claimed_duration_s(opened)
    return round(seconds * rate) if rate and seconds and seconds > 0 else None


def _track_duration_s(opened: Opened) -> float | None:
    """Return the seconds claimed for the video track itself: sound may go on after it."""
    tag = opened.stream.metadata.get("DURATION", "")  # how Matroska says it: HH:MM:SS.fraction
    if found := _HOURS.fullmatch(tag.strip("\0 ")):
        hours, minutes, seconds = found.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if opened.stream.duration is None and len(opened.container.streams) > 1:
        return None
    return claimed_duration_s(opened)


def described_sound(opened: Opened) -> tuple[str, int, int] | None:
    """Return codec, hertz and channels of the sound track, as the container states them; None
    where there is none that can be decoded.
    """
    if opened.sound is None:
        return None
    codec = opened.sound.codec_context
    return codec.name, codec.sample_rate, codec.channels


class TruncationCheck:
    """Watches the packets of a track to tell whether the file goes as far as it claims.

    mp4 counts its packets exactly. Other containers claim a duration at best; what is missing must
    be longer than any pause within the track to be told from the length of the last frame.
    """

    def __init__(self) -> None:
        self._packets = 0
        self._is_cut = False
        self._end: int | None = None
        self._longest_pause = 0

    def see(self, packet: Packet[VideoStream]) -> None:
        """Note one packet, in reading order; the empty one at the end is no packet."""
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
        """Tell whether the last packet was cut or what the container claims did not come."""
        if self._is_cut:
            return True
        if opened.container.format.name.startswith("mov"):
            return self._is_short_mp4(opened.stream)
        claim, tick = _track_duration_s(opened), opened.stream.time_base
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
        # An edit list may leave out packets that the index counts, but then shortens the track.
        return self._end - (stream.start_time or 0) < stream.duration
