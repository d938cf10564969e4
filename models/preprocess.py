"""From a decoded picture straight to the array that a network takes, and the way back.

The planes are resized first and turned into B, G, R only at the size of the model: a 1080p picture
is never converted whole. A part of a prepared picture is made from that part of the source alone.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import FloatArray, read_only
from framegate.models.errors import ArrayMismatch
from framegate.models.picture import ByteArray, Matrix, Picture

STEP = 32  # every network here halves its input five times

Rect = tuple[int, int, int, int]  # left, top, right, bottom

_LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
}


@dataclass(frozen=True, slots=True, eq=False)
class NetworkInput:
    """A picture at model size, or a rectangle of one.

    bgr           uint8 (h, w, 3), order B, G, R; h and w multiples of 32; black right and below
                  the picture
    inner         (width, height) of the whole picture at this size, without the black
    source        (width, height) of the picture itself
    offset        (left, top) of `bgr` in the whole prepared picture

    Read-only; safe to share between threads.
    """

    bgr: ByteArray
    inner: tuple[int, int]
    source: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bgr", read_only("bgr", self.bgr, np.uint8, (None, None, 3)))

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the model for one pixel of the source, across and down."""
        return self.inner[0] / self.source[0], self.inner[1] / self.source[1]

    @property
    def is_whole(self) -> bool:
        """Return whether it shows all of the picture."""
        height, width = self.bgr.shape[:2]
        size = padded(self.inner[0]), padded(self.inner[1])
        return self.offset == (0, 0) and size == (width, height)


def inner_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height of the picture inside the model's input: its longer side is `long_side`."""
    scale = long_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def padded(length: int) -> int:
    """`length` rounded up to a multiple of 32."""
    return -(-length // STEP) * STEP


def prepare(picture: Picture, long_side: int, rect: Rect | None = None) -> NetworkInput:
    """`picture` with its longer side at `long_side` pixels, padded with black; all of it or `rect`.

    `rect` has edges that are multiples of 32 and lies inside the padded whole. Its pixels are those
    of the whole, but for a few in a thousand that are rounded another way (none for 16:9 at 416).
    Little more than its part of the source is read where a pixel of the model begins with a pixel
    of the source every 32 pixels or less, as for 16:9; else all that is left of it or above it.

    Raises ArrayMismatch.

    Colour planes are taken as centred on their four pixels; for an odd size they are stretched by
    at most one source pixel over the whole picture.
    """
    width, height = size = inner_size(picture.width, picture.height, long_side)
    left, top, right, bottom = rect or (0, 0, padded(width), padded(height))
    fits = 0 <= left < right <= padded(width) and 0 <= top < bottom <= padded(height)
    if not fits or any(edge % STEP for edge in (left, top, right, bottom)):
        wanted = f"multiples of {STEP} inside {padded(width)}x{padded(height)}"
        raise ArrayMismatch("rect", wanted, f"{rect}")
    bgr = np.empty((bottom - top, right - left, 3), np.uint8)
    filled = (left, top, min(right, width), min(bottom, height))
    columns, rows = filled[2] - left, filled[3] - top
    if columns > 0 and rows > 0:
        to_bgr(picture, size, filled, into=bgr[:rows, :columns])
    if rows < bgr.shape[0]:
        bgr[max(rows, 0) :] = 0
    if columns < bgr.shape[1]:
        bgr[:, max(columns, 0) :] = 0
    return NetworkInput(bgr, size, (picture.width, picture.height), (left, top))


def to_bgr(
    picture: Picture,
    size: tuple[int, int],
    window: Rect | None = None,
    into: ByteArray | None = None,
) -> ByteArray:
    """`picture` at `size` (width, height) as uint8 (height, width, 3), order B, G, R.

    With `window`, in pixels of the answer, only that part of it. `into`, of the answer's shape, is
    filled with it and given back; None: a new array.
    """
    planes = [_resized(plane, size, window) for plane in (picture.y, picture.u, picture.v)]
    matrix = _to_bgr(picture.matrix, picture.full_range)
    return _bytes(cv2.transform(cv2.merge(planes), matrix, into))


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


def to_source(xyxy: FloatArray, prepared: NetworkInput) -> FloatArray:
    """Boxes (N, 4) in pixels of `prepared.bgr` as boxes in source pixels, cut at its border."""
    scale = np.array(prepared.scale * 2, np.float32)
    limit = np.array(prepared.source * 2, np.float32)
    shift = np.array(prepared.offset * 2, np.float32)
    out: FloatArray = np.minimum(np.maximum((xyxy + shift) / scale, np.float32(0)), limit)
    return out


def _resized(plane: ByteArray, size: tuple[int, int], window: Rect | None = None) -> ByteArray:
    """Exact halvings while there are two source pixels for one, then one interpolation.

    A halving by 2x2 means is some twenty times faster than OpenCV's general area filter and is the
    same filter; below a factor of two the linear filter skips no pixel. Of a `window` only the
    surroundings are computed.
    """
    width, height = size
    n_columns, n_rows = plane.shape[1], plane.shape[0]
    shrink = 1
    while _halves(n_columns, width) and _halves(n_rows, height):
        n_columns, n_rows, shrink = n_columns // 2, n_rows // 2, shrink * 2
    left, top, right, bottom = window or (0, 0, width, height)
    columns = _reach(n_columns, width, left, right)
    rows = _reach(n_rows, height, top, bottom)
    if columns.keeps(n_columns, width) and rows.keeps(n_rows, height):
        # OpenCV copies what keeps its size, whatever the factors are; the whole changes its size.
        columns, rows = _Reach(0, n_columns, left), _Reach(0, n_rows, top)
    part = plane[
        rows.first * shrink : rows.end * shrink, columns.first * shrink : columns.end * shrink
    ]
    while shrink > 1:
        half = (part.shape[1] // 2, part.shape[0] // 2)
        part, shrink = _bytes(cv2.resize(part, half, interpolation=cv2.INTER_AREA)), shrink // 2
    if (n_columns, n_rows) != size:
        shrinks_much = n_columns >= 2 * width or n_rows >= 2 * height
        how = cv2.INTER_AREA if shrinks_much else cv2.INTER_LINEAR
        # By factors, not by size: those of the whole hold for its parts.
        part = _bytes(
            cv2.resize(part, None, fx=width / n_columns, fy=height / n_rows, interpolation=how)
        )
    return part[rows.skip :, columns.skip :][: bottom - top, : right - left]


@dataclass(frozen=True, slots=True)
class _Reach:
    """Along one axis: source pixels `first` to `end`, and how many answers of theirs to skip."""

    first: int
    end: int
    skip: int

    def keeps(self, n: int, wanted: int) -> bool:
        """Whether these pixels become as many, when all `n` become `wanted`."""
        length = self.end - self.first
        return length < n and round(length * wanted / n) == length


@lru_cache(4096)
def _reach(n: int, wanted: int, start: int, stop: int) -> _Reach:
    """What pixels `start` to `stop` need when `n` pixels become `wanted`.

    A resize of a part begins at its first pixel, so the part begins where a pixel of the answer
    begins with a pixel of the source: within a step before `start`, or else at 0.
    """
    ratio = n / wanted
    # An enlarging filter looks back further than one pixel of the answer.
    latest = start - (math.ceil(0.5 / ratio) if ratio < 1 else 0)
    steps = range(latest, max(0, latest - STEP), -1)
    aligned = next((k for k in steps if k * n % wanted == 0), 0)
    end = n if stop >= wanted else min(n, math.ceil(stop * ratio) + 2)
    return _Reach(aligned * n // wanted, end, start - aligned)


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
