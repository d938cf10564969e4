"""ByteTrack gives the ids that `trackers` gives, and its state survives being written down."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from framegate.models.boxes import Boxes
from framegate.models.tracking.bytetrack import TrackSettings, coast, step
from framegate.models.tracking.track_state import StateUnreadable, TrackState, no_tracks

DATA = os.environ.get("FRAMEGATE_DATA")
TRUTH = Path(DATA or "/", "gt", "pets09-s2l1-view001-part1", "gt.txt")
# `trackers` lets a track be matched one frame after its budget of 30 frames when it counts frames.
ITS_BUDGET = TrackSettings(low=0.0, max_lost_s=31 / 30)


def boxes(rows: Iterable[Iterable[float]]) -> Boxes:
    """Rows of left, top, right, bottom, score."""
    table = np.array(list(rows), np.float32).reshape(-1, 5)
    return Boxes(table[:, :4].copy(), table[:, 4].copy(), np.zeros(len(table), np.int32))


def named(rows: Iterable[tuple[tuple[float, ...], int]]) -> Boxes:
    """Rows as `boxes` takes them, each with its class."""
    rows = list(rows)
    found = boxes(row for row, _ in rows)
    return Boxes(found.xyxy, found.scores, np.array([label for _, label in rows], np.int32))


def ids_of(frames: Iterable[Boxes], stamps: Iterable[float], chosen: TrackSettings):
    state = no_tracks()
    for found, pts in zip(frames, stamps, strict=True):
        state, ids = step(state, found, pts, chosen)
        yield ids.tolist()


def their_ids(frames: Iterable[Boxes], stamps: Iterable[float | None], rate: float = 30.0):
    """The same by `trackers`, in the order of the boxes, with 0 for none and ids from 1."""
    sv = pytest.importorskip("supervision")
    trackers = pytest.importorskip("trackers")
    tracker = trackers.ByteTrackTracker(lost_track_buffer=30, frame_rate=rate)
    for found, pts in zip(frames, stamps, strict=True):
        detections = sv.Detections(
            xyxy=found.xyxy.copy(),
            confidence=found.scores.copy(),
            data={"row": np.arange(len(found))},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tracked = tracker.update(detections, timestamp=pts)
        ids = np.zeros(len(found), int)
        if len(tracked):
            ids[tracked.data["row"]] = tracked.tracker_id + 1
        yield ids.tolist()


def walk(seed: int, objects: int = 12, frames: int = 200) -> Iterator[Boxes]:
    """Boxes that drift, cross, vanish for a while and jitter, with low scores and false alarms."""
    rng = np.random.default_rng(seed)
    field = np.array([1280.0, 720.0])
    centre, speed = rng.uniform((0, 0), field, (objects, 2)), rng.normal(0, 4, (objects, 2))
    half = rng.uniform(15, 60, (objects, 2))
    hidden = np.zeros(objects, int)
    for _ in range(frames):
        centre += speed
        speed = np.where(
            (centre < 0) | (centre > field), -speed, speed + rng.normal(0, 0.3, speed.shape)
        )
        hidden = np.where(
            hidden > 0, hidden - 1, rng.integers(1, 45, objects) * (rng.random(objects) < 0.02)
        )
        shown = (hidden == 0) & (rng.random(objects) > 0.1)
        true = np.hstack([centre - half, centre + half])[shown]
        true += rng.normal(0, 2, true.shape)
        false = rng.uniform((0, 0), field, (rng.poisson(1), 2))
        false = np.hstack([false, false + rng.uniform(10, 80, false.shape)])
        table = np.vstack([true, false])
        scores = np.concatenate(
            [rng.uniform(0.15, 1, len(true)), rng.uniform(0.1, 0.9, len(false))]
        )
        order = np.argsort(-scores)
        yield boxes(np.column_stack([table, scores])[order])


def slide(start: float, speed: float, frames: Iterable[int], score: float = 0.9):
    """{frame: row} of a box of 40x80 that moves sideways."""
    return {n: (start + speed * n, 100, start + speed * n + 40, 180, score) for n in frames}


def film(frames: int, *objects: dict[int, tuple[float, ...]]) -> list[Boxes]:
    return [boxes(row[n] for row in objects if n in row) for n in range(frames)]


@pytest.mark.parametrize("seed", range(8))
def test_ids_are_those_of_trackers_on_noise(seed):
    film_ = list(walk(seed, objects=4 + 6 * seed))
    ours = list(ids_of(film_, (n / 30 for n in range(len(film_))), ITS_BUDGET))
    assert ours == list(their_ids(film_, [None] * len(film_)))
    assert max(map(max, filter(None, ours))) > 4


@pytest.mark.parametrize("seed", range(6))
def test_ids_are_those_of_trackers_when_frames_are_dropped(seed):
    film_ = list(walk(100 + seed, objects=15))
    gaps = np.random.default_rng(seed).choice([1, 1, 1, 2, 3, 8, 35], len(film_))
    stamps = (np.cumsum(gaps) / 25).tolist()
    chosen = TrackSettings(low=0.0, frame_rate=25.0)
    assert list(ids_of(film_, stamps, chosen)) == list(their_ids(film_, stamps, 25.0))


@pytest.mark.parametrize(
    "objects",
    [
        [slide(0, 6, range(60)), slide(400, -6, range(60))],
        [slide(0, 4, [*range(20), *range(35, 60)])],
        [slide(0, 4, range(60)), slide(300, 3, range(20, 50)), slide(500, 0, range(40, 60))],
        [slide(0, 4, range(15)) | slide(0, 4, range(15, 30), 0.3) | slide(0, 4, range(30, 60))],
        [slide(0, 60, range(60))],
    ],
    ids=["crossing", "gap", "births", "low scores", "too fast to overlap"],
)
def test_ids_are_those_of_trackers_on_plain_stories(objects):
    film_ = film(60, *objects)
    ours = list(ids_of(film_, (n / 30 for n in range(60)), ITS_BUDGET))
    assert ours == list(their_ids(film_, [None] * 60))


@pytest.mark.skipif(not TRUTH.is_file(), reason="FRAMEGATE_DATA has no ground truth of PETS 2009")
@pytest.mark.parametrize("seed", range(3))
def test_ids_are_those_of_trackers_on_people(seed):
    rng = np.random.default_rng(seed)
    table = np.loadtxt(TRUTH, delimiter=",")
    film_ = []
    for n in range(1, 125):
        rows = table[(table[:, 0] == n) & (rng.random(len(table)) > 0.15)]
        xyxy = np.hstack([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]]) + rng.normal(
            0, 1.5, (len(rows), 4)
        )
        film_.append(boxes(np.column_stack([xyxy, rng.uniform(0.2, 1, len(rows))])))
    ours = list(ids_of(film_, (n / 30 for n in range(len(film_))), ITS_BUDGET))
    assert ours == list(their_ids(film_, [None] * len(film_)))


def test_a_track_gets_its_id_at_its_second_match_and_ids_count_from_one():
    film_ = film(4, slide(0, 2, range(4)), slide(300, 2, range(4)))
    assert list(ids_of(film_, range(4), TrackSettings())) == [[0, 0], [1, 2], [1, 2], [1, 2]]


@pytest.mark.parametrize(("missing_s", "same"), [(0.96, True), (1.0, True), (1.04, False)])
def test_a_track_is_found_again_within_a_second_of_pts(missing_s, same):
    here = boxes([(0, 0, 50, 50, 0.9)])
    state = no_tracks()
    for pts in (7.0, 7.04, 7.08):
        state, ids = step(state, here, pts)
    state, _ = step(state, boxes([]), 7.08 + missing_s / 2)
    state, again = step(state, here, 7.08 + missing_s)
    assert ids.tolist() == [1]
    assert (again.tolist() == [1]) is same


@pytest.mark.parametrize(("score", "expected"), [(0.59, 0), (0.69, 0), (0.71, 1)])
def test_only_high_boxes_begin_tracks(score, expected):
    here = boxes([(0, 0, 50, 50, score)])
    state, _ = step(no_tracks(), here, 0.0)
    assert step(state, here, 0.04)[1].tolist() == [expected]


@pytest.mark.parametrize(("score", "expected"), [(0.09, 0), (0.11, 1), (0.59, 1)])
def test_low_boxes_continue_tracks_from_the_floor_on(score, expected):
    state = no_tracks()
    for pts in (0.0, 0.04, 0.08):
        state, _ = step(state, boxes([(0, 0, 50, 50, 0.9)]), pts)
    assert step(state, boxes([(1, 0, 51, 50, score)]), 0.12)[1].tolist() == [expected]


RIDER, BICYCLE = (0, 0, 50, 100, 0.9), (0, 40, 50, 120, 0.8)  # their IoU is .5


@pytest.mark.parametrize(("other_iou", "expected"), [(0.6, 0), (0.1, 1)])
def test_a_bicycle_does_not_take_its_riders_track(other_iou, expected):
    chosen, state = TrackSettings(other_iou=other_iou), no_tracks()
    for n in range(3):
        state, _ = step(state, named([(RIDER, 0)]), n / 30, chosen)
    assert step(state, named([(BICYCLE, 1)]), 0.1, chosen)[1].tolist() == [expected]
    assert step(state, named([(RIDER, 1)]), 0.1, chosen)[1].tolist() == [1]


@pytest.mark.parametrize(("later_s", "expected"), [(0.04, 0), (0.12, 0), (0.2, 1)])
def test_a_number_does_not_jump_to_the_next_car_while_its_own_is_not_detected(later_s, expected):
    """The next car overlaps by a fifth: too far to be the same one so soon, but not later."""
    chosen, state = TrackSettings(soon_s=0.13, soon_iou=0.3), no_tracks()
    for n in range(3):
        state, _ = step(state, boxes([(0, 0, 30, 20, 0.9)]), n / 25, chosen)
    beside = boxes([(20, 0, 50, 20, 0.9)])
    assert step(state, beside, 0.08 + later_s, chosen)[1].tolist() == [expected]


@pytest.mark.parametrize("rate", [8, 10, 12.5, 25])
def test_a_fast_object_gets_an_id_at_its_second_box_at_any_rate(rate):
    """In each frame it moves by .8 of its width: the first two boxes overlap by .2 / 1.8 = .11."""
    chosen, state, all_ids = TrackSettings(soon_s=0.13, soon_iou=0.3), no_tracks(), []
    for n in range(6):
        state, ids = step(state, boxes([(24 * n, 0, 24 * n + 30, 60, 0.9)]), n / rate, chosen)
        all_ids += ids.tolist()
    assert all_ids == [0, 1, 1, 1, 1, 1]


def test_a_tracks_class_is_the_majority_of_its_sightings_by_score():
    """Van, truck, van, truck, truck: .6, .6 < 1.1 ... the truck leads from 1.6 over 1.5 on."""
    state, names = no_tracks(), []
    for n, (label, score) in enumerate([(2, 0.8), (7, 0.5), (2, 0.7), (7, 0.5), (7, 0.6)]):
        here = named([((0, 0, 50, 50, score), label)])
        state, ids = step(state, here, n / 30, TrackSettings(start=0.5, high=0.5))
        names.append(state.named(ids, here.class_ids).tolist())
    assert names == [[2], [2], [2], [2], [7]]
    np.testing.assert_allclose(state.votes, [[1.6, 1.5, 0]], rtol=1e-6)


def test_what_was_not_seen_has_no_vote():
    state = no_tracks()
    for n in range(3):
        state, _ = step(state, named([((0, 0, 50, 50, 0.9), 2)]), n / 30)
    carried = named([((0, 0, 50, 50, 0.9), 7)])
    for n in range(3, 9):
        state, ids = step(state, carried, n / 30, seen=np.zeros(1, bool))
    assert ids.tolist() == [1]
    assert state.named(ids, carried.class_ids).tolist() == [2]
    assert state.named(np.zeros(1, np.int32), carried.class_ids).tolist() == [7]


def test_of_many_classes_those_with_most_votes_are_kept():
    state = no_tracks()
    for n, (label, score) in enumerate([(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.9), (2, 0.8)]):
        state, _ = step(state, named([((0, 0, 50, 50, score), label)]), n / 30)
    assert state.class_ids.tolist() == [[2, 1, 4]]


@pytest.mark.parametrize("stamps", [[None] * 6, [0.0] * 6, [0.0, 0.08, 0.04, 0.16, 0.12, 0.2]])
def test_missing_standing_and_unordered_time_keep_tracks(stamps):
    film_ = film(6, slide(0, 2, range(6)))
    assert list(ids_of(film_, stamps, TrackSettings())) == [[0]] + [[1]] * 5


@pytest.mark.parametrize("pts", [None, 5.0])
@pytest.mark.parametrize("rate", [None, 30.0])
def test_lost_tracks_go_even_when_time_stands_still(pts, rate):
    chosen = TrackSettings(frame_rate=rate)
    state = no_tracks()
    for _ in range(3):
        state, _ = step(state, boxes([(0, 0, 50, 50, 0.9)]), pts, chosen)
    for _ in range(1100):
        state, _ = step(state, boxes([]), pts, chosen)
    assert len(state) == 0
    assert state.next_id == 2


def test_the_state_is_bounded():
    rng = np.random.default_rng(1)
    places = rng.uniform(0, 9000, (200, 2))
    crowd = boxes((x, y, x + 9, y + 9, 0.9) for x, y in places)
    state = no_tracks()
    for n in range(4):
        state, _ = step(state, crowd, n / 30, TrackSettings(max_tracks=50))
    assert len(state) == 50
    assert len(state.to_bytes()) == 15 + 92 * 50


def test_absurd_boxes_do_not_stop_it():
    absurd = boxes([(-3e38, -3e38, 3e38, 3e38, 0.9), (5, 5, 1, 1, 0.9), (2, 2, 2, 2, 0.9)])
    state = no_tracks()
    with np.errstate(all="ignore"):
        for n in range(50):
            state, ids = step(state, absurd, n / 30)
    assert len(ids) == 3


coordinates = arrays.arrays(np.float32, (4,), elements=st.floats(0, 100, width=32))
found = st.lists(st.tuples(coordinates, st.floats(0, 1, width=32)), max_size=6).map(
    lambda rows: boxes((*np.sort(c.reshape(2, 2), axis=0).ravel(), s) for c, s in rows)
)
times = st.one_of(st.none(), st.floats(0, 5))


@settings(deadline=None)
@given(st.lists(st.tuples(found, times), max_size=12), st.sampled_from([None, 25.0]))
def test_a_state_written_and_read_goes_on_to_the_same_bits(frames, rate):
    chosen = TrackSettings(frame_rate=rate)
    kept = restarted = no_tracks()
    for here, pts in frames:
        kept, ids = step(kept, here, pts, chosen)
        restarted, again = step(TrackState.from_bytes(restarted.to_bytes()), here, pts, chosen)
        np.testing.assert_array_equal(ids, again)
        assert restarted.to_bytes() == kept.to_bytes()
        used = ids[ids > 0]
        assert len(set(used.tolist())) == len(used)
        assert (used < kept.next_id).all()


@pytest.mark.parametrize(
    "change", [lambda _: b"", lambda d: b"\x09" + d[1:], lambda d: d[:-1], lambda d: d + b"x"]
)
def test_foreign_bytes_are_refused(change):
    state = no_tracks()
    for n in range(3):
        state, _ = step(state, boxes([(0, 0, 50, 50, 0.9)]), n / 30)
    with pytest.raises(StateUnreadable):
        TrackState.from_bytes(change(state.to_bytes()))


@pytest.mark.parametrize(
    "wrong", [{"min_hits": 0}, {"min_hits": 256}, {"max_tracks": 0}, {"frame_rate": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        TrackSettings(**wrong)


def test_what_was_lost_ends_while_nobody_looks() -> None:
    """What is seen stays however long nobody looks; what was lost is not continued much later."""
    here, there = (10, 10, 50, 90, 0.9), (200, 10, 260, 90, 0.9)
    chosen = TrackSettings(max_lost_s=1.0)
    state = no_tracks()
    for pts, rows in ((0.0, [here, there]), (0.04, [here, there]), (0.08, [here])):
        state, _ = step(state, boxes(rows), pts, chosen)
    nobody = np.zeros(len(state), np.bool_)
    soon = coast(state, nobody, 1.0, chosen)
    assert step(soon, boxes([here, there]), 1.04, chosen)[1].tolist() == [1, 2]
    for n in range(30):
        state = coast(state, nobody, 0.08 + 0.4 * n, chosen)
    assert step(state, boxes([here, there]), 12.0, chosen)[1].tolist() == [1, 0]
