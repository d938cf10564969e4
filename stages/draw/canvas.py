"""Draw into the planes of a picture: objects, labels; what is not under ink keeps its bytes."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import Matrix, Picture
from framegate.pipeline.records import Object

Plane = npt.NDArray[np.uint8]
Rgb = tuple[float, float, float]
CanvasRect = tuple[int, int, int, int]

WHITE: Final[Rgb] = (1.0, 1.0, 1.0)
BLACK: Final[Rgb] = (0.0, 0.0, 0.0)

_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_CAPITALS: Final = 21  # pixels of a capital letter in this font at scale 1
_TOUCHED: Final = 64  # of 255: a quarter of a chroma sample's pixels
_WEIGHTS: Final = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # of red and blue in luma


@dataclass(frozen=True, slots=True)
class Canvas:
    """Writable planes uint8 of one picture; drawing outside of it is clipped. One thread.

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
        """A copy of `picture` to draw on."""
        y, u, v = picture.y.copy(), picture.u.copy(), picture.v.copy()
        return cls(y, u, v, picture.matrix, picture.full_range)

    def picture(self) -> Picture:
        """What was drawn; drawing on is seen in it."""
        return Picture(self.y, self.u, self.v, self.matrix, self.full_range)

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.y.shape[0])

    def ink(self, colour: Rgb) -> tuple[int, int, int]:
        """Y, U, V bytes of a colour in the picture's matrix and range."""
        red, green, blue = colour
        kr, kb = _WEIGHTS[self.matrix]
        luma = kr * red + (1 - kr - kb) * green + kb * blue
        cb, cr = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
        if self.full_range:
            return round(255 * luma), _byte(128 + 255 * cb), _byte(128 + 255 * cr)
        return round(16 + 219 * luma), round(128 + 224 * cb), round(128 + 224 * cr)

    def lightness(self, colour: Rgb) -> float:
        """Luma of a colour, 0 (black) .. 1 (white)."""
        kr, kb = _WEIGHTS[self.matrix]
        return kr * colour[0] + (1 - kr - kb) * colour[1] + kb * colour[2]

    def clipped(self, rect: CanvasRect) -> CanvasRect:
        """The part of a rectangle inside the picture; empty where right <= left."""
        left, top, right, bottom = rect
        return max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)

    def fill(self, rect: CanvasRect, colour: Rgb, opacity: float = 1.0) -> None:
        """Put a colour over a rectangle, and over all chroma samples that it touches."""
        left, top, right, bottom = self.clipped(rect)
        if left >= right or top >= bottom:
            return
        places = (
            (self.y, np.s_[top:bottom, left:right]),
            (self.u, np.s_[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2]),
            (self.v, np.s_[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2]),
        )
        for (plane, place), ink in zip(places, self.ink(colour), strict=True):
            plane[place] = ink if opacity >= 1 else cv2.LUT(plane[place], _mixes(ink, opacity))

    def colour_where(self, mask: Plane, colour: Rgb, opacity: float) -> None:
        """Put a colour over the picture where `mask`, uint8 (height, width), is 255 and not 0."""
        luma, cb, cr = self.ink(colour)
        size = self.u.shape[1], self.u.shape[0]
        half = cv2.inRange(_smaller(mask, size), _TOUCHED, 255)
        for plane, inside, ink in ((self.y, mask, luma), (self.u, half, cb), (self.v, half, cr)):
            cv2.copyTo(cv2.LUT(plane, _mixes(ink, opacity)), inside, plane)

    def blend(self, left: int, top: int, cover: Plane, colour: Rgb, opacity: float = 1.0) -> None:
        """Put a colour over the picture where `cover`, uint8 (h, w), is more than 0; 255 is all."""
        high, wide = cover.shape
        x0, y0, x1, y1 = self.clipped((left, top, left + wide, top + high))
        if x0 >= x1 or y0 >= y1:
            return
        # Whole chroma samples: the cover begins at an even pixel, with nothing before its own.
        even_x, even_y = x0 // 2 * 2, y0 // 2 * 2
        rows, columns = -(-(y1 - even_y) // 2), -(-(x1 - even_x) // 2)
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
        """Write a line; `baseline` is the row below its capital letters, `capitals` high."""
        wide, below = text_size(text, capitals)
        cover = np.zeros((capitals + 2 * below + 4, wide + 4), np.uint8)
        scale, stroke = _font(capitals)
        at = (2, capitals + below + 2)
        cv2.putText(cover, text, at, _FONT, scale, 255, stroke, cv2.LINE_AA)
        self.blend(left - 2, baseline - capitals - below - 2, cover, colour)


def text_size(text: str, capitals: int) -> tuple[int, int]:
    """Width of a line in pixels, and how far its letters reach below the baseline."""
    (wide, _), below = cv2.getTextSize(text, _FONT, *_font(capitals))
    return int(wide), int(below)


def rounded(width: int, height: int, radius: int) -> Plane:
    """Cover of a rectangle with round corners, uint8 (height, width)."""
    fine = 4  # times finer, so that the corners are smooth
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


def _font(capitals: int) -> tuple[float, int]:
    """Scale and thickness of letters."""
    return capitals / _CAPITALS, 1 + capitals // 14


@lru_cache(maxsize=256)
def _mixes(ink: int, opacity: float) -> Plane:
    """Each byte under so much ink: uint8 (256,)."""
    bytes_ = np.arange(256, dtype=np.float32)
    return (bytes_ + (ink - bytes_) * np.float32(opacity) + np.float32(0.5)).astype(np.uint8)


def _byte(value: float) -> int:
    return min(round(value), 255)


def _mix(plane: Plane, cover: Plane, ink: int, opacity: float) -> None:
    share = cover * np.float32(opacity / 255)
    plane[...] = plane + share * (np.float32(ink) - plane) + np.float32(0.5)


# -- Draw objects onto a picture: a box in the colour of its track, and a label that can be read.


_LEAST_CAPITALS: Final = 9
_DARK: Final = 0.58  # luma below which white letters are read more easily than black ones
_UNTRACKED: Final[Rgb] = (0.8, 0.8, 0.8)
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
# Hues of tracks; amber and teal between them are the gate's.
_AMBER_ENDS, _GREENS = 0.15, 0.27
_TEAL_ENDS, _BLUES = 0.52, 0.52
_FRESH: Final = ("detected", "escalated")
_GLASS: Final = 0.6  # of black under the label of an object that was not looked at


def draw(picture: Picture, objects: Sequence[Object]) -> Picture:
    """Return a copy of `picture` with `objects` drawn in order; their boxes are in its pixels.

    It draws into the planes: what is not under a box or label keeps its bytes.
    """
    canvas = Canvas.of(picture)
    draw_objects(canvas, objects)
    return canvas.picture()


def draw_objects(canvas: Canvas, objects: Sequence[Object], by_origin: bool = False) -> None:
    """Draw boxes, then labels. by_origin: dashed and unfilled where the frame was not looked at."""
    for thing in objects:
        old = by_origin and thing.origin not in _FRESH
        (_draw_dashes if old else _draw_box)(canvas, thing)
    for thing in objects:
        _draw_label(canvas, thing, by_origin)


def colour_of(track: int | None) -> Rgb:
    """Return the colour of a track, 0..1: bright, the same always, far from its neighbours'."""
    if track is None:
        return _UNTRACKED
    place = track * _GOLDEN % 1 * (_GREENS + _BLUES)
    hue = _AMBER_ENDS + place if place < _GREENS else _TEAL_ENDS + place - _GREENS
    return colorsys.hsv_to_rgb(hue % 1, 0.65, 1.0)


def line_width(picture: Picture | Canvas) -> int:
    """Return the width of a box's line in pixels: 1 on small pictures, 3 at 1080 rows."""
    return math.ceil(min(picture.width, picture.height) / 400)


def capitals_on(picture: Picture | Canvas) -> int:
    """Return the height of capital letters in pixels."""
    return max(_LEAST_CAPITALS, picture.height // 55)


def _corners(thing: Object, canvas: Canvas) -> CanvasRect:
    """Return the box in whole pixels, at most one picture outside of the picture."""
    limits = (canvas.width, canvas.height) * 2
    left, top, right, bottom = (
        round(min(max(edge, -limit), 2 * limit))
        for edge, limit in zip(thing.box, limits, strict=True)
    )
    return left, top, right, bottom


def _draw_box(canvas: Canvas, thing: Object) -> None:
    left, top, right, bottom = _corners(thing, canvas)
    colour, wide = colour_of(thing.track), line_width(canvas)
    canvas.fill((left, top, right, top + wide), colour)
    canvas.fill((left, bottom - wide, right, bottom), colour)
    canvas.fill((left, top, left + wide, bottom), colour)
    canvas.fill((right - wide, top, right, bottom), colour)


def _draw_dashes(canvas: Canvas, thing: Object) -> None:
    """Draw the box as dashes, whole ones at the corners."""
    left, top, right, bottom = _corners(thing, canvas)
    colour, wide = colour_of(thing.track), line_width(canvas)
    for begin, end in _dashes(left, right, 5 * wide):
        canvas.fill((begin, top, end, top + wide), colour)
        canvas.fill((begin, bottom - wide, end, bottom), colour)
    for begin, end in _dashes(top, bottom, 5 * wide):
        canvas.fill((left, begin, left + wide, end), colour)
        canvas.fill((right - wide, begin, right, end), colour)


def _dashes(begin: int, end: int, about: int) -> list[tuple[int, int]]:
    """Return dashes of about that length with gaps as long, one at each end."""
    count = max(1, round(((end - begin) / about + 1) / 2))
    step = (end - begin) / (2 * count - 1)
    starts = [begin + 2 * step * index for index in range(count)]
    return [(round(start), round(start + step)) for start in starts]


def label_of(thing: Object) -> str:
    """Return what stands at a box: label, track, score."""
    track = "" if thing.track is None else f" #{thing.track}"
    return f"{thing.label}{track} {thing.score:.2f}"


def _draw_label(canvas: Canvas, thing: Object, by_origin: bool) -> None:
    """Put the label on the box's upper edge, inside the picture, on the track's colour."""
    old = by_origin and thing.origin not in _FRESH
    text = f"{label_of(thing)} {thing.origin}" if old else label_of(thing)
    capitals, colour = capitals_on(canvas), colour_of(thing.track)
    wide, below = text_size(text, capitals)
    pad = max(2, capitals // 5)
    high = capitals + 2 * pad + below // 2
    left, top, _, _ = _corners(thing, canvas)
    left = max(0, min(left, canvas.width - wide - 2 * pad))
    top = max(0, min(top - high, canvas.height - high))
    place = (left, top, left + wide + 2 * pad, top + high)
    if old:
        canvas.fill(place, BLACK, _GLASS)
        letters = _paler(colour)
    else:
        canvas.fill(place, colour)
        letters = WHITE if canvas.lightness(colour) < _DARK else BLACK
    canvas.write(text, left + pad, top + pad + capitals, capitals, letters)


def _paler(colour: Rgb) -> Rgb:
    red, green, blue = (0.55 * part + 0.45 for part in colour)
    return red, green, blue
