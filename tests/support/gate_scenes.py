"""Still pictures as cells, and the state of a gate that has seen one."""

from __future__ import annotations

import numpy as np

from framegate.models.boxes import BoolArray
from framegate.models.gate.cells import Cells, grid_of, planes
from framegate.models.gate.changed_tiles import inferred, look
from framegate.models.gate.settings import DEFAULT, GateSettings
from framegate.models.gate.state import GateState

GRID = grid_of(320, 192)  # 12 x 20 tiles
NONE = np.zeros(GRID.tiles, np.bool_)
ALL = ~NONE


def scene(seed: int = 0, gain: float = 1, shift: float = 0) -> Cells:
    """Random levels; another exposure acts on luma around its mean, on colour around grey."""
    levels = np.random.default_rng(seed).integers(60, 190, GRID.cells).astype(float)
    luma = GRID.luma[0] * GRID.luma[1]
    levels[:luma] = 125 + shift + gain * (levels[:luma] - 125)
    levels[luma:] = 128 + gain * (levels[luma:] - 128)
    return Cells(GRID, np.rint(levels).astype(np.uint8))


def changed(cells: Cells, plane: int, row: int, column: int, by: int) -> Cells:
    levels = cells.levels.copy()
    at = planes(levels, GRID)[plane][row : row + 1, column : column + 1]
    at[:] = at.astype(int) + by
    return Cells(GRID, levels)


def settled(cells: Cells, looks: int = 10, settings: GateSettings = DEFAULT) -> GateState:
    """The state after an inference of the whole picture and some looks at the same."""
    state = look(None, cells, GRID, True, settings).state
    state = inferred(state, cells, ALL, ALL, settings)
    for _ in range(looks):
        state = look(state, cells, GRID, False, settings).state
    return state


def tile(row: int, column: int) -> BoolArray:
    one = NONE.copy()
    one[row, column] = True
    return one
