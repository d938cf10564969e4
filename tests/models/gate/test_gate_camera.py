"""A camera whose exposure changes, or that moves, is told from what happens before it."""

from __future__ import annotations

import numpy as np
import pytest

from framegate.models.gate.cells import Cells, planes
from framegate.models.gate.changed_tiles import inferred, look, sensitivity
from framegate.models.gate.state import GateState
from tests.support.gate_scenes import ALL, GRID, NONE, changed, scene, settled, tile


@pytest.mark.parametrize(("gain", "shift"), [(1, 6), (1, -5), (1.04, 0), (0.96, 3)])
def test_a_small_change_of_exposure_is_compensated(gain: float, shift: float) -> None:
    now = scene(gain=gain, shift=shift)
    state = settled(scene())
    for _ in range(3):
        change = look(state, now, GRID, False)
        assert not change.exposure
        assert not change.hot.any()
        state = change.state
    assert sensitivity(state).max() > sensitivity(settled(scene())).max()
    after = changed(now, 0, 11, 23, 40)
    seen = look(state, after, GRID, False)
    assert (seen.hot == tile(2, 5)).all()
    state = inferred(seen.state, after, tile(2, 5), NONE)  # a part, in the new exposure
    assert not look(state, after, GRID, False).hot.any()
    back = changed(scene(), 0, 11, 23, 40)
    for _ in range(2):
        change = look(state, back, GRID, False)
        assert not change.hot.any()
        state = change.state


@pytest.mark.parametrize(("gain", "shift"), [(1, 9), (1, -12), (1.1, 0), (0.9, 2)])
def test_a_large_one_asks_for_a_whole_pass_until_it_is_made(gain: float, shift: float) -> None:
    now = scene(gain=gain, shift=shift)
    change = look(settled(scene()), now, GRID, False)
    assert change.exposure
    assert look(change.state, now, GRID, False).exposure
    state = inferred(change.state, now, ALL, NONE)
    assert not look(state, now, GRID, False).exposure
    assert not look(state, now, GRID, False).hot.any()


def test_half_a_new_picture_is_no_change_of_exposure() -> None:
    half = scene().levels.copy()
    for new, plane in zip(planes(half, GRID), planes(scene(shift=30).levels, GRID), strict=True):
        new[:, : new.shape[1] * 2 // 5] = plane[:, : new.shape[1] * 2 // 5]
    change = look(settled(scene()), Cells(GRID, half), GRID, False)
    assert not change.exposure
    assert (change.hot == (ALL & (np.arange(20) < 8))).all()


def drive(state: GateState, seeds: list[int]) -> tuple[list[bool], GateState]:
    """Whole passes over pictures of these seeds; where the camera was said to move."""
    said = []
    for seed in seeds:
        change = look(state, scene(seed), GRID, False)
        said.append(change.moving)
        state = inferred(change.state, scene(seed), ALL, ALL)
    return said, state


def test_a_moving_camera_is_recognised_and_its_rest_too() -> None:
    said, state = drive(settled(scene()), [1, 2, 3, 4, 4, 5])
    assert said == [False, False, True, True, True, True]
    said, _ = drive(state, [5] * 6)
    assert said == [True] * 4 + [False] * 2
    cut, _ = drive(settled(scene()), [1, 1, 1, 2, 2])
    assert not any(cut)


def driven_past(camera: bool) -> list[bool]:
    """Half the picture is plain; the other half passes by, or a large thing on it does."""
    still = scene().levels.copy()
    planes(still, GRID)[0][: GRID.luma[0] // 2] = 120
    state, said = settled(Cells(GRID, still)), []
    for number in range(1, 9):
        levels = still.copy()
        luma = planes(levels, GRID)[0]
        if camera:
            luma[24:] = np.roll(luma[24:], number, axis=1)
        else:
            luma[:24, 4 * number : 4 * number + 40] = luma[24:, :40]
        change = look(state, Cells(GRID, levels), GRID, False)
        state = inferred(change.state, Cells(GRID, levels), change.hot, change.hot)
        said.append(change.moving)
    return said


def test_the_sky_does_not_hide_a_moving_camera_nor_is_a_passing_lorry_one() -> None:
    assert driven_past(camera=True) == [False] * 2 + [True] * 6
    assert driven_past(camera=False) == [False] * 8
