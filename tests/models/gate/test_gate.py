"""What the gate sees and remembers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.models.errors import ArrayMismatch
from framegate.models.gate.cells import Cells, grid_of, planes
from framegate.models.gate.changed_tiles import inferred, look, sensitivity
from framegate.models.gate.global_changes import CameraMotion
from framegate.models.gate.settings import DEFAULT, GateSettings
from framegate.models.gate.state import GateState, GateStateUnreadable, nbytes
from tests.support.gate_scenes import ALL, GRID, NONE, changed, scene, settled, tile


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
    after = changed(scene(), 0, 11, 23, 14)
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


def test_wrong_bytes_sizes_and_settings_are_refused() -> None:
    data = settled(scene()).to_bytes()
    for broken in (b"", data[:-1], b"\x63" + data[1:]):
        with pytest.raises(GateStateUnreadable):
            GateState.from_bytes(broken)
    with pytest.raises(ArrayMismatch, match="width=640"):
        look(None, scene(), grid_of(640, 360), False)
    with pytest.raises(ValueError, match="must be at least 0 and ascend"):
        GateSettings(tau_first=30)
    with pytest.raises(ValueError, match="got 8"):
        GateSettings(anchor=8)


def test_a_change_of_size_resets_the_state() -> None:
    grid = grid_of(64, 64)
    black = Cells(grid, np.zeros(grid.cells, np.uint8))
    change = look(settled(scene()), black, grid, False)
    assert change.hot.shape == (4, 4)
    assert change.hot.all()


@given(
    st.lists(st.floats(0, 260, width=32), min_size=2, max_size=2),
    st.floats(0, 24, width=32),
    st.integers(0, 7),
    st.integers(0, 255),
)
def test_whole_levels_say_what_thresholds_say(tau, floor, anchor, difference) -> None:
    grid = grid_of(16, 16)
    using = replace(DEFAULT, anchor=anchor, tau_most=260)
    state = replace(
        look(None, Cells(grid, np.zeros(grid.cells, np.uint8)), grid, True, using).state,
        tau=np.array(tau, np.float32).reshape(2, 1, 1),
        floor=(floor, floor),
    )
    hidden = np.float32(grid.rounding + anchor)
    threshold = np.maximum(np.maximum(state.tau, np.float32(floor)) - hidden, np.float32(0))
    levels = state.levels(using)
    assert ((difference >= levels.over) == (np.float32(difference) >= threshold)).all()
    assert ((difference >= levels.at_once) == (difference >= using.at_once * threshold)).all()
    assert ((difference < levels.calm) == (difference < using.calm * threshold)).all()
    assert (levels.counts == (threshold > 0)).all()


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans())
def test_a_reference_goes_a_level_a_look_towards_what_it_sees_yet_not_far(
    seed, anchor, partly
) -> None:
    """By the rule spelt out in whole numbers; levels reach both ends of their range."""
    drawn = np.random.default_rng(seed)
    using = replace(DEFAULT, anchor=anchor)
    origin = drawn.choice(np.array([0, 1, 2, 100, 253, 254, 255], np.uint8), GRID.cells)
    state = settled(Cells(GRID, origin), looks=0, settings=using)
    if partly:
        state = replace(state, age=drawn.choice(np.array([0, 7], np.uint8), GRID.tiles))
    moves = np.ones(GRID.cells, np.bool_)
    y, u, v = planes(moves, GRID)
    y[:] = np.kron(state.age < 7, np.ones((4, 4), np.bool_))
    u[:] = v[:] = np.kron(state.age < 7, np.ones((2, 2), np.bool_))
    expected = origin.astype(int)
    for _ in range(5):
        noise = drawn.integers(-3, 4, GRID.cells)
        now = np.clip(origin + noise, 0, 255).astype(np.uint8)
        change = look(state, Cells(GRID, now), GRID, False, using)
        assert change.state.exposure.same
        towards = expected + np.where(moves, np.sign(now - expected), 0)
        expected = np.clip(
            towards, np.maximum(origin.astype(int) - anchor, 0), origin.astype(int) + anchor
        )
        assert (change.state.reference == expected).all()
        state = change.state
