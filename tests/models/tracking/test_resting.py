"""A number stays with its thing: an object at rest is recognised by its place only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from framegate.models.boxes import Boxes
from framegate.models.tracking.bytetrack import TrackSettings, step
from framegate.models.tracking.resting import is_resting, settled
from framegate.models.tracking.track_state import TrackState, no_tracks

PARKED = TrackSettings(high=0.4, low=0.2, start=0.4, rest_s=0.6)
WIDTH, HEIGHT = 25.0, 15.0
RATE = 10  # frames per second


def cars(*lefts: float) -> Boxes:
    """Return cars of one row, 25 by 15 pixels."""
    xyxy = np.array([(left, 10, left + WIDTH, 10 + HEIGHT) for left in lefts], np.float32)
    n = len(lefts)
    return Boxes(xyxy.reshape(n, 4), np.full(n, 0.5, np.float32), np.full(n, 2, np.int32))


def parked(jitter: float, seconds: float, chosen: TrackSettings = PARKED) -> tuple[TrackState, int]:
    """Return the state after a car whose box shakes, and the number of frames."""
    noise = np.random.default_rng(3)
    state = no_tracks()
    frames = round(seconds * RATE)
    for frame in range(frames):
        left = 100 + noise.uniform(-jitter, jitter)
        state, _ = step(state, cars(left), frame / RATE, chosen)
    return state, frames


def numbers(state: TrackState, lefts: list[float], frame: int, chosen: TrackSettings) -> list[int]:
    """Return the numbers of boxes that are there twice, so that a new track gets its number."""
    state, _ = step(state, cars(*lefts), frame / RATE, chosen)
    _, ids = step(state, cars(*lefts), (frame + 1) / RATE, chosen)
    return ids.tolist()


@pytest.mark.parametrize("away", [15.0, 22.0, 40.0])
@pytest.mark.parametrize("missed", [1, 5, 9])
def test_the_next_parked_car_does_not_get_the_number(away: float, missed: int) -> None:
    state, frame = parked(2.0, 3.0)
    for _ in range(missed):
        state, _ = step(state, cars(), frame / RATE, PARKED)
        frame += 1
    assert numbers(state, [100 + away], frame, PARKED) == [2]


@pytest.mark.parametrize("missed", [1, 5, 9])
def test_a_car_keeps_its_number_while_it_is_not_detected(missed: int) -> None:
    """Its neighbour is there all the time, and does not take the number."""
    state, frame = parked(2.0, 3.0)
    for _ in range(missed):
        state, _ = step(state, cars(122.0), frame / RATE, PARKED)
        frame += 1
    assert numbers(state, [100.0, 122.0], frame, PARKED) == [1, 2]


def test_a_car_that_drives_off_keeps_its_number() -> None:
    """It gains 2 pixels per frame in each frame, up to 10."""
    state, frame = parked(1.0, 3.0)
    left, speed = 100.0, 0.0
    for _ in range(20):
        speed = min(speed + 2, 10)
        left += speed
        state, ids = step(state, cars(left), frame / RATE, PARKED)
        frame += 1
        assert ids.tolist() == [1]


def test_an_object_at_rest_has_no_speed() -> None:
    state, _ = parked(2.0, 3.0)
    assert not state.mean[:, 4:].any()
    without, _ = parked(2.0, 3.0, replace(PARKED, rest_s=None))
    assert without.mean[:, 4:].any()


def test_a_place_follows_slowly_and_begins_where_an_object_has_gone() -> None:
    place = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    box = np.array([[1, 0, 11, 10], [6, 0, 16, 10]], np.float32)
    after, since = settled(place, np.array([3.0, 3.0]), box, 7.0)
    assert after.tolist() == [[0.1, 0, 10.1, 10], [6, 0, 16, 10]]
    assert since.tolist() == [3, 7]


def test_who_is_at_rest() -> None:
    """Seen last at 9, 9.5 and 10 s; there from 8.25, 9 and 9.5 s on."""
    since, lost = np.array([8.25, 9.0, 9.5]), np.array([1.0, 0.5, 0.0])
    assert is_resting(since, lost, 10.0, 0.6).tolist() == [True, False, False]
    assert not is_resting(since, lost, 10.0, None).any()
    assert not is_resting(since, lost, None, 0.6).any()


def test_a_state_without_places_is_read() -> None:
    """The version before wrote 68 bytes a track, the same columns first."""
    state, _ = parked(2.0, 1.0)
    data = state.to_bytes()
    older = TrackState.from_bytes(b"\x03" + data[1 : 15 + 68 * len(state)])
    assert older.ids.tolist() == state.ids.tolist()
    assert older.place.tolist() == older.mean[:, :4].tolist()
    assert older.rest_from.tolist() == [state.pts]
