"""What the gate sees, learns and remembers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.camera_motion import CameraMotion
from models.cells import BoolArray, Cells, grid_of, planes
from models.errors import ArrayMismatch
from models.gate import DEFAULT, GateSettings, inferred, look, sensitivity
from models.gate_state import GateState, GateStateUnreadable, nbytes

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


@pytest.mark.parametrize("key_frame", [False, True])
def test_what_is_as_it_was_is_left_alone(key_frame: bool) -> None:
    change = look(settled(scene()), scene(), GRID, key_frame)
    assert not change.hot.any()
    assert not change.moving
    assert not change.exposure


@pytest.mark.parametrize(("plane", "cell"), [(0, (11, 23)), (1, (5, 11)), (2, (5, 11))])
def test_a_large_change_is_hot_at_once_where_it_is(plane: int, cell: tuple[int, int]) -> None:
    after = changed(scene(), plane, *cell, 30)
    assert (look(settled(scene()), after, GRID, False).hot == tile(2, 5)).all()


def test_a_smaller_one_must_stay_for_a_second_look() -> None:
    after = changed(scene(), 0, 11, 23, 10)
    once = look(settled(scene()), after, GRID, False)
    assert not once.hot.any()
    assert (look(once.state, after, GRID, False).hot == tile(2, 5)).all()
    gone = look(once.state, scene(), GRID, False)
    assert not look(gone.state, after, GRID, False).hot.any()


def test_what_was_looked_at_is_known_and_the_rest_still_hot() -> None:
    after = changed(changed(scene(), 0, 11, 23, 40), 0, 30, 60, -40)
    seen = look(settled(scene()), after, GRID, False)
    assert (seen.hot == tile(2, 5) | tile(7, 15)).all()
    state = inferred(seen.state, after, tile(2, 5), NONE)
    assert (look(state, after, GRID, False).hot == tile(7, 15)).all()
    assert (look(state, scene(), GRID, False).hot == tile(2, 5)).all()


def test_ignored_tiles_are_never_hot_and_do_not_make_the_camera_move() -> None:
    state, ignored = settled(scene()), ALL & (np.arange(20) < 12)
    for seed in range(1, 8):
        other = scene(seed).levels.copy()
        for new, old in zip(planes(other, GRID), planes(scene().levels, GRID), strict=True):
            new[:, new.shape[1] * 3 // 5 :] = old[:, new.shape[1] * 3 // 5 :]
        change = look(state, Cells(GRID, other), GRID, False, ignored=ignored)
        assert not change.hot.any()
        assert not change.moving
        state = inferred(change.state, Cells(GRID, other), tile(0, 0), NONE)
    assert (sensitivity(state) <= DEFAULT.tau_first).all()
    assert not look(None, scene(), GRID, True, ignored=ALL).hot.any()


@pytest.mark.parametrize("key_frame", [False, True])
def test_thresholds_of_zero_are_no_gate(key_frame: bool) -> None:
    zero = GateSettings(tau_first=0, tau_least=0, tau_most=0)
    state = settled(scene(), settings=zero)
    for number in range(6):
        cells = scene(number % 3)
        change = look(state, cells, GRID, key_frame, zero)
        assert change.hot.all()
        assert not change.moving
        state = inferred(change.state, cells, ALL, NONE, zero)


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
    for new, plane in zip(planes(half, GRID), planes(scene(shift=20).levels, GRID), strict=True):
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
                after = changed(after, 0, 8, 4 * column, 10)
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
    for _ in range(40):
        for _ in range(50):
            state = look(state, scene(), GRID, False).state
        state = inferred(state, scene(), tile(0, 0), NONE)
    sunk = np.exp(-DEFAULT.floor_eta * DEFAULT.false_triggers / 2 * 2000)
    expected = max(DEFAULT.tau_least, DEFAULT.tau_first * sunk)
    assert sensitivity(state).max() == pytest.approx(expected, rel=1e-3)


def walk(state: GateState | None, start: int, stop: int, written: bool) -> GateState:
    for number in range(start, stop):
        rng = np.random.default_rng(number)
        cells = scene(number // 5, shift=number % 4)
        change = look(state, cells, GRID, number % 3 == 0)
        looked = change.hot & (rng.random(GRID.tiles) < 0.7)
        state = inferred(change.state, cells, looked, rng.random(GRID.tiles) < 0.5)
        if written:
            state = GateState.from_bytes(state.to_bytes())
    assert state is not None
    return state


@settings(max_examples=5, deadline=None)
@given(cut=st.integers(1, 19))
def test_a_state_is_a_function_of_what_was_seen(cut: int) -> None:
    data = walk(walk(None, 0, cut, False), cut, 20, False).to_bytes()
    assert walk(None, 0, 20, True).to_bytes() == data
    assert len(data) == nbytes(GRID)


def test_a_state_is_small() -> None:
    assert nbytes(grid_of(768, 432)) < 62_000
    assert nbytes(grid_of(1920, 1080)) < 97_000


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_states_of_any_size_survive_being_written_down(size: tuple[int, int]) -> None:
    grid = grid_of(*size)
    levels = np.random.default_rng(size).integers(0, 256, grid.cells, np.uint8)
    state = look(None, Cells(grid, levels), grid, False, replace(DEFAULT, anchor=7)).state
    motion = CameraMotion(True, 1, 2, True)
    reference = np.clip(levels.astype(int) + np.resize([7, -7, 0, 3], levels.size), 0, 255)
    state = replace(state, reference=reference.astype(np.uint8), motion=motion)
    again = GateState.from_bytes(state.to_bytes())
    assert (again.reference == state.reference).all()
    assert again.to_bytes() == state.to_bytes()


def test_faults_are_said() -> None:
    data = settled(scene()).to_bytes()
    for broken in (b"", data[:-1], b"\x63" + data[1:]):
        with pytest.raises(GateStateUnreadable):
            GateState.from_bytes(broken)
    with pytest.raises(ArrayMismatch, match="width=640"):
        look(None, scene(), grid_of(640, 360), False)
    with pytest.raises(ValueError, match="rising"):
        GateSettings(tau_first=30)
    with pytest.raises(ValueError, match="anchor: 8"):
        GateSettings(anchor=8)


def test_another_size_begins_anew() -> None:
    grid = grid_of(64, 64)
    black = Cells(grid, np.zeros(grid.cells, np.uint8))
    change = look(settled(scene()), black, grid, False)
    assert change.hot.shape == (4, 4)
    assert change.hot.all()
