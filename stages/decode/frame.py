"""A decoded picture as packed planar YUV 4:2:0, turned upright; and the choice of frames."""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type as SideDataType
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from framegate.pipeline.contracts.source import (
    CameraEvent,
    Form,
    Frames,
    SoundBlock,
    UndecodedFrame,
)

_TINY: Final = 16  # pixels
_ABORTS: Final = "yaf32"  # FFmpeg's converter ends the process for this format

YuvPlane = npt.NDArray[np.uint8]


class Unconvertible(Exception):
    """FFmpeg cannot convert a frame's pixel format to YUV."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How to turn a stored picture upright: swap the axes, then mirror the result."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def copy(self, plane: YuvPlane, out: YuvPlane) -> None:
        """Write `plane` (rows, columns), turned upright, into the contiguous `out`.

        cv2 writes directly into `out`, ten times as fast as a strided copy.
        """
        if self.swap and self.mirror_x != self.mirror_y:
            clockwise = cv2.ROTATE_90_CLOCKWISE
            cv2.rotate(plane, clockwise if self.mirror_x else cv2.ROTATE_90_COUNTERCLOCKWISE, out)
        elif self.swap:
            cv2.transpose(cv2.flip(plane, -1) if self.mirror_x else plane, out)
        elif self.mirror_x and self.mirror_y:
            cv2.flip(plane, -1, out)
        elif self.mirror_x:
            cv2.flip(plane, 1, out)
        elif self.mirror_y:
            cv2.flip(plane, 0, out)
        else:
            out[...] = plane

    def shape(self, plane: YuvPlane) -> tuple[int, int]:
        """Return rows and columns of `plane` once it is upright."""
        rows, columns = plane.shape
        return (columns, rows) if self.swap else (rows, columns)

    @property
    def degrees(self) -> int:
        """Return degrees clockwise, 0, 90, 180 or 270; mirroring alone does not count."""
        if self.swap:
            return 90 if self.mirror_x else 270
        return 180 if self.mirror_y else 0


UPRIGHT: Final = Orientation()


def orientation_by(matrix: tuple[int, ...]) -> Orientation:
    """Return the orientation of a display matrix (row by row: x' = a x + c y, y' = b x + d y).

    Only signs and the larger entries count, so an oblique angle becomes the nearest right angle.
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(swap=True, mirror_x=c < 0, mirror_y=b < 0)
    return Orientation(mirror_x=a < 0, mirror_y=d < 0)


class Orientations:
    """The orientations of the frames of one source. One thread at a time.

    PyAV puts a frame whose side data is read into a reference cycle, which keeps its pixels until a
    garbage collection. So the side data of a tiny copy is read, once for each size and rotation.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], Orientation] = {}

    def of(self, frame: av.VideoFrame) -> Orientation:
        """Return how to turn and mirror `frame`. Unconvertible: its format cannot be converted."""
        name = frame.format.name
        # For these formats FFmpeg's converter ends the process instead of raising an error.
        if name.startswith(_ABORTS) or (name.startswith("bayer") and frame.height % 2):
            raise Unconvertible(f"{name} of {frame.height} rows")
        key = frame.width, frame.height, frame.rotation
        if key not in self._known:
            try:
                tiny = frame.reformat(_TINY, _TINY, "gray")
            except av.error.FFmpegError as error:
                raise Unconvertible(name) from error
            self._known[key] = _orientation_in(tiny)
        return self._known[key]


def _orientation_in(frame: av.VideoFrame) -> Orientation:
    try:
        side_data: Mapping[Any, Any] = frame.side_data
    except ValueError:  # PyAV raises for a kind of side data that is newer than its list
        angle = math.radians(frame.rotation)
        cos = round(math.cos(angle))
        sin = round(math.sin(angle))
        return orientation_by((cos, -sin, 0, sin, cos))
    matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    return UPRIGHT if matrix is None else orientation_by(struct.unpack("9i", bytes(matrix)))


_AS_IS: Final = frozenset({"yuv420p", "yuvj420p", "yuva420p"})
_GRAY: Final = frozenset({"gray", "ya8"})
_NEUTRAL: Final = 128
_HD_ROWS: Final = 720
_MATRICES: Final = {  # ITU-T H.273 matrix coefficients; BT.2020 and SMPTE 240M are nearest to 709
    1: "bt709",
    4: "bt601",
    5: "bt601",
    6: "bt601",
    7: "bt709",
    9: "bt709",
    10: "bt709",
}


def _is_rgb(frame: av.VideoFrame) -> bool:
    kind = frame.format
    return bool(kind.is_rgb or kind.has_palette or kind.name.startswith(("bayer", "xyz", "mono")))


def form_of(frame: av.VideoFrame, orientation: Orientation) -> Form:
    """Return the meaning of a frame's bytes after `write`.

    Untagged streams follow the usual rule: BT.601 below 720 rows, else BT.709, and limited range
    except for JPEG's formats and gray. RGB becomes full-range YUV, which loses least.
    """
    name = frame.format.name
    matrix = "bt709" if frame.height >= _HD_ROWS else "bt601"
    full = True
    if not _is_rgb(frame):
        matrix = _MATRICES.get(int(frame.colorspace), matrix)
        is_jpeg = name.startswith("yuvj")
        stated = int(frame.color_range)
        if stated == ColorRange.UNSPECIFIED:
            full = is_jpeg or name in _GRAY
        else:
            full = is_jpeg or stated == ColorRange.JPEG
    width = frame.width
    height = frame.height
    if orientation.swap:
        width, height = height, width
    return Form(width=width, height=height, matrix=matrix, full_range=full)


def rows_of(plane: VideoPlane) -> YuvPlane:
    """Return a view (rows, columns) uint8 of an 8-bit plane, without padding."""
    stride = plane.line_size
    padded = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, abs(stride))
    if stride < 0:  # the lowest address holds the last row
        padded = padded[::-1]
    return padded[:, : plane.width]


class DecodedFrame:
    """A decoded `framegate.Frame`, which the engine can copy into a slot.

    pts           seconds by the container, None if it states none
    form          size after turning, matrix and range of the bytes
    nbytes        height * width + 2 * ceil(height / 2) * ceil(width / 2)
    arrived_mono  monotonic seconds at which its packet arrived, None for a file
    captured      UNIX seconds by the camera's clock, None if the camera does not report it
    key_frame     it was encoded without reference to others
    sound         blocks of sound that ended with it; the source sets them
    undecoded     frames right before it that were not decoded
    camera_events  events of the camera; the source sets them. None: unknown

    It keeps the decoder's buffer until it is deleted. Frames of one source share a converter: write
    them in the thread that iterates.
    """

    __slots__ = (
        "_converter", "_frame", "_orientation", "arrived_mono", "camera_events", "captured", "form",
        "key_frame", "nbytes", "pts", "sound", "undecoded",
    )  # fmt: skip

    def __init__(
        self,
        frame: av.VideoFrame,
        converter: VideoReformatter,
        orientation: Orientation = UPRIGHT,
        arrived_mono: float | None = None,
        captured: float | None = None,
        undecoded: tuple[UndecodedFrame, ...] = (),
    ) -> None:
        self._frame = frame
        self._converter = converter
        self._orientation = orientation
        self.arrived_mono = arrived_mono
        self.captured = captured
        self.undecoded = undecoded
        self.sound: tuple[SoundBlock, ...] = ()
        self.camera_events: tuple[CameraEvent, ...] | None = None
        self.key_frame = bool(frame.key_frame)
        self.form = form_of(frame, orientation)
        self.pts = frame.time
        chroma = ((self.form.height + 1) // 2) * ((self.form.width + 1) // 2)
        self.nbytes = self.form.height * self.form.width + 2 * chroma

    @property
    def pix_fmt(self) -> str:
        """Return FFmpeg's name of the decoded format."""
        return str(self._frame.format.name)

    @property
    def rotation(self) -> int:
        """Return degrees clockwise by which the picture was turned: 0, 90, 180 or 270."""
        return self._orientation.degrees

    def write(self, slot: memoryview) -> None:
        """Fill the first `nbytes` of a writable `slot` with Y, U, V in this order, without padding.

        ValueError: the slot is too small or read-only.
        """
        out = np.frombuffer(slot, np.uint8, count=self.nbytes)
        start = 0
        for plane in self._planes():
            end = start + plane.size
            self._orientation.copy(plane, out[start:end].reshape(self._orientation.shape(plane)))
            start = end

    def upright(self) -> Iterator[YuvPlane]:
        """Yield Y, U and V of the picture, turned upright. They may have gaps."""
        for plane in self._planes():
            if self._orientation == UPRIGHT:
                yield plane
            else:
                turned = np.empty(self._orientation.shape(plane), np.uint8)
                self._orientation.copy(plane, turned)
                yield turned

    def _planes(self) -> Iterator[YuvPlane]:
        """Yield Y, U and V of the picture as it is stored, not turned. They may have gaps."""
        frame = self._frame
        name = frame.format.name
        if name == "gray":
            yield rows_of(frame.planes[0])
            half = (frame.height + 1) // 2, (frame.width + 1) // 2
            yield np.full(half, _NEUTRAL, np.uint8)
            yield np.full(half, _NEUTRAL, np.uint8)
            return
        if name not in _AS_IS:
            frame = self._converted()
        for plane in frame.planes[:3]:
            yield rows_of(plane)

    def _converted(self) -> av.VideoFrame:
        matrix = Colorspace.ITU709 if self.form.matrix == "bt709" else Colorspace.ITU601
        full = ColorRange.JPEG if self.form.full_range else ColorRange.MPEG
        # AREA averages exactly the pixels of each chroma sample; other filters blur or skip some.
        return self._converter.reformat(
            self._frame,
            format="yuv420p",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG if _is_rgb(self._frame) else full,
            dst_color_range=full,
            interpolation=Interpolation.AREA,
        )


_EARLY: Final = 0.25
_MAX_AHEAD: Final = 128  # undecoded pictures: 16 that wait for others, for each thread


class FrameChoice:
    """Decides from time stamps, frame by frame in order, which frames are wanted. One thread.

    With `max_fps` a frame is wanted once the next one is due, or up to a quarter of a period
    before, so that a camera's jitter makes no gaps. Frames without a time stamp are wanted.

    Invariant: an unwanted frame changes no later decision. So decisions made for packets, which are
    in decoding order, agree with those for pictures, which are in the order of their pts.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._seen = 0
        self._due: float | None = None
        self._ahead: list[tuple[float, bool]] = []  # packets without a picture: pts, wanted

    def takes_packet(self, is_key: bool) -> bool:
        """Return whether a packet is worth decoding."""
        return is_key or not self._frames.keyframes

    def takes(self, pts: float | None) -> bool:
        """Return whether the next frame, with this time stamp in seconds, is wanted."""
        number = self._seen
        self._seen += 1
        if number % self._frames.every:
            return False
        if self._frames.max_fps is None or pts is None:
            return True
        before = self._due
        self._due = _due_after(pts, before, 1.0 / self._frames.max_fps)
        return self._due != before

    def may_take(self, pts: float | None) -> bool:
        """Return whether the next packet's picture may be wanted, by its time stamp in seconds.
        False: it need not be decoded if no other picture refers to it.

        The undecoded pictures that are shown before this one are decided first. One of these that
        is still missing can only make this one unwanted. `every` counts decoded pictures, so the
        answer is always True for it.
        """
        if self._frames.max_fps is None or self._frames.every > 1 or pts is None:
            return True
        period = 1.0 / self._frames.max_fps
        due = self._due
        for earlier, _ in self._ahead[: bisect_left(self._ahead, (pts, False))]:
            due = _due_after(earlier, due, period)
        wanted = _due_after(pts, due, period) != due
        insort(self._ahead, (pts, wanted))
        return wanted

    def left_out(self, until: float | None = math.inf) -> int:
        """Return how many pictures that `may_take` refused were not decoded, of those shown before
        `until`. Call it with each decoded picture, and at the end.
        """
        if until is None or not self._ahead:
            return 0
        # The bound drops entries that a jump back in time left at the end forever.
        passed = max(bisect_left(self._ahead, (until, False)), len(self._ahead) - _MAX_AHEAD)
        missing = sum(not wanted for _, wanted in self._ahead[:passed])
        is_decoded = passed < len(self._ahead) and self._ahead[passed][0] == until
        del self._ahead[: passed + is_decoded]
        return missing


def _due_after(pts: float, due: float | None, period: float) -> float | None:
    """Return when the next frame is due after one at `pts`; unchanged if that one is not wanted."""
    if due is None:
        return pts + period
    if -2 * period < pts - due < -_EARLY * period:
        return due
    if abs(pts - due) < period:
        return due + period
    return pts + period
