"""Pictures as the bytes that go over a wire: JPEG files, or FFV1 where every bit counts.

A picture's planes go into the file without a way over R, G, B, and come out of it so: that costs as
much agreement as the quantisation does. Which matrix and range they are of has to be told beside.
"""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.errors import PictureDamaged
from framegate.models.picture import ByteArray, Matrix, Picture
from framegate.models.preprocess import Rect, shrunk


@dataclass(frozen=True, slots=True)
class Coding:
    """How a picture is coded; the default is chosen with `python -m benchmarks.picture_coding`.

    scale    1..31, FFmpeg's quantiser scale: 2 is about what others call quality 90
    longest  pixels of its longer side at most: what is larger is shrunk before
    """

    scale: int = 2
    longest: int = 1280


DEFAULT = Coding()
_MOST_PIXELS = 1 << 26  # of a picture that somebody sends: as many as a source may have by default


def encode(picture: Picture, coding: Coding = DEFAULT) -> bytes:
    """The bytes of a JPEG file. Any thread."""
    wanted = picture.width * min(1.0, coding.longest / max(picture.width, picture.height))
    small = shrunk(picture, max(1, round(wanted)))
    scale = f"{coding.scale}"
    return _encoded(small, "mjpeg", "yuvj420p", {"qmin": scale, "qmax": scale})


def encode_exact(picture: Picture) -> bytes:
    """One frame of FFV1, from which every bit comes back; it does not tell its size. Any thread."""
    return _encoded(picture, "ffv1", "yuv420p", {"level": "1"})


def decode(data: bytes, matrix: Matrix, full_range: bool) -> Picture:
    """The picture in a JPEG file, 4:2:0, of this matrix and range. PictureDamaged. Any thread."""
    y, u, v = _decoded(data, "mjpeg", "yuvj420p")
    return Picture(y, u, v, matrix, full_range)


def decode_exact(data: bytes, size: tuple[int, int], matrix: Matrix, full_range: bool) -> Picture:
    """The picture of (width, height) in a frame of FFV1. PictureDamaged. Any thread."""
    y, u, v = _decoded(data, "ffv1", "yuv420p", size)
    return Picture(y, u, v, matrix, full_range)


def even(rect: Rect) -> Rect:
    """The least part that holds `rect` and begins where a colour sample does."""
    left, top, right, bottom = rect
    return left - left % 2, top - top % 2, right, bottom


def placed(boxes: Boxes, size: tuple[int, int], rect: Rect) -> Boxes:
    """Boxes in a coded picture of (width, height), that shows `rect` of a source, in its pixels."""
    left, top, right, bottom = rect
    scale = np.array([(right - left) / size[0], (bottom - top) / size[1]] * 2, np.float32)
    return Boxes(boxes.xyxy * scale, boxes.scores, boxes.class_ids).moved(left, top)


def _encoded(picture: Picture, codec: str, pix_fmt: str, options: dict[str, str]) -> bytes:
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = picture.width, picture.height, pix_fmt
    context.time_base, context.thread_count, context.options = Fraction(1), 1, options
    frame = av.VideoFrame(picture.width, picture.height, pix_fmt)
    for plane, array in zip(frame.planes, (picture.y, picture.u, picture.v), strict=True):
        _rows(plane)[:, : array.shape[1]] = array
    frame.pts = 0
    return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))


def _decoded(
    data: bytes, codec: str, pix_fmt: str, size: tuple[int, int] | None = None
) -> list[ByteArray]:
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count, context.options = 1, {"max_pixels": f"{_MOST_PIXELS}"}
    try:
        if size is not None:
            context.width, context.height = size
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise PictureDamaged(len(data)) from error
    if len(frames) != 1 or frames[0].format.name != pix_fmt:
        raise PictureDamaged(len(data))
    return [_rows(plane)[:, : plane.width] for plane in frames[0].planes]


def _rows(plane: av.video.plane.VideoPlane) -> ByteArray:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
