"""Choose the parts of a picture that the network looks at.

Pure functions. Changed places become few rectangles with few different sizes, because a network is
slow at the first input of a new size. They lie on multiples of 32 model pixels of the whole
picture's input, so their pixels and strides are those of a whole look. No known object is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import BoolArray, FloatArray, read_only
from framegate.models.preprocess import STEP, Rect, inner_size, padded

_AROUND: Final = np.ones((3, 3), np.uint8)  # a tile and its neighbours


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of a picture that a network looks at.

    rect  left, top, right, bottom in model pixels (the picture, resized to the longer side of the
          network's input); multiples of 32
    """

    rect: Rect

    @property
    def pixels(self) -> int:
        """Number of model pixels."""
        left, top, right, bottom = self.rect
        return (right - left) * (bottom - top)


@dataclass(frozen=True, slots=True)
class CropSettings:
    """Parameters of the choice of looks.

    margin       model pixels around a place, because an object is larger than its changed pixels
    slack        model pixels around a known box, because it may have grown
    largest      a known box is included only if its area is at most this factor of the place with
                 its margin (a bottle that moves in front of a table does not include the table)
    shortest     model pixels, shortest side of a look, a multiple of 32; less context lowers the
                 scores (by .1 to .17 in looks of 96 pixels, by .03 in looks of 160)
    most         largest number of looks at one picture
    call_pixels  fixed cost of one call, in pixels: with INT8 on one thread 0.9 ms, against 89 ns
                 per pixel on one CPU and 30 ns on another, which is 10,000 to 30,000 pixels
    share        relative to the cost of a whole look; above it the whole look is made
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
    """Return the crop that covers a whole picture."""
    inner = inner_size(width, height, long_side)
    return Crop((0, 0, padded(inner[0]), padded(inner[1])))


@lru_cache(64)
def sizes(
    width: int, height: int, long_side: int, settings: CropSettings = DEFAULT
) -> tuple[tuple[int, int], ...]:
    """Return the (width, height) of all crops that are possible; the whole picture is last.

    There are at most a dozen: a side grows by half until it is the whole side, and sizes that cost
    more than `share` of a whole look are left out.
    """
    full = whole(width, height, long_side).rect[2:]
    budget = settings.share * (full[0] * full[1] + settings.call_pixels)
    lengths = [_lengths(settings.shortest, side) for side in full]
    parts = [(w, h) for w, h in product(*lengths) if w * h + settings.call_pixels <= budget]
    return *sorted(parts, key=lambda size: size[0] * size[1]), full


def places_of(tiles: BoolArray, tile_px: float) -> FloatArray:
    """Return clusters of changed tiles as rectangles, float32 (M, 4), in source pixels.

    tiles    bool (rows, columns); tiles with at most two tiles between them form one cluster
    tile_px  side of a tile in source pixels

    Raises ArrayMismatch.
    """
    changed = read_only("tiles", tiles, np.bool_, (None, None)).view(np.uint8)
    bordered = cv2.copyMakeBorder(changed, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    near = cv2.dilate(bordered, _AROUND)
    stats = cv2.connectedComponentsWithStats(near, connectivity=8)[2][1:].astype(np.float32)
    # The border and the dilation cancel out: the left of a cluster is the left of its tiles.
    corner = stats[:, :2]
    return np.hstack([corner, corner + stats[:, 2:4] - 2]) * np.float32(tile_px)


def plan(
    places: FloatArray,
    boxes: FloatArray,
    size: tuple[int, int],
    long_side: int,
    settings: CropSettings = DEFAULT,
) -> tuple[Crop, ...] | None:
    """Return looks that cover the places with a margin and the known boxes that they touch.

    places     float32 (M, 4)  rectangles to look at, in source pixels
    boxes      float32 (N, 4)  known boxes, in source pixels
    size       (width, height) of the source picture
    long_side  longer side of the network's input

    Without places there are no looks. None: a whole look is cheaper. Two looks are joined if one
    call on both costs less than two calls.
    """
    if not len(places):
        return ()
    grid = _crop_grid(*size, long_side, sizes(*size, long_side, settings), settings.call_pixels)
    cells = grid.cells(_grown(places * grid.scale, boxes * grid.scale, settings))
    joined = _joined(sorted(set(cells)), grid, settings.most)
    looks = tuple(Crop(grid.rect(each)) for each in joined)
    cost = sum(look.pixels + settings.call_pixels for look in looks)
    if cost > grid.whole_cost * settings.share:
        return None
    return looks


def looked_at(look: Crop, size: tuple[int, int], long_side: int) -> FloatArray:
    """Return the area of a (width, height) picture that `look` covers: float32 (4,), pixels."""
    inner = inner_size(*size, long_side)
    scale = np.array([inner[0] / size[0], inner[1] / size[1]] * 2)
    area: FloatArray = np.minimum(np.maximum(np.array(look.rect) / scale, 0), size * 2)
    return area.astype(np.float32)


def _lengths(shortest: int, full: int) -> Iterator[int]:
    """Yield `shortest`, then lengths that grow by half, and finally `full`."""
    length = shortest
    while length * 5 // 4 < full:
        yield length
        length = padded(length * 3 // 2)
    yield full


def _grown(places: FloatArray, boxes: FloatArray, settings: CropSettings) -> FloatArray:
    """Return the places with their margin and the boxes of similar size that they touch.

    All in model pixels. Boxes that touch only these boxes are not included: otherwise one change
    would cause a look at a whole row of parked cars.
    """
    out = np.array([-1, -1, 1, 1], np.float32)
    regions = places + out * np.float32(settings.margin)
    if not len(boxes):
        return regions
    with_slack = boxes + out * np.float32(settings.slack)
    region_areas = (regions[:, 2:] - regions[:, :2]).prod(axis=1)
    box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    comparable = box_areas[None, :] <= settings.largest * region_areas[:, None]
    touched = (touch(places, boxes) & comparable)[..., None]
    low = np.where(touched, with_slack[None, :, :2], np.inf).min(axis=1)
    high = np.where(touched, with_slack[None, :, 2:], -np.inf).max(axis=1)
    return np.hstack([np.minimum(regions[:, :2], low), np.maximum(regions[:, 2:], high)])


def touch(a: FloatArray, b: FloatArray) -> BoolArray:
    """Return bool (M, N): which rectangles of `a` (M, 4) overlap which of `b` (N, 4)."""
    overlap = (a[:, None, :2] < b[None, :, 2:]) & (a[:, None, 2:] > b[None, :, :2])
    return np.asarray(overlap.all(axis=2), np.bool_)


# -- Rectangles with few sizes on a grid of 32 model pixels, and their cost.


CellRect = tuple[int, int, int, int]  # left, top, right, bottom
MANY = 16  # with more rectangles only neighbours are joined, because all pairs take too long


@dataclass(frozen=True, slots=True, eq=False)
class CropGrid:
    """A picture in cells of 32 model pixels.

    columns, rows  number of cells
    scale          float32 (4,)  model pixels per source pixel: x, y, x, y
    holds          [rows][columns] -> (columns, rows) of the cheapest size that is large enough
    call_pixels    fixed cost of one call, in pixels
    """

    columns: int
    rows: int
    scale: FloatArray
    holds: tuple[tuple[tuple[int, int], ...], ...]
    call_pixels: int

    @property
    def whole_cost(self) -> int:
        """Cost of a whole look, in pixels."""
        return self.columns * self.rows * STEP * STEP + self.call_pixels

    def cells(self, regions: FloatArray) -> list[CellRect]:
        """Return the cells that each region (M, 4) of model pixels touches."""
        low = np.floor(regions[:, :2] / STEP).astype(int)
        high = np.maximum(np.ceil(regions[:, 2:] / STEP).astype(int), low + 1)
        limit = np.array([self.columns, self.rows])
        low, high = np.clip(low, 0, limit - 1), np.clip(high, 1, limit)
        return [(a, b, c, d) for a, b, c, d in np.hstack([low, high]).tolist()]

    def cost(self, cells: CellRect) -> int:
        """Return the cost of a look that covers `cells`, in pixels."""
        columns, rows = self.holds[cells[3] - cells[1]][cells[2] - cells[0]]
        return columns * rows * STEP * STEP + self.call_pixels

    def rect(self, cells: CellRect) -> Rect:
        """Return the rectangle of an allowed size around `cells`, centred where possible."""
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

    sizes  (width, height) that looks may have, in model pixels, in addition to the whole picture
    """
    inner = inner_size(width, height, long_side)
    columns, rows = padded(inner[0]) // STEP, padded(inner[1]) // STEP
    possible = [(w // STEP, h // STEP) for w, h in sizes]
    fitting = [(c, r) for c, r in possible if c <= columns and r <= rows] + [(columns, rows)]

    def cheapest(least_columns: int, least_rows: int) -> tuple[int, int]:
        enough = [(c, r) for c, r in fitting if c >= least_columns and r >= least_rows]
        return min(enough, key=lambda cells: cells[0] * cells[1])

    holds = []
    for row in range(rows + 1):
        holds.append(tuple(cheapest(column, row) for column in range(columns + 1)))
    scale = np.array([inner[0] / width, inner[1] / height] * 2, np.float32)
    return CropGrid(columns, rows, scale, tuple(holds), call_pixels)


def _joined(cells: list[CellRect], grid: CropGrid, most: int) -> list[CellRect]:
    """Join rectangles until there are at most `most` and no union saves cost."""
    # Each round replaces the pair whose union saves most by that union.
    while len(cells) > 1:
        couples: Iterable[tuple[CellRect, CellRect]] = pairwise(cells)
        if len(cells) <= MANY:
            couples = combinations(cells, 2)
        pairs = [(_union(a, b), a, b) for a, b in couples]
        both, a, b = min(pairs, key=lambda p: grid.cost(p[0]) - grid.cost(p[1]) - grid.cost(p[2]))
        if len(cells) <= most and grid.cost(both) > grid.cost(a) + grid.cost(b):
            break
        cells = sorted([both, *(rest for rest in cells if rest not in (a, b, both))])
    return cells


def _union(a: CellRect, b: CellRect) -> CellRect:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
