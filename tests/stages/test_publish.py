"""A track is settled once, by the label of its fifth sighting, or its last when it is gone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.results import Object, Origin, Settled
from framegate.stages.publish import GONE, KNOWN, SIGHTINGS, UNSETTLED, Tracks

Frame = Sequence[tuple[int | None, str]]


def shown(tracks: Frame, origin: Origin = "detected") -> list[Object]:
    return [Object(track, label, 2, 0.9, (0.0, 0.0, 1.0, 1.0), origin) for track, label in tracks]


def settled(frames: Sequence[Frame], origin: Origin = "detected") -> list[list[tuple[int, str]]]:
    """What each frame settles, and at last what the end does."""
    state, told = Tracks(), []
    for tracks in frames:
        new, state = state.with_those(shown(tracks, origin))
        told.append(new)
    told.append(state.ended()[0])
    return [[(one.track, one.label) for one in new] for new in told]


def test_the_label_at_the_fifth_sighting_counts() -> None:
    frames = [[(1, "truck")]] * 3 + [[(1, "car"), (None, "dog")]] * 4 + [[(1, "bus")]]
    assert settled(frames) == [[], [], [], [], [(1, "car")], [], [], [], []]


def test_a_carried_box_is_no_sighting_and_the_end_settles() -> None:
    assert settled([[(1, "car")]] * 9, "carried") == [[]] * 9 + [[(1, "car")]]


def test_what_is_gone_is_settled_by_the_label_that_it_had_last() -> None:
    frames: list[Frame] = [[(7, "truck")], [(7, "car")]]
    assert settled(frames + [[]] * GONE) == [[]] * (2 + GONE) + [[(7, "car")]]
    assert settled(frames + [[]] * (GONE + 1)) == [[]] * (2 + GONE) + [[(7, "car")], []]
    back = [*frames, *[[]] * GONE, [(7, "bus")]]
    assert settled(back) == [[]] * (3 + GONE) + [[(7, "bus")]]


def test_one_that_is_shown_later_than_younger_ones_counts() -> None:
    frames: list[Frame] = [[(3, "car")]] * SIGHTINGS + [[(1, "car")]] * SIGHTINGS
    assert [one for told in settled(frames) for one in told] == [(3, "car"), (1, "car")]


FRAMES = st.lists(
    st.lists(
        st.tuples(st.integers(1, KNOWN), st.sampled_from(["car", "van", "bus"])),
        max_size=8,
        unique_by=lambda one: one[0],
    ),
    max_size=60,
)


@given(FRAMES)
def test_each_is_settled_once_with_a_label_that_it_had(frames: list[Frame]) -> None:
    told = [one for new in settled(frames) for one in new]
    had = {(track, label) for frame in frames for track, label in frame}
    assert sorted(track for track, _ in told) == sorted({track for track, _ in had})
    assert set(told) <= had


@given(st.lists(st.lists(st.integers(1, 10_000), max_size=99, unique=True), max_size=60))
def test_none_is_settled_twice_and_what_is_kept_is_small(frames: list[list[int]]) -> None:
    state, told = Tracks(), list[Settled]()
    for tracks in frames:
        new, state = state.with_those(shown([(track, "car") for track in tracks]))
        told += new
        assert len(state.begun) <= KNOWN // 8
        assert len(state.unsettled) <= UNSETTLED
    told += state.ended()[0]
    assert len(told) == len({one.track for one in told})


@given(FRAMES, st.integers(0, 60))
def test_who_goes_on_from_what_is_stored_settles_the_same(frames: list[Frame], at: int) -> None:
    state, told = Tracks(), []
    for number, tracks in enumerate(frames):
        if number == at:
            state = records.decode(records.encode(state), Tracks)
        new, state = state.with_those(shown(tracks))
        told.append([(one.track, one.label) for one in new])
    assert told == settled(frames)[:-1]


def test_the_states_of_older_framegates_are_read() -> None:
    """One had none, which is an empty map; a later one had no tracks that wait: folders go on."""
    assert records.decode(records.encode({}), Tracks) == Tracks()
    before = {"highest": 3, "begun": b"\x07"}
    assert records.decode(records.encode(before), Tracks) == Tracks(3, b"\x07")
    assert msgspec.to_builtins(Tracks(3, b"\x07"), builtin_types=[bytes]) == before
