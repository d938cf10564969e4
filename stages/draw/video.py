"""Write a video file of pictures with their own times."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
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

TICKS: Final = 60_000  # per second; frames at 24, 25, 29.97, 30, 50 and 60 fps take whole ticks
_NEUTRAL: Final = 128  # chroma of black
_FIRST_STEP: Final = TICKS // 25
_COUNT: Final = Fraction(1, 25)
_KEY_FRAMES: Final = 100  # frames from one key frame to the next; a player seeks to key frames
_LAMBDA: Final = 118  # FFmpeg's quality unit, FF_QP2LAMBDA

Codec = Literal["vp9", "mpeg4"]


@dataclass(frozen=True, slots=True)
class _Encoder:
    """An encoder of FFmpeg without GPL code, and its options: constant quality, no delay."""

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
    """A video cannot be written: the disk is full, or the file may not be written."""


class VideoWriter:
    """A writer of pictures to an MP4 file, each at its own time. One thread at a time.

    path   file, which is replaced
    codec  vp9 plays in browsers; mpeg4 (MPEG-4 Part 2) takes less time and more bytes, and plays
           in VLC and mpv

    All methods and the constructor may raise VideoUnwritable, which closes the writer. The file is
    playable then, and after a kill, except for its last second.
    """

    def __init__(self, path: str | Path, codec: Codec = "vp9") -> None:
        self.path = Path(path)
        self.codec = codec
        self.frames = 0
        self._converter = VideoReformatter()
        self._stream: VideoStream | None = None
        self._ticks: deque[int] = deque()  # of the frames that the encoder has not returned
        self._held: Packet[VideoStream] | None = None
        self._last = -1
        self._step = _FIRST_STEP
        try:
            # FFmpeg opens the file at the first frame; find out now if that fails.
            self.path.open("wb").close()
            # Fragments keep the written part playable; closing turns them into a plain MP4.
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
        """Write a frame.

        picture  of any size; the first one fixes the size of the video, and others are scaled into
                 it with black bars
        pts      seconds; if it is None or not above that of the frame before, the frame follows
                 that frame (None: after the last step), so that no frame is lost
        """
        if self._output is None:
            raise ValueError(f"{self.path}: this video is closed")
        try:
            stream = self._stream or self._start(self._output, picture)
            frame = self._frame(_fitted(picture, stream.width, stream.height))
            # The encoder gets frame numbers: the clock of MPEG-4 cannot express an hour's pause.
            frame.pts = self.frames
            frame.time_base = _COUNT
            self._ticks.append(self._tick(pts))
            for packet in stream.encode(frame):
                self._put(self._output, packet)
        except OSError as error:
            self._give_up()
            raise self._fault(error) from error
        self.frames += 1

    def close(self) -> None:
        """Finish the file, or remove it if it has no frames. A second call does nothing."""
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
        """Close after a failed write, without the held packet, which FFmpeg may have already."""
        output = self._output
        self._output = None
        self._held = None
        if output is not None:
            with contextlib.suppress(OSError):
                output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fault(self, error: OSError) -> VideoUnwritable:
        reason = error.strerror or type(error).__name__
        return VideoUnwritable(
            f"{self.path}: the annotated video cannot be written ({reason}); "
            "use a file of your own on a disk with free space"
        )

    def _start(self, output: OutputContainer, first: Picture) -> VideoStream:
        encoder = _ENCODERS[self.codec]
        options = dict(encoder.options)
        stream = cast(VideoStream, output.add_stream(encoder.name, rate=25, options=options))
        context = stream.codec_context
        stream.width = first.width
        stream.height = first.height
        context.pix_fmt = "yuv420p"
        context.time_base = _COUNT
        context.gop_size = _KEY_FRAMES
        context.colorspace = _space(first)
        context.color_range = ColorRange.MPEG
        stream.time_base = Fraction(1, TICKS)
        self._stream = stream
        return stream

    def _tick(self, pts: float | None) -> int:
        """Return the time of the next frame in ticks: its own, or the next possible time."""
        if pts is not None:
            tick = round(pts * TICKS)
        elif self.frames:
            tick = self._last + self._step
        else:
            tick = 0
        tick = max(tick, self._last + 1)
        if self.frames:
            self._step = tick - self._last
        self._last = tick
        return tick

    def _put(self, output: OutputContainer, packet: Packet[VideoStream]) -> None:
        """Keep a packet until the next one, whose time fixes the duration of the first.

        Packets are in the order of the frames, because no encoder looks ahead.
        """
        tick = self._ticks.popleft()
        packet.time_base = Fraction(1, TICKS)
        packet.pts = tick
        packet.dts = tick
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
        # Players assume limited range, even if the container states full range.
        space = _space(picture)
        return self._converter.reformat(
            frame,
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )


def _space(picture: Picture) -> Colorspace:
    if picture.matrix == "bt709":
        return Colorspace.ITU709
    return Colorspace.ITU601


def _fitted(picture: Picture, width: int, height: int) -> Picture:
    """Return the picture scaled into `width` x `height`, with its proportions and black bars."""
    if (picture.width, picture.height) == (width, height):
        return picture
    scale = min(width / picture.width, height / picture.height)
    wide = min(width, max(1, round(picture.width * scale)))
    high = min(height, max(1, round(picture.height * scale)))
    left = (width - wide) // 4 * 2  # even, because a chroma sample is two pixels wide and high
    top = (height - high) // 4 * 2
    black = 16
    if picture.full_range:
        black = 0
    half = (left // 2, top // 2, (wide + 1) // 2, (high + 1) // 2)
    chroma = ((width + 1) // 2, (height + 1) // 2)
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
