"""Encode pictures for transmission: as JPEG files, or losslessly as FFV1.

The planes are encoded and decoded without a conversion to RGB, because that conversion changes the
boxes as much as the quantisation does. The receiver must know the matrix and the range.

PyAV is loaded with the first picture: it takes 0.07 s of CPU time, and a supervisor codes none.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.errors import PictureDamaged
from framegate.models.picture import ByteArray, Matrix, Picture, Rect, shrunk

if TYPE_CHECKING:
    from av.video.plane import VideoPlane


@dataclass(frozen=True, slots=True)
class Coding:
    """Parameters of the JPEG encoder, chosen with `python -m benchmarks.picture_coding`.

    scale    1..31, FFmpeg's quantiser scale; 2 is about quality 90 of other encoders
    longest  pixels; a picture with a longer side is shrunk first
    """

    scale: int = 2
    longest: int = 1280


DEFAULT = Coding()
_MAX_PIXELS = 1 << 26  # of a received picture; also the default limit for sources


def encode(picture: Picture, coding: Coding = DEFAULT) -> bytes:
    """Return the bytes of a JPEG file. Any thread."""
    factor = min(1.0, coding.longest / max(picture.width, picture.height))
    small = shrunk(picture, max(1, round(picture.width * factor)))
    scale = f"{coding.scale}"
    return _encoded(small, "mjpeg", "yuvj420p", {"qmin": scale, "qmax": scale})


def encode_exact(picture: Picture) -> bytes:
    """Return one lossless FFV1 frame, which does not contain its size. Any thread."""
    return _encoded(picture, "ffv1", "yuv420p", {"level": "1"})


def decode(data: bytes, matrix: Matrix, full_range: bool) -> Picture:
    """Decode a JPEG file, 4:2:0, with this matrix and range. Raises PictureDamaged. Any thread."""
    y, u, v = _decoded(data, "mjpeg", "yuvj420p")
    return Picture(y, u, v, matrix, full_range)


def decode_exact(data: bytes, size: tuple[int, int], matrix: Matrix, full_range: bool) -> Picture:
    """Decode an FFV1 frame of (width, height). Raises PictureDamaged. Any thread."""
    y, u, v = _decoded(data, "ffv1", "yuv420p", size)
    return Picture(y, u, v, matrix, full_range)


def even(rect: Rect) -> Rect:
    """Return `rect`, extended so that it starts at a colour sample (even left and top)."""
    left, top, right, bottom = rect
    return left - left % 2, top - top % 2, right, bottom


def placed(boxes: Boxes, size: tuple[int, int], rect: Rect) -> Boxes:
    """Convert boxes of a coded picture to source pixels.

    size  (width, height) of the coded picture
    rect  part of the source that the coded picture shows
    """
    left, top, right, bottom = rect
    scale = np.array([(right - left) / size[0], (bottom - top) / size[1]] * 2, np.float32)
    return Boxes(boxes.xyxy * scale, boxes.scores, boxes.class_ids).moved(left, top)


def _encoded(picture: Picture, codec: str, pix_fmt: str, options: dict[str, str]) -> bytes:
    import av

    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width = picture.width
    context.height = picture.height
    context.pix_fmt = pix_fmt
    context.time_base = Fraction(1)
    context.thread_count = 1
    context.options = options
    frame = av.VideoFrame(picture.width, picture.height, pix_fmt)
    for plane, array in zip(frame.planes, (picture.y, picture.u, picture.v), strict=True):
        _rows(plane)[:, : array.shape[1]] = array
    frame.pts = 0
    return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))


def _decoded(
    data: bytes, codec: str, pix_fmt: str, size: tuple[int, int] | None = None
) -> list[ByteArray]:
    import av

    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    context.options = {"max_pixels": f"{_MAX_PIXELS}"}
    try:
        if size is not None:
            context.width, context.height = size
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise PictureDamaged(len(data)) from error
    if len(frames) != 1 or frames[0].format.name != pix_fmt:
        raise PictureDamaged(len(data))
    return [_rows(plane)[:, : plane.width] for plane in frames[0].planes]


def _rows(plane: VideoPlane) -> ByteArray:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
