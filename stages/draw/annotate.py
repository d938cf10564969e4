"""Annotated video: the frames of a source with their objects drawn, as an MP4 file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.packet import Packet
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from framegate.models.picture import Picture
from framegate.pipeline.errors import FramegateError
from framegate.pipeline.records import Object
from framegate.stages.draw.gate_overlay import Look, draw_gate
from framegate.stages.draw.overlay import draw

Plane = npt.NDArray[np.uint8]

TICKS: Final = 60_000  # a second; whole ticks for 24, 25, 30, 50, 60 and 29.97 frames a second
_NEUTRAL: Final = 128
_FIRST_STEP: Final = TICKS // 25
_COUNT: Final = Fraction(1, 25)
_LAMBDA: Final = 118  # FFmpeg's quality unit, FF_QP2LAMBDA


class VideoUnwritable(FramegateError):
    """The annotated video cannot be written: no room, no permission, no such folder."""


class AnnotatedVideo:
    """Writes frames to `path` as MPEG-4 Part 2 in MP4, each at its own time.

    In      Picture of any size; the first fixes the size of the video, others are fitted into it
            with black bars. pts in seconds; one that is missing or does not rise is moved just
            behind its predecessor (missing: by the last step), so order and count are kept
    origin  the pts, in seconds, that becomes the start of the file (a live source's first)
    quality 2 (best) .. 31, constant over the file
    Fails   VideoUnwritable, from construction to close(), and closes; what was written up to then
            can be played, as it can after a kill, but for the last seconds
    Thread  one at a time
    """

    def __init__(self, path: str | Path, origin: float = 0.0, quality: int = 4) -> None:
        if not 2 <= quality <= 31:
            raise ValueError(f"quality: {quality}; allowed: 2 to 31")
        self.path, self.origin, self.quality = Path(path), origin, quality
        self.frames = 0
        self._converter = VideoReformatter()
        self._stream: VideoStream | None = None
        self._held: Packet[VideoStream] | None = None
        self._last, self._step = -1, _FIRST_STEP
        try:
            self.path.open("wb").close()  # FFmpeg opens it with the first frame: say it at once
            # Fragments keep what is written playable; closing makes a plain MP4 of them.
            self._output: OutputContainer | None = av.open(
                f"file:{self.path.absolute()}",
                "w",
                format="mp4",
                container_options={"movflags": "+hybrid_fragmented+delay_moov+write_colr"},
            )
        except OSError as error:
            raise self._fault(error) from error

    def add(
        self,
        picture: Picture,
        pts: float | None,
        objects: Sequence[Object] = (),
        look: Look | None = None,
    ) -> None:
        """Write one frame with its objects drawn, and what the gate saw where `look` tells it."""
        if self._output is None:
            raise ValueError(f"{self.path}: this video is closed")
        drawn = draw_gate(picture, objects, look) if look else draw(picture, objects)
        try:
            stream = self._stream or self._start(self._output, drawn)
            frame = self._frame(_fitted(drawn, stream.width, stream.height))
            frame.pts, frame.time_base = self.frames, _COUNT
            for packet in stream.encode(frame):
                self._put(packet, self._tick(pts))
        except OSError as error:
            self._give_up()
            raise self._fault(error) from error
        self.frames += 1

    def close(self) -> None:
        """Write what is held and finish the file, or remove it if empty; again is harmless."""
        if self._output is None:
            return
        try:
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
        stream = output.add_stream("mpeg4", rate=25, width=first.width, height=first.height)
        context = stream.codec_context
        context.pix_fmt = "yuv420p"
        context.time_base = _COUNT
        context.qscale = True
        context.global_quality = self.quality * _LAMBDA
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
            tick = round((pts - self.origin) * TICKS)
        return max(tick, self._last + 1)

    def _put(self, packet: Packet[VideoStream], tick: int) -> None:
        """Hold a packet back until the next one says how long its frame is to be seen."""
        if self._output is None:
            return
        if self._held is not None:
            self._step = tick - self._last
            self._held.duration = self._step
            self._output.mux(self._held)
        # The encoder counts frames: MPEG-4's own clock can express no pause above an hour.
        packet.time_base = Fraction(1, TICKS)
        packet.pts = packet.dts = self._last = tick
        self._held = packet

    def _frame(self, picture: Picture) -> av.VideoFrame:
        frame = av.VideoFrame(picture.width, picture.height, "yuv420p")
        for target, plane in zip(frame.planes, (picture.y, picture.u, picture.v), strict=True):
            rows = np.frombuffer(memoryview(target), np.uint8).reshape(target.height, -1)
            rows[:, : target.width] = plane
        if not picture.full_range:
            return frame
        # Players take MPEG-4 for limited range whatever its container says.
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
