"""How a stored picture is turned and mirrored to be seen upright."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type as SideDataType

_TINY: Final = 16
_ABORTS: Final = "yaf32"

Plane = npt.NDArray[np.uint8]


class Unconvertible(Exception):
    """There is no way from a frame's pixel format to YUV."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How stored rows and columns become seen ones: swap the axes, then mirror the seen picture."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def copy(self, plane: Plane, out: Plane) -> None:
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

    def shape(self, plane: Plane) -> tuple[int, int]:
        """Return rows and columns of `plane` as it is to be seen."""
        rows, columns = plane.shape
        return (columns, rows) if self.swap else (rows, columns)

    @property
    def degrees(self) -> int:
        """Degrees clockwise, 0, 90, 180 or 270; for a mirrored picture its turn without mirror."""
        if self.swap:
            return 90 if self.mirror_x else 270
        return 180 if self.mirror_y else 0


UPRIGHT: Final = Turn()


def turn_of(matrix: tuple[int, ...]) -> Turn:
    """Read a display matrix (nine integers, row by row: x' = a x + c y, y' = b x + d y).

    Only its signs and larger entries count, so an oblique angle becomes the nearest right angle.
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Turn(swap=True, mirror_x=c < 0, mirror_y=b < 0)
    return Turn(mirror_x=a < 0, mirror_y=d < 0)


class Turns:
    """Tells the turn of each frame of one source; one thread at a time.

    PyAV ties a frame whose side data was looked at into a reference cycle, which keeps its pixels
    until a garbage collection. So a tiny copy is looked at, once for each size and rotation.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], Turn] = {}

    def of(self, frame: av.VideoFrame) -> Turn:
        """Return how `frame` is to be turned; Unconvertible if its format cannot be converted."""
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
            self._known[key] = _turn_in(tiny)
        return self._known[key]


def _turn_in(frame: av.VideoFrame) -> Turn:
    try:
        kept: Mapping[Any, Any] = frame.side_data
    except ValueError:  # PyAV knows no name for some newer kind of side data and gives none at all
        angle = math.radians(frame.rotation)
        cos, sin = round(math.cos(angle)), round(math.sin(angle))
        return turn_of((cos, -sin, 0, sin, cos))
    matrix = kept.get(SideDataType.DISPLAYMATRIX)
    return UPRIGHT if matrix is None else turn_of(struct.unpack("9i", bytes(matrix)))
