"""Which parts of a picture to look at, so that little is computed and no object is cut.

Pure functions of rectangles. Places that must be looked at become a few rectangles of a few sizes:
a network is slow at the first sight of a size. Rectangles lie on multiples of 32 model pixels of
the whole picture's input, so that their pixels and strides are those of a whole pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from models.arrays import read_only
from models.boxes import FloatArray
from models.preprocess import STEP, Rect, inner_size, padded

SHORTEST = 3 * STEP  # a network that sees less around an object than this is often wrong about it
MANY = 16  # places; more of them are all over the picture
_Cells = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Look:
    """A rectangle of a picture, for a network.

    rect  left, top, right, bottom: multiples of 32, in pixels of the whole picture prepared with
          its longer side at `zoom` times the network's own
    zoom  1: as a whole pass sees it; 2, 4: with that many times the pixels across and down
    """

    rect: Rect
    zoom: int = 1

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
    most        rectangles in one picture
    call_pixels what one call costs beside its pixels, in pixels: 0.9 ms against 89 ns a pixel,
                measured with INT8 on one thread; only the ratio matters
    share       of a whole pass' cost; above it the whole pass is made
    zooms       allowed besides 1, for pictures with more pixels than the network sees
    zoom_share  of a whole pass' cost that looks of one picture may cost when zoomed
    zoom_side   model pixels, the longest side that a known box may have when zoomed: the network
                loses what is larger than it was trained on
    """

    margin: float = 24.0
    slack: float = 12.0
    most: int = 3
    call_pixels: int = 10_000
    share: float = 0.45
    zooms: tuple[int, ...] = ()
    zoom_share: float = 0.45
    zoom_side: float = 200.0


DEFAULT = CropSettings()


def whole(width: int, height: int, long_side: int) -> Look:
    """All of a (width, height) picture."""
    inner = inner_size(width, height, long_side)
    return Look((0, 0, padded(inner[0]), padded(inner[1])))


def sizes(
    width: int, height: int, long_side: int, settings: CropSettings = DEFAULT
) -> tuple[tuple[int, int], ...]:
    """The (width, height) that looks at a picture of this size can have; the whole's own is last.

    About a dozen: each side grows by half until it is the whole's, and what costs more than
    `share` of a whole pass is left out.
    """
    full = whole(width, height, long_side).rect[2:]
    limit = settings.share * (full[0] * full[1] + settings.call_pixels)
    pairs = ((w, h) for w in _lengths(full[0]) for h in _lengths(full[1]))
    parts = [(w, h) for w, h in pairs if w * h + settings.call_pixels <= limit]
    return *sorted(parts, key=lambda size: size[0] * size[1]), full


def places_of(tiles: npt.NDArray[np.bool_], tile_px: float) -> FloatArray:
    """Clusters of changed tiles as rectangles (M, 4) in source pixels.

    tiles    bool (rows, columns); tiles with up to two between them belong together
    tile_px  source pixels along a tile's side

    Raises ArrayMismatch.
    """
    changed = read_only("tiles", tiles, np.bool_, (None, None)).astype(np.uint8)
    near = cv2.dilate(np.pad(changed, 1), np.ones((3, 3), np.uint8))
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
) -> tuple[Look, ...] | None:
    """Looks that cover the places, each grown by a margin and by every known box it touches.

    places     float32 (M, 4)  rectangles to look at, in source pixels
    boxes      float32 (N, 4)  known boxes, in source pixels
    size       (width, height) of the source picture
    long_side  of the network's input

    No place: no look. None: a whole pass costs less than these would save. Rectangles are joined
    as long as one call on both costs less than two calls.
    """
    if not len(places):
        return ()
    if len(places) > MANY:
        return None
    grid = _grid_of(size[0], size[1], long_side, settings)
    regions = _grown(places * grid.scale, boxes * grid.scale, settings)
    joined = _joined(sorted(set(grid.cells(regions))), grid, settings.most)
    cost = sum(grid.cost(cells) for cells in joined)
    if cost > settings.share * grid.whole_cost:
        return None
    return tuple(_zoomed(joined, cost, boxes * grid.scale, size, long_side, settings))


def looked_at(look: Look, size: tuple[int, int], long_side: int) -> FloatArray:
    """What `look` covers of a (width, height) picture: float32 (4,), in source pixels."""
    inner = inner_size(*size, long_side * look.zoom)
    scale = np.array([inner[0] / size[0], inner[1] / size[1]] * 2)
    area: FloatArray = np.clip(np.array(look.rect) / scale, 0, size * 2).astype(np.float32)
    return area


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """A picture in cells of 32 model pixels, and the size of look that holds so many of them.

    holds   [rows][columns] -> (columns, rows) of the cheapest size that holds as many
    """

    columns: int
    rows: int
    scale: FloatArray
    holds: tuple[tuple[tuple[int, int], ...], ...]
    call_pixels: int

    @property
    def whole_cost(self) -> int:
        return self.columns * self.rows * STEP * STEP + self.call_pixels

    def cells(self, regions: FloatArray) -> list[_Cells]:
        """The cells that each region (M, 4) of model pixels touches."""
        low = np.floor(regions[:, :2] / STEP).astype(int)
        high = np.maximum(np.ceil(regions[:, 2:] / STEP).astype(int), low + 1)
        limit = np.array([self.columns, self.rows])
        low, high = np.clip(low, 0, limit - 1), np.clip(high, 1, limit)
        return [(a, b, c, d) for a, b, c, d in np.hstack([low, high]).tolist()]

    def size(self, cells: _Cells) -> tuple[int, int]:
        return self.holds[cells[3] - cells[1]][cells[2] - cells[0]]

    def cost(self, cells: _Cells) -> int:
        columns, rows = self.size(cells)
        return columns * rows * STEP * STEP + self.call_pixels

    def rect(self, cells: _Cells) -> Rect:
        """The snapped rectangle around `cells`, with as much room on either side as there is."""
        columns, rows = self.size(cells)
        left = cells[0] - (columns - cells[2] + cells[0]) // 2
        top = cells[1] - (rows - cells[3] + cells[1]) // 2
        left = min(max(left, 0), self.columns - columns)
        top = min(max(top, 0), self.rows - rows)
        return left * STEP, top * STEP, (left + columns) * STEP, (top + rows) * STEP


@lru_cache(64)
def _grid_of(
    width: int, height: int, long_side: int, settings: CropSettings, zoom: int = 1
) -> _Grid:
    inner = inner_size(width, height, long_side * zoom)
    columns, rows = padded(inner[0]) // STEP, padded(inner[1]) // STEP
    fitting = [
        (w // STEP, h // STEP)
        for w, h in sizes(width, height, long_side, settings)
        if w // STEP <= columns and h // STEP <= rows
    ]
    fitting.append((columns, rows))
    holds = tuple(
        tuple(
            min((s for s in fitting if s[0] >= c and s[1] >= r), key=lambda s: s[0] * s[1])
            for c in range(columns + 1)
        )
        for r in range(rows + 1)
    )
    scale = np.array([inner[0] / width, inner[1] / height] * 2, np.float32)
    return _Grid(columns, rows, scale, holds, settings.call_pixels)


def _lengths(full: int) -> Iterator[int]:
    """SHORTEST, then half as much again each time, and at last `full`."""
    length = SHORTEST
    while length * 5 // 4 < full:
        yield length
        length = padded(length * 3 // 2)
    yield full


def _grown(places: FloatArray, boxes: FloatArray, settings: CropSettings) -> FloatArray:
    """Places with their margin and with the boxes that they touch, in model pixels.

    Not with what touches those in turn: of parked cars in a row all would be looked at for one.
    """
    out = np.array([-1, -1, 1, 1], np.float32)
    regions = places + out * np.float32(settings.margin)
    if not len(boxes):
        return regions
    with_slack = boxes + out * np.float32(settings.slack)
    touched = _touch(places, boxes)[..., None]
    low = np.where(touched, with_slack[None, :, :2], np.inf).min(axis=1)
    high = np.where(touched, with_slack[None, :, 2:], -np.inf).max(axis=1)
    return np.hstack([np.minimum(regions[:, :2], low), np.maximum(regions[:, 2:], high)])


def _touch(a: FloatArray, b: FloatArray) -> npt.NDArray[np.bool_]:
    """Which rectangles of `a` (M, 4) meet which of `b` (N, 4): (M, N)."""
    overlap = (a[:, None, :2] < b[None, :, 2:]) & (a[:, None, 2:] > b[None, :, :2])
    return np.asarray(overlap.all(axis=2), np.bool_)


def _joined(cells: list[_Cells], grid: _Grid, most: int) -> list[_Cells]:
    """Joins the pair that costs least together, as long as that saves something or must be."""
    while len(cells) > 1:
        pairs = [(_union(a, b), a, b) for a, b in combinations(cells, 2)]
        both, a, b = min(pairs, key=lambda p: grid.cost(p[0]) - grid.cost(p[1]) - grid.cost(p[2]))
        if len(cells) <= most and grid.cost(both) > grid.cost(a) + grid.cost(b):
            break
        cells = [rest for rest in cells if rest not in (a, b, both)] + [both]
    return sorted(cells)


def _union(a: _Cells, b: _Cells) -> _Cells:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _zoomed(
    joined: Sequence[_Cells],
    cost: int,
    boxes: FloatArray,
    size: tuple[int, int],
    long_side: int,
    settings: CropSettings,
) -> Iterator[Look]:
    """Each rectangle at the highest zoom that the budget and the boxes in it allow."""
    grid = _grid_of(*size, long_side, settings)
    budget = settings.zoom_share * grid.whole_cost - cost
    for cells in joined:
        look = Look(grid.rect(cells))
        inside = _touch(np.array([cells], np.float32) * STEP, boxes)[0]
        sides = boxes[inside, 2:] - boxes[inside, :2]
        for zoom in sorted(settings.zooms, reverse=True):
            fine = _grid_of(*size, long_side, settings, zoom)
            closer = tuple(edge * zoom for edge in cells)
            left, top, right, bottom = closer
            closer = (left, top, min(right, fine.columns), min(bottom, fine.rows))
            more = fine.cost(closer) - grid.cost(cells)
            too_large = len(sides) and sides.max() * zoom > settings.zoom_side
            if long_side * zoom <= max(size) and more <= budget and not too_large:
                budget -= more
                look = Look(fine.rect(closer), zoom)
                break
        yield look
