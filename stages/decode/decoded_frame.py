"""One decoded picture as tight planar YUV 4:2:0, turned the way it is to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from framegate.pipeline.source import Form
from framegate.stages.decode.turn import UPRIGHT, Turn

Plane = npt.NDArray[np.uint8]

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


def form_of(frame: av.VideoFrame, turn: Turn) -> Form:
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
    width, height = (frame.height, frame.width) if turn.swap else (frame.width, frame.height)
    return Form(width=width, height=height, matrix=matrix, full_range=full)


def rows_of(frame: av.VideoFrame, index: int) -> Plane:
    """Return a view (rows, columns) uint8 of plane `index`, 8 bit, without its padding."""
    plane = frame.planes[index]
    stride = plane.line_size
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, abs(stride))
    # A negative stride means that the lowest address holds the last row.
    return (rows[::-1] if stride < 0 else rows)[:, : plane.width]


class DecodedFrame:
    """A decoded frame that the engine can copy into a slot (`framegate.pipeline.source.Frame`).

    pts           seconds as the container states them, None where it states none
    form          size after turning, matrix and range of the bytes
    nbytes        height * width + 2 * ceil(height / 2) * ceil(width / 2)
    arrived_mono  monotonic seconds at which its packet came, None for a file's
    captured      UNIX seconds by the camera's clock, None where it tells none
    key_frame     it was encoded without others

    It keeps the decoder's buffer alive until it is dropped. Frames of one source share a
    converter: write them in the thread that iterates.
    """

    __slots__ = (
        "_converter", "_frame", "_turn", "arrived_mono", "captured", "form", "key_frame",
        "nbytes", "pts",
    )  # fmt: skip

    def __init__(
        self,
        frame: av.VideoFrame,
        converter: VideoReformatter,
        turn: Turn = UPRIGHT,
        arrived_mono: float | None = None,
        captured: float | None = None,
    ) -> None:
        self._frame = frame
        self._converter = converter
        self._turn = turn
        self.arrived_mono, self.captured = arrived_mono, captured
        self.key_frame = bool(frame.key_frame)
        self.form = form_of(frame, turn)
        self.pts = None
        if frame.pts is not None and frame.time_base is not None:
            self.pts = float(frame.pts * frame.time_base)
        chroma = ((self.form.height + 1) // 2) * ((self.form.width + 1) // 2)
        self.nbytes = self.form.height * self.form.width + 2 * chroma

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of the format as decoded."""
        return str(self._frame.format.name)

    @property
    def rotation(self) -> int:
        """Degrees clockwise by which the stored picture was turned: 0, 90, 180 or 270."""
        return self._turn.degrees

    def write(self, slot: memoryview) -> None:
        """Fill the first `nbytes` of a writable `slot` with Y, U, V, row-tight, in this order.

        ValueError: the slot is too small or read-only.
        """
        out = np.frombuffer(slot, np.uint8, count=self.nbytes)
        start = 0
        for plane in self._planes():
            end = start + plane.size
            self._turn.copy(plane, out[start:end].reshape(self._turn.shape(plane)))
            start = end

    def _planes(self) -> Iterator[Plane]:
        frame = self._frame
        name = frame.format.name
        if name == "gray":
            yield rows_of(frame, 0)
            half = (frame.height + 1) // 2, (frame.width + 1) // 2
            yield np.full(half, _NEUTRAL, np.uint8)
            yield np.full(half, _NEUTRAL, np.uint8)
            return
        if name not in _AS_IS:
            frame = self._converted()
        for index in range(3):
            yield rows_of(frame, index)

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
