"""Draw objects: a box in the colour of its track, where that came from, and a label to be read."""

from __future__ import annotations

import colorsys
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.pipeline.contracts.results import Object
from framegate.stages.draw.canvas import (
    BLACK,
    WHITE,
    Canvas,
    CanvasRect,
    Rgb,
    capitals_on,
    line_width,
    text_size,
)

_UNTRACKED: Final[Rgb] = (0.8, 0.8, 0.8)
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
# Hues of tracks; amber and teal between them are the gate's.
_AMBER_ENDS, _GREENS = 0.15, 0.27
_TEAL_ENDS, _BLUES = 0.52, 0.52
_FRESH: Final = ("detected", "escalated")
_GLASS: Final = 0.6  # of black under the label of an object that was not looked at


def draw_objects(
    canvas: Canvas,
    objects: Sequence[Object],
    trails: Trails | None = None,
    by_origin: bool = False,
    taken: Sequence[CanvasRect] = (),
) -> None:
    """Draw traces, then boxes, then labels; what comes later is on top.

    objects    their boxes are in the canvas's pixels, as are the points of `trails`
    by_origin  dashed, on glass where the frame was not looked at
    taken      rectangles that labels leave free
    """
    if trails is not None:
        for thing in objects:
            _draw_trace(canvas, thing, trails.of(thing))
    for thing in objects:
        old = by_origin and thing.origin not in _FRESH
        (draw_dashes if old else draw_box)(canvas, _corners(thing, canvas), colour_of(thing.track))
    for label in place_labels(canvas, objects, taken):
        old = by_origin and label.thing.origin not in _FRESH
        _draw_label(canvas, label, old)


def colour_of(track: int | None) -> Rgb:
    """Return the colour of a track, 0..1: bright, the same always, far from its neighbours'."""
    if track is None:
        return _UNTRACKED
    place = track * _GOLDEN % 1 * (_GREENS + _BLUES)
    hue = _AMBER_ENDS + place if place < _GREENS else _TEAL_ENDS + place - _GREENS
    return colorsys.hsv_to_rgb(hue % 1, 0.65, 1.0)


def letters_on(colour: Rgb) -> Rgb:
    """Return black or white, whichever is read more easily on a colour: a contrast of 4.5 at least.

    As WCAG 2 measures it: by luminance, to which light adds up.
    """
    light = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour
    ]
    luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
    return BLACK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else WHITE


# -- Boxes.


def _corners(thing: Object, canvas: Canvas) -> CanvasRect:
    """Return the box in whole pixels, at most one picture outside of the picture."""
    limits = (canvas.width, canvas.height) * 2
    left, top, right, bottom = (
        round(min(max(edge, -limit), 2 * limit))
        for edge, limit in zip(thing.box, limits, strict=True)
    )
    return left, top, right, bottom


def draw_box(canvas: Canvas, box: CanvasRect, colour: Rgb) -> None:
    """Draw its four sides, inside of it."""
    left, top, right, bottom = box
    wide = line_width(canvas)
    canvas.fill((left, top, right, top + wide), colour)
    canvas.fill((left, bottom - wide, right, bottom), colour)
    canvas.fill((left, top, left + wide, bottom), colour)
    canvas.fill((right - wide, top, right, bottom), colour)


def draw_dashes(canvas: Canvas, box: CanvasRect, colour: Rgb, long: int = 5) -> None:
    """Draw its four sides as dashes, whole ones at the corners; long: times their width, about."""
    left, top, right, bottom = box
    wide = line_width(canvas)
    for begin, end in _dashes(left, right, long * wide):
        canvas.fill((begin, top, end, top + wide), colour)
        canvas.fill((begin, bottom - wide, end, bottom), colour)
    for begin, end in _dashes(top, bottom, long * wide):
        canvas.fill((left, begin, left + wide, end), colour)
        canvas.fill((right - wide, begin, right, end), colour)


def _dashes(begin: int, end: int, about: int) -> list[tuple[int, int]]:
    """Return dashes of about that length with gaps as long, one at each end."""
    count = max(1, round(((end - begin) / about + 1) / 2))
    step = (end - begin) / (2 * count - 1)
    starts = [begin + 2 * step * index for index in range(count)]
    return [(round(start), round(start + step)) for start in starts]


# -- Labels: each at its box, none over another, none outside of the picture.


@dataclass(frozen=True, slots=True)
class Label:
    """What is written at an object, and where."""

    thing: Object
    text: str
    place: CanvasRect


# What a label pays for saying less, for each of its places, and for the share of it that is on
# other boxes. The cheapest that is free is taken: words are left out before they hide what is seen,
# and all of them where most of a label would lie on other objects.
_TEXTS: Final = (0.0, 0.2, 0.4)
_PLACES: Final = (0.0, 0.05, 0.1, 0.12, 0.15, 0.2)
_MOST_HIDDEN: Final = 0.5
_MOST_OF_ITS_BOX: Final = 0.4  # that a label may cover: a small object would not be seen at all

Rects = npt.NDArray[np.float64]  # (n, 4): left, top, right, bottom


def words_of(thing: Object) -> tuple[str, str, str]:
    """Return what a label says where there is room: label, track and score; and where less is."""
    track = "" if thing.track is None else f" #{thing.track}"
    return f"{thing.label}{track} {thing.score:.2f}", f"{thing.label}{track}", thing.label


def place_labels(
    canvas: Canvas, objects: Sequence[Object], taken: Sequence[CanvasRect] = ()
) -> list[Label]:
    """Say where labels go: one of an object at most, none where all of its places are taken.

    taken: rectangles that are left free. Older tracks choose first, so that labels stay in place.
    """
    capitals = capitals_on(canvas)
    pad = max(2, capitals // 5)
    boxes = np.array([_corners(thing, canvas) for thing in objects], np.float64).reshape(-1, 4)
    occupied = np.array(taken, np.float64).reshape(-1, 4)
    placed: list[Label] = []
    order = sorted(range(len(objects)), key=lambda n: (objects[n].track is None, objects[n].track))
    for index in order:
        thing = objects[index]
        texts = words_of(thing)
        sizes = [_label_size(text, capitals, pad) for text in texts]
        places = np.concatenate([_places_of(boxes[index], size, canvas) for size in sizes])
        area = np.repeat([wide * high for wide, high in sizes], len(_PLACES))
        hidden = _overlap(places, np.delete(boxes, index, 0)) / area
        cost = np.add.outer(_TEXTS, _PLACES).reshape(-1) + hidden
        its_box = boxes[index : index + 1]
        box_area = max(1.0, float((its_box[:, 2:] - its_box[:, :2]).clip(0).prod()))
        of_its_box = _overlap(places, its_box) / box_area
        is_taken = _overlap(places, occupied) > 0
        cost[is_taken | (hidden > _MOST_HIDDEN) | (of_its_box > _MOST_OF_ITS_BOX)] = np.inf
        best = int(cost.argmin())
        if np.isfinite(cost[best]):
            left, top, right, bottom = (int(edge) for edge in places[best])
            placed.append(Label(thing, texts[best // len(_PLACES)], (left, top, right, bottom)))
            occupied = np.concatenate([occupied, places[best : best + 1]])
    return placed


def _label_size(text: str, capitals: int, pad: int) -> tuple[int, int]:
    wide, below = text_size(text, capitals)
    return wide + 2 * pad, capitals + 2 * pad + below // 2


def _places_of(box: Rects, size: tuple[int, int], canvas: Canvas) -> Rects:
    """Return the places of a label of this size, in the order of _PLACES, inside the picture."""
    wide, high = size
    left, top, right, bottom = box
    x = np.array([left, right - wide, left, right - wide, left, left])
    y = np.array([top - high, top - high, bottom, bottom, top, bottom - high])
    x = x.clip(0, max(0, canvas.width - wide))
    y = y.clip(0, max(0, canvas.height - high))
    return np.stack([x, y, x + wide, y + high], -1)


def _overlap(places: Rects, others: Rects) -> npt.NDArray[np.float64]:
    """Return how many pixels of each place are in the others, counted in each."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    pixels: npt.NDArray[np.float64] = (high - low).clip(0).prod(-1).sum(-1)
    return pixels


def _draw_label(canvas: Canvas, label: Label, old: bool) -> None:
    capitals, colour = capitals_on(canvas), colour_of(label.thing.track)
    left, top, _, _ = label.place
    pad = max(2, capitals // 5)
    if old:
        canvas.fill(label.place, BLACK, _GLASS)
        letters = _paler(colour)
    else:
        canvas.fill(label.place, colour)
        letters = letters_on(colour)
    canvas.write(label.text, left + pad, top + pad + capitals, capitals, letters)


def _paler(colour: Rgb) -> Rgb:
    red, green, blue = (0.55 * part + 0.45 for part in colour)
    return red, green, blue


# -- Traces: where a track was in the last seconds.


TRACE_S: Final = 3.0
_POINTS: Final = 45  # of a trace, about, at most
_SMOOTH: Final = 2  # points before and after one: a box's edge trembles from look to look
_STANDS: Final = 0.1  # of its box's shorter side: what moved less has no trace


Trail = npt.NDArray[np.float64]
"""Where the middle of a box's lower edge was: (n, 3), right and down in pixels, and how long ago, 0
(now) .. 1 (TRACE_S); the oldest first."""


class Trails:
    """Where the tracks of a source were in the last TRACE_S seconds. One thread."""

    def __init__(self) -> None:
        self._points: defaultdict[int, deque[tuple[float, float, float]]] = defaultdict(deque)
        self._now = -math.inf

    def add(self, objects: Sequence[Object], pts: float | None) -> None:
        """Take the objects of the next frame. pts in seconds; None: unknown, then it is left out.

        Time that goes back begins anew, as a source does with each epoch.
        """
        if pts is None:
            return
        if pts < self._now:
            self._points.clear()
        self._now = pts
        for thing in objects:
            if thing.track is None:
                continue
            points = self._points[thing.track]
            if len(points) > 1 and points[-1][0] - points[-2][0] < TRACE_S / _POINTS:
                points.pop()  # it was there for the newest place alone
            left, _, right, bottom = thing.box
            points.append((pts, (left + right) / 2, bottom))
        for track, points in list(self._points.items()):
            while points and pts - points[0][0] > TRACE_S:
                points.popleft()
            if not points:
                del self._points[track]

    def of(self, thing: Object) -> Trail:
        """Return where it was, smoothed; no points of what stands."""
        points = () if thing.track is None else self._points.get(thing.track, ())
        seen = np.array(points, np.float64).reshape(-1, 3)
        left, top, right, bottom = thing.box
        stands = max(4, _STANDS * min(right - left, bottom - top))
        if len(seen) < 2 or np.ptp(seen[:, 1:], 0).max() < stands:
            return seen[:0]
        sums = np.concatenate([np.zeros((1, 2)), seen[:, 1:].cumsum(0)])
        at = np.arange(len(seen))
        begin, end = (at - _SMOOTH).clip(0), (at + _SMOOTH + 1).clip(max=len(seen))
        smooth = (sums[end] - sums[begin]) / (end - begin)[:, None]
        smooth[-1] = seen[-1, 1:]
        return np.column_stack([smooth, (self._now - seen[:, 0]) / TRACE_S])


def _draw_trace(canvas: Canvas, thing: Object, trail: Trail) -> None:
    """Draw a line along the trail that fades with its age."""
    if not len(trail):
        return
    wide = line_width(canvas) + 1
    limits = np.array([canvas.width, canvas.height])
    at = trail[:, :2].clip(-limits, 2 * limits).round().astype(np.int64)
    corner = at.min(0) - wide
    right, bottom = (int(edge) for edge in at.max(0) - corner + wide + 1)
    cover = np.zeros((bottom, right), np.uint8)
    places = (at - corner).tolist()
    for begin, end, age in zip(places, places[1:], trail[:, 2].tolist(), strict=False):
        cv2.line(cover, begin, end, round(255 * (1 - age)), wide, cv2.LINE_AA)
    canvas.blend(int(corner[0]), int(corner[1]), cover, colour_of(thing.track))
