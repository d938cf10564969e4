"""Draw the view of the gate: changed tiles, inspected areas and the sensitivity map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import Picture
from framegate.pipeline.contracts.results import GateView, Looked, Object, Reason
from framegate.stages.draw.canvas import (
    BLACK,
    WHITE,
    Canvas,
    CanvasRect,
    Plane,
    Rgb,
    capitals_on,
    line_width,
    rounded,
    text_size,
)
from framegate.stages.draw.objects import Trails, draw_box, draw_dashes, draw_objects

# -- The sensitivity map: the smallest change of brightness that the gate sees in each tile.


SCALE_MIN: Final = 4.0  # grey levels at the ends of the colour scale
SCALE_MAX: Final = 20.0
_SCALE: Final[tuple[Rgb, ...]] = (  # from dark (small changes are seen) to bright
    (0.17, 0.12, 0.40),
    (0.22, 0.33, 0.62),
    (0.13, 0.56, 0.55),
    (0.45, 0.78, 0.35),
    (0.99, 0.91, 0.15),
)
_TITLE: Final = "sees changes from"
_BLIND: Final = 25.5  # grey levels from which a tile is hatched: a mask, or no change is seen
_SHARE: Final = 0.22  # width of the small map, relative to the picture
_MIN_CAPITALS: Final = 16  # minimum width of the small map, in heights of capital letters
_MAX_SHARE: Final = 0.3  # a small map that would be wider is left out
_OPACITY: Final = 0.72
_PANEL: Final = 0.62
_MIN_WIDTH: Final = 240  # of a picture with text
_MIN_HEIGHT: Final = 120

FloatTiles = npt.NDArray[np.float32]
PictureSize = tuple[int, int]


def draw_sensitivity(picture: Picture, gate: GateView, size: PictureSize) -> Picture:
    """Return a copy of `picture` with the map of `gate` and its scale, if there is a map.

    size  width and height of the source, in whose pixels the tiles are
    """
    canvas = Canvas.of(picture)
    if gate.sensitivity:
        _draw_map(canvas, (0, 0, canvas.width, canvas.height), gate, size, picture.y)
        if has_room(canvas):
            _draw_legend(canvas)
    return canvas.picture()


def has_room(canvas: Canvas) -> bool:
    """Return whether text and a map are readable in a picture of this size."""
    return canvas.width >= _MIN_WIDTH and canvas.height >= _MIN_HEIGHT


def _draw_legend(canvas: Canvas) -> None:
    """Draw name and scale at the lower right."""
    capitals = capitals_on(canvas)
    pad = _pad_of(canvas)
    wide = 20 * capitals
    high = 2 * capitals + 3 * pad
    left = canvas.width - wide - 3 * pad
    top = canvas.height - high - pad
    canvas.blend(left, top, rounded(wide + 2 * pad, high, pad), BLACK, _PANEL)
    canvas.write(_TITLE, left + pad, top + pad + capitals, capitals, WHITE)
    place = (left + pad, top + 2 * pad + capitals, left + pad + wide, top + high - pad)
    _draw_scale(canvas, place, capitals)


def _inset_place(canvas: Canvas, gate: GateView) -> CanvasRect | None:
    """Return the place of the small map with its text, at the lower right.

    None if there is no map, or no room for it.
    """
    capitals = capitals_on(canvas)
    pad = _pad_of(canvas)
    wide = round(max(canvas.width * _SHARE, capitals * _MIN_CAPITALS)) // 2 * 2
    if not gate.sensitivity or wide > canvas.width * _MAX_SHARE:
        return None
    high = round(wide * canvas.height / canvas.width) // 2 * 2
    right = canvas.width - pad
    bottom = canvas.height - pad
    left = right - wide - 2 * pad
    top = bottom - high - 2 * (capitals + pad) - 2 * pad
    return left, top, right, bottom


def _pad_of(canvas: Canvas) -> int:
    return round(capitals_on(canvas) * 0.35) * 2


def _draw_inset(
    canvas: Canvas, place: CanvasRect, gate: GateView, size: PictureSize, luma: Plane
) -> None:
    """Draw the map over a small copy of the picture, with its scale.

    size  width and height of the source
    luma  luma of the picture, without drawings
    """
    capitals = capitals_on(canvas)
    pad = _pad_of(canvas)
    left, top, right, bottom = place
    canvas.blend(left, top, rounded(right - left, bottom - top, pad), BLACK, _PANEL)
    x0 = (left + pad) // 2 * 2
    y0 = (top + 2 * pad + capitals) // 2 * 2
    x1 = x0 + (right - left - 2 * pad) // 2 * 2
    y1 = (bottom - capitals - 2 * pad) // 2 * 2
    canvas.write(_TITLE, x0, top + pad + capitals, capitals, WHITE)
    _draw_map(canvas, (x0, y0, x1, y1), gate, size, luma)
    _draw_scale(canvas, (x0, y1 + pad, x1, bottom - pad), capitals)


def _draw_map(
    canvas: Canvas, place: CanvasRect, gate: GateView, size: PictureSize, luma: Plane
) -> None:
    """Draw the map into a rectangle that begins at even pixels, over `luma` scaled to its size."""
    left, top, right, bottom = place
    whole = (right - left, bottom - top)
    half = ((right - left + 1) // 2, (bottom - top + 1) // 2)
    tenths = np.frombuffer(gate.sensitivity, np.uint8).reshape(gate.rows, gate.columns)
    levels = tenths.astype(np.float32) * np.float32(0.1)
    ink = _inks(canvas, levels)
    lines = _hatching(*whole) & (_stretched(levels, gate.tile, size, whole) >= _BLIND)
    map_luma = _stretched(ink[..., 0], gate.tile, size, whole)
    map_luma[lines] = canvas.ink(BLACK)[0]
    background = cv2.resize(_thinned(luma, whole), whole, interpolation=cv2.INTER_AREA)
    canvas.y[top:bottom, left:right] = cv2.addWeighted(
        background.astype(np.float32), 1 - _OPACITY, map_luma, _OPACITY, 0.5
    )
    chroma = np.s_[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2]
    canvas.u[chroma] = _stretched(ink[..., 1], gate.tile, size, half)
    canvas.v[chroma] = _stretched(ink[..., 2], gate.tile, size, half)


def _stretched(tiles: FloatTiles, tile: int, size: PictureSize, to: PictureSize) -> FloatTiles:
    """Return the value of its tile for each pixel of a map.

    size  width and height of the source; its last tiles may cross the border
    to    width and height of the map
    """
    rows, columns = tiles.shape
    across = (np.arange(to[0]) * size[0] // (to[0] * tile)).clip(max=columns - 1)
    down = (np.arange(to[1]) * size[1] // (to[1] * tile)).clip(max=rows - 1)
    stretched: FloatTiles = tiles[down][:, across]
    return stretched


def _thinned(plane: Plane, to: PictureSize) -> Plane:
    """Halve the resolution of a plane while it is at least four times that of the map.

    The rest is resized with a filter, which is slow for a large plane.
    """
    while plane.shape[1] >= 4 * to[0] and plane.shape[0] >= 4 * to[1]:
        plane = plane[::2, ::2]
    return plane


def _hatching(wide: int, high: int) -> npt.NDArray[np.bool_]:
    """Return the mask of slanted lines, bool (high, wide)."""
    period = max(6, high // 40)
    across = np.arange(wide)
    down = np.arange(high)[:, None]
    return (across + down) % period < period // 2


def _inks(canvas: Canvas, levels: FloatTiles) -> FloatTiles:
    """Return Y, U, V of grey levels on the colour scale, float32 (..., 3)."""
    anchors = np.array([canvas.ink(colour) for colour in _SCALE], np.float32)
    at = (levels - SCALE_MIN) / (SCALE_MAX - SCALE_MIN)
    steps = np.linspace(0, 1, len(_SCALE))
    return np.stack([np.interp(at, steps, anchors[:, k]) for k in range(3)], -1).astype(np.float32)


def _draw_scale(canvas: Canvas, place: CanvasRect, capitals: int) -> None:
    """Draw the bar of colours between the numbers of its ends."""
    left, top, right, bottom = place
    baseline = (top + bottom + capitals) // 2
    gap = capitals // 2
    first = f"{SCALE_MIN:.0f}"
    last = f"{SCALE_MAX:.0f} grey levels"
    last_left = right - text_size(last, capitals)[0]
    canvas.write(first, left, baseline, capitals, WHITE)
    canvas.write(last, last_left, baseline, capitals, WHITE)
    begin = (left + text_size(first, capitals)[0] + gap + 1) // 2 * 2
    end = (last_left - gap) // 2 * 2
    y0 = (baseline - capitals) // 2 * 2
    y1 = (baseline + 1) // 2 * 2
    if end <= begin:
        return
    ink = _inks(canvas, np.linspace(SCALE_MIN, SCALE_MAX, end - begin, dtype=np.float32))
    canvas.y[y0:y1, begin:end] = ink[:, 0]
    half = np.s_[y0 // 2 : y1 // 2, begin // 2 : end // 2]
    canvas.u[half] = ink[::2, 1]
    canvas.v[half] = ink[::2, 2]


# -- The view of the gate: changed tiles, inspected areas, and the panel that explains them.


CHANGED: Final[Rgb] = (1.0, 0.62, 0.10)  # amber
LOOKED: Final[Rgb] = (0.18, 0.86, 0.75)  # teal
_TINT: Final = 0.26
_EDGE: Final = 0.85
_HOT: Final = 255
FADING: Final = 6  # frames in which the tint of a change fades
_ALL_OVER: Final = 0.9  # share of changed tiles from which none is tinted, as in a first frame
_THIN: Final = 0.65
_SHADOW: Final = 0.40
_WORDS: Final = {"whole": "looked at everything", "part": "looked at", "no": "not looked at"}

Tiles = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GateOverlay:
    """The gate's view of a frame, and how the frame was looked at.

    size    width and height of the source, in whose pixels `gate` is
    before  views of the frames before, newest first, whose changes fade
    """

    gate: GateView
    looked: Looked
    reason: Reason
    size: tuple[int, int]
    before: Sequence[GateView] = ()


class HasView(Protocol):
    """Detections or a Result."""

    @property
    def looked(self) -> Looked: ...
    @property
    def reason(self) -> Reason: ...
    @property
    def gate(self) -> GateView | None: ...


def overlay_of(
    seen: HasView, size: PictureSize, before: Iterable[GateView] = ()
) -> GateOverlay | None:
    """Return the overlay of a frame; None if it has no view of the gate.

    size  width and height of the picture that the network looks at
    """
    if seen.gate is None:
        return None
    return GateOverlay(seen.gate, seen.looked, seen.reason, size, tuple(islice(before, FADING)))


def draw_gate(
    canvas: Canvas, objects: Sequence[Object], look: GateOverlay, trails: Trails | None = None
) -> None:
    """Draw the gate's view and `objects` into a picture of any size.

    objects  their boxes are in the pixels of the picture

    Amber tiles changed; teal frames mark the areas that the network got; a dashed box belongs to an
    object that the network did not look at in this frame. A panel shows how much was looked at, the
    reason, and a legend; a small map shows the sensitivity of the gate.
    """
    luma = canvas.y.copy()
    _draw_changed(canvas, look)
    for place in _places(canvas, look):
        _draw_frame(canvas, place)
    if not has_room(canvas):
        draw_objects(canvas, objects, trails, by_origin=True)
        return
    panel = _panel_place(canvas, look)
    inset = _inset_place(canvas, look.gate)
    taken = [panel]
    if inset is not None:
        taken.append(inset)
    draw_objects(canvas, objects, trails, by_origin=True, taken=taken)
    _draw_panel(canvas, panel, look)
    if inset is not None:
        _draw_inset(canvas, inset, look.gate, look.size, luma)


def hot_tiles(gate: GateView) -> Tiles:
    """Return the changed tiles, bool (rows, columns)."""
    bits = np.unpackbits(np.frombuffer(gate.hot, np.uint8), count=gate.rows * gate.columns)
    return bits.reshape(gate.rows, gate.columns).astype(np.bool_)


def _draw_changed(canvas: Canvas, look: GateOverlay) -> None:
    """Tint the tiles that changed, older changes less. Draw edges around changes in this frame."""
    gate = look.gate
    warm = _warmth(look)
    if not warm.any():
        return
    columns = _edges(gate.columns, gate.tile * canvas.width / look.size[0], canvas.width)
    rows = _edges(gate.rows, gate.tile * canvas.height / look.size[1], canvas.height)
    for row, begin, end in _runs(warm):
        place = (columns[begin], rows[row], columns[end], rows[row + 1])
        canvas.fill(place, CHANGED, _TINT * int(warm[row, begin]) / _HOT)
    hot = np.where(warm == _HOT, np.uint8(255), np.uint8(0))
    hot = np.repeat(np.repeat(hot, np.diff(rows), 0), np.diff(columns), 1)
    reach = 2 * line_width(canvas) + 1
    core = np.asarray(cv2.erode(hot, np.ones((reach, reach), np.uint8)), np.uint8)
    canvas.colour_where(hot - core, CHANGED, _EDGE)


def _runs(warm: Plane) -> Iterator[tuple[int, int, int]]:
    """Yield the row, first and end column of tiles side by side with the same warmth above 0."""
    for row, tiles in enumerate(warm):
        borders = [0, *(np.flatnonzero(np.diff(tiles)) + 1).tolist(), len(tiles)]
        for begin, end in pairwise(borders):
            if tiles[begin]:
                yield row, begin, end


def _warmth(look: GateOverlay) -> Plane:
    """Return the warmth of each tile, uint8 (rows, columns): 255 for a change now, then less."""
    warm: Plane = np.zeros((look.gate.rows, look.gate.columns), np.uint8)
    for age, gate in reversed(list(enumerate((look.gate, *look.before)))):  # newer ones overwrite
        hot = hot_tiles(gate)
        if hot.shape == warm.shape and hot.mean() < _ALL_OVER:
            warm[hot] = round(_HOT * (1 - age / (FADING + 1)))
    return warm


def _edges(count: int, tile: float, limit: int) -> list[int]:
    """Return the borders of tiles in the picture's pixels, clipped to the picture."""
    return [min(round(index * tile), limit) for index in range(count + 1)]


def _places(canvas: Canvas, look: GateOverlay) -> list[CanvasRect]:
    """Return the areas that the network got, in the picture's pixels; none if it got the whole."""
    if look.looked == "whole":
        return []
    across = canvas.width / look.size[0]
    down = canvas.height / look.size[1]
    places = []
    for left, top, right, bottom in look.gate.looked:
        begin = (round(left * across), round(top * down))
        end = (round(right * across), round(bottom * down))
        places.append(canvas.clipped((*begin, *end)))
    return places


def _draw_frame(canvas: Canvas, place: CanvasRect) -> None:
    """Draw a thin frame with bold corners on a shadow, visible on light and on dark pictures."""
    left, top, right, bottom = place
    wide = line_width(canvas)
    _outline(canvas, place, wide, LOOKED, _THIN)
    long = min(14 * wide, (right - left) // 3, (bottom - top) // 3)
    for around, colour, opacity in ((1, BLACK, _SHADOW), (0, LOOKED, 1.0)):
        for x0, x1 in ((left, left + long), (right - long, right)):
            for y in (top, bottom - 2 * wide):
                bar = (x0 - around, y - around, x1 + around, y + 2 * wide + around)
                canvas.fill(bar, colour, opacity)
        for y0, y1 in ((top, top + long), (bottom - long, bottom)):
            for x in (left, right - 2 * wide):
                bar = (x - around, y0 - around, x + 2 * wide + around, y1 + around)
                canvas.fill(bar, colour, opacity)


def _outline(canvas: Canvas, place: CanvasRect, wide: int, colour: Rgb, opacity: float) -> None:
    left, top, right, bottom = place
    canvas.fill((left, top, right, top + wide), colour, opacity)
    canvas.fill((left, bottom - wide, right, bottom), colour, opacity)
    canvas.fill((left, top + wide, left + wide, bottom - wide), colour, opacity)
    canvas.fill((right - wide, top + wide, right, bottom - wide), colour, opacity)


def words_of(look: GateOverlay) -> str:
    """Return the words of the panel: how much of the frame was looked at, and the reason."""
    reason = look.reason.replace("_", " ")
    share = ""
    if look.looked == "part":
        share = f" {_area(look):.0%}"
    return f"{_WORDS[look.looked]}{share}: {reason}"


def _area(look: GateOverlay) -> float:
    """Return the share of the picture inside the inspected rectangles, which may overlap."""
    width, height = look.size
    rects = np.array(look.gate.looked, np.int64).reshape(-1, 4)
    rects = rects.clip(0, (width, height, width, height))
    # Between two neighbouring edges of rectangles, everything is inside one or outside it.
    across = np.unique(rects[:, ::2])
    down = np.unique(rects[:, 1::2])
    covered = np.zeros((max(len(down) - 1, 0), max(len(across) - 1, 0)), np.bool_)
    for left, top, right, bottom in rects:
        rows = slice(*np.searchsorted(down, (top, bottom)))
        columns = slice(*np.searchsorted(across, (left, right)))
        covered[rows, columns] = True
    areas = np.diff(down)[:, None] * np.diff(across)
    return int(areas[covered].sum()) / (width * height)


_SIGNS: Final = (("changed", "looked at"), ("found", "carried on"))  # rows of the legend


def _panel_place(canvas: Canvas, look: GateOverlay) -> CanvasRect:
    """Return the place of the panel, at the lower left."""
    capitals = capitals_on(canvas)
    pad = _pad_of(canvas)
    wide = 3 * capitals + max(text_size(words_of(look), capitals)[0], _column(canvas) * 2)
    high = (1 + len(_SIGNS)) * (capitals + pad) + pad
    bottom = canvas.height - pad
    return pad, bottom - high, 2 * pad + wide, bottom


def _column(canvas: Canvas) -> int:
    """Return the width of a column of the legend."""
    capitals = capitals_on(canvas)
    words = chain.from_iterable(_SIGNS)
    return 3 * capitals + max(text_size(word, capitals)[0] for word in words)


def _draw_panel(canvas: Canvas, place: CanvasRect, look: GateOverlay) -> None:
    """Draw the lamp (full, half or empty, for the whole, a part or none), the words, the legend."""
    capitals = capitals_on(canvas)
    pad = _pad_of(canvas)
    left, top, right, bottom = place
    canvas.blend(left, top, rounded(right - left, bottom - top, pad), BLACK, _PANEL)
    baseline = top + pad + capitals
    lamp = capitals + 2
    _draw_lamp(canvas, (left + pad, baseline - capitals - 1), lamp, look.looked)
    canvas.write(words_of(look), left + pad + 2 * capitals, baseline, capitals, WHITE)
    for row in _SIGNS:
        baseline += capitals + pad
        for index, word in enumerate(row):
            begin = left + pad + index * _column(canvas)
            _draw_sign(canvas, (begin, baseline - capitals), word)
            canvas.write(word, begin + 2 * capitals, baseline, capitals, WHITE)


def _draw_sign(canvas: Canvas, at: tuple[int, int], word: str) -> None:
    """Draw the sign that a word of the legend explains, as high as a capital letter."""
    capitals = capitals_on(canvas)
    wide = line_width(canvas)
    left, top = at
    place = (left, top, left + round(1.4 * capitals), top + capitals)
    if word == "changed":
        canvas.fill(place, CHANGED, 2 * _TINT)
        _outline(canvas, place, wide, CHANGED, _EDGE)
    elif word == "looked at":
        _outline(canvas, place, wide, LOOKED, 1.0)
    elif word == "found":
        draw_box(canvas, place, WHITE)
    else:
        draw_dashes(canvas, place, WHITE, long=2)


def _draw_lamp(canvas: Canvas, at: tuple[int, int], size: int, looked: Looked) -> None:
    disc = rounded(size, size, size // 2 + 1)
    if looked != "whole":
        hole = max(1, size // 5)
        inner = rounded(size - 2 * hole, size - 2 * hole, size // 2)
        if looked == "part":
            inner[:, : inner.shape[1] // 2] = 0
        disc[hole:-hole, hole:-hole] -= np.minimum(inner, disc[hole:-hole, hole:-hole])
    canvas.blend(*at, disc, LOOKED)


def draw(
    picture: Picture,
    objects: Sequence[Object],
    look: GateOverlay | None = None,
    trails: Trails | None = None,
) -> Picture:
    """Return a copy of `picture` with `objects` drawn. Pixels without drawings keep their bytes.

    objects  their boxes, and the points of `trails`, are in the picture's pixels
    look     the gate's view, which is drawn too; None: not
    """
    canvas = Canvas.of(picture)
    if look is None:
        draw_objects(canvas, objects, trails)
    else:
        draw_gate(canvas, objects, look, trails)
    return canvas.picture()
