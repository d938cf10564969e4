"""Law 16: one thing has one box and one name in what is published, and a track, or a reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.models.boxes import SAME, iou
from framegate.stages.detect.estimate import Estimate
from tests.support.told_source import THING, Source, picture

CAR, TRUCK = 2, 7
Thing = tuple[int, int, int, int, int, int]


def at(thing: Thing, frame: int) -> tuple[int, int, int, int]:
    """Where a thing (left, top, width, height, speeds) is; it turns at the edges."""
    left, top, wide, high, right_s, down_s = thing
    x, y = (abs((left + right_s * frame) % 800 - 400), abs((top + down_s * frame) % 400 - 200))
    return x, y, x + wide, y + high


THINGS = st.lists(
    st.tuples(
        st.integers(0, 400), st.integers(0, 200), st.integers(40, 150), st.integers(40, 150),
        st.integers(-9, 9), st.integers(-5, 5),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip
NAMES = st.lists(st.tuples(*[st.sampled_from([0, CAR, TRUCK])] * 4), min_size=24, max_size=24)


def check(told: Estimate) -> None:
    overlap = np.triu(iou(told.shown.xyxy, told.shown.xyxy), 1)
    assert (overlap <= SAME + 1e-5).all()
    tracked = told.ids[told.ids > 0].tolist()
    assert len(set(tracked)) == len(tracked)
    calm = told.memory.calm
    for box in told.shown.xyxy[told.ids == 0]:
        same = iou(box[None], calm.xyxy)[0] > SAME
        assert calm.looks[same & (calm.ids == 0)].min(initial=9) <= 1


@settings(deadline=None, max_examples=40)
@given(THINGS, NAMES, st.sampled_from(["crops", "frames", "off"]))
def test_whatever_moves_and_whatever_it_is_taken_for(
    things: Sequence[Thing], names: Sequence[tuple[int, ...]], mode: str
) -> None:
    source = Source(mode=mode)
    for frame, called in enumerate(names):
        source.names = called
        there = [at(thing, frame) for thing in things]
        _, told = source.see(picture(*there), *there)
        check(told)


@pytest.mark.parametrize("mode", ["crops", "off"])
def test_a_thing_that_is_taken_for_two_has_one_track_and_the_name_of_most_looks(mode: str) -> None:
    """Every third look says truck. It moves on, so each frame or every few are looked at."""
    source, tracks, names = Source(mode=mode), set(), []
    for frame in range(40):
        source.names = (TRUCK,) if frame % 3 == 2 else (CAR,)
        here = (100 + 4 * frame, 100, 200 + 4 * frame, 170)
        _, told = source.see(picture(here), here)
        assert len(told.shown) == 1
        tracks |= set(told.ids.tolist())
        names += told.shown.class_ids.tolist()
    assert tracks - {0} == {1}
    assert set(names[3:]) == {CAR}


def test_only_what_was_seen_once_has_no_track() -> None:
    source = Source()
    first, second = (source.see(picture(), THING)[1] for _ in range(2))
    assert (first.ids.tolist(), second.ids.tolist()) == ([0], [1])
