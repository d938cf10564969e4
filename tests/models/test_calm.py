"""The calm rule: what it shows, what it remembers, and that its state survives being written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.boxes import Boxes
from models.calm import CalmSettings, step
from models.calm_state import CalmState, CalmStateUnreadable, not_calmed

PLAIN = CalmSettings(candidate=0.2, shown=0.3, looks=4, own=0.0)
Frame = tuple[Boxes, np.ndarray, np.ndarray]


def frame(*rows: tuple[int, int, float], looked: bool = True) -> Frame:
    """Track, class, score; each at a place of its own."""
    left = np.arange(len(rows), dtype=np.float32) * 100
    corners = np.stack([left, left * 0, left + 10, left * 0 + 10], axis=1)
    found = Boxes(
        corners,
        np.array([score for _, _, score in rows], np.float32),
        np.array([class_id for _, class_id, _ in rows], np.int32),
    )
    ids = np.array([track for track, _, _ in rows], np.int32)
    return found, ids, np.full(len(rows), looked)


def show(frames: list[Frame], chosen: CalmSettings = PLAIN) -> list[list[tuple[int, int, float]]]:
    """Track, class and score of what is shown of each frame, ten frames a second."""
    state, shown = not_calmed(), []
    for number, (found, ids, looked) in enumerate(frames):
        state, boxes, rows = step(state, found, ids, looked, number / 10, chosen)
        shown.append(
            list(
                zip(
                    ids[rows].tolist(),
                    boxes.class_ids.tolist(),
                    np.round(boxes.scores.astype(float), 4).tolist(),
                    strict=True,
                )
            )
        )
    return shown


def test_without_a_track_a_box_stands_for_itself() -> None:
    assert show([frame((0, 3, 0.31), (0, 4, 0.29))]) == [[(0, 3, 0.31)]]


def test_a_track_is_shown_by_the_mean_of_its_looks() -> None:
    """Means .4, .3 (not above), .3333, .35, and then a quarter of each new score."""
    scores = (0.4, 0.2, 0.4, 0.4, 0.15)
    shown = show([frame((1, 2, score)) for score in scores])
    assert shown == [[(1, 2, 0.4)], [], [(1, 2, 0.3333)], [(1, 2, 0.35)], []]
    assert show([frame((1, 2, score)) for score in (0.4, 0.4, 0.2)])[2] == [(1, 2, 0.3333)]


def test_a_track_that_a_look_missed_was_seen_with_score_0() -> None:
    assert show([frame((1, 2, 0.8)), frame(), frame((1, 2, 0.2))]) == [
        [(1, 2, 0.8)],
        [],
        [(1, 2, 0.3333)],
    ]


def test_a_carried_box_is_no_evidence() -> None:
    first = [frame((1, 2, 0.5)), frame((1, 2, 0.3))]
    carried = [frame((1, 2, 0.3), looked=False)] * 5
    shown = show([*first, *carried, frame((1, 2, 0.2))])
    assert shown[1:7] == [[(1, 2, 0.4)]] * 6
    assert shown[7] == [(1, 2, 0.3333)]


def test_the_class_is_the_one_with_most_of_the_score() -> None:
    """Mean scores of class 2: .6, .3, .2, .35; of class 3: 0, .25, .4333, .325."""
    frames = [frame((1, 2, 0.6)), frame((1, 3, 0.5)), frame((1, 3, 0.8)), frame((1, 2, 0.8))]
    assert [class_id for [(_, class_id, _)] in show(frames)] == [2, 2, 3, 2]


def test_of_many_classes_the_least_is_forgotten() -> None:
    frames = [frame((1, class_id, 0.5 + class_id / 100)) for class_id in range(5)]
    state = not_calmed()
    for number, (found, ids, looked) in enumerate(frames):
        state, _, _ = step(state, found, ids, looked, float(number), PLAIN)
    assert sorted(state.classes[0].tolist()) == [2, 3, 4]


def test_tracks_are_forgotten_with_time() -> None:
    state = not_calmed()
    for number in range(100):
        found, ids, looked = frame((number + 1, 2, 0.5))
        state, _, _ = step(state, found, ids, looked, number / 10, PLAIN)
    assert len(state) == 11, "those of the last second"
    assert len(state.to_bytes()) == 11 + 24 * 11


tables = st.lists(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 5), st.floats(0.2, 1.0), st.booleans()),
        unique_by=lambda row: row[0],
        max_size=4,
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(tables)
def test_a_state_written_and_read_goes_on_to_the_same_bits(table: list) -> None:
    kept = read = not_calmed()
    for number, rows in enumerate(table):
        found, ids, _ = frame(*(row[:3] for row in rows))
        looked = np.array([row[3] for row in rows], bool)
        kept, here, _ = step(kept, found, ids, looked, number / 10, PLAIN)
        read, there, _ = step(read, found, ids, looked, number / 10, PLAIN)
        assert here.scores.tobytes() == there.scores.tobytes()
        assert kept.to_bytes() == read.to_bytes()
        read = CalmState.from_bytes(read.to_bytes())
        assert (np.diff(here.scores) <= 0).all()
        assert (here.scores > np.float32(PLAIN.shown)).all()


def test_other_bytes_are_refused() -> None:
    whole = not_calmed().to_bytes()
    for data in (b"", whole[:-1], whole + b"x", b"\x09" + whole[1:]):
        with pytest.raises(CalmStateUnreadable):
            CalmState.from_bytes(data)
