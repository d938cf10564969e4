"""Compare the key frames of a source by cells, as the gate does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from framegate.models.boxes import BoolArray
from framegate.models.gate import changed_tiles
from framegate.models.gate.cells import Grid, cells_of, grid_of, ignored_tiles
from framegate.models.gate.changed_tiles import DetectedChange
from framegate.models.gate.settings import DEFAULT, GateSettings
from framegate.models.gate.state import GateState
from framegate.models.picture import Picture


class KeyFrames:
    """The last key frame of a source, and the thresholds of its noise. One thread.

    The gate's own state follows the last *look*; this one follows the last key frame. So a slow
    change that is alike from key frame to key frame is left to the gate, which sees each of them.
    """

    def __init__(
        self,
        unwatched: Sequence[Sequence[Sequence[float]]] = (),
        settings: GateSettings = DEFAULT,
    ) -> None:
        """unwatched: polygons in pixels whose changes do not count; settings: of the gate."""
        self._settings = settings
        self._unwatched = unwatched
        self._ignored: dict[Grid, BoolArray] = {}
        self._state: GateState | None = None

    def is_alike(self, picture: Picture, may_learn: Callable[[], bool]) -> bool:
        """Return whether a key frame equals the one before; remember it.

        may_learn  returns whether a difference is noise, which raises thresholds; it is called if
                   there is one, and while `differs` still compares with the key frame before
        """
        grid = grid_of(picture.width, picture.height)
        cells = cells_of(picture, grid)
        before = self._state
        ignored = self._ignored_of(grid)
        change = changed_tiles.look(before, cells, grid, True, self._settings, ignored)
        has_changed = _has_changed(change)
        is_real = has_changed and not may_learn()
        every = np.ones(grid.tiles, np.bool_)
        useful = np.full(grid.tiles, is_real, np.bool_)
        self._state = changed_tiles.inferred(change.state, cells, every, useful, self._settings)
        return before is not None and before.grid == grid and not has_changed

    def differs(self, picture: Picture) -> bool:
        """Return whether a picture differs from the last key frame, which stays the last."""
        if self._state is None:
            return False
        grid = grid_of(picture.width, picture.height)
        cells = cells_of(picture, grid)
        ignored = self._ignored_of(grid)
        change = changed_tiles.look(self._state, cells, grid, False, self._settings, ignored)
        return _has_changed(change)

    def _ignored_of(self, grid: Grid) -> BoolArray | None:
        if not self._unwatched:
            return None
        if grid not in self._ignored:
            self._ignored = {grid: ignored_tiles(self._unwatched, grid)}
        return self._ignored[grid]


def _has_changed(change: DetectedChange) -> bool:
    """Return whether any tile is over its threshold, at the first look already."""
    return change.exposure or bool(np.count_nonzero(change.state.above))
