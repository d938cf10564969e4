"""Draw objects onto a picture: a box in the colour of its track, and a label that can be read."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Final

from framegate.models.picture import Picture
from framegate.pipeline.records import Object
from framegate.stages.draw.canvas import BLACK, WHITE, Canvas, Rect, Rgb, text_size

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


def _corners(thing: Object, canvas: Canvas) -> Rect:
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
