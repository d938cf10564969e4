"""Rectangles of few sizes, on a grid of 32 model pixels: which holds which, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.preprocess import STEP, Rect, inner_size, padded

Cells = tuple[int, int, int, int]  # left, top, right, bottom
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

    def cells(self, regions: FloatArray) -> list[Cells]:
        """The cells that each region (M, 4) of model pixels touches."""
        low = np.floor(regions[:, :2] / STEP).astype(int)
        high = np.maximum(np.ceil(regions[:, 2:] / STEP).astype(int), low + 1)
        limit = np.array([self.columns, self.rows])
        low, high = np.clip(low, 0, limit - 1), np.clip(high, 1, limit)
        return [(a, b, c, d) for a, b, c, d in np.hstack([low, high]).tolist()]

    def cost(self, cells: Cells) -> int:
        """Of the look that holds `cells`, in pixels."""
        columns, rows = self.holds[cells[3] - cells[1]][cells[2] - cells[0]]
        return columns * rows * STEP * STEP + self.call_pixels

    def rect(self, cells: Cells) -> Rect:
        """The snapped rectangle around `cells`, with as much room on either side as there is."""
        columns, rows = self.holds[cells[3] - cells[1]][cells[2] - cells[0]]
        left = cells[0] - (columns - cells[2] + cells[0]) // 2
        top = cells[1] - (rows - cells[3] + cells[1]) // 2
        left = min(max(left, 0), self.columns - columns)
        top = min(max(top, 0), self.rows - rows)
        return left * STEP, top * STEP, (left + columns) * STEP, (top + rows) * STEP


@lru_cache(64)
def grid_of(
    width: int,
    height: int,
    long_side: int,
    sizes: tuple[tuple[int, int], ...],
    call_pixels: int,
) -> CropGrid:
    """The grid of a (width, height) picture with its longer side at `long_side`.

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


def joined_cells(cells: list[Cells], grid: CropGrid, most: int) -> list[Cells]:
    """Joins the pair that costs least together, as long as that saves something or must be."""
    while len(cells) > 1:
        couples = combinations(cells, 2) if len(cells) <= MANY else pairwise(cells)
        pairs = [(_union(a, b), a, b) for a, b in couples]
        both, a, b = min(pairs, key=lambda p: grid.cost(p[0]) - grid.cost(p[1]) - grid.cost(p[2]))
        if len(cells) <= most and grid.cost(both) > grid.cost(a) + grid.cost(b):
            break
        cells = sorted([both, *(rest for rest in cells if rest not in (a, b, both))])
    return cells


def _union(a: Cells, b: Cells) -> Cells:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
