"""Pictures as the bytes that go over a wire: JPEG files that hold the planes as they are.

A picture's planes go into the file without a way over R, G, B, and come out of it so: that costs as
much agreement as the quantisation does. Which matrix and range they are of has to be told beside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from models.boxes import Boxes
from models.errors import PictureDamaged
from models.picture import ByteArray, Matrix, Picture
from models.preprocess import Rect, shrunk


@dataclass(frozen=True, slots=True)
class Coding:
    """How a picture is coded; the default is chosen with `python -m benchmarks.picture_coding`.

    scale    1..31, FFmpeg's quantiser scale: 2 is about what others call quality 90
    longest  pixels of its longer side at most: what is larger is shrunk before
    """

    scale: int = 2
    longest: int = 1280


DEFAULT = Coding()


def encode(picture: Picture, coding: Coding = DEFAULT) -> bytes:
    """The file's bytes. Any thread."""
    wanted = picture.width * min(1.0, coding.longest / max(picture.width, picture.height))
    small = shrunk(picture, max(1, round(wanted)))
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = small.width, small.height, "yuvj420p"
    codec.time_base, codec.thread_count = Fraction(1), 1
    codec.options = {"qmin": f"{coding.scale}", "qmax": f"{coding.scale}"}
    frame = av.VideoFrame(small.width, small.height, "yuvj420p")
    for plane, array in zip(frame.planes, (small.y, small.u, small.v), strict=True):
        _rows(plane)[:, : array.shape[1]] = array
    frame.pts = 0
    return b"".join(bytes(packet) for packet in (*codec.encode(frame), *codec.encode(None)))


def decode(data: bytes, matrix: Matrix, full_range: bool) -> Picture:
    """The picture in a JPEG file, 4:2:0, of this matrix and range. PictureDamaged. Any thread."""
    codec = av.CodecContext.create("mjpeg", "r")
    codec.thread_count = 1
    with _damaged(data):
        frames = [*codec.decode(av.Packet(data)), *codec.decode(None)]
        if len(frames) != 1 or frames[0].format.name != "yuvj420p":
            raise PictureDamaged(len(data))
        y, u, v = (_rows(plane)[:, : plane.width] for plane in frames[0].planes)
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


def _rows(plane: av.video.plane.VideoPlane) -> ByteArray:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)


@contextmanager
def _damaged(data: bytes) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, ValueError) as error:
        raise PictureDamaged(len(data)) from error
