"""The ladder's policy: nested, slow to fall, never flapping, the same after a restart."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models import ladder
from models.boxes import Boxes, empty
from models.ladder import (
    DEFAULT,
    Choice,
    LadderSettings,
    LadderState,
    LadderStateUnreadable,
    RungsUnordered,
)

SIZE = (416, 312)
PAIR = LadderSettings(rungs=(208, 416), limit=0.1, half_px=16.0, octaves=1.0)


def squares(*sides: float, score: float = 0.9, class_id: int = 0) -> Boxes:
    xyxy = np.array([[10, 10, 10 + side, 10 + side] for side in sides], np.float32)
    n = len(sides)
    return Boxes(xyxy.reshape(-1, 4), np.full(n, score, np.float32), np.full(n, class_id, np.int32))


def watched(scenes: list[Boxes], settings: LadderSettings = DEFAULT) -> list[Choice]:
    """What is chosen for frames that every rung sees alike."""
    state, choices = ladder.at_start(settings), []
    for boxes in scenes:
        choice = ladder.choose(state)
        choices.append(choice)
        largest = boxes if choice.probe else None
        state = ladder.after(state, choice, boxes, largest, SIZE, settings)
    return choices


objects = st.lists(st.floats(4, 300), min_size=1, max_size=8)
scores = st.floats(0.0625, 0.9375, width=32)
unit = st.floats(0, 1, width=32)


@st.composite
def losing(draw: st.DrawFn) -> tuple[float, ...]:
    """Losses of five rungs, as `ladder.losses` gives them."""
    falling = sorted(draw(st.lists(unit, min_size=4, max_size=4)), reverse=True)
    return (*falling, 0.0)


@st.composite
def states(draw: st.DrawFn) -> LadderState:
    n = len(DEFAULT.rungs)
    values = st.tuples(*[st.floats(0, 1e6, width=32)] * n)
    return LadderState(
        draw(st.integers(0, n - 1)),
        draw(st.integers(0, 1)),
        draw(st.integers(0, 0xFFFF)),
        draw(st.floats(1, 32, width=32)),
        draw(values),
        draw(values),
        draw(values),
    )


def test_one_object_by_hand() -> None:
    # 32 px of a picture 416 wide: 16 px at 208, 32 px at 416. With half of all found at 16 px and a
    # logistic curve an octave wide the chances are 1/2 and 1 / (1 + e**-1) = .7311.
    finds = ladder.expected_finds(squares(32), SIZE, PAIR)
    np.testing.assert_allclose(finds, [0.5, 1 / (1 + math.exp(-1))])
    none = (0.0, 0.0)
    # A recall of .501 / .7321 = .6844 in parts of the largest one's: a loss of .3156 / 1.6844.
    lost = ladder.losses((finds[0], finds[1]), none, none, PAIR)
    assert lost == pytest.approx((0.1874, 0.0), abs=1e-4)
    assert ladder.needed(lost, 0.1) == 1
    assert ladder.needed(lost, 0.2) == 0


def test_what_the_largest_is_hardly_sure_of_counts_less() -> None:
    sure = ladder.expected_finds(squares(32), SIZE, PAIR)
    unsure = ladder.expected_finds(squares(32, score=0.31 + 0.075), SIZE, PAIR)
    np.testing.assert_allclose(unsure, sure / 2, rtol=1e-5)


def test_nothing_seen_needs_the_lowest_rung_after_two_probes() -> None:
    choices = watched([empty()] * 6)
    assert [choice.rung for choice in choices] == [4, 4, 4, 4, 4, 0]
    assert [choice.probe for choice in choices] == [True, False, False, False, True, False]


def test_a_rise_takes_one_probe() -> None:
    state = replace(ladder.at_start(), rung=0)
    choice = ladder.choose(state)
    assert choice == Choice(0, True)
    small = squares(*[14] * 5)
    assert ladder.after(state, choice, empty(), small, SIZE).rung >= 3


def test_what_a_rung_misses_of_large_objects_counts_against_it_and_those_below() -> None:
    state = replace(ladder.at_start(), rung=1)
    choice = Choice(1, True)
    large = squares(*[150] * 4)
    found = ladder.after(state, choice, large, large, SIZE)
    missed = ladder.after(state, choice, empty(), large, SIZE)
    of_another_class = ladder.after(state, choice, squares(150, class_id=7), large, SIZE)
    assert found.rung <= 1
    assert missed.rung == of_another_class.rung == 2
    assert missed.missed[1] == missed.sure[1] == 4
    lost = ladder.losses(missed.finds, missed.sure, missed.missed, DEFAULT)
    assert lost[0] == pytest.approx(lost[1]) == pytest.approx(1 / 3)  # recall 1 - 4 / (4 + 4)


def test_between_probes_only_the_waiting_goes_down() -> None:
    state = replace(ladder.at_start(), wait=3, rung=2)
    after = ladder.after(state, ladder.choose(state), squares(5), None, SIZE)
    assert after == replace(state, wait=2)


def test_a_probe_needs_what_the_largest_rung_found() -> None:
    state = ladder.at_start()
    with pytest.raises(ValueError, match="largest"):
        ladder.after(state, ladder.choose(state), empty(), None, SIZE)


def test_gaps_between_probes_grow_to_their_bound() -> None:
    probes = [n for n, choice in enumerate(watched([empty()] * 200)) if choice.probe]
    gaps = np.diff(probes).tolist()
    assert gaps[:4] == [4, 6, 9, 13]
    assert gaps == sorted(gaps)
    assert gaps[-1] == DEFAULT.most


@given(losing(), losing(), unit)
def test_what_is_harder_never_needs_a_lower_rung(
    some: tuple[float, ...], others: tuple[float, ...], limit: float
) -> None:
    harder = tuple(map(max, some, others))
    assert ladder.needed(harder, limit) >= ladder.needed(some, limit)


@given(st.floats(8, 400), st.floats(8, 400), st.integers(1, 5))
def test_smaller_objects_never_need_a_lower_rung(one: float, other: float, n: int) -> None:
    none = (0.0,) * len(DEFAULT.rungs)

    def rung(side: float) -> int:
        finds = ladder.expected_finds(squares(*[side] * n), SIZE, DEFAULT)
        return ladder.needed(ladder.losses(tuple(finds), none, none, DEFAULT), DEFAULT.limit)

    assert rung(min(one, other)) >= rung(max(one, other))


@given(states(), objects, scores)
def test_losses_never_grow_with_the_rung(
    state: LadderState, sides: list[float], score: float
) -> None:
    finds = ladder.expected_finds(squares(*sides, score=score), SIZE, DEFAULT)
    missed = tuple(map(min, state.missed, state.sure))
    lost = ladder.losses(tuple(finds), state.sure, missed, DEFAULT)
    assert all(a >= b for a, b in itertools.pairwise(lost))
    assert lost[-1] == 0
    assert all(0 <= one <= 1 for one in lost)


@example([4.0], 0.3125)
@given(objects, scores)
def test_a_scene_that_stays_never_flaps(sides: list[float], score: float) -> None:
    """Down once, and back once where what is barely seen shows that it was too far."""
    rungs = [choice.rung for choice in watched([squares(*sides, score=score)] * 400)]
    moves = np.count_nonzero(np.diff(rungs))
    assert moves <= 2


@given(st.lists(st.tuples(objects, scores), min_size=1, max_size=60))
def test_every_choice_is_a_rung_and_probes_come_in_time(
    scenes: list[tuple[list[float], float]],
) -> None:
    choices = watched([squares(*sides, score=score) for sides, score in scenes])
    assert choices[0] == Choice(DEFAULT.top, True)
    assert all(0 <= choice.rung <= DEFAULT.top for choice in choices)
    probes = [n for n, choice in enumerate(choices) if choice.probe]
    assert all(gap <= DEFAULT.most for gap in np.diff(probes))
    changed = np.flatnonzero(np.diff([choice.rung for choice in choices]))
    assert set(changed.tolist()) <= set(probes)


@given(states())
def test_state_round_trip(state: LadderState) -> None:
    data = state.to_bytes()
    assert len(data) == 10 + 12 * len(DEFAULT.rungs)
    assert LadderState.from_bytes(data) == state


@given(st.lists(st.tuples(objects, scores), min_size=1, max_size=40))
def test_a_stored_state_goes_on_to_the_same_bits(
    scenes: list[tuple[list[float], float]],
) -> None:
    kept = stored = ladder.at_start()
    for sides, score in scenes:
        boxes = squares(*sides, score=score)
        choice = ladder.choose(kept)
        kept = ladder.after(kept, choice, boxes, boxes, SIZE)
        stored = LadderState.from_bytes(stored.to_bytes())
        stored = ladder.after(stored, ladder.choose(stored), boxes, boxes, SIZE)
        assert stored == kept


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ladder.at_start().to_bytes()[:-1],
        b"\2" + ladder.at_start().to_bytes()[1:],
        b"\1\3" + ladder.at_start(PAIR).to_bytes()[2:],
        ladder.at_start().to_bytes()[:2] + b"\5" + ladder.at_start().to_bytes()[3:],
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(LadderStateUnreadable):
        LadderState.from_bytes(data)


@pytest.mark.parametrize("rungs", [(), (416,), (416, 224), (224, 224), (0, 32), (*range(1, 10),)])
def test_rungs_that_are_no_ladder_are_refused(rungs: tuple[int, ...]) -> None:
    with pytest.raises(RungsUnordered):
        LadderSettings(rungs=rungs)


def test_gaps_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="most"):
        LadderSettings(first=9, most=8)
