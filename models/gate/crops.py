"""Which parts of a picture to look at, on a grid of few sizes: little computed, no object cut.

Pure functions. Places to look at become few rectangles of few sizes: a network is slow at the
first sight of a size. They lie on multiples of 32 model pixels of the whole picture's input, so
that their pixels and strides are those of a whole pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import BoolArray, FloatArray, read_only
from framegate.models.preprocess import STEP, Rect, inner_size, padded

_AROUND: Final = np.ones((3, 3), np.uint8)  # a tile and those beside it


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of a picture, for a network.

    rect  left, top, right, bottom: multiples of 32, in pixels of the whole picture prepared with
          its longer side at the network's own
    """

    rect: Rect

    @property
    def pixels(self) -> int:
        """What the network computes."""
        left, top, right, bottom = self.rect
        return (right - left) * (bottom - top)


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How places become looks.

    margin      model pixels around a place: what a changed pixel belongs to is larger than it
    slack       model pixels around a known box that is looked at: it may have grown
    largest     times as large as a place with its margin: a known box beyond that, as a table that
                a bottle moves in front of, is not looked at for the place
    shortest    model pixels, least side of a look, a multiple of 32: with less around an object
                its score falls (by .1 to .17 in looks of 96 pixels, by .03 in those of 160)
    most        looks at one picture
    call_pixels what one call costs beside its pixels, in pixels; with INT8 on one thread 0.9 ms
                against 89 ns a pixel on one CPU, against 30 ns on another: 10,000 to 30,000
    share       of a whole pass' cost; above it the whole pass is made
    """

    margin: float = 24.0
    slack: float = 12.0
    largest: float = 4.0
    shortest: int = 160
    most: int = 3
    call_pixels: int = 20_000
    share: float = 0.6


DEFAULT = CropSettings()


def whole(width: int, height: int, long_side: int) -> Crop:
    """Return all of a (width, height) picture."""
    inner = inner_size(width, height, long_side)
    return Crop((0, 0, padded(inner[0]), padded(inner[1])))


@lru_cache(64)
def sizes(
    width: int, height: int, long_side: int, settings: CropSettings = DEFAULT
) -> tuple[tuple[int, int], ...]:
    """Return the (width, height) that crops of such a picture can have; the whole's is last.

    At most a dozen: each side grows by half until it is the whole's, and what costs more than
    `share` of a whole pass is left out.
    """
    full = whole(width, height, long_side).rect[2:]
    cost = full[0] * full[1] + settings.call_pixels
    across, down = (tuple(_lengths(settings.shortest, side)) for side in full)
    pairs = ((w, h) for w in across for h in down)
    parts = [(w, h) for w, h in pairs if w * h + settings.call_pixels <= settings.share * cost]
    return *sorted(parts, key=lambda size: size[0] * size[1]), full


def places_of(tiles: BoolArray, tile_px: float) -> FloatArray:
    """Return clusters of changed tiles as rectangles (M, 4) in source pixels.

    tiles    bool (rows, columns); tiles with up to two between them belong together
    tile_px  source pixels along a tile's side

    Raises ArrayMismatch.
    """
    changed = read_only("tiles", tiles, np.bool_, (None, None)).view(np.uint8)
    room = cv2.copyMakeBorder(changed, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    near = cv2.dilate(room, _AROUND)
    stats = cv2.connectedComponentsWithStats(near, connectivity=8)[2][1:].astype(np.float32)
    # The border and the dilation cancel out: a cluster's left is the left of its tiles.
    corner = stats[:, :2]
    return np.hstack([corner, corner + stats[:, 2:4] - 2]) * np.float32(tile_px)


def plan(
    places: FloatArray,
    boxes: FloatArray,
    size: tuple[int, int],
    long_side: int,
    settings: CropSettings = DEFAULT,
) -> tuple[Crop, ...] | None:
    """Looks that cover the places, each grown by a margin and by every known box it touches.

    places     float32 (M, 4)  rectangles to look at, in source pixels
    boxes      float32 (N, 4)  known boxes, in source pixels
    size       (width, height) of the source picture
    long_side  of the network's input

    No place: no look. None: a whole pass costs less than these would save. Looks are joined as
    long as one call on both costs less than two calls.
    """
    if not len(places):
        return ()
    grid = _crop_grid(*size, long_side, sizes(*size, long_side, settings), settings.call_pixels)
    cells = grid.cells(_grown(places * grid.scale, boxes * grid.scale, settings))
    joined = _joined(sorted(set(cells)), grid, settings.most)
    looks = tuple(Crop(grid.rect(each)) for each in joined)
    cost = sum(look.pixels + settings.call_pixels for look in looks)
    return looks if cost <= grid.whole_cost * settings.share else None


def looked_at(look: Crop, size: tuple[int, int], long_side: int) -> FloatArray:
    """Return what `look` covers of a (width, height) picture: float32 (4,), in source pixels."""
    inner = inner_size(*size, long_side)
    scale = np.array([inner[0] / size[0], inner[1] / size[1]] * 2)
    area: FloatArray = np.minimum(np.maximum(np.array(look.rect) / scale, 0), size * 2)
    return area.astype(np.float32)


def _lengths(shortest: int, full: int) -> Iterator[int]:
    """`shortest`, then half as much again each time, and at last `full`."""
    length = shortest
    while length * 5 // 4 < full:
        yield length
        length = padded(length * 3 // 2)
    yield full


def _grown(places: FloatArray, boxes: FloatArray, settings: CropSettings) -> FloatArray:
    """Return the places, with their margin and the boxes of about their size that they touch.

    In model pixels.

    Not with what touches those in turn: of parked cars in a row all would be looked at for one.
    """
    out = np.array([-1, -1, 1, 1], np.float32)
    regions = places + out * np.float32(settings.margin)
    if not len(boxes):
        return regions
    with_slack = boxes + out * np.float32(settings.slack)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (regions, boxes)]
    comparable = areas[1][None, :] <= settings.largest * areas[0][:, None]
    touched = (touch(places, boxes) & comparable)[..., None]
    low = np.where(touched, with_slack[None, :, :2], np.inf).min(axis=1)
    high = np.where(touched, with_slack[None, :, 2:], -np.inf).max(axis=1)
    return np.hstack([np.minimum(regions[:, :2], low), np.maximum(regions[:, 2:], high)])


def touch(a: FloatArray, b: FloatArray) -> BoolArray:
    """Return which rectangles of `a` (M, 4) meet which of `b` (N, 4): (M, N)."""
    overlap = (a[:, None, :2] < b[None, :, 2:]) & (a[:, None, 2:] > b[None, :, :2])
    return np.asarray(overlap.all(axis=2), np.bool_)


# -- Rectangles of few sizes, on a grid of 32 model pixels: which holds which, and what they cost.


CellRect = tuple[int, int, int, int]  # left, top, right, bottom
MANY = 16  # of more rectangles only neighbours are joined: all pairs would take too long


@dataclass(frozen=True, slots=True, eq=False)
class CropGrid:
    """A picture in cells of 32 model pixels.

    columns, rows  of cells
    scale          float32 (4,), model pixels for one of the source: across, down, across, down
    holds          [rows][columns] -> (columns, rows) of the cheapest size that holds as many
    call_pixels    what a call costs beside its pixels
    """

    columns: int
    rows: int
    scale: FloatArray
    holds: tuple[tuple[tuple[int, int], ...], ...]
    call_pixels: int

    @property
    def whole_cost(self) -> int:
        """Of a look at everything, in pixels."""
        return self.columns * self.rows * STEP * STEP + self.call_pixels

    def cells(self, regions: FloatArray) -> list[CellRect]:
        """Return the cells that each region (M, 4) of model pixels touches."""
        low = np.floor(regions[:, :2] / STEP).astype(int)
        high = np.maximum(np.ceil(regions[:, 2:] / STEP).astype(int), low + 1)
        limit = np.array([self.columns, self.rows])
        low, high = np.clip(low, 0, limit - 1), np.clip(high, 1, limit)
        return [(a, b, c, d) for a, b, c, d in np.hstack([low, high]).tolist()]

    def cost(self, cells: CellRect) -> int:
        """Of the look that holds `cells`, in pixels."""
        columns, rows = self.holds[cells[3] - cells[1]][cells[2] - cells[0]]
        return columns * rows * STEP * STEP + self.call_pixels

    def rect(self, cells: CellRect) -> Rect:
        """Return the snapped rectangle around `cells`, with as much room on either side as fits."""
        columns, rows = self.holds[cells[3] - cells[1]][cells[2] - cells[0]]
        left = cells[0] - (columns - cells[2] + cells[0]) // 2
        top = cells[1] - (rows - cells[3] + cells[1]) // 2
        left = min(max(left, 0), self.columns - columns)
        top = min(max(top, 0), self.rows - rows)
        return left * STEP, top * STEP, (left + columns) * STEP, (top + rows) * STEP


@lru_cache(64)
def _crop_grid(
    width: int,
    height: int,
    long_side: int,
    sizes: tuple[tuple[int, int], ...],
    call_pixels: int,
) -> CropGrid:
    """Return the grid of a (width, height) picture with its longer side at `long_side`.

    sizes  (width, height) that looks may have, in model pixels; that of everything is another one
    """
    inner = inner_size(width, height, long_side)
    columns, rows = padded(inner[0]) // STEP, padded(inner[1]) // STEP
    possible = [(w // STEP, h // STEP) for w, h in sizes]
    fitting = [(c, r) for c, r in possible if c <= columns and r <= rows] + [(columns, rows)]
    holds = tuple(
        tuple(
            min((s for s in fitting if s[0] >= c and s[1] >= r), key=lambda s: s[0] * s[1])
            for c in range(columns + 1)
        )
        for r in range(rows + 1)
    )
    scale = np.array([inner[0] / width, inner[1] / height] * 2, np.float32)
    return CropGrid(columns, rows, scale, holds, call_pixels)


def _joined(cells: list[CellRect], grid: CropGrid, most: int) -> list[CellRect]:
    """Joins the pair that costs least together, as long as that saves something or must be."""
    while len(cells) > 1:
        couples = combinations(cells, 2) if len(cells) <= MANY else pairwise(cells)
        pairs = [(_union(a, b), a, b) for a, b in couples]
        both, a, b = min(pairs, key=lambda p: grid.cost(p[0]) - grid.cost(p[1]) - grid.cost(p[2]))
        if len(cells) <= most and grid.cost(both) > grid.cost(a) + grid.cost(b):
            break
        cells = sorted([both, *(rest for rest in cells if rest not in (a, b, both))])
    return cells


def _union(a: CellRect, b: CellRect) -> CellRect:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
