"""Pictures in the format of a video decoder, planar YUV 4:2:0, and as inputs of a network.

`prepare` resizes the planes first and converts them to B, G, R at the size of the model, so a 1080p
picture is never converted as a whole. A part of a prepared picture reads only that part of the
source. `to_source` converts boxes back to source pixels.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, Literal, Protocol, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import FloatArray, read_only
from framegate.models.errors import ArrayMismatch, PictureUnreadable

ByteArray = npt.NDArray[np.uint8]
Matrix = Literal["bt601", "bt709"]
_MATRICES: Final = get_args(Matrix)  # computed once, because every frame checks it

STEP = 32  # every network here halves its input five times

Rect = tuple[int, int, int, int]  # left, top, right, bottom

_LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
}


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


# -- The input of a network


@dataclass(frozen=True, slots=True, eq=False)
class NetworkInput:
    """A picture at model size, or a rectangle of it. Read-only and safe to share between threads.

    bgr           uint8 (h, w, 3), order B, G, R. `inner` may be smaller than it: a shipped network
                  gets black on the right and at the bottom, up to a multiple of 32, other models
                  what `registry.open` adds
    inner         (width, height) of the whole picture at this size, without padding
    source        (width, height) of the source picture
    offset        (left, top) of `bgr` in the whole prepared picture
    """

    bgr: ByteArray
    inner: tuple[int, int]
    source: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bgr", read_only("bgr", self.bgr, np.uint8, (None, None, 3)))

    @property
    def scale(self) -> tuple[float, float]:
        """Model pixels per source pixel: x, y."""
        return self.inner[0] / self.source[0], self.inner[1] / self.source[1]

    @property
    def is_whole(self) -> bool:
        """True if `bgr` is the whole picture."""
        height, width = self.bgr.shape[:2]
        size = padded(self.inner[0]), padded(self.inner[1])
        return self.offset == (0, 0) and size == (width, height)


def inner_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Return (width, height) of the picture, resized so that its longer side is `long_side`."""
    scale = long_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def padded(length: int) -> int:
    """Return `length`, rounded up to a multiple of 32."""
    return -(-length // STEP) * STEP


def prepare(picture: Picture, long_side: int, rect: Rect | None = None) -> NetworkInput:
    """Resize `picture` so that its longer side is `long_side`, and pad it with black.

    rect  part of the padded picture to return, with edges that are multiples of 32; None: all

    The pixels of a part equal those of the whole, except for a few in a thousand with a different
    rounding (none for 16:9 at 416). If model pixels and source pixels start together at least every
    32 pixels, as for 16:9, little more than the part of the source is read; otherwise all pixels to
    its left and above it are read, too. Colour planes are taken as centred on their four pixels;
    for an odd size they are stretched by at most one source pixel.

    Raises ArrayMismatch.
    """
    size = inner_size(picture.width, picture.height, long_side)
    width, height = size
    left, top, right, bottom = rect or (0, 0, padded(width), padded(height))
    fits = 0 <= left < right <= padded(width) and 0 <= top < bottom <= padded(height)
    if not fits or any(edge % STEP for edge in (left, top, right, bottom)):
        expected = f"multiples of {STEP} inside {padded(width)}x{padded(height)}"
        raise ArrayMismatch("rect", expected, f"{rect}")
    bgr = np.empty((bottom - top, right - left, 3), np.uint8)
    filled = (left, top, min(right, width), min(bottom, height))
    columns = filled[2] - left
    rows = filled[3] - top
    if columns > 0 and rows > 0:
        to_bgr(picture, size, filled, into=bgr[:rows, :columns])
    if rows < bgr.shape[0]:
        bgr[max(rows, 0) :] = 0
    if columns < bgr.shape[1]:
        bgr[:, max(columns, 0) :] = 0
    return NetworkInput(bgr, size, (picture.width, picture.height), (left, top))


def stretched(picture: Picture, size: tuple[int, int]) -> NetworkInput:
    """Resize `picture` to `size` (width, height), without regard to its proportions."""
    return NetworkInput(to_bgr(picture, size), size, (picture.width, picture.height))


def to_bgr(
    picture: Picture,
    size: tuple[int, int],
    window: Rect | None = None,
    into: ByteArray | None = None,
) -> ByteArray:
    """Resize `picture` to `size` (width, height); return uint8 (height, width, 3), order B, G, R.

    window  part of the resized picture to return; None: all
    into    array that receives the result; None: a new array
    """
    planes = [_resized(plane, size, window) for plane in (picture.y, picture.u, picture.v)]
    matrix = _to_bgr(picture.matrix, picture.full_range)
    return _bytes(cv2.transform(cv2.merge(planes), matrix, into))


def shrunk(picture: Picture, width: int) -> Picture:
    """Return `picture`, shrunk to at most `width` pixels (1 or more) with the same proportions."""
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
    """Convert boxes (N, 4) in pixels of `prepared.bgr` to source pixels, clipped to the source."""
    scale = np.array(prepared.scale * 2, np.float32)
    limit = np.array(prepared.source * 2, np.float32)
    shift = np.array(prepared.offset * 2, np.float32)
    out: FloatArray = np.minimum(np.maximum((xyxy + shift) / scale, np.float32(0)), limit)
    return out


def _resized(plane: ByteArray, size: tuple[int, int], window: Rect | None = None) -> ByteArray:
    """Resize a plane: exact halvings while the factor is at least 2, then one interpolation.

    A halving by 2x2 means is the same filter as OpenCV's general area filter and some twenty times
    faster. Below a factor of two the linear filter skips no pixel. For a `window` only its
    surroundings are computed.
    """
    width, height = size
    n_columns, n_rows = plane.shape[1], plane.shape[0]
    shrink = 1
    while _halves(n_columns, width) and _halves(n_rows, height):
        n_columns //= 2
        n_rows //= 2
        shrink *= 2
    left, top, right, bottom = window or (0, 0, width, height)
    columns = _needed(n_columns, width, left, right)
    rows = _needed(n_rows, height, top, bottom)
    if columns.keeps_size(n_columns, width) and rows.keeps_size(n_rows, height):
        # OpenCV copies a part whose size stays the same, although the factors say otherwise. The
        # whole picture does change its size.
        columns = _Needed(0, n_columns, left)
        rows = _Needed(0, n_rows, top)
    part = plane[
        rows.first * shrink : rows.end * shrink, columns.first * shrink : columns.end * shrink
    ]
    while shrink > 1:
        half = (part.shape[1] // 2, part.shape[0] // 2)
        part = _bytes(cv2.resize(part, half, interpolation=cv2.INTER_AREA))
        shrink //= 2
    if (n_columns, n_rows) != size:
        interpolation = cv2.INTER_LINEAR
        if n_columns >= 2 * width or n_rows >= 2 * height:
            interpolation = cv2.INTER_AREA
        # Factors, not a size: the factors of the whole also apply to its parts.
        across = width / n_columns
        down = height / n_rows
        part = _bytes(cv2.resize(part, None, fx=across, fy=down, interpolation=interpolation))
    return part[rows.skip :, columns.skip :][: bottom - top, : right - left]


@dataclass(frozen=True, slots=True)
class _Needed:
    """The source pixels `first` to `end` along one axis, and how many of their results to skip."""

    first: int
    end: int
    skip: int

    def keeps_size(self, n: int, n_out: int) -> bool:
        """Return whether this part keeps its length if `n` pixels are resized to `n_out`."""
        length = self.end - self.first
        return length < n and round(length * n_out / n) == length


@lru_cache(4096)
def _needed(n: int, n_out: int, start: int, stop: int) -> _Needed:
    """Return the source pixels for the results `start` to `stop`, if `n` pixels become `n_out`.

    A resize of a part starts at its first pixel. So the part starts where a source pixel and a
    result start together: at most one step before `start`, or else at 0.
    """
    ratio = n / n_out
    latest = start
    if ratio < 1:  # an enlarging filter reads more than one result back
        latest -= math.ceil(0.5 / ratio)
    steps = range(latest, max(0, latest - STEP), -1)
    aligned = next((step for step in steps if step * n % n_out == 0), 0)
    end = n
    if stop < n_out:
        end = min(n, math.ceil(stop * ratio) + 2)
    return _Needed(aligned * n // n_out, end, start - aligned)


def _halves(length: int, target: int) -> bool:
    return length % 2 == 0 and length >= 2 * target


def _bytes(array: npt.NDArray[np.generic]) -> ByteArray:
    return array.astype(np.uint8, copy=False)


@cache
def _to_bgr(matrix: Matrix, full_range: bool) -> npt.NDArray[np.float64]:
    """Return the 3x4 matrix from (Y, Cb, Cr, 1) to (B, G, R), all 0..255."""
    red, blue = _LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    luma, chroma, black = 255 / 219, 255 / 224, 16
    if full_range:
        luma, chroma, black = 1.0, 1.0, 0
    to_red = 2 * (1 - red) * chroma
    to_blue = 2 * (1 - blue) * chroma
    linear = np.array(
        [
            [luma, to_blue, 0],
            [luma, -to_blue * blue / green, -to_red * red / green],
            [luma, 0, to_red],
        ]
    )
    return np.hstack([linear, -linear @ [[black], [128], [128]]])
