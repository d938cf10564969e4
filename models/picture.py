"""A picture in the format of a video decoder: planar YUV 4:2:0."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import read_only
from framegate.models.errors import ArrayMismatch, PictureUnreadable

ByteArray = npt.NDArray[np.uint8]
Matrix = Literal["bt601", "bt709"]
_MATRICES: Final = get_args(Matrix)  # computed once, because every frame checks it


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The planes of one picture, as read-only views without a copy.

    y           uint8 (H, W)                      H, W at least 1, odd sizes are allowed
    u, v        uint8 (ceil(H/2), ceil(W/2))      Cb and Cr
    matrix      standard that defines Y from RGB
    full_range  True: Y 0..255; False: Y 16..235, chroma 16..240

    Rows may have gaps in memory (a decoder's line size). Safe to share between threads if nothing
    writes to the memory of the planes. Raises ArrayMismatch.
    """

    y: ByteArray
    u: ByteArray
    v: ByteArray
    matrix: Matrix = "bt709"
    full_range: bool = False

    def __post_init__(self) -> None:
        y = read_only("y", self.y, np.uint8, (None, None))
        if not y.size:
            raise ArrayMismatch("y", "at least one pixel", f"{y.shape}")
        half = ((y.shape[0] + 1) // 2, (y.shape[1] + 1) // 2)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "u", read_only("u", self.u, np.uint8, half))
        object.__setattr__(self, "v", read_only("v", self.v, np.uint8, half))
        if self.matrix not in _MATRICES:
            raise ArrayMismatch("matrix", " or ".join(_MATRICES), repr(self.matrix))

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.y.shape[0])


class PlaneLayout(Protocol):
    """The layout of the planes of a picture in contiguous bytes, Y before Cb before Cr."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def matrix(self) -> str: ...
    @property
    def full_range(self) -> bool: ...


def as_picture(pixels: memoryview, layout: PlaneLayout) -> Picture:
    """Return the planes in these bytes as arrays over them, without a copy."""
    flat = np.frombuffer(pixels, np.uint8)
    rows, columns = (layout.height + 1) // 2, (layout.width + 1) // 2
    luma_end = layout.width * layout.height
    blue_end = luma_end + rows * columns
    red_end = blue_end + rows * columns
    return Picture(
        flat[:luma_end].reshape(layout.height, layout.width),
        flat[luma_end:blue_end].reshape(rows, columns),
        flat[blue_end:red_end].reshape(rows, columns),
        cast(Matrix, layout.matrix),
        layout.full_range,
    )


def cut(picture: Picture, rect: tuple[int, int, int, int]) -> Picture:
    """Return the part of `picture` inside `rect` (left, top, right, bottom in pixels), not copied.

    Left and top must be even, because a colour sample covers 2x2 pixels. Raises ArrayMismatch.
    """
    left, top, right, bottom = rect
    inside = 0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height
    if not inside or left % 2 or top % 2:
        wanted = f"even left and top, inside {picture.width}x{picture.height}"
        raise ArrayMismatch("rect", wanted, f"{rect}")
    half = (slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2))
    return Picture(
        picture.y[top:bottom, left:right],
        picture.u[half],
        picture.v[half],
        picture.matrix,
        picture.full_range,
    )


def read_photograph(path: Path) -> Picture:
    """Read an image file. Raises PictureUnreadable."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise PictureUnreadable(path)
    return from_bgr(bgr.astype(np.uint8, copy=False))


def from_bgr(bgr: ByteArray) -> Picture:
    """Convert uint8 (H, W, 3) in the order B, G, R to full-range BT.601 planes, as in a JPEG file.

    Chroma is averaged over 2x2 pixels; an odd last row or column is repeated. Raises ArrayMismatch.
    """
    checked = read_only("bgr", bgr, np.uint8, (None, None, 3))
    height, width = checked.shape[:2]
    if not height or not width:
        raise ArrayMismatch("bgr", "at least one pixel", f"{checked.shape}")
    ycrcb = cv2.cvtColor(checked, cv2.COLOR_BGR2YCrCb)
    even = cv2.copyMakeBorder(ycrcb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    chroma = cv2.resize(
        even[..., 1:], (even.shape[1] // 2, even.shape[0] // 2), interpolation=cv2.INTER_AREA
    ).reshape(even.shape[0] // 2, even.shape[1] // 2, 2)
    return Picture(
        np.ascontiguousarray(ycrcb[..., 0]),
        np.ascontiguousarray(chroma[..., 1]),
        np.ascontiguousarray(chroma[..., 0]),
        matrix="bt601",
        full_range=True,
    )
