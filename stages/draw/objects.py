"""Draw objects: a box in the colour of its track, the trace of the track, and a label."""

from __future__ import annotations

import colorsys
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
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
# Hues of tracks are in two ranges, without amber and teal, which are the gate's.
_GREEN_BEGIN: Final = 0.15
_GREEN_RANGE: Final = 0.27
_BLUE_BEGIN: Final = 0.52
_BLUE_RANGE: Final = 0.52
_FRESH: Final = ("detected", "escalated")
_GLASS: Final = 0.6  # opacity of the black under the label of an object that was carried over


def draw_objects(
    canvas: Canvas,
    objects: Sequence[Object],
    trails: Trails | None = None,
    by_origin: bool = False,
    taken: Sequence[CanvasRect] = (),
) -> None:
    """Draw traces, then boxes on them, then labels on top.

    objects    their boxes, and the points of `trails`, are in the canvas's pixels
    by_origin  whether objects that were not detected in this frame have dashed boxes
    taken      rectangles that labels leave free
    """
    if trails is not None:
        for seen in objects:
            _draw_trace(canvas, seen, trails.of(seen))
    for seen in objects:
        box = _corners(seen, canvas)
        if by_origin and seen.origin not in _FRESH:
            draw_dashes(canvas, box, colour_of(seen.track))
        else:
            draw_box(canvas, box, colour_of(seen.track))
    for label in place_labels(canvas, objects, taken):
        is_carried = by_origin and label.seen.origin not in _FRESH
        _draw_label(canvas, label, is_carried)


def colour_of(track: int | None) -> Rgb:
    """Return the colour of a track: always the same, and unlike that of the next tracks."""
    if track is None:
        return _UNTRACKED
    place = track * _GOLDEN % 1 * (_GREEN_RANGE + _BLUE_RANGE)
    if place < _GREEN_RANGE:
        hue = _GREEN_BEGIN + place
    else:
        hue = _BLUE_BEGIN + place - _GREEN_RANGE
    return colorsys.hsv_to_rgb(hue % 1, 0.65, 1.0)


def letters_on(colour: Rgb) -> Rgb:
    """Return black or white, the one with more contrast on a colour (WCAG 2): at least 4.5."""
    red, green, blue = (_linear(part) for part in colour)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    contrast_of_black = (luminance + 0.05) / 0.05
    contrast_of_white = 1.05 / (luminance + 0.05)
    if contrast_of_black > contrast_of_white:
        return BLACK
    return WHITE


def _linear(part: float) -> float:
    """Return the linear light of an sRGB component, 0..1."""
    if part <= 0.04045:
        return part / 12.92
    return float(((part + 0.055) / 1.055) ** 2.4)


# -- Boxes.


def _corners(seen: Object, canvas: Canvas) -> CanvasRect:
    """Return the box in whole pixels, clipped to one size of the picture around the picture."""
    limits = (canvas.width, canvas.height) * 2
    left, top, right, bottom = (
        round(min(max(edge, -limit), 2 * limit))
        for edge, limit in zip(seen.box, limits, strict=True)
    )
    return left, top, right, bottom


def draw_box(canvas: Canvas, box: CanvasRect, colour: Rgb) -> None:
    """Draw the four sides of a box, inside it."""
    left, top, right, bottom = box
    wide = line_width(canvas)
    canvas.fill((left, top, right, top + wide), colour)
    canvas.fill((left, bottom - wide, right, bottom), colour)
    canvas.fill((left, top, left + wide, bottom), colour)
    canvas.fill((right - wide, top, right, bottom), colour)


def draw_dashes(canvas: Canvas, box: CanvasRect, colour: Rgb, long: int = 5) -> None:
    """Draw the four sides of a box as dashes. long: length of a dash in widths of the line."""
    left, top, right, bottom = box
    wide = line_width(canvas)
    for begin, end in _dashes(left, right, long * wide):
        canvas.fill((begin, top, end, top + wide), colour)
        canvas.fill((begin, bottom - wide, end, bottom), colour)
    for begin, end in _dashes(top, bottom, long * wide):
        canvas.fill((left, begin, left + wide, end), colour)
        canvas.fill((right - wide, begin, right, end), colour)


def _dashes(begin: int, end: int, about: int) -> list[tuple[int, int]]:
    """Return dashes of about this length, with gaps of the same length and a dash at each end."""
    count = max(1, round(((end - begin) / about + 1) / 2))
    step = (end - begin) / (2 * count - 1)
    starts = [begin + 2 * step * index for index in range(count)]
    return [(round(start), round(start + step)) for start in starts]


# -- Labels: at their boxes, inside the picture, without overlap.


@dataclass(frozen=True, slots=True)
class Label:
    """The label of an object: its text and its place."""

    seen: Object
    text: str
    place: CanvasRect


# The cost of a label is the sum of the cost of its text, the cost of its place, and the share of it
# that covers other boxes. Each object gets the cheapest free label. So words are left out before
# labels hide objects, and the whole label is left out if most of it would be on other objects.
_TEXTS: Final = (0.0, 0.2, 0.4)
_PLACES: Final = (0.0, 0.05, 0.1, 0.12, 0.15, 0.2)
_MAX_HIDDEN: Final = 0.5
_MAX_OF_ITS_BOX: Final = 0.4  # share of its own box that a label may cover: objects stay visible

Rects = npt.NDArray[np.float64]  # (n, 4): left, top, right, bottom


def words_of(seen: Object) -> tuple[str, str, str]:
    """Return the texts of a label, the longest first: label, track and score."""
    name = seen.label
    if seen.track is not None:
        name = f"{seen.label} #{seen.track}"
    return f"{name} {seen.score:.2f}", name, seen.label


def place_labels(
    canvas: Canvas, objects: Sequence[Object], taken: Sequence[CanvasRect] = ()
) -> list[Label]:
    """Return the labels of the objects; an object without a free place has none.

    taken  rectangles that labels leave free
    """
    capitals = capitals_on(canvas)
    pad = max(2, capitals // 5)
    boxes = np.array([_corners(seen, canvas) for seen in objects], np.float64).reshape(-1, 4)
    occupied = np.array(taken, np.float64).reshape(-1, 4)
    placed: list[Label] = []
    # Older tracks choose first, so that their labels keep their places when new objects appear.
    order = sorted(range(len(objects)), key=lambda n: (objects[n].track is None, objects[n].track))
    for index in order:
        seen = objects[index]
        texts = words_of(seen)
        sizes = [_label_size(text, capitals, pad) for text in texts]
        places = np.concatenate([_places_of(boxes[index], size, canvas) for size in sizes])
        area = np.repeat([wide * high for wide, high in sizes], len(_PLACES))
        hidden = _overlap(places, np.delete(boxes, index, 0)) / area
        cost = np.add.outer(_TEXTS, _PLACES).reshape(-1) + hidden
        its_box = boxes[index : index + 1]
        box_area = max(1.0, float((its_box[:, 2:] - its_box[:, :2]).clip(0).prod()))
        of_its_box = _overlap(places, its_box) / box_area
        is_taken = _overlap(places, occupied) > 0
        cost[is_taken | (hidden > _MAX_HIDDEN) | (of_its_box > _MAX_OF_ITS_BOX)] = np.inf
        best = int(cost.argmin())
        if np.isfinite(cost[best]):
            left, top, right, bottom = (int(edge) for edge in places[best])
            placed.append(Label(seen, texts[best // len(_PLACES)], (left, top, right, bottom)))
            occupied = np.concatenate([occupied, places[best : best + 1]])
    return placed


def _label_size(text: str, capitals: int, pad: int) -> tuple[int, int]:
    wide, below = text_size(text, capitals)
    return wide + 2 * pad, capitals + 2 * pad + below // 2


def _places_of(box: Rects, size: tuple[int, int], canvas: Canvas) -> Rects:
    """Return the possible places of a label of this size, in the order of _PLACES."""
    wide, high = size
    left, top, right, bottom = box
    x = np.array([left, right - wide, left, right - wide, left, left])
    y = np.array([top - high, top - high, bottom, bottom, top, bottom - high])
    x = x.clip(0, max(0, canvas.width - wide))
    y = y.clip(0, max(0, canvas.height - high))
    return np.stack([x, y, x + wide, y + high], -1)


def _overlap(places: Rects, others: Rects) -> npt.NDArray[np.float64]:
    """Return the pixels that each place shares with each of the others, in total."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    pixels: npt.NDArray[np.float64] = (high - low).clip(0).prod(-1).sum(-1)
    return pixels


def _draw_label(canvas: Canvas, label: Label, is_carried: bool) -> None:
    capitals = capitals_on(canvas)
    colour = colour_of(label.seen.track)
    left, top, _, _ = label.place
    pad = max(2, capitals // 5)
    if is_carried:
        canvas.fill(label.place, BLACK, _GLASS)
        letters = _paler(colour)
    else:
        canvas.fill(label.place, colour)
        letters = letters_on(colour)
    canvas.write(label.text, left + pad, top + pad + capitals, capitals, letters)


def _paler(colour: Rgb) -> Rgb:
    red, green, blue = (0.55 * part + 0.45 for part in colour)
    return red, green, blue


# -- Traces: the last places of a track.


TRACE_S: Final = 3.0
_POINTS: Final = 45  # of a trace, at most, approximately
_SMOOTH: Final = 2  # points before and after each that are averaged: edges of boxes jitter
_MIN_MOVE: Final = 0.1  # relative to the shorter side of a box: less movement has no trace


Trail = npt.NDArray[np.float64]
"""The last places of the middle of a box's lower edge, oldest first: (n, 3), x and y in pixels, and
the age, from 0 (now) to 1 (TRACE_S)."""


class Trails:
    """The places of the tracks of a source in the last TRACE_S seconds. One thread."""

    def __init__(self) -> None:
        self._points: defaultdict[int, deque[tuple[float, float, float]]] = defaultdict(deque)
        self._now = -math.inf

    def add(self, objects: Sequence[Object], pts: float | None) -> None:
        """Add the objects of the next frame.

        pts  seconds; None: the frame is left out. A lower pts than before begins a new epoch, and
             removes all points
        """
        if pts is None:
            return
        if pts < self._now:
            self._points.clear()
        self._now = pts
        for seen in objects:
            if seen.track is None:
                continue
            points = self._points[seen.track]
            # The newest point may be close to the one before it; the next one replaces it then.
            if len(points) > 1 and points[-1][0] - points[-2][0] < TRACE_S / _POINTS:
                points.pop()
            left, _, right, bottom = seen.box
            points.append((pts, (left + right) / 2, bottom))
        for track, points in list(self._points.items()):
            while points and pts - points[0][0] > TRACE_S:
                points.popleft()
            if not points:
                del self._points[track]

    def of(self, seen: Object) -> Trail:
        """Return the smoothed trail of an object; no points if it does not move."""
        recent: Iterable[tuple[float, float, float]] = ()
        if seen.track is not None:
            recent = self._points.get(seen.track, ())
        points = np.array(tuple(recent), np.float64).reshape(-1, 3)
        left, top, right, bottom = seen.box
        min_move = max(4, _MIN_MOVE * min(right - left, bottom - top))
        if len(points) < 2 or np.ptp(points[:, 1:], 0).max() < min_move:
            return points[:0]
        sums = np.concatenate([np.zeros((1, 2)), points[:, 1:].cumsum(0)])
        at = np.arange(len(points))
        begin = (at - _SMOOTH).clip(0)
        end = (at + _SMOOTH + 1).clip(max=len(points))
        smooth = (sums[end] - sums[begin]) / (end - begin)[:, None]
        smooth[-1] = points[-1, 1:]
        return np.column_stack([smooth, (self._now - points[:, 0]) / TRACE_S])


def _draw_trace(canvas: Canvas, seen: Object, trail: Trail) -> None:
    """Draw a line along the trail, which fades with its age."""
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
    canvas.blend(int(corner[0]), int(corner[1]), cover, colour_of(seen.track))
