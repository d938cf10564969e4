"""From a decoded picture straight to the array that a network takes, and the way back.

The planes are resized first and turned into B, G, R only at the size of the model: a 1080p picture
is never converted whole.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from models.arrays import read_only
from models.boxes import FloatArray
from models.picture import ByteArray, Matrix, Picture

STEP = 32  # every network here halves its input five times

_LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
}


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A picture at model size.

    bgr           uint8 (h, w, 3), order B, G, R; h and w multiples of 32; black right and below
    inner         (width, height) of the part of it that holds the picture
    source        (width, height) of the picture itself

    Read-only; safe to share between threads.
    """

    bgr: ByteArray
    inner: tuple[int, int]
    source: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bgr", read_only("bgr", self.bgr, np.uint8, (None, None, 3)))

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the model for one pixel of the source, across and down."""
        return self.inner[0] / self.source[0], self.inner[1] / self.source[1]


def inner_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height of the picture inside the model's input: its longer side is `long_side`."""
    scale = long_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def padded(length: int) -> int:
    """`length` rounded up to a multiple of 32."""
    return -(-length // STEP) * STEP


def prepare(picture: Picture, long_side: int) -> Prepared:
    """`picture` with its longer side at `long_side` pixels (a multiple of 32), padded with black.

    Colour planes are taken as centred on their four pixels; for an odd size they are stretched by
    at most one source pixel over the whole picture.
    """
    width, height = size = inner_size(picture.width, picture.height, long_side)
    bgr = np.empty((padded(height), padded(width), 3), np.uint8)
    bgr[:height, :width] = to_bgr(picture, size)
    bgr[height:] = 0
    bgr[:height, width:] = 0
    return Prepared(bgr, size, (picture.width, picture.height))


def to_bgr(picture: Picture, size: tuple[int, int]) -> ByteArray:
    """`picture` at `size` (width, height) as uint8 (height, width, 3), order B, G, R."""
    planes = [_resized(plane, size) for plane in (picture.y, picture.u, picture.v)]
    return _bytes(cv2.transform(cv2.merge(planes), _to_bgr(picture.matrix, picture.full_range)))


def shrunk(picture: Picture, width: int) -> Picture:
    """`picture` at most `width` pixels wide, 1 or more, in its proportions; never enlarged."""
    if width >= picture.width:
        return picture
    height = max(1, round(picture.height * width / picture.width))
    half = ((width + 1) // 2, (height + 1) // 2)
    return Picture(
        _resized(picture.y, (width, height)),
        _resized(picture.u, half),
        _resized(picture.v, half),
        picture.matrix,
        picture.full_range,
    )


def to_source(xyxy: FloatArray, prepared: Prepared) -> FloatArray:
    """Boxes (N, 4) in model pixels as boxes in source pixels, cut at the picture's border."""
    scale = np.array(prepared.scale * 2, np.float32)
    limit = np.array(prepared.source * 2, np.float32)
    out: FloatArray = np.clip(xyxy / scale, np.float32(0), limit)
    return out


def _resized(plane: ByteArray, size: tuple[int, int]) -> ByteArray:
    """Exact halvings while there are two source pixels for one, then one interpolation.

    A halving by 2x2 means is some twenty times faster than OpenCV's general area filter and is the
    same filter; below a factor of two the linear filter skips no pixel.
    """
    width, height = size
    while _halves(plane.shape[1], width) and _halves(plane.shape[0], height):
        half = (plane.shape[1] // 2, plane.shape[0] // 2)
        plane = _bytes(cv2.resize(plane, half, interpolation=cv2.INTER_AREA))
    if plane.shape == (height, width):
        return plane
    shrinks_much = plane.shape[1] >= 2 * width or plane.shape[0] >= 2 * height
    how = cv2.INTER_AREA if shrinks_much else cv2.INTER_LINEAR
    return _bytes(cv2.resize(plane, size, interpolation=how))


def _halves(length: int, wanted: int) -> bool:
    return length % 2 == 0 and length >= 2 * wanted


def _bytes(array: npt.NDArray[np.generic]) -> ByteArray:
    return array.astype(np.uint8, copy=False)


@cache
def _to_bgr(matrix: Matrix, full_range: bool) -> npt.NDArray[np.float64]:
    """3x4 matrix from (Y, Cb, Cr, 1) to (B, G, R), all 0..255."""
    red, blue = _LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    black = 0 if full_range else 16
    to_red, to_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    linear = np.array(
        [
            [luma, to_blue, 0],
            [luma, -to_blue * blue / green, -to_red * red / green],
            [luma, 0, to_red],
        ]
    )
    return np.hstack([linear, -linear @ [[black], [128], [128]]])
