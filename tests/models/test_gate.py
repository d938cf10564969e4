"""What the gate sees, learns and remembers."""

from __future__ import annotations

import numpy as np

from models.cells import Cells, grid_of, planes
from models.gate import DEFAULT, GateSettings, inferred, look
from models.gate_state import GateState, nbytes

GRID = grid_of(320, 192)
NONE = np.zeros(GRID.tiles, np.bool_)
ALL = ~NONE


def scene(seed: int = 0) -> Cells:
    return Cells(GRID, np.random.default_rng(seed).integers(60, 190, GRID.cells, np.uint8))


def settled(cells: Cells, looks: int = 10, settings: GateSettings = DEFAULT) -> GateState:
    """The state after an inference of the whole picture and some looks at the same."""
    state = look(None, cells, GRID, True, settings).state
    state = inferred(state, cells, ALL, ALL, settings)
    for _ in range(looks):
        state = look(state, cells, GRID, False, settings).state
    return state


def test_at_first_everything_must_be_looked_at_until_it_was() -> None:
    cells = scene()
    first = look(None, cells, GRID, True)
    again = look(first.state, cells, GRID, False)
    assert first.hot.all()
    assert again.hot.all()
    part = NONE.copy()
    part[2:4, 3:5] = True
    state = inferred(again.state, cells, part, NONE)
    assert (look(state, cells, GRID, False).hot == ~part).all()


def test_what_is_as_it_was_is_left_alone() -> None:
    change = look(settled(scene()), scene(), GRID, False)
    assert not change.hot.any()
    assert not change.moving
    assert not change.exposure


def test_a_new_object_is_hot_where_it_is() -> None:
    state = settled(scene())
    levels = scene().levels.copy()
    planes(levels, GRID)[0][9:11, 17:23] += 30
    hot = look(state, Cells(GRID, levels), GRID, False).hot
    assert np.argwhere(hot).tolist() == [[2, 4], [2, 5]]


def test_thresholds_of_zero_are_no_gate() -> None:
    zero = GateSettings(tau_first=0, tau_least=0, tau_most=0)
    state = settled(scene(), settings=zero)
    for key_frame in (False, True):
        assert look(state, scene(), GRID, key_frame, zero).hot.all()


def test_a_state_survives_being_written_down() -> None:
    state = settled(scene())
    data = state.to_bytes()
    assert len(data) == nbytes(GRID)
    assert GateState.from_bytes(data).to_bytes() == data
