"""What the gate learns from a look: what was seen where, and whether looking was worth it."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from framegate.models import boxes as nms
from framegate.models.boxes import Boxes
from framegate.models.gate import crops, gate
from framegate.models.gate.cells import BoolArray, Grid, tiles_of
from framegate.models.gate.seams import Merged
from framegate.models.gate.state import GateState
from framegate.stages.detect.attention import Attention, AttentionSettings

SAME_PLACE: Final = 0.8  # IoU from which on a box counts as unmoved


def learned(
    attention: Attention,
    known: Boxes,
    merged: Merged,
    size: tuple[int, int],
    using: AttentionSettings,
    shown: float,
) -> GateState | None:
    """The gate's state after the looks: what they saw where, and whether it was worth it."""
    if attention.change is None or attention.cells is None:
        return None
    state = attention.change.state
    inside: BoolArray = np.ones(state.grid.tiles, np.bool_)
    if attention.looked != "whole":
        areas = np.array([crops.looked_at(look, size, using.long_side) for look in attention.looks])
        inside = tiles_inside(areas, state.grid)
    found = _found_tiles(known, merged, inside, state.grid, shown)
    boxes = np.concatenate([known.xyxy, merged.boxes.xyxy])
    occupied: BoolArray = np.any(tiles_of(boxes, state.grid, grow_px=state.grid.tile_px), axis=0)
    return gate.inferred(state, attention.cells, inside, found, using.gate, occupied)


def tiles_inside(areas: npt.NDArray[np.float32], grid: Grid) -> BoolArray:
    """Tiles that lie in one of the rectangles (K, 4) of source pixels, as far as the picture goes.

    bool (tile_rows, tile_columns)
    """
    px = grid.tile_px
    left, top = np.arange(grid.tile_columns) * px, np.arange(grid.tile_rows) * px
    right, bottom = np.minimum(left + px, grid.width), np.minimum(top + px, grid.height)
    inside: BoolArray = np.zeros(grid.tiles, np.bool_)
    for area in areas:
        across = (left >= area[0]) & (right <= area[2] + 0.5)
        down = (top >= area[1]) & (bottom <= area[3] + 0.5)
        inside |= down[:, None] & across
    return inside


def _found_tiles(
    known: Boxes, merged: Merged, inside: BoolArray, grid: Grid, shown: float
) -> BoolArray:
    """Tiles in which the look changed what is known: a box that is new, gone, or elsewhere."""
    before = known.scores > np.float32(shown)
    after = np.flatnonzero(merged.boxes.scores > np.float32(shown))
    rows = merged.known_row[after]
    stayed = rows >= 0
    stayed[stayed] = (
        nms.row_iou(known.xyxy[rows[stayed]], merged.boxes.xyxy[after[stayed]]) >= SAME_PLACE
    )
    before[rows[stayed]] = False
    changed = np.concatenate([known.xyxy[before], merged.boxes.xyxy[after[~stayed]]])
    found: BoolArray = tiles_of(changed, grid, grow_px=grid.tile_px).any(axis=0) & inside
    return found
