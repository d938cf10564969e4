"""The calm rule: what it shows, what it remembers, and that its state survives being written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.models.boxes import Boxes
from framegate.models.tracking.calm import (
    CalmSettings,
    CalmState,
    CalmStateUnreadable,
    candidate_score,
    least_of_candidates,
    not_calmed,
    step,
    sure_score,
)
from framegate.models.tracking.score_thresholds import CALM, TRACKS, settings_for

PLAIN = CalmSettings(shown=0.3, kept=0.3, candidate=0.2, first=0.0, looks=4)
Frame = tuple[Boxes, np.ndarray, np.ndarray]
Row = tuple[int, float, int, float]


def frame(*rows: Row, looked: bool = True) -> Frame:
    """Squares of 10 px: track, left, class, score."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    left, zero = table[:, 1], np.zeros(len(table))
    found = Boxes(
        np.stack([left, zero, left + 10, zero + 10], axis=1).astype(np.float32),
        table[:, 3].astype(np.float32),
        table[:, 2].astype(np.int32),
    )
    return found, table[:, 0].astype(np.int32), np.full(len(table), looked)


def show(frames: list[Frame], chosen: CalmSettings = PLAIN) -> list[list[tuple[int, int, float]]]:
    """Row, class and score of what is shown of each frame, ten frames a second."""
    state, shown = not_calmed(), []
    for number, (found, ids, looked) in enumerate(frames):
        state, boxes, rows = step(state, found, ids, looked, number / 10, chosen)
        np.testing.assert_array_equal(boxes.xyxy, found.xyxy[rows])
        scores = np.round(boxes.scores.astype(float), 4).tolist()
        shown.append(list(zip(rows.tolist(), boxes.class_ids.tolist(), scores, strict=True)))
    return shown


def scores_shown(*scores: float) -> list[float | None]:
    """Scores of one standing object with these scores, None where it is not shown."""
    answers = show([frame((1, 0.0, 2, score)) for score in scores])
    return [rows[0][2] if rows else None for rows in answers]


def test_a_first_look_stands_for_itself() -> None:
    assert show([frame((0, 0.0, 3, 0.29), (7, 50.0, 4, 0.31))]) == [[(1, 4, 0.31)]]


def test_an_object_is_shown_by_the_mean_of_its_looks() -> None:
    """Means .4, .3 (not above), .3333, .35; from the fifth on each look is a quarter."""
    assert scores_shown(0.4, 0.2, 0.4, 0.4) == [0.4, None, 0.3333, 0.35]
    assert scores_shown(0.8, 0.8, 0.8, 0.8, 0.4, 0.4)[4:] == [0.7, 0.625]


KEPT = replace(PLAIN, kept=0.25)


def test_a_published_track_stays_above_the_lower_threshold() -> None:
    """Means .4, .3, .28, .255, .2412, .2559, .2669, .3502: once gone, it must appear again."""
    scores = (0.4, 0.2, 0.24, 0.18, 0.2, 0.3, 0.3, 0.6)
    answers = show([frame((1, 0.0, 2, score)) for score in scores], KEPT)
    means = [rows[0][2] if rows else None for rows in answers]
    assert means == pytest.approx([0.4, 0.3, 0.28, 0.255, None, None, None, 0.3502], abs=1e-4)


def test_a_score_between_the_thresholds_never_makes_an_object_appear() -> None:
    assert show([frame((1, 0.0, 2, 0.29))] * 9, KEPT) == [[]] * 9


def test_without_a_track_the_lower_threshold_keeps_nothing() -> None:
    seen = [frame((1, 0.0, 2, 0.4)), frame((0, 0.0, 2, 0.16)), frame((1, 0.0, 2, 0.28))]
    assert show(seen, KEPT) == [[(0, 2, 0.4)], [], []]


@pytest.mark.parametrize(("left", "rows"), [(4.0, [0]), (6.0, [0, 1])])
def test_a_box_on_another_object_needs_the_upper_threshold(left: float, rows: list[int]) -> None:
    """Of 10 px it shares six tenths with the other at 4 px, and four tenths at 6 px."""
    before = frame((1, 0.0, 2, 0.8), (2, left, 2, 0.32))
    after = frame((1, 0.0, 2, 0.8), (2, left, 2, 0.24))
    shown = [[row for row, _, _ in objects] for objects in show([before, after], KEPT)]
    assert shown == [[0, 1], rows]


def test_a_class_has_its_own_two_thresholds() -> None:
    own = replace(KEPT, own=((2, 0.5, 0.45),))
    rows = frame((1, 0.0, 2, 0.6), (2, 40.0, 3, 0.4)), frame((1, 0.0, 2, 0.26), (2, 40.0, 3, 0.2))
    assert [[row for row, _, _ in shown] for shown in show([*rows], own)] == [[0, 1], [1]]


def test_candidates_begin_no_mean() -> None:
    """What was never above the threshold does not hold an object down that rises above it."""
    assert scores_shown(0.2, 0.2, 0.32) == [None, None, 0.32]


def test_a_look_without_a_candidate_changes_no_mean() -> None:
    here = frame((1, 0.0, 2, 0.5))
    assert show([here, frame(), frame((1, 0.0, 2, 0.2))])[1:] == [[], [(0, 2, 0.35)]]


@pytest.mark.parametrize(("average", "shown"), [(0.32, True), (0.28, False)])
def test_a_score_near_the_threshold_stays_on_its_side(average: float, shown: bool) -> None:
    """Give or take .04, it crosses .3 all the time."""
    scores = np.random.default_rng(4).normal(average, 0.04, 400)
    frames = [frame((1, 0.0, 2, score)) for score in scores]
    here = np.array([bool(rows) for rows in show(frames, replace(PLAIN, looks=16))])
    assert np.count_nonzero(np.diff(scores > PLAIN.shown)) > 100
    assert np.count_nonzero(np.diff(here)) < 20
    assert np.mean(here == shown) > 0.9


def test_a_weak_first_look_needs_a_second() -> None:
    """Carrying it along is no look; a strong one is shown at once."""
    chosen = replace(PLAIN, first=0.05)
    weak, carried = frame((0, 0.0, 2, 0.34)), frame((0, 0.0, 2, 0.34), looked=False)
    again = frame((1, 0.0, 2, 0.34))
    assert show([weak, carried, carried, again], chosen) == [[], [], [], [(0, 2, 0.34)]]
    assert show([frame((0, 0.0, 2, 0.36))], chosen) == [[(0, 2, 0.36)]]


def test_a_sure_score_publishes_a_first_look_and_a_score_of_a_user_has_none() -> None:
    calm, _ = settings_for(0.39)
    sure = sure_score(2, calm)
    assert show([frame((0, 0.0, 2, sure + 0.001))], calm)[0]
    assert not show([frame((0, 0.0, 2, sure - 0.001))], calm)[0]
    assert sure_score(2, settings_for(0.39, exactly=True)[0]) == 0


def test_a_class_has_a_sure_score_of_its_own() -> None:
    """A user has set the lowest score of class 1; that of class 2 is from the model."""
    chosen = replace(PLAIN, kept=0.27, first=0.05, own=((1, 0.41, 0.41), (2, 0.6, 0.54)))
    assert sure_score(1, chosen) == 0
    assert sure_score(2, chosen) == pytest.approx(0.65)
    assert sure_score(3, chosen) == pytest.approx(PLAIN.shown + 0.05)


def test_a_carried_box_is_no_evidence() -> None:
    carried = [frame((0, 0.0, 2, 0.2), looked=False)] * 5
    shown = show([frame((0, 0.0, 2, 0.5)), *carried, frame((1, 0.0, 2, 0.3))])
    assert shown == [[(0, 2, 0.5)]] * 6 + [[(0, 2, 0.4)]]


def test_of_two_boxes_of_one_thing_the_surer_is_shown() -> None:
    assert show([frame((0, 0.0, 7, 0.32), (0, 1.0, 2, 0.6))]) == [[(1, 2, 0.6)]]


def test_after_its_first_look_what_has_no_track_is_not_shown() -> None:
    assert show([frame((0, 0.0, 2, 0.6))] * 2) == [[(0, 2, 0.6)], []]


def test_what_is_taken_for_something_else_now_is_still_one_object() -> None:
    assert show([frame((0, 0.0, 2, 0.6)), frame((1, 0.0, 7, 0.4))])[1] == [(0, 7, 0.5)]


def test_an_object_is_known_again_by_its_track_before_its_place() -> None:
    """They have changed places; by its place, the first would have kept the high mean: .5."""
    before = frame((1, 0.0, 2, 0.6), (2, 5.0, 2, 0.4))
    swapped = frame((2, 0.0, 2, 0.4), (1, 5.0, 2, 0.4))
    mean = pytest.approx(0.4 + 0.2 * 1 / 10, abs=1e-4)
    assert show([before, swapped])[1] == [(1, 2, mean), (0, 2, 0.4)]


@pytest.mark.parametrize(("left", "mean"), [(4.0, 0.4 + 0.2 * 9 / 58), (5.0, 0.4)])
def test_without_a_track_an_object_is_known_again_by_its_place(left: float, mean: float) -> None:
    """Overlap 6 / 14 is above .4, and the look before weighs 9 / 49; 5 / 15 is not."""
    moved = show([frame((0, 0.0, 2, 0.6)), frame((1, left, 2, 0.4))])[1]
    assert moved == [(0, 2, pytest.approx(mean, abs=1e-4))]


def test_with_a_track_a_look_that_overlaps_nothing_stands_for_itself() -> None:
    assert show([frame((1, 0.0, 2, 0.6)), frame((1, 50.0, 2, 0.4))])[1] == [(0, 2, 0.4)]


@pytest.mark.parametrize(("away_s", "mean"), [(0.9, 0.5), (1.0, 0.5), (1.1, 0.4)])
def test_objects_are_forgotten_with_time(away_s: float, mean: float) -> None:
    found, ids, looked = frame((1, 0.0, 2, 0.6))
    state, _, _ = step(not_calmed(), found, ids, looked, 7.0, PLAIN)
    state, _, _ = step(state, *frame(), 7.0 + away_s / 2, PLAIN)
    found, ids, looked = frame((1, 0.0, 2, 0.4))
    _, boxes, _ = step(state, found, ids, looked, 7.0 + away_s, PLAIN)
    assert boxes.scores.tolist() == [pytest.approx(mean)]


def test_the_state_is_bounded() -> None:
    state = not_calmed()
    for number in range(8):
        rows = [(0, 20.0 * (100 * number + i), 2, 0.9) for i in range(100)]
        state, _, _ = step(state, *frame(*rows), number / 10)
    assert len(state) == 512
    assert (state.lost_s == 0).sum() == 100
    assert len(state.to_bytes()) == 11 + 33 * 512


def test_settings_follow_the_detector() -> None:
    rule, tracks = settings_for(0.42)
    assert (rule.shown, rule.candidate) == pytest.approx((CALM.shown, CALM.candidate))
    assert (tracks.high, tracks.start) == pytest.approx((TRACKS.high, TRACKS.start))
    for least in (0.01, 0.22, 0.5, 0.99):
        rule, tracks = settings_for(least, exactly=True)
        assert rule.candidate < rule.shown == least < rule.shown + rule.first < 1
        assert rule.candidate == tracks.low < least == tracks.high == tracks.start


placed = st.tuples(
    st.integers(0, 6), st.integers(0, 30), st.integers(0, 2), st.floats(0.2, 1.0), st.booleans()
)
tables = st.lists(
    st.lists(placed, unique_by=lambda row: row[0] or object(), max_size=4), max_size=12
)


@settings(deadline=None, max_examples=50)
@given(tables)
def test_a_state_written_and_read_goes_on_to_the_same_bits(table: list) -> None:
    kept = read = not_calmed()
    for number, rows in enumerate(table):
        found, ids, _ = frame(*(row[:4] for row in rows))
        looked = np.array([row[4] for row in rows], bool)
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


def test_a_candidate_stays_at_a_lower_score_than_it_appears_except_at_scores_of_users() -> None:
    chosen = replace(PLAIN, shown=0.4, kept=0.36, own=((2, 0.5, 0.5), (3, 0.6, 0.5)))
    least = least_of_candidates(np.array([0, 2, 3], np.int32), chosen)
    assert least.tolist() == pytest.approx([0.252, 0.5, 0.35])
    appear = [candidate_score(class_id, chosen) for class_id in (0, 3)]
    assert appear == pytest.approx([0.28, 0.42])
