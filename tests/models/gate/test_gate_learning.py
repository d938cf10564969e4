"""Thresholds follow what triggers for nothing, where it does, and forget."""

from __future__ import annotations

import numpy as np
import pytest

from framegate.models.boxes import BoolArray
from framegate.models.gate.changed_tiles import inferred, look, sensitivity
from framegate.models.gate.settings import DEFAULT
from framegate.models.gate.state import GateState
from tests.support.gate_scenes import ALL, GRID, NONE, changed, scene, settled, tile


def fire(state: GateState, at: tuple[int, int], found: bool, looks: int = 1) -> GateState:
    """A change by 60 levels in one tile, looked at once, after some looks at nothing."""
    for _ in range(looks - 1):
        state = look(state, scene(), GRID, False).state
    after = changed(scene(), 0, 4 * at[0], 4 * at[1], 60)
    change = look(state, after, GRID, False)
    assert (change.hot == tile(*at)).all()
    state = inferred(change.state, after, change.hot, change.hot & found)
    change = look(state, scene(), GRID, False)
    return inferred(change.state, scene(), change.hot, change.hot)


def test_a_tile_learns_from_what_was_empty_and_only_it() -> None:
    state = settled(scene())
    before = sensitivity(state)[2, 5]
    found = fire(state, (2, 5), found=True)
    assert sensitivity(found).max() <= before
    empty = fire(state, (2, 5), found=False)
    assert sensitivity(empty)[2, 5] == pytest.approx(before * np.exp(DEFAULT.eta), rel=0.01)
    assert (np.delete(sensitivity(empty).ravel(), 45) <= before).all()
    for _ in range(10):
        empty = fire(empty, (2, 5), found=False)
    assert sensitivity(empty)[2, 5] == pytest.approx(DEFAULT.tau_most, rel=1e-3)


def test_the_picture_learns_from_lonely_triggers_near_the_threshold() -> None:
    def stir(occupied: BoolArray | None, wide: int = 1) -> float:
        state = settled(scene())
        for number in range(8):
            after = scene()
            for column in range(2 * number, 2 * number + wide):
                after = changed(after, 0, 8, 4 * column, 14)
            for _ in range(2):
                change = look(state, after, GRID, False)
                state = change.state
            state = inferred(state, after, change.hot, NONE, occupied=occupied)
            state = inferred(look(state, scene(), GRID, False).state, scene(), ALL, ALL)
        return float(sensitivity(state)[11, 19])

    assert stir(None) > DEFAULT.tau_first * 1.1
    assert stir(ALL) <= DEFAULT.tau_first
    assert stir(None, wide=2) <= DEFAULT.tau_first


def test_thresholds_sink_with_time_as_the_budget_allows() -> None:
    state = settled(scene(), looks=0)
    for _ in range(4):
        for _ in range(50):
            state = look(state, scene(), GRID, False).state
        state = inferred(state, scene(), tile(0, 0), NONE)
    sunk = np.exp(-DEFAULT.floor_eta * DEFAULT.false_triggers / 2 * 200)
    assert sensitivity(state).max() == pytest.approx(DEFAULT.tau_first * sunk, rel=1e-3)
