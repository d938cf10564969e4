"""Which boxes an object filter drops: expected values are worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.tracking.bytetrack import TrackSettings, step
from framegate.models.tracking.track_state import no_tracks
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.queries import Predictions
from framegate.stages.object_filters import (
    Elsewhere,
    FilterPool,
    SourceFilters,
    filtered,
    passing_objects,
)

SIZE = (200, 100)
PERSON, CAR = coco.LABELS.index("person"), coco.LABELS.index("car")
TOP_HALF = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))
STATUE = (100.0, 20.0, 120.0, 60.0)  # in shares: 0.5, 0.2, 0.6, 0.6
PLACE = ObjectFilter(labels=("person",), box=(0.5, 0.2, 0.6, 0.6))
FRAME_S = 0.125


def boxes(*rows: tuple[float, float, float, float], label: int = PERSON) -> Boxes:
    n = len(rows)
    xyxy = np.array(rows, np.float32).reshape(n, 4)
    return Boxes(xyxy, np.full(n, 0.8, np.float32), np.full(n, label, np.int32))


def kept(found: Boxes, *filters: ObjectFilter, is_new: bool = True) -> list[bool]:
    judge = SourceFilters(filters, SIZE, coco.LABELS)
    return judge.kept(found, np.full(len(found), is_new)).tolist()


@pytest.mark.parametrize(
    ("at", "box", "stays"),
    [
        ("foot", (10, 10, 30, 49), False),  # the foot is at 0.49 of the height
        ("foot", (10, 10, 30, 51), True),
        ("center", (10, 10, 30, 51), False),  # the centre is at 0.305
        ("center", (10, 30, 30, 80), True),  # at 0.55
    ],
)
def test_people_in_an_area_are_dropped_by_their_foot_or_centre(
    at: Any, box: tuple[float, float, float, float], stays: bool
) -> None:
    here = ObjectFilter(labels=("person",), area=TOP_HALF, at=at)
    assert kept(boxes(box), here) == [stays]
    assert kept(boxes(box, label=CAR), here) == [True]
    assert kept(boxes(box, label=CAR), replace(here, labels=())) == [stays]


def test_a_foot_on_the_lower_edge_of_the_picture_is_in_an_area_that_ends_there() -> None:
    low = ObjectFilter(area=((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0)))
    assert kept(boxes((180, 60, 200, 100), (-4, 60, 2, 104)), low) == [False, False]


@pytest.mark.parametrize(
    ("limits", "box", "stays"),
    [
        ({"min_height": 0.2}, (0, 0, 10, 19), False),
        ({"min_height": 0.2}, (0, 0, 10, 21), True),
        ({"max_height": 0.2}, (0, 0, 10, 21), False),
        ({"min_width": 0.1}, (0, 0, 19, 50), False),
        ({"max_width": 0.1}, (0, 0, 19, 50), True),
        ({"min_aspect": 2.0}, (0, 0, 30, 50), False),  # 50 / 30
        ({"min_aspect": 2.0}, (0, 0, 20, 50), True),
        ({"max_aspect": 2.0}, (0, 0, 20, 50), False),
        ({"min_score": 0.9}, (0, 0, 20, 50), True),  # scores are judged as means
    ],
)
def test_a_box_beyond_a_limit_is_dropped(
    limits: dict[str, float], box: tuple[float, float, float, float], stays: bool
) -> None:
    assert kept(boxes(box), ObjectFilter(**limits)) == [stays]  # type: ignore[arg-type]


def test_a_limit_counts_in_its_area_only_and_the_highest_least_score_counts() -> None:
    far = ObjectFilter(area=TOP_HALF, min_height=0.3, min_score=0.6)
    near = ObjectFilter(labels=("person",), min_score=0.5)
    found = boxes((10, 10, 30, 35), (10, 60, 30, 85))
    judge = SourceFilters((far, near), SIZE, coco.LABELS)
    assert judge.kept(found, np.ones(2, np.bool_)).tolist() == [False, True]
    least = judge.least_scores(found)
    assert least is not None
    assert least == pytest.approx([0.6, 0.5])
    assert SourceFilters((PLACE,), SIZE, coco.LABELS).least_scores(found) is None


# -- A place


def test_only_what_stands_at_the_place_is_dropped() -> None:
    beside = (103.0, 20.0, 123.0, 60.0)  # IoU 17 / 23 = 0.74
    close = (101.0, 20.0, 121.0, 60.0)  # IoU 19 / 21 = 0.90
    taller = (100.0, 0.0, 120.0, 60.0)  # IoU 40 / 60
    found = boxes(STATUE, beside, close, taller)
    assert kept(found, PLACE) == [False, True, False, True]
    assert kept(boxes(STATUE, label=CAR), PLACE) == [True]
    assert kept(boxes(STATUE), PLACE, is_new=False) == [True]  # judged when it was detected


def right(x: float) -> tuple[float, float, float, float]:
    return (x, 20.0, x + 20.0, 60.0)


def seen(*places: tuple[float, float, float, float], filters: ObjectFilter = PLACE) -> list[bool]:
    """Whether an object's box is kept in each frame. The tracker gets the kept boxes only."""
    judge = SourceFilters((filters,), SIZE, coco.LABELS)
    state, elsewhere = no_tracks(), Elsewhere()
    shown: list[bool] = []
    for number, place in enumerate(places):
        now_s = number * FRAME_S
        elsewhere, passing = passing_objects(judge, state, elsewhere, now_s)
        elsewhere = Elsewhere.from_bytes(elsewhere.to_bytes())
        found = boxes(place)
        stays = judge.kept(found, np.ones(1, np.bool_), passing)
        state, _ = step(state, found.take(stays), now_s, TrackSettings())
        shown += stays.tolist()
    return shown


@pytest.mark.parametrize("speed", [0.2, 1.0, 2.0, 5.0])
def test_somebody_who_walks_through_the_place_is_seen_in_every_frame(speed: float) -> None:
    assert all(seen(*(right(60 + n * speed) for n in range(round(80 / speed)))))


def jittering(count: int) -> list[tuple[float, float, float, float]]:
    """Boxes of something at rest at the place; their edges vary by a tenth of a pixel or so."""
    noise = np.random.default_rng(5).normal(0, 0.3, (count, 4))
    return [tuple(row) for row in (np.array(STATUE) + noise).tolist()]


def test_what_was_always_at_the_place_is_never_seen() -> None:
    assert not any(seen(*jittering(100)))


def test_somebody_who_stops_at_the_place_is_seen_for_five_seconds() -> None:
    walk = [right(80 + 2 * n) for n in range(10)]  # away up to frame 8, at 96: IoU 16 / 24
    shown = seen(*walk, *jittering(100))
    assert shown == [True] * (9 + 40 + 1) + [False] * 60


def test_a_standing_neighbour_does_not_excuse_what_is_always_at_the_place() -> None:
    """The neighbour has the box of another object, and overlaps with the place by 9 / 31."""
    judge = SourceFilters((PLACE,), SIZE, coco.LABELS)
    state, elsewhere = no_tracks(), Elsewhere()
    for number in range(20):
        elsewhere, passing = passing_objects(judge, state, elsewhere, number * FRAME_S)
        found = boxes(STATUE, right(111))
        stays = judge.kept(found, np.ones(2, np.bool_), passing)
        assert stays.tolist() == [False, True]
        state, _ = step(state, found.take(stays), number * FRAME_S, TrackSettings())


def test_a_resting_neighbour_of_half_the_box_does_not_excuse_what_is_always_at_the_place() -> None:
    """A parked car behind a hidden one: its box is the upper part of the same picture."""
    behind = (100.0, 20.0, 120.0, 42.0)  # IoU 22 / 40
    judge = SourceFilters((PLACE,), SIZE, coco.LABELS)
    state, elsewhere = no_tracks(), Elsewhere()
    shown: list[bool] = []
    for number in range(100):
        elsewhere, passing = passing_objects(judge, state, elsewhere, number * FRAME_S)
        found = boxes(behind)
        if number > 60 and number % 2:  # the network sees the one or the other
            found = boxes(STATUE)
        stays = judge.kept(found, np.ones(1, np.bool_), passing)
        state, _ = step(state, found.take(stays), number * FRAME_S, TrackSettings())
        shown += stays.tolist()
    assert shown == [number <= 60 or number % 2 == 0 for number in range(100)]


# -- The heavy pass, and the filters of a worker


def test_a_heavy_pass_is_filtered_as_well_but_keeps_what_detect_kept() -> None:
    rows = (STATUE, (10.0, 10.0, 30.0, 30.0), (10.0, 60.0, 30.0, 90.0))
    heavy = Predictions(rows, (0.9, 0.9, 0.4), (PERSON, PERSON, PERSON), ("heavy",))
    filters = {
        "statue": PLACE,
        "sky": ObjectFilter(area=((0.0, 0.0), (0.4, 0.0), (0.4, 0.5), (0.0, 0.5))),
        "sure": ObjectFilter(min_score=0.5),
    }
    nothing = Predictions((), (), (), ())
    assert filtered(heavy, {}, SIZE, nothing) is heavy
    assert filtered(heavy, filters, SIZE, nothing) == Predictions((), (), (), ("heavy",))
    passing = Predictions((STATUE,), (0.5,), (PERSON,), ())
    assert filtered(heavy, filters, SIZE, passing).boxes == (STATUE,)


def test_a_pool_names_the_filters_and_notices_another_mapping() -> None:
    now: dict[str, dict[str, ObjectFilter]] = {"door": {}}
    pool = FilterPool(lambda source: now[source])
    assert pool.digest("door") == ""
    assert not pool.judge("door", SIZE, coco.LABELS)
    now["door"] = {"statue": PLACE}
    digest = pool.digest("door")
    assert digest
    assert pool.names("door") == ("statue",)
    assert pool.judge("door", SIZE, coco.LABELS)
    now["door"] = {"statue": replace(PLACE, min_iou=0.7)}
    assert pool.digest("door") not in ("", digest)
