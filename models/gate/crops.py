"""Look at parts of a picture: choose the parts, and merge their boxes with the known boxes.

Pure functions.

`plan` chooses the parts. Changed places become few rectangles with few different sizes, because a
network is slow at the first input of a new size. They lie on multiples of 32 model pixels of the
whole picture's input, so their pixels and strides are those of a whole look. No known object is
cut.

`merge` takes the boxes that were detected in the parts. A box that touches an inner border of its
part may be half an object: it is not accepted, and its place is returned so that the next look is
larger. A known box inside a part that is not detected again is removed; known boxes elsewhere stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import Final

import cv2
import numpy as np

from framegate.models import boxes as nms
from framegate.models.boxes import BoolArray, Boxes, FloatArray, IntArray, read_only, together
from framegate.models.errors import ArrayMismatch
from framegate.models.picture import STEP, Rect, inner_size, padded

_AROUND: Final = np.ones((3, 3), np.uint8)  # a tile and its neighbours
_BORDER: Final = 4.0  # model pixels; a box that ends closer to an inner border touches it
_INSIDE: Final = 0.9  # a known box with this share of its area in a look was looked at
# A detected box with this share of its area in a known box, which is only partly in the look, is a
# piece of it.
_PART_OF: Final = 0.8
_LEAST: Final = 0.31  # a cut box with a lower score causes no other look
# A cut box is assumed to continue behind the border by this share of its length.
_REACH: Final = 0.5
_NOWHERE: Final = np.empty((0, 4), np.float32)


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


# -- The boxes of the parts, and the known boxes


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """The boxes of a picture after looks at some parts.

    boxes      highest score first
    is_new     bool (N,)  detected now; False: known and kept unchanged
    known_row  int32 (N,)  row of the known box that it is or continues; -1: none
    cut        float32 (K, 4)  source pixels: places that need a larger look

    Raises ArrayMismatch.
    """

    boxes: Boxes
    is_new: BoolArray
    known_row: IntArray
    cut: FloatArray

    def __post_init__(self) -> None:
        n = len(self.boxes)
        for name, dtype, shape in (
            ("is_new", np.bool_, (n,)),
            ("known_row", np.int32, (n,)),
            ("cut", np.float32, (None, 4)),
        ):
            object.__setattr__(self, name, read_only(name, getattr(self, name), dtype, shape))


def merge(
    known: Boxes,
    detected: Sequence[Boxes],
    looks: Sequence[Crop],
    size: tuple[int, int],
    long_side: int,
    judged: BoolArray | None = None,
) -> Merged:
    """Return the known boxes, updated by the boxes that each look detected.

    known     boxes before, in source pixels
    detected  boxes of each look, in source pixels
    looks     the parts of the picture that were looked at
    size      (width, height) of the picture
    judged    bool (N,)  known boxes that the looks may remove; None: all

    Without a look all known boxes stay; a look at the whole picture replaces all. Raises
    ArrayMismatch if `detected` and `looks` differ in length.
    """
    if len(detected) != len(looks):
        raise ArrayMismatch("detected", f"{len(looks)} sets of boxes", f"{len(detected)}")
    if not looks:
        rows = np.arange(len(known), dtype=np.int32)
        return Merged(known, np.zeros(len(known), np.bool_), rows, _NOWHERE)
    areas = np.array([looked_at(look, size, long_side) for look in looks])
    near = _BORDER / (inner_size(*size, long_side)[0] / size[0])
    parts = zip(detected, areas, strict=True)
    at_seam = np.concatenate([_ends_at_seam(b.xyxy, area, size, near) for b, area in parts])
    everything = together(detected)
    cut = np.asarray(at_seam.any(axis=1), np.bool_)
    fresh = everything.take(~cut)
    fresh = fresh.take(nms.suppress(fresh.xyxy, fresh.scores, nms.SAME))
    looked = _share(known.xyxy, areas).max(axis=1, initial=0) >= _INSIDE
    if judged is not None:
        looked = looked & judged
    elsewhere = ~looked
    loose, doubted = _doubts(everything.take(cut), fresh, known, elsewhere)
    fresh = fresh.take(~(_part_of(fresh, known) & elsewhere).any(axis=1))
    is_same = _same(fresh, known)
    held = (elsewhere | doubted) & ~is_same.any(axis=0)
    again = np.flatnonzero(cut)[loose]
    again = again[everything.scores[again] >= np.float32(_LEAST)]
    beyond = _beyond(everything.xyxy[again], at_seam[again], size, _REACH)
    return _merged(known, held, fresh, is_same, beyond)


def replaced(known: Boxes, detected: Boxes) -> Merged:
    """Return the result of a whole look: the detected boxes replace all known boxes."""
    follows = _followed(_same(detected, known))
    return Merged(detected, np.ones(len(detected), np.bool_), follows, _NOWHERE)


def _doubts(
    pieces: Boxes, fresh: Boxes, known: Boxes, elsewhere: BoolArray
) -> tuple[BoolArray, BoolArray]:
    """Return the pieces that no whole box explains, and the known boxes that pieces confirm.

    A piece is explained by a box that another look detected whole, or by a known box outside of
    the looks. If the known box was looked at, a piece of it confirms it, because the known box is
    the better answer.
    """
    if not len(pieces):
        return np.zeros(0, np.bool_), np.zeros(len(known), np.bool_)
    of_known = _part_of(pieces, known)
    explained = _part_of(pieces, fresh).any(axis=1)
    explained |= (of_known & elsewhere).any(axis=1)
    loose = np.asarray(~explained, np.bool_)
    return loose, np.asarray((of_known & loose[:, None]).any(axis=0), np.bool_)


def _merged(
    known: Boxes, held: BoolArray, fresh: Boxes, is_same: BoolArray, cut: FloatArray
) -> Merged:
    rows = np.flatnonzero(held)
    boxes = together([fresh, known.take(rows)])
    order = np.argsort(-boxes.scores, kind="stable")
    is_new = np.arange(len(boxes)) < len(fresh)
    known_row = np.concatenate([_followed(is_same), rows.astype(np.int32)])
    return Merged(boxes.take(order), is_new[order], known_row[order], cut)


def _followed(is_same: BoolArray) -> IntArray:
    """Return for each detected box of `is_same` (N, M) its known box, or -1: int32 (N,)."""
    if not is_same.shape[1]:
        return np.full(len(is_same), -1, np.int32)
    return np.where(is_same.any(axis=1), is_same.argmax(axis=1), -1).astype(np.int32)


def _ends_at_seam(
    xyxy: FloatArray, area: FloatArray, size: tuple[int, int], reach: float
) -> BoolArray:
    """Return bool (N, 4): the sides that end within `reach` of an inner border of `area`."""
    border = np.array([0, 0, *size], np.float32)
    near: BoolArray = (np.abs(xyxy - area) < reach) & (area != border)
    return near


def _share(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return (N, M): the share of the area of each box in `a` (N, 4) inside each of `b` (M, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    sides = np.maximum(np.minimum(a[:, None, 2:], b[None, :, 2:]) - low, 0)
    share: FloatArray = sides.prod(axis=2) / np.maximum(nms.area(a), 1e-6)[:, None]
    return share


def _part_of(pieces: Boxes, whole: Boxes) -> BoolArray:
    """Return bool (N, M): which of `pieces` lie in which of `whole` with the same class."""
    same_class = pieces.class_ids[:, None] == whole.class_ids[None, :]
    inside: BoolArray = (_share(pieces.xyxy, whole.xyxy) >= _PART_OF) & same_class
    return inside


def _same(fresh: Boxes, known: Boxes) -> BoolArray:
    same: BoolArray = nms.iou(fresh.xyxy, known.xyxy) > nms.SAME
    return same


def _beyond(
    xyxy: FloatArray, at_seam: BoolArray, size: tuple[int, int], reach: float
) -> FloatArray:
    """Return the boxes, extended by `reach` of their length beyond the borders that they touch."""
    if not len(xyxy):
        return _NOWHERE
    sides = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2) * np.array([-1, -1, 1, 1], np.float32)
    limit = np.array(size * 2, np.float32)
    longer: FloatArray = np.clip(xyxy + np.where(at_seam, sides * np.float32(reach), 0), 0, limit)
    return longer.astype(np.float32)
