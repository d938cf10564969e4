"""A track begins once, with the first result that has it."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline import records
from framegate.pipeline.records import Object
from framegate.stages.cache import KNOWN, Tracks


def frame(tracks: Sequence[int | None]) -> list[Object]:
    return [Object(track, "car", 2, 0.9, (0.0, 0.0, 1.0, 1.0), "detected") for track in tracks]


def begun(frames: Sequence[Sequence[int | None]]) -> list[tuple[int, ...]]:
    state, told = Tracks(), []
    for tracks in frames:
        new, state = state.with_those(frame(tracks))
        told.append(new)
    return told


def test_a_track_that_is_shown_later_than_younger_ones_begins_then() -> None:
    assert begun([[1], [1, 3], [1, 3], [2, 3], [None, 1], [2]]) == [
        (1,), (3,), (), (2,), (), (),
    ]  # fmt: skip


@given(st.lists(st.lists(st.integers(1, KNOWN), max_size=8, unique=True), max_size=40))
def test_each_begins_once_whatever_their_order(frames: list[list[int]]) -> None:
    told = begun(frames)
    seen: set[int] = set()
    for tracks, new in zip(frames, told, strict=True):
        assert set(new) == set(tracks) - seen
        seen |= set(tracks)


@given(st.lists(st.integers(1, 10_000), max_size=60))
def test_none_begins_twice_and_what_is_kept_is_small(tracks: list[int]) -> None:
    state, told = Tracks(), []
    for track in tracks:
        new, state = state.with_those(frame([track]))
        told += new
        assert len(state.begun) <= KNOWN // 8
    assert len(told) == len(set(told))


def test_the_state_of_an_older_framegate_is_read() -> None:
    """It had none, which is an empty map: a folder of before goes on."""
    assert records.decode(records.encode({}), Tracks) == Tracks()
