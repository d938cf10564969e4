"""Draw rectangles and text into the planes of a picture. Pixels outside them keep their bytes."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import Matrix, Picture

Plane = npt.NDArray[np.uint8]
Rgb = tuple[float, float, float]
CanvasRect = tuple[int, int, int, int]

WHITE: Final[Rgb] = (1.0, 1.0, 1.0)
BLACK: Final[Rgb] = (0.0, 0.0, 0.0)

_FONT: Final = "sans"  # Rubik, which OpenCV contains
_CAPITALS: Final = 0.7  # height of capital letters, relative to the size of the font
_BELOW: Final = 0.24  # depth of letters below the baseline, relative to the size of the font
_WEIGHT: Final = 500  # from 100 (thin) to 1000 (black)
_MIN_CAPITALS: Final = 7
_TOUCHED: Final = 64  # of 255: a quarter of a chroma sample's pixels
_WEIGHTS: Final = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # of red and blue in luma


@dataclass(frozen=True, slots=True)
class Canvas:
    """The writable uint8 planes of a picture. Drawing is clipped to the picture. One thread.

    Rectangles are (left, top, right, bottom) in pixels, right and bottom exclusive. Colours are
    R, G, B, 0..1 each.
    """

    y: Plane
    u: Plane
    v: Plane
    matrix: Matrix
    full_range: bool

    @classmethod
    def of(cls, picture: Picture) -> Self:
        """Return a canvas with a copy of `picture`."""
        return cls(
            picture.y.copy(),
            picture.u.copy(),
            picture.v.copy(),
            picture.matrix,
            picture.full_range,
        )

    def picture(self) -> Picture:
        """Return the canvas as a picture, which shares the planes."""
        return Picture(self.y, self.u, self.v, self.matrix, self.full_range)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.y.shape[0])

    def ink(self, colour: Rgb) -> tuple[int, int, int]:
        """Return the Y, U, V bytes of a colour in the picture's matrix and range."""
        red, green, blue = colour
        kr, kb = _WEIGHTS[self.matrix]
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        cb = (blue - luma) / (2 - 2 * kb)
        cr = (red - luma) / (2 - 2 * kr)
        if self.full_range:
            return round(255 * luma), _byte(128 + 255 * cb), _byte(128 + 255 * cr)
        return round(16 + 219 * luma), round(128 + 224 * cb), round(128 + 224 * cr)

    def clipped(self, rect: CanvasRect) -> CanvasRect:
        """Return the part of a rectangle inside the picture; it is empty if right <= left."""
        left, top, right, bottom = rect
        return max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)

    def fill(self, rect: CanvasRect, colour: Rgb, opacity: float = 1.0) -> None:
        """Draw a rectangle, and colour all chroma samples that it touches."""
        left, top, right, bottom = self.clipped(rect)
        if left >= right or top >= bottom:
            return
        half = np.s_[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2]
        parts = (self.y[top:bottom, left:right], self.u[half], self.v[half])
        for part, ink in zip(parts, self.ink(colour), strict=True):
            if opacity >= 1:
                part[...] = ink
            else:
                part[...] = cv2.LUT(part, _mixes(ink, opacity))

    def colour_where(self, mask: Plane, colour: Rgb, opacity: float) -> None:
        """Draw a colour where `mask`, uint8 (height, width), is 255; elsewhere it is 0."""
        luma, cb, cr = self.ink(colour)
        size = self.u.shape[1], self.u.shape[0]
        half = cv2.inRange(_smaller(mask, size), _TOUCHED, 255)
        for plane, inside, ink in ((self.y, mask, luma), (self.u, half, cb), (self.v, half, cr)):
            cv2.copyTo(cv2.LUT(plane, _mixes(ink, opacity)), inside, plane)

    def blend(self, left: int, top: int, cover: Plane, colour: Rgb, opacity: float = 1.0) -> None:
        """Draw a colour through a cover.

        left, top  place of the cover in the picture
        cover      share of the colour at each pixel, uint8 (height, width), 255 for all
        """
        high, wide = cover.shape
        x0, y0, x1, y1 = self.clipped((left, top, left + wide, top + high))
        if x0 >= x1 or y0 >= y1:
            return
        # Extend the cover with zeros to whole chroma samples, which begin at even pixels.
        even_x = x0 // 2 * 2
        even_y = y0 // 2 * 2
        rows = math.ceil((y1 - even_y) / 2)
        columns = math.ceil((x1 - even_x) / 2)
        whole = np.zeros((rows * 2, columns * 2), np.uint8)
        inside = cover[y0 - top : y1 - top, x0 - left : x1 - left]
        whole[y0 - even_y : y1 - even_y, x0 - even_x : x1 - even_x] = inside
        half = _smaller(whole, (columns, rows))
        luma, cb, cr = self.ink(colour)
        _mix(self.y[y0:y1, x0:x1], inside, luma, opacity)
        chroma = np.s_[even_y // 2 : even_y // 2 + rows, even_x // 2 : even_x // 2 + columns]
        _mix(self.u[chroma], half, cb, opacity)
        _mix(self.v[chroma], half, cr, opacity)

    def write(self, text: str, left: int, baseline: int, capitals: int, colour: Rgb) -> None:
        """Write a line of text.

        baseline  row below the capital letters
        capitals  height of capital letters in pixels
        """
        cover, above = _letters(text, capitals)
        self.blend(left - 1, baseline - above, cover, colour)


def text_size(text: str, capitals: int) -> tuple[int, int]:
    """Return the width of a line of text, and its depth below the baseline, in pixels."""
    cover, above = _letters(text, capitals)
    return cover.shape[1] - 2, cover.shape[0] - above


def line_width(picture: Picture | Canvas) -> int:
    """Return the width of a box's line in pixels: 1 on small pictures, 3 at 1080 rows."""
    return math.ceil(min(picture.width, picture.height) / 400)


def capitals_on(picture: Picture | Canvas) -> int:
    """Return the height of capital letters in pixels: 7 at 320x240, 13 at 720 rows, 41 in 4K."""
    return max(_MIN_CAPITALS, round(math.sqrt(picture.width * picture.height) / 70))


def rounded(width: int, height: int, radius: int) -> Plane:
    """Return the cover of a rectangle with round corners, uint8 (height, width)."""
    fine = 4  # draw at four times the size, so that the corners are smooth
    cover = np.zeros((height * fine, width * fine), np.uint8)
    r = min(radius, height // 2, width // 2) * fine
    right, bottom = width * fine - 1, height * fine - 1
    cv2.rectangle(cover, (r, 0), (right - r, bottom), 255, cv2.FILLED)
    cv2.rectangle(cover, (0, r), (right, bottom - r), 255, cv2.FILLED)
    for x in (r, right - r):
        for y in (r, bottom - r):
            cv2.circle(cover, (x, y), r, 255, cv2.FILLED)
    return _smaller(cover, (width, height))


def _smaller(cover: Plane, size: tuple[int, int]) -> Plane:
    return cv2.resize(cover, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


_faces = threading.local()


@lru_cache(maxsize=512)
def _letters(text: str, capitals: int) -> tuple[Plane, int]:
    """Return the cover of a line of text, uint8 (h, w), and the number of rows above its baseline.

    The cover is a pixel wider on both sides. Callers must not write to it.
    """
    if not hasattr(_faces, "face"):
        _faces.face = cv2.FontFace(_FONT)  # threads must not share it
    size = round(capitals / _CAPITALS)
    wide = cv2.getTextSize((0, 0), text, (0, 0), _faces.face, size, _WEIGHT)[2]
    cover = np.zeros((size + math.ceil(size * _BELOW), wide + 2), np.uint8)
    cv2.putText(cover, text, (1, size), (255,), _faces.face, size, _WEIGHT)
    return cover, size


@lru_cache(maxsize=256)
def _mixes(ink: int, opacity: float) -> Plane:
    """Return the table that mixes each byte with an ink, uint8 (256,)."""
    bytes_ = np.arange(256, dtype=np.float32)
    return (bytes_ + (ink - bytes_) * np.float32(opacity) + np.float32(0.5)).astype(np.uint8)


def _byte(value: float) -> int:
    return min(round(value), 255)


def _mix(plane: Plane, cover: Plane, ink: int, opacity: float) -> None:
    share = cover * np.float32(opacity / 255)
    plane[...] = plane + share * (np.float32(ink) - plane) + np.float32(0.5)
