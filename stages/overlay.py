"""Draw objects onto a picture: a box in the colour of its track, and a label that can be read."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from models.picture import Picture
from pipeline.records import Object

Plane = npt.NDArray[np.uint8]
Rgb = tuple[float, float, float]

_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_CAPITALS: Final = 21  # pixels of a capital letter in this font at scale 1
_LEAST_CAPITALS: Final = 9
_DARK: Final = 0.58  # luma below which white letters are read more easily than black ones
_UNTRACKED: Final[Rgb] = (0.8, 0.8, 0.8)
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_WEIGHTS: Final = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # of red and blue in luma


@dataclass(frozen=True, slots=True)
class Canvas:
    """Writable planes uint8 of one picture; drawing outside of it is clipped."""

    y: Plane
    u: Plane
    v: Plane

    def fill(self, left: int, top: int, right: int, bottom: int, ink: tuple[int, int, int]) -> None:
        """Set the pixels of a rectangle, right and bottom exclusive, and their chroma samples."""
        height, width = self.y.shape
        left, right = max(left, 0), min(right, width)
        top, bottom = max(top, 0), min(bottom, height)
        if left >= right or top >= bottom:
            return
        self.y[top:bottom, left:right] = ink[0]
        half = np.s_[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2]
        self.u[half], self.v[half] = ink[1], ink[2]


def draw(picture: Picture, objects: Sequence[Object]) -> Picture:
    """Return a copy of `picture` with `objects` drawn in order; their boxes are in its pixels.

    It draws into the planes: what is not under a box or label keeps its bytes.
    """
    canvas = Canvas(picture.y.copy(), picture.u.copy(), picture.v.copy())
    for thing in objects:
        _draw_box(canvas, picture, thing)
    for thing in objects:
        _draw_label(canvas, picture, thing)
    return Picture(canvas.y, canvas.u, canvas.v, picture.matrix, picture.full_range)


def colour_of(track: int | None) -> Rgb:
    """Return the colour of a track, 0..1: bright, the same always, far from its neighbours'."""
    if track is None:
        return _UNTRACKED
    return colorsys.hsv_to_rgb(track * _GOLDEN % 1, 0.65, 1.0)


def ink_of(colour: Rgb, picture: Picture) -> tuple[int, int, int]:
    """Return Y, U, V bytes of an RGB colour (0..1) in the picture's matrix and range."""
    red, green, blue = colour
    kr, kb = _WEIGHTS[picture.matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    if picture.full_range:
        return round(255 * luma), _byte(128 + 255 * cb), _byte(128 + 255 * cr)
    return round(16 + 219 * luma), round(128 + 224 * cb), round(128 + 224 * cr)


def _byte(value: float) -> int:
    return min(round(value), 255)


def line_width(picture: Picture) -> int:
    """Return the width of a box's line in pixels: 1 on small pictures, 3 at 1080 rows."""
    return math.ceil(min(picture.width, picture.height) / 400)


def _corners(thing: Object, picture: Picture) -> tuple[int, int, int, int]:
    """Return the box in whole pixels, at most one picture outside of the picture."""
    limits = (picture.width, picture.height) * 2
    left, top, right, bottom = (
        round(min(max(edge, -limit), 2 * limit))
        for edge, limit in zip(thing.box, limits, strict=True)
    )
    return left, top, right, bottom


def _draw_box(canvas: Canvas, picture: Picture, thing: Object) -> None:
    left, top, right, bottom = _corners(thing, picture)
    ink, wide = ink_of(colour_of(thing.track), picture), line_width(picture)
    canvas.fill(left, top, right, top + wide, ink)
    canvas.fill(left, bottom - wide, right, bottom, ink)
    canvas.fill(left, top, left + wide, bottom, ink)
    canvas.fill(right - wide, top, right, bottom, ink)


def label_of(thing: Object) -> str:
    """Return what stands at a box: label, track, score."""
    track = "" if thing.track is None else f" #{thing.track}"
    return f"{thing.label}{track} {thing.score:.2f}"


def _draw_label(canvas: Canvas, picture: Picture, thing: Object) -> None:
    """Put the label on the box's upper edge, inside the picture, on the track's colour."""
    capitals = max(_LEAST_CAPITALS, picture.height // 55)
    scale, stroke = capitals / _CAPITALS, 1 + capitals // 14
    text = label_of(thing)
    (wide, _), below = cv2.getTextSize(text, _FONT, scale, stroke)
    pad = max(2, capitals // 5)
    high = capitals + 2 * pad + below // 2
    left, top, _, _ = _corners(thing, picture)
    left = max(0, min(left, picture.width - wide - 2 * pad))
    top = max(0, min(top - high, picture.height - high))
    ink = ink_of(colour_of(thing.track), picture)
    canvas.fill(left, top, left + wide + 2 * pad, top + high, ink)
    white, black = (ink_of((grey, grey, grey), picture)[0] for grey in (1.0, 0.0))
    at = (left + pad, top + pad + capitals)
    letters = white if ink[0] < black + _DARK * (white - black) else black
    cv2.putText(canvas.y, text, at, _FONT, scale, letters, stroke, cv2.LINE_AA)
