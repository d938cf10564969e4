"""Draw the sensitivity map: how small a change of brightness the gate sees, place by place."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import Picture
from framegate.pipeline.records import GateView
from framegate.stages.draw.canvas import BLACK, WHITE, Canvas, Plane, Rect, Rgb, rounded, text_size
from framegate.stages.draw.overlay import capitals_on

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
_SHARE: Final = 0.22  # of the picture's width
_OPACITY: Final = 0.72
_PANEL: Final = 0.62
_LEAST_SIZE: Final = 240, 120  # of a picture with words in it

FloatTiles = npt.NDArray[np.float32]
Size = tuple[int, int]


def draw_sensitivity(picture: Picture, gate: GateView, size: Size) -> Picture:
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


def draw_inset(canvas: Canvas, gate: GateView, size: Size, luma: Plane) -> None:
    """Draw the map over a small copy of the picture, with its scale, at the lower right.

    size: the source's (width, height); luma: the picture's own, before anything was drawn.
    """
    if not gate.sensitivity:
        return
    capitals = max(8, capitals_on(canvas) - 1)
    pad = round(capitals * 0.35) * 2
    line = capitals + pad
    wide = round(canvas.width * _SHARE) // 2 * 2
    high = round(wide * canvas.height / canvas.width) // 2 * 2
    right, bottom = canvas.width - pad, canvas.height - pad
    left, top = (right - wide - 2 * pad) // 2 * 2, (bottom - high - 2 * line - 2 * pad) // 2 * 2
    canvas.blend(left, top, rounded(right - left, bottom - top, pad), BLACK, _PANEL)
    x0, y0 = left + pad, (top + pad + line) // 2 * 2
    canvas.write(_TITLE, x0, top + pad + capitals, capitals, WHITE)
    _draw_map(canvas, (x0, y0, x0 + wide, y0 + high), gate, size, luma)
    _draw_scale(canvas, (x0, y0 + high + pad, x0 + wide, bottom - pad), capitals)


def _draw_map(canvas: Canvas, place: Rect, gate: GateView, size: Size, luma: Plane) -> None:
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


def _stretched(tiles: FloatTiles, tile: int, size: Size, to: Size) -> FloatTiles:
    """Return the tiles of a source of this size on a map; the last may reach over its border."""
    rows, columns = tiles.shape
    across = (np.arange(to[0]) * size[0] // (to[0] * tile)).clip(max=columns - 1)
    down = (np.arange(to[1]) * size[1] // (to[1] * tile)).clip(max=rows - 1)
    stretched: FloatTiles = tiles[down][:, across]
    return stretched


def _thinned(plane: Plane, to: Size) -> Plane:
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


def _draw_scale(canvas: Canvas, place: Rect, capitals: int) -> None:
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
