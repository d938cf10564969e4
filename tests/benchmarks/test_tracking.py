"""HOTA and IDF1 are given the tracks as they are meant: by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("trackeval", reason="trackeval is not installed (bench extra)")

from benchmarks.harness.agreement import Tracked
from benchmarks.harness.tracking import TrackScore, jumps, score
from framegate.models.boxes import Boxes

Row = tuple[int, float, int]


def frame(*rows: Row) -> Tracked:
    """Squares of 10 px: track, left, class."""
    left = np.array([row[1] for row in rows], np.float32)
    corners = np.stack([left, left * 0, left + 10, left * 0 + 10], axis=1)
    classes = np.array([row[2] for row in rows], np.int32)
    boxes = Boxes(corners, np.full(len(rows), 0.9, np.float32), classes)
    return Tracked(0.0, boxes, np.array([row[0] for row in rows], np.int32))


REFERENCE = [frame((3, 0, 2), (8, 50, 2)) for _ in range(10)]
PERFECT = TrackScore(hota=1.0, detection=1.0, association=1.0, idf1=1.0)


def test_the_same_tracks_under_other_names_are_perfect() -> None:
    assert score([frame((70, 50, 2), (71, 0, 2)) for _ in range(10)], REFERENCE) == PERFECT


def test_an_object_that_changes_its_track_half_way() -> None:
    """Association .5 for its 10 boxes, 1 for the other's; 15 of 20 boxes keep an identity."""
    ours = [frame((1 if i < 5 else 2, 0, 2), (9, 50, 2)) for i in range(10)]
    found = score(ours, REFERENCE)
    assert (found.detection, found.association) == pytest.approx((1.0, 0.75))
    assert (found.hota, found.idf1) == pytest.approx((math.sqrt(0.75), 0.75))
    assert found.switches == 1


def test_another_class_is_another_object() -> None:
    """Half of either side's boxes match: 10 / (10 + 10 + 10)."""
    found = score([frame((1, 0, 2), (2, 50, 7)) for _ in range(10)], REFERENCE)
    assert found.detection == pytest.approx(1 / 3)


def test_boxes_without_a_track_count_on_neither_side() -> None:
    """Ours says nothing by them; the reference's are neither right nor wrong to track."""
    ours = [frame((1, 0, 2), (2, 50, 2), (5, 100, 2), (0, 200, 2)) for _ in range(10)]
    reference = [frame((3, 0, 2), (8, 50, 2), (0, 101, 2)) for _ in range(10)]
    assert score(ours, reference) == PERFECT


def test_nobody_there() -> None:
    nobody = [frame()] * 10
    assert math.isnan(score(REFERENCE, nobody).hota)
    assert score(nobody, REFERENCE) == TrackScore(0.0, 0.0, 0.0, 0.0)


def test_each_change_of_an_objects_track_is_a_switch_also_after_a_gap() -> None:
    """Tracks 1, 1, none, 2, 2, 1 on one object: a switch to 2, and one back to 1."""
    numbers = (1, 1, None, 2, 2, 1)
    ours = [frame() if number is None else frame((number, 0, 2)) for number in numbers]
    assert score(ours, [frame((3, 0, 2))] * 6).switches == 2


def at(number: int, left: float) -> Tracked:
    """A square of 10 px with track 1 at 10 frames per second."""
    return Tracked(number / 10, frame((1, left, 2)).boxes, np.array([1], np.int32))


def test_a_number_jumps_if_it_comes_back_further_away_than_its_thing_could_be() -> None:
    """At rest: half of a square away. At 30 px/s: 5 px, and 1.5 times 30 px in a second."""
    resting = [at(number, 100) for number in range(10)]
    assert [jumps([*resting, at(19, left)]) for left in (100, 105, 106, 80)] == [0, 0, 1, 1]
    moving = [at(number, 3 * number) for number in range(10)]
    assert [jumps([*moving, at(19, 27 + away)]) for away in (30, 49, 51)] == [0, 0, 1]


def test_a_box_without_a_number_does_not_jump() -> None:
    frames = [Tracked(0.0, frame((0, left, 2)).boxes, np.zeros(1, np.int32)) for left in (0, 90)]
    assert jumps(frames) == 0
