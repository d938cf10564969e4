"""A video file of pictures with their own times, in a codec that browsers play."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, cast

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from framegate.models.picture import Picture
from framegate.pipeline.contracts.errors import FramegateError
from framegate.stages.draw.canvas import Plane

TICKS: Final = 60_000  # a second; whole ticks for 24, 25, 30, 50, 60 and 29.97 frames a second
_NEUTRAL: Final = 128
_FIRST_STEP: Final = TICKS // 25
_COUNT: Final = Fraction(1, 25)
_KEY_FRAMES: Final = 100  # at most so many frames from one to the next: a player seeks to them
_LAMBDA: Final = 118  # FFmpeg's quality unit, FF_QP2LAMBDA

Codec = Literal["vp9", "mpeg4"]


@dataclass(frozen=True, slots=True)
class _Encoder:
    """An encoder of FFmpeg, without GPL code, and what it is told: constant quality, no delay."""

    name: str
    options: Mapping[str, str]


_ENCODERS: Final[Mapping[Codec, _Encoder]] = {
    "vp9": _Encoder(
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "crf": "30", "b": "0"},
    ),
    "mpeg4": _Encoder("mpeg4", {"flags": "+qscale", "global_quality": str(4 * _LAMBDA)}),
}


class VideoUnwritable(FramegateError):
    """A video cannot be written: no room, no permission, no such folder."""


class VideoWriter:
    """Writes pictures to `path` as MP4, each at its own time.

    In      Picture of any size; the first fixes the size of the video, others are fitted into it
            with black bars. pts in seconds; one that is missing or does not rise is moved just
            behind its predecessor (missing: by the last step), so order and count are kept
    codec   vp9 plays in browsers; mpeg4 (MPEG-4 Part 2) takes less time and more bytes, and plays
            in VLC and mpv
    Fails   VideoUnwritable, from construction to close(), and closes; what was written up to then
            can be played, as it can after a kill, but for the last second
    Thread  one at a time
    """

    def __init__(self, path: str | Path, codec: Codec = "vp9") -> None:
        self.path, self.codec = Path(path), codec
        self.frames = 0
        self._converter = VideoReformatter()
        self._stream: VideoStream | None = None
        self._ticks: deque[int] = deque()  # of the frames that the encoder holds
        self._held: Packet[VideoStream] | None = None
        self._last, self._step = -1, _FIRST_STEP
        try:
            self.path.open("wb").close()  # FFmpeg opens it with the first frame: say it at once
            # Fragments keep what is written playable; closing makes a plain MP4 of them.
            self._output: OutputContainer | None = av.open(
                f"file:{self.path.absolute()}",
                "w",
                format="mp4",
                container_options={
                    "movflags": "+hybrid_fragmented+delay_moov+write_colr",
                    "frag_duration": "1000000",  # microseconds
                    "flush_packets": "1",
                },
            )
            self._output.metadata["comment"] = f"Framegate {version('framegate')}"
        except OSError as error:
            raise self._fault(error) from error

    def add(self, picture: Picture, pts: float | None) -> None:
        """Write one frame."""
        if self._output is None:
            raise ValueError(f"{self.path}: this video is closed")
        try:
            stream = self._stream or self._start(self._output, picture)
            frame = self._frame(_fitted(picture, stream.width, stream.height))
            # The encoder counts frames: MPEG-4's own clock can express no pause above an hour.
            frame.pts, frame.time_base = self.frames, _COUNT
            self._ticks.append(self._tick(pts))
            for packet in stream.encode(frame):
                self._put(self._output, packet)
        except OSError as error:
            self._give_up()
            raise self._fault(error) from error
        self.frames += 1

    def close(self) -> None:
        """Write what is held and finish the file, or remove it if empty; again is harmless."""
        if self._output is None:
            return
        try:
            if self._stream is not None:
                for packet in self._stream.encode(None):
                    self._put(self._output, packet)
            if self._held is not None:
                self._held.duration = self._step
                self._output.mux(self._held)
            self._output.close()
        except OSError as error:
            self._give_up()
            raise self._fault(error) from error
        self._output = None
        if self.frames == 0 and self.path.is_file():
            self.path.unlink()

    def _give_up(self) -> None:
        """Close after a failed write; FFmpeg crashes on a packet that it was given before."""
        output, self._output, self._held = self._output, None, None
        if output is not None:
            with contextlib.suppress(OSError):
                output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _fault(self, error: OSError) -> VideoUnwritable:
        reason = error.strerror or type(error).__name__
        return VideoUnwritable(
            f"{self.path}: the annotated video cannot be written ({reason}); "
            "allowed: a new or own file in a folder with room"
        )

    def _start(self, output: OutputContainer, first: Picture) -> VideoStream:
        encoder = _ENCODERS[self.codec]
        options = dict(encoder.options)
        stream = cast(VideoStream, output.add_stream(encoder.name, rate=25, options=options))
        context = stream.codec_context
        stream.width, stream.height = first.width, first.height
        context.pix_fmt = "yuv420p"
        context.time_base = _COUNT
        context.gop_size = _KEY_FRAMES
        context.colorspace = _space(first)
        context.color_range = ColorRange.MPEG
        stream.time_base = Fraction(1, TICKS)
        self._stream = stream
        return stream

    def _tick(self, pts: float | None) -> int:
        """Return the time of the next frame in ticks: its own, or the next that is possible."""
        if pts is None:
            tick = self._last + self._step if self.frames else 0
        else:
            tick = round(pts * TICKS)
        tick = max(tick, self._last + 1)
        if self.frames:
            self._step = tick - self._last
        self._last = tick
        return tick

    def _put(self, output: OutputContainer, packet: Packet[VideoStream]) -> None:
        """Hold a packet back until the next one says how long its frame is to be seen.

        They come in the order of the frames: no encoder is told to look ahead.
        """
        packet.time_base = Fraction(1, TICKS)
        packet.pts = packet.dts = tick = self._ticks.popleft()
        if self._held is not None:
            self._held.duration = tick - (self._held.pts or 0)
            output.mux(self._held)
        self._held = packet

    def _frame(self, picture: Picture) -> av.VideoFrame:
        frame = av.VideoFrame(picture.width, picture.height, "yuv420p")
        for target, plane in zip(frame.planes, (picture.y, picture.u, picture.v), strict=True):
            rows = np.frombuffer(memoryview(target), np.uint8).reshape(target.height, -1)
            rows[:, : target.width] = plane
        if not picture.full_range:
            return frame
        # Players take a video for limited range whatever its container says.
        space = _space(picture)
        return self._converter.reformat(
            frame,
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )


def _space(picture: Picture) -> Colorspace:
    return Colorspace.ITU709 if picture.matrix == "bt709" else Colorspace.ITU601


def _fitted(picture: Picture, width: int, height: int) -> Picture:
    """Return the picture scaled into `width` x `height` with its proportions, bars around it."""
    if (picture.width, picture.height) == (width, height):
        return picture
    scale = min(width / picture.width, height / picture.height)
    wide = min(width, max(1, round(picture.width * scale)))
    high = min(height, max(1, round(picture.height * scale)))
    left, top = (width - wide) // 4 * 2, (height - high) // 4 * 2  # whole chroma samples
    black = 0 if picture.full_range else 16
    half = (left // 2, top // 2, (wide + 1) // 2, (high + 1) // 2)
    chroma = (width + 1) // 2, (height + 1) // 2
    return Picture(
        _inlaid(picture.y, (width, height), (left, top, wide, high), black),
        _inlaid(picture.u, chroma, half, _NEUTRAL),
        _inlaid(picture.v, chroma, half, _NEUTRAL),
        picture.matrix,
        picture.full_range,
    )


def _inlaid(
    plane: Plane, size: tuple[int, int], place: tuple[int, int, int, int], around: int
) -> Plane:
    width, height = size
    left, top, wide, high = place
    whole = np.full((height, width), around, np.uint8)
    scaled = cv2.resize(plane, (wide, high), interpolation=cv2.INTER_AREA)
    whole[top : top + high, left : left + wide] = scaled
    return whole
