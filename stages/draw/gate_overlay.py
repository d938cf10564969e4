"""Draw what the gate saw: what changed, where the network looked, how small a change it sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
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

# -- Draw the sensitivity map: how small a change of brightness the gate sees, place by place.


LEAST, MOST = 4.0, 20.0  # grey levels at the ends of the colour scale
_SCALE: Final[tuple[Rgb, ...]] = (  # dark where least is needed, bright where most
    (0.17, 0.12, 0.40),
    (0.22, 0.33, 0.62),
    (0.13, 0.56, 0.55),
    (0.45, 0.78, 0.35),
    (0.99, 0.91, 0.15),
)
_TITLE: Final = "sees changes from"
_BLIND: Final = 25.5  # hatched: a mask, or no change that matters is seen
_SHARE, _LEAST_WIDE = 0.22, 16  # of the picture's width, and heights of its capitals
_MOST_SHARE: Final = 0.3  # a map that would take more is left out
_OPACITY: Final = 0.72
_PANEL: Final = 0.62
_LEAST_SIZE: Final = 240, 120  # of a picture with words in it

FloatTiles = npt.NDArray[np.float32]
PictureSize = tuple[int, int]


def draw_sensitivity(picture: Picture, gate: GateView, size: PictureSize) -> Picture:
    """Return a copy of `picture` under the map of `gate`, with its scale; nothing else is drawn.

    size: the source's (width, height), in whose pixels the tiles are. As it is if there is no map.
    """
    canvas = Canvas.of(picture)
    if gate.sensitivity:
        _draw_map(canvas, (0, 0, canvas.width, canvas.height), gate, size, picture.y)
        if has_room(canvas):
            _draw_legend(canvas)
    return canvas.picture()


def has_room(canvas: Canvas) -> bool:
    """Whether words and a map can be read in a picture of this size."""
    return canvas.width >= _LEAST_SIZE[0] and canvas.height >= _LEAST_SIZE[1]


def _draw_legend(canvas: Canvas) -> None:
    """Draw name and scale at the lower right."""
    capitals = capitals_on(canvas)
    pad = round(capitals * 0.35) * 2
    wide, high = 20 * capitals, 2 * capitals + 3 * pad
    left, top = canvas.width - wide - 3 * pad, canvas.height - high - pad
    canvas.blend(left, top, rounded(wide + 2 * pad, high, pad), BLACK, _PANEL)
    canvas.write(_TITLE, left + pad, top + pad + capitals, capitals, WHITE)
    place = (left + pad, top + 2 * pad + capitals, left + pad + wide, top + high - pad)
    _draw_scale(canvas, place, capitals)


def _inset_place(canvas: Canvas, gate: GateView) -> CanvasRect | None:
    """Where the small map is, with its words: at the lower right; None without map or room."""
    capitals, pad = capitals_on(canvas), _pad_of(canvas)
    wide = round(max(canvas.width * _SHARE, capitals * _LEAST_WIDE)) // 2 * 2
    if not gate.sensitivity or wide > canvas.width * _MOST_SHARE:
        return None
    high = round(wide * canvas.height / canvas.width) // 2 * 2
    right, bottom = canvas.width - pad, canvas.height - pad
    left, top = right - wide - 2 * pad, bottom - high - 2 * (capitals + pad) - 2 * pad
    return left, top, right, bottom


def _pad_of(canvas: Canvas) -> int:
    return round(capitals_on(canvas) * 0.35) * 2


def _draw_inset(
    canvas: Canvas, place: CanvasRect, gate: GateView, size: PictureSize, luma: Plane
) -> None:
    """Draw the map over a small copy of the picture, with its scale.

    size: the source's (width, height); luma: the picture's own, before anything was drawn.
    """
    capitals, pad = capitals_on(canvas), _pad_of(canvas)
    left, top, right, bottom = place
    canvas.blend(left, top, rounded(right - left, bottom - top, pad), BLACK, _PANEL)
    x0, y0 = (left + pad) // 2 * 2, (top + 2 * pad + capitals) // 2 * 2
    x1, y1 = x0 + (right - left - 2 * pad) // 2 * 2, (bottom - capitals - 2 * pad) // 2 * 2
    canvas.write(_TITLE, x0, top + pad + capitals, capitals, WHITE)
    _draw_map(canvas, (x0, y0, x1, y1), gate, size, luma)
    _draw_scale(canvas, (x0, y1 + pad, x1, bottom - pad), capitals)


def _draw_map(
    canvas: Canvas, place: CanvasRect, gate: GateView, size: PictureSize, luma: Plane
) -> None:
    """Draw the map in a rectangle that begins at even pixels, over `luma` fitted into it."""
    left, top, right, bottom = place
    whole, half = (right - left, bottom - top), ((right - left + 1) // 2, (bottom - top + 1) // 2)
    tenths = np.frombuffer(gate.sensitivity, np.uint8).reshape(gate.rows, gate.columns)
    levels = tenths.astype(np.float32) * np.float32(0.1)
    ink = _inks(canvas, levels)
    lines = _hatching(*whole) & (_stretched(levels, gate.tile, size, whole) >= _BLIND)
    map_luma = _stretched(ink[..., 0], gate.tile, size, whole)
    map_luma[lines] = canvas.ink(BLACK)[0]
    behind = cv2.resize(_thinned(luma, whole), whole, interpolation=cv2.INTER_AREA)
    canvas.y[top:bottom, left:right] = cv2.addWeighted(
        behind.astype(np.float32), 1 - _OPACITY, map_luma, _OPACITY, 0.5
    )
    chroma = np.s_[top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2]
    canvas.u[chroma] = _stretched(ink[..., 1], gate.tile, size, half)
    canvas.v[chroma] = _stretched(ink[..., 2], gate.tile, size, half)


def _stretched(tiles: FloatTiles, tile: int, size: PictureSize, to: PictureSize) -> FloatTiles:
    """Return the tiles of a source of this size on a map; the last may reach over its border."""
    rows, columns = tiles.shape
    across = (np.arange(to[0]) * size[0] // (to[0] * tile)).clip(max=columns - 1)
    down = (np.arange(to[1]) * size[1] // (to[1] * tile)).clip(max=rows - 1)
    stretched: FloatTiles = tiles[down][:, across]
    return stretched


def _thinned(plane: Plane, to: PictureSize) -> Plane:
    """Return every second pixel as often as enough are left: a small map shows no more."""
    while plane.shape[1] >= 4 * to[0] and plane.shape[0] >= 4 * to[1]:
        plane = plane[::2, ::2]
    return plane


def _hatching(wide: int, high: int) -> npt.NDArray[np.bool_]:
    """Slanted lines, bool (high, wide)."""
    period = max(6, high // 40)
    across, down = np.arange(wide), np.arange(high)[:, None]
    return (across + down) % period < period // 2


def _inks(canvas: Canvas, levels: FloatTiles) -> FloatTiles:
    """Y, U, V of levels on the colour scale: float32 (..., 3)."""
    anchors = np.array([canvas.ink(colour) for colour in _SCALE], np.float32)
    at, steps = (levels - LEAST) / (MOST - LEAST), np.linspace(0, 1, len(_SCALE))
    return np.stack([np.interp(at, steps, anchors[:, k]) for k in range(3)], -1).astype(np.float32)


def _draw_scale(canvas: Canvas, place: CanvasRect, capitals: int) -> None:
    """Draw the colours between their two ends in words."""
    left, top, right, bottom = place
    baseline, gap = (top + bottom + capitals) // 2, capitals // 2
    least, most = f"{LEAST:.0f}", f"{MOST:.0f} grey levels"
    end = right - text_size(most, capitals)[0]
    canvas.write(least, left, baseline, capitals, WHITE)
    canvas.write(most, end, baseline, capitals, WHITE)
    begin, end = (left + text_size(least, capitals)[0] + gap + 1) // 2 * 2, (end - gap) // 2 * 2
    y0, y1 = (baseline - capitals) // 2 * 2, (baseline + 1) // 2 * 2
    if end <= begin:
        return
    ink = _inks(canvas, np.linspace(LEAST, MOST, end - begin, dtype=np.float32))
    canvas.y[y0:y1, begin:end] = ink[:, 0]
    half = np.s_[y0 // 2 : y1 // 2, begin // 2 : end // 2]
    canvas.u[half], canvas.v[half] = ink[::2, 1], ink[::2, 2]


CHANGED: Final[Rgb] = (1.0, 0.62, 0.10)  # amber: warm, as what moves
LOOKED: Final[Rgb] = (0.18, 0.86, 0.75)  # teal, as Framegate's own mark
_TINT, _EDGE = 0.26, 0.85
_HOT: Final = 255
FADING: Final = 6  # frames in which the tint of a change goes
_ALL_OVER: Final = 0.9  # of the tiles: no place changed more than others, as in a first picture
_THIN, _SHADOW = 0.65, 0.40
_SAID: Final = {"whole": "looked at all", "part": "looked at", "no": "not looked"}

Tiles = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GateOverlay:
    """How a frame was looked at.

    size    width and height of the source, in whose pixels `gate` is
    before  what the gate saw in the frames before, newest first: it fades
    """

    gate: GateView
    looked: Looked
    reason: Reason
    size: tuple[int, int]
    before: Sequence[GateView] = ()


class Told(Protocol):
    """What tells how a frame was looked at: Detections, or a Result."""

    @property
    def looked(self) -> Looked: ...
    @property
    def reason(self) -> Reason: ...
    @property
    def gate(self) -> GateView | None: ...


def overlay_of(told: Told, source: Picture, before: Iterable[GateView] = ()) -> GateOverlay | None:
    """How the frame `source` was looked at; None where nobody asked what the gate sees."""
    if told.gate is None:
        return None
    size = source.width, source.height
    return GateOverlay(told.gate, told.looked, told.reason, size, tuple(islice(before, FADING)))


def draw_gate(
    canvas: Canvas, objects: Sequence[Object], look: GateOverlay, trails: Trails | None = None
) -> None:
    """Draw the gate's view and `objects` into a picture of any size, whose pixels their boxes are.

    Amber tiles changed; teal frames were given to the network; a box of dashes is of an object
    that was not looked at in this frame. A panel says how much was looked at, why, and what the
    signs mean; a small map says how sensitive the gate is.
    """
    luma = canvas.y.copy()
    _draw_changed(canvas, look)
    for place in _places(canvas, look):
        _draw_frame(canvas, place)
    if not has_room(canvas):
        draw_objects(canvas, objects, trails, by_origin=True)
        return
    panel, inset = _panel_place(canvas, look), _inset_place(canvas, look.gate)
    taken = [panel] if inset is None else [panel, inset]
    draw_objects(canvas, objects, trails, by_origin=True, taken=taken)
    _draw_panel(canvas, panel, look)
    if inset is not None:
        _draw_inset(canvas, inset, look.gate, look.size, luma)


def hot_tiles(gate: GateView) -> Tiles:
    """Which tiles changed: bool (rows, columns)."""
    bits = np.unpackbits(np.frombuffer(gate.hot, np.uint8), count=gate.rows * gate.columns)
    return bits.reshape(gate.rows, gate.columns).astype(np.bool_)


def _draw_changed(canvas: Canvas, look: GateOverlay) -> None:
    """Tint tiles that changed, less if it was before; edges are of what changed now."""
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
    """Row, first and last but one column of neighbours that are equally warm, and not cold."""
    for row, tiles in enumerate(warm):
        borders = [0, *(np.flatnonzero(np.diff(tiles)) + 1).tolist(), len(tiles)]
        for begin, end in pairwise(borders):
            if tiles[begin]:
                yield row, begin, end


def _warmth(look: GateOverlay) -> Plane:
    """Return how fresh each tile's last change is, uint8 (rows, columns): 255 now, then less."""
    warm: Plane = np.zeros((look.gate.rows, look.gate.columns), np.uint8)
    for age, gate in reversed(list(enumerate((look.gate, *look.before)))):
        hot = hot_tiles(gate)
        if hot.shape == warm.shape and hot.mean() < _ALL_OVER:
            warm[hot] = round(_HOT * (1 - age / (FADING + 1)))
    return warm


def _edges(count: int, tile: float, limit: int) -> list[int]:
    """Return the borders of tiles in the picture's pixels, up to its own."""
    return [min(round(index * tile), limit) for index in range(count + 1)]


def _places(canvas: Canvas, look: GateOverlay) -> list[CanvasRect]:
    """What parts the network was given, in the picture's pixels; none where it got the whole."""
    if look.looked == "whole":
        return []
    by = (canvas.width / look.size[0], canvas.height / look.size[1]) * 2
    found = []
    for rect in look.gate.looked:
        left, top, right, bottom = (round(edge * f) for edge, f in zip(rect, by, strict=True))
        found.append(canvas.clipped((left, top, right, bottom)))
    return found


def _draw_frame(canvas: Canvas, place: CanvasRect) -> None:
    """A thin frame with the corners of a viewfinder, on a shadow: seen on light and on dark."""
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
    """What is said of the look: how much of the picture, and why."""
    reason = look.reason.replace("_", " ")
    share = ""
    if look.looked == "part":
        share = f" {_area(look):.0%}"
    return f"{_SAID[look.looked]}{share}: {reason}"


def _area(look: GateOverlay) -> float:
    """Share of the picture inside the rectangles."""
    width, height = look.size
    limits = (width, height) * 2
    rects = [[min(max(e, 0), m) for e, m in zip(r, limits, strict=True)] for r in look.gate.looked]
    across = sorted({0, width, *(x for rect in rects for x in rect[::2])})
    down = sorted({0, height, *(y for rect in rects for y in rect[1::2])})
    covered = sum(
        (right - left) * (bottom - top)
        for left, right in pairwise(across)
        for top, bottom in pairwise(down)
        if any(a <= left and right <= c and b <= top and bottom <= d for a, b, c, d in rects)
    )
    return covered / (width * height)


_SIGNS: Final = (("changed", "looked at"), ("found", "carried on"))  # rows of the legend


def _panel_place(canvas: Canvas, look: GateOverlay) -> CanvasRect:
    """Where it says how the frame was looked at: at the lower left."""
    capitals, pad = capitals_on(canvas), _pad_of(canvas)
    wide = 3 * capitals + max(text_size(words_of(look), capitals)[0], _column(canvas) * 2)
    high = (1 + len(_SIGNS)) * (capitals + pad) + pad
    bottom = canvas.height - pad
    return pad, bottom - high, 2 * pad + wide, bottom


def _column(canvas: Canvas) -> int:
    """How far the columns of signs are apart."""
    capitals = capitals_on(canvas)
    return 3 * capitals + max(text_size(word, capitals)[0] for row in _SIGNS for word in row)


def _draw_panel(canvas: Canvas, place: CanvasRect, look: GateOverlay) -> None:
    """Draw a lamp, full, half or empty as all, a part or nothing was looked at; words; signs."""
    capitals, pad = capitals_on(canvas), _pad_of(canvas)
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
    """Draw what `word` stands for, as high as a capital letter."""
    capitals, wide = capitals_on(canvas), line_width(canvas)
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
    """Return a copy of `picture`, of any size, with `objects` drawn; with the gate's view, if told.

    It draws into the planes: what is not under ink keeps its bytes. Boxes and the points of
    `trails` are in the picture's pixels.
    """
    canvas = Canvas.of(picture)
    if look is None:
        draw_objects(canvas, objects, trails)
    else:
        draw_gate(canvas, objects, look, trails)
    return canvas.picture()
