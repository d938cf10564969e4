"""One decoded picture as tight planar YUV 4:2:0, turned upright; which pictures are wanted."""

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

from framegate.pipeline.contracts.source import Form, Frames, SoundBlock

# -- How a stored picture is turned and mirrored to be seen upright.


_TINY: Final = 16
_ABORTS: Final = "yaf32"

YuvPlane = npt.NDArray[np.uint8]


class Unconvertible(Exception):
    """There is no way from a frame's pixel format to YUV."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored rows and columns become seen ones: swap the axes, then mirror the seen picture."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def copy(self, plane: YuvPlane, out: YuvPlane) -> None:
        """Copy `plane` (rows, columns) into the contiguous `out` as it is to be seen.

        cv2 writes straight into `out` and is ten times as fast as a copy by strides.
        """
        if self.swap and self.mirror_x != self.mirror_y:
            clockwise = cv2.ROTATE_90_CLOCKWISE
            cv2.rotate(plane, clockwise if self.mirror_x else cv2.ROTATE_90_COUNTERCLOCKWISE, out)
        elif self.swap:
            cv2.transpose(cv2.flip(plane, -1) if self.mirror_x else plane, out)
        elif self.mirror_x or self.mirror_y:
            # cv2's code: 0 top to bottom, 1 left to right, -1 both
            cv2.flip(plane, -1 if self.mirror_x and self.mirror_y else int(self.mirror_x), out)
        else:
            out[...] = plane

    def shape(self, plane: YuvPlane) -> tuple[int, int]:
        """Return rows and columns of `plane` as it is to be seen."""
        rows, columns = plane.shape
        return (columns, rows) if self.swap else (rows, columns)

    @property
    def degrees(self) -> int:
        """Degrees clockwise, 0, 90, 180 or 270; a mirrored one counts as if it were not."""
        if self.swap:
            return 90 if self.mirror_x else 270
        return 180 if self.mirror_y else 0


UPRIGHT: Final = Orientation()


def orientation_by(matrix: tuple[int, ...]) -> Orientation:
    """Read a display matrix (nine integers, row by row: x' = a x + c y, y' = b x + d y).

    Only its signs and larger entries count, so an oblique angle becomes the nearest right angle.
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(swap=True, mirror_x=c < 0, mirror_y=b < 0)
    return Orientation(mirror_x=a < 0, mirror_y=d < 0)


class Orientations:
    """Gives the orientation of each frame of one source. One thread at a time.

    PyAV ties a frame whose side data was looked at into a reference cycle, which keeps its pixels
    until a garbage collection. So a tiny copy is looked at, once for each size and rotation.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], Orientation] = {}

    def of(self, frame: av.VideoFrame) -> Orientation:
        """Return how to turn and mirror `frame`; Unconvertible if nothing converts its format."""
        name = frame.format.name
        # FFmpeg's converter does not refuse these: it ends the process.
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
        kept: Mapping[Any, Any] = frame.side_data
    except ValueError:  # PyAV knows no name for some newer kind of side data and gives none at all
        angle = math.radians(frame.rotation)
        cos, sin = round(math.cos(angle)), round(math.sin(angle))
        return orientation_by((cos, -sin, 0, sin, cos))
    matrix = kept.get(SideDataType.DISPLAYMATRIX)
    return UPRIGHT if matrix is None else orientation_by(struct.unpack("9i", bytes(matrix)))


_AS_IS: Final = frozenset({"yuv420p", "yuvj420p", "yuva420p"})
_GRAY: Final = frozenset({"gray", "ya8"})
_NEUTRAL: Final = 128
_HD_ROWS: Final = 720
_SEEN_AS: Final = {  # ITU-T H.273 matrix coefficients; BT.2020 and SMPTE 240M are nearest to 709
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
    """Say what the bytes of `frame` will mean.

    What the stream does not say follows the usual rule: BT.601 below 720 rows, BT.709 from there;
    limited range unless the format is one of JPEG's or gray. RGB becomes full-range YUV, which
    loses least.
    """
    name = frame.format.name
    by_size = "bt709" if frame.height >= _HD_ROWS else "bt601"
    if _is_rgb(frame):
        matrix, full = by_size, True
    else:
        matrix = _SEEN_AS.get(int(frame.colorspace), by_size)
        untagged_full = name.startswith("yuvj") or name in _GRAY
        stated = int(frame.color_range)
        full = untagged_full if stated == ColorRange.UNSPECIFIED else stated == ColorRange.JPEG
        full = full or name.startswith("yuvj")
    width, height = (frame.height, frame.width) if orientation.swap else (frame.width, frame.height)
    return Form(width=width, height=height, matrix=matrix, full_range=full)


def rows_of(plane: VideoPlane) -> YuvPlane:
    """Return a view (rows, columns) uint8 of a plane of 8 bit, without its padding."""
    stride = plane.line_size
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, abs(stride))
    # A negative stride means that the lowest address holds the last row.
    return (rows[::-1] if stride < 0 else rows)[:, : plane.width]


class DecodedFrame:
    """A decoded `framegate.Frame`, which the engine can copy into a slot.

    pts           seconds as the container states them, None where it states none
    form          size after turning, matrix and range of the bytes
    nbytes        height * width + 2 * ceil(height / 2) * ceil(width / 2)
    arrived_mono  monotonic seconds at which its packet came, None for a file's
    captured      UNIX seconds by the camera's clock, None where it tells none
    key_frame     it was encoded without others
    sound         blocks of sound that ended with it; whoever reads the container sets it

    It keeps the decoder's buffer alive until it is dropped. Frames of one source share a
    converter: write them in the thread that iterates.
    """

    __slots__ = (
        "_converter", "_frame", "_orientation", "arrived_mono", "captured", "form", "key_frame",
        "nbytes", "pts", "sound",
    )  # fmt: skip

    def __init__(
        self,
        frame: av.VideoFrame,
        converter: VideoReformatter,
        orientation: Orientation = UPRIGHT,
        arrived_mono: float | None = None,
        captured: float | None = None,
    ) -> None:
        self._frame = frame
        self._converter = converter
        self._orientation = orientation
        self.arrived_mono, self.captured = arrived_mono, captured
        self.sound: tuple[SoundBlock, ...] = ()
        self.key_frame = bool(frame.key_frame)
        self.form = form_of(frame, orientation)
        self.pts = frame.time
        chroma = ((self.form.height + 1) // 2) * ((self.form.width + 1) // 2)
        self.nbytes = self.form.height * self.form.width + 2 * chroma

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of the format as decoded."""
        return str(self._frame.format.name)

    @property
    def rotation(self) -> int:
        """Degrees clockwise by which the stored picture was turned: 0, 90, 180 or 270."""
        return self._orientation.degrees

    def write(self, slot: memoryview) -> None:
        """Fill the first `nbytes` of a writable `slot` with Y, U, V, row-tight, in this order.

        ValueError: the slot is too small or read-only.
        """
        out = np.frombuffer(slot, np.uint8, count=self.nbytes)
        start = 0
        for plane in self._planes():
            end = start + plane.size
            self._orientation.copy(plane, out[start:end].reshape(self._orientation.shape(plane)))
            start = end

    def _planes(self) -> Iterator[YuvPlane]:
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
        # AREA averages exactly the chroma samples that become one; other filters blur or skip.
        return self._converter.reformat(
            self._frame,
            format="yuv420p",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG if _is_rgb(self._frame) else full,
            dst_color_range=full,
            interpolation=Interpolation.AREA,
        )


# -- Which frames of a source are wanted: all, key frames, one of so many, or so many a second.


_EARLY: Final = 0.25
_MOST_AHEAD: Final = 128  # pictures on their way: 16 that wait for others, one a thread


class FrameChoice:
    """Decides frame by frame, in order, from time stamps alone. One source, one thread.

    A frame counts for `max_fps` when the next is due, or up to a quarter of a period before, so
    that a camera's jitter makes no gaps. Frames without a time stamp pass it.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._seen = 0
        self._due: float | None = None
        self._ahead: list[tuple[float, bool]] = []

    def takes_packet(self, is_key: bool) -> bool:
        """Return whether a packet is worth decoding."""
        return is_key or not self._frames.keyframes

    def takes(self, pts: float | None) -> bool:
        """Return whether the next frame, with this time stamp in seconds, is wanted."""
        number, self._seen = self._seen, self._seen + 1
        if number % self._frames.every:
            return False
        if self._frames.max_fps is None or pts is None:
            return True
        before, self._due = self._due, _due_after(pts, self._due, 1.0 / self._frames.max_fps)
        return self._due != before

    def may_take(self, pts: float | None) -> bool:
        """Return whether the picture of the next packet, by its time stamp in seconds, may be
        wanted: False needs no decoding where no other picture needs it.

        What is not wanted by `max_fps` changes nothing of what is wanted later, so the choice is
        the same with it and without. Packets come as they are decoded, pictures as they are shown:
        those on their way that are shown before this one are gone through first. Where one of them
        is missing still, it can but make this one wanted less. Not for `every`, which counts.
        """
        if self._frames.max_fps is None or self._frames.every > 1 or pts is None:
            return True
        period, due = 1.0 / self._frames.max_fps, self._due
        for earlier, _ in self._ahead[: bisect_left(self._ahead, (pts, False))]:
            due = _due_after(earlier, due, period)
        wanted = _due_after(pts, due, period) != due
        insort(self._ahead, (pts, wanted))
        return wanted

    def left_out(self, until: float | None = math.inf) -> int:
        """Count packets whose pictures `may_take` refused and that did not come before the one
        shown at `until`. Call it with each picture that comes, and at the end.
        """
        if until is None or not self._ahead:
            return 0
        # What jumped back in time leaves others before it for ever.
        passed = max(bisect_left(self._ahead, (until, False)), len(self._ahead) - _MOST_AHEAD)
        missing = sum(not wanted for _, wanted in self._ahead[:passed])
        came = passed < len(self._ahead) and self._ahead[passed][0] == until
        del self._ahead[: passed + came]
        return missing


def _due_after(pts: float, due: float | None, period: float) -> float | None:
    """When the next frame is due after one at `pts`: as before if that one is not wanted."""
    if due is not None and -2 * period < pts - due < -_EARLY * period:
        return due
    on_time = due is not None and abs(pts - due) < period
    return (due if due is not None and on_time else pts) + period
