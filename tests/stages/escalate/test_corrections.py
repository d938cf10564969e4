"""What an answer of the heavy pass teaches, and for how long."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.models import boxes as nms
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.gate.cells import grid_of, tiles_of
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.results import Object, Reason
from framegate.stages.detect.output import changes_of
from framegate.stages.detections import Box, Detections
from framegate.stages.escalate.corrections import (
    MAX_AGE_S,
    MAX_KNOWN,
    Corrections,
    learned,
    served,
)

SIZE = (640, 360)
PERSON, CAR, DOG = (coco.LABELS.index(label) for label in ("person", "car", "dog"))
HERE, THERE = (100.0, 100.0, 200.0, 200.0), (400.0, 50.0, 500.0, 250.0)


def thing(
    box: Box = HERE, class_id: int = PERSON, track: int | None = 1, score: float = 0.5
) -> Object:
    return Object(track, coco.LABELS[class_id], class_id, score, box, "detected")


def found(
    *objects: Object, changed: tuple[Box, ...] = (), reason: Reason = "changed"
) -> Detections:
    hot = tiles_of(np.array(changed, np.float32).reshape(-1, 4), grid_of(*SIZE))
    changes = changes_of(hot, grid_of(*SIZE))
    return Detections("detected", "part", reason, objects, ("light@1",), changes=changes)


def whole_look(*objects: Object) -> Detections:
    return Detections("detected", "whole", "frame_age", objects, ("light@1",))


def part_look(*areas: tuple[int, int, int, int]) -> Detections:
    return msgspec.structs.replace(found(), looks=areas)


def no_look(*objects: Object, changed: tuple[Box, ...] = ()) -> Detections:
    frame = found(*objects, changed=changed)
    return msgspec.structs.replace(frame, outcome="carried", looked="no", reason="unchanged")


def heavy(*objects: Object) -> Boxes:
    return Boxes(
        np.array([each.box for each in objects], np.float32).reshape(-1, 4),
        np.array([each.score for each in objects], np.float32),
        np.array([each.class_id for each in objects], np.int32),
    )


def told(*objects: Object) -> list[tuple[int | None, str, float, Box]]:
    return [(each.track, each.label, each.score, each.box) for each in objects]


def taught(frame: Detections, answer: Boxes) -> Corrections:
    return learned(Corrections(), frame, answer, 1.0)[0]


def test_the_frame_itself_has_what_heavy_saw() -> None:
    seen = thing(THERE, DOG, None, 0.8), thing(HERE, CAR, None, 0.6)
    _, objects = learned(Corrections(), found(thing()), heavy(*seen), 1.0)
    assert told(*objects) == [(None, "dog", 0.8, THERE), (1, "car", 0.6, HERE)]
    assert {each.origin for each in objects} == {"escalated"}


def test_a_class_is_corrected_as_long_as_the_track_goes_on() -> None:
    known = taught(found(thing()), heavy(thing(HERE, CAR, None, 0.8)))
    moved = thing((300.0, 100.0, 400.0, 200.0))
    objects, _ = served(known, found(moved, changed=(HERE, moved.box)), 2.0)
    assert told(*objects) == [(1, "car", 0.8, moved.box)]
    assert objects[0].origin == "detected"


def test_an_object_without_a_track_is_known_by_its_place() -> None:
    known = taught(found(thing(track=None)), heavy(thing(HERE, CAR, None, 0.8)))
    near = thing((105.0, 100.0, 205.0, 200.0), track=7)
    objects, known = served(known, found(near), 2.0)
    assert told(*objects) == [(7, "car", 0.8, near.box)]
    far = thing((300.0, 100.0, 400.0, 200.0), track=7)
    assert told(*served(known, found(far), 3.0)[0]) == [(7, "car", 0.8, far.box)]


def test_where_heavys_box_lies_beside_lights_it_goes_on_to_lie() -> None:
    larger = (90.0, 100.0, 210.0, 220.0)
    known = taught(found(thing()), heavy(thing(larger)))
    objects, _ = served(known, found(thing((300.0, 100.0, 400.0, 200.0))), 2.0)
    assert objects[0].box == (290.0, 100.0, 410.0, 220.0)


def test_the_box_of_a_carried_object_is_heavys_until_light_detects_it() -> None:
    late = msgspec.structs.replace(thing(), origin="moved")
    true = (120.0, 100.0, 220.0, 200.0)
    known = taught(no_look(late), heavy(thing(true, CAR, None, 0.8)))
    objects, known = served(known, no_look(late), 2.0)
    assert told(*objects) == [(1, "car", 0.8, true)]
    known = records.decode(records.encode(known), Corrections)
    for now_s, left in ((3.0, 130.0), (4.0, 140.0)):
        seen = thing((left, 100.0, left + 100, 200.0))
        objects, known = served(known, found(seen), now_s)
        assert told(*objects) == [(1, "car", 0.8, seen.box)]


def test_what_heavy_does_not_see_is_left_out() -> None:
    known = taught(found(thing(), thing(THERE, DOG, 2)), heavy(thing(THERE, DOG)))
    objects, _ = served(known, found(thing(), thing(THERE, DOG, 2)), 2.0)
    assert [each.track for each in objects] == [2]


def test_what_heavy_alone_sees_stays_until_its_place_changes() -> None:
    known = taught(found(), heavy(thing(THERE, DOG, None, 0.8)))
    objects, known = served(known, found(changed=(HERE,)), 2.0)
    assert told(*objects) == [(None, "dog", 0.8, THERE)]
    assert objects[0].origin == "carried"
    objects, known = served(known, found(changed=(THERE,)), 3.0)
    assert objects == ()
    assert served(known, found(), 4.0)[0] == ()


def test_without_look_and_change_an_object_of_the_heavy_pass_stays() -> None:
    known = taught(found(), heavy(thing(THERE, DOG, None, 0.8)))
    for now_s in (2.0, 3.0, 4.0):
        objects, known = served(known, no_look(changed=(HERE,)), now_s)
        assert told(*objects) == [(None, "dog", 0.8, THERE)]
        assert (objects[0].origin, objects[0].untracked) == ("carried", "heavy")
        known = records.decode(records.encode(known), Corrections)


# THERE is 100 x 200 pixels: (400, 50) to (500, 250).
@pytest.mark.parametrize(
    ("frame", "is_left"),
    [
        (whole_look(), False),
        (part_look((380, 0, 640, 360)), False),
        (part_look((0, 0, 200, 200), (400, 50, 500, 150)), False),  # half of it
        (part_look((400, 50, 500, 140)), True),  # less than half of it
        (part_look((400, 50, 500, 140), (400, 160, 500, 250)), True),  # no look has half of it
        (part_look((0, 0, 200, 360)), True),
        (part_look(), True),
    ],
)
def test_an_object_of_the_heavy_pass_ends_with_the_next_look_at_its_place(
    frame: Detections, is_left: bool
) -> None:
    known = taught(found(), heavy(thing(THERE, DOG, None, 0.8)))
    objects, known = served(known, no_look(), 2.0)
    assert [each.label for each in objects] == ["dog"]
    objects, known = served(known, frame, 3.0)
    assert [each.label for each in objects] == ["dog"] * is_left
    objects, _ = served(known, no_look(), 4.0)
    assert [each.label for each in objects] == ["dog"] * is_left


def test_an_object_of_the_heavy_pass_ends_with_a_small_change_inside() -> None:
    known = taught(found(), heavy(thing(THERE, DOG, None, 0.8)))
    objects, known = served(known, no_look(changed=((445.0, 145.0, 450.0, 150.0),)), 2.0)
    assert objects == ()
    assert served(known, no_look(), 3.0)[0] == ()


def test_an_object_of_the_heavy_pass_that_light_confirms_gets_a_track_and_keeps_it() -> None:
    known = taught(found(), heavy(thing(THERE, DOG, None, 0.8)))
    objects, known = served(known, whole_look(thing(THERE, DOG, None)), 2.0)
    assert told(*objects) == [(None, "dog", 0.8, THERE)]
    assert objects[0].untracked == "new"
    objects, known = served(known, whole_look(thing(THERE, DOG, 5)), 3.0)
    assert told(*objects) == [(5, "dog", 0.8, THERE)]
    objects, known = served(known, no_look(thing(THERE, DOG, 5)), 4.0)
    assert told(*objects) == [(5, "dog", 0.8, THERE)]
    assert objects[0].untracked is None
    objects, _ = served(known, whole_look(), 5.0)
    assert told(*objects) == [(5, "dog", 0.8, THERE)]


def test_an_object_without_a_track_that_the_next_look_does_not_confirm_ends() -> None:
    known = taught(found(), heavy(thing(THERE, DOG, None, 0.8)))
    _, known = served(known, whole_look(thing(THERE, DOG, None)), 2.0)
    assert served(known, whole_look(), 3.0)[0] == ()


def test_an_object_that_heavy_does_not_see_is_left_out_after_looks_without_it() -> None:
    known = taught(found(thing(track=None)), heavy())
    _, known = served(known, whole_look(), 2.0)
    assert served(known, whole_look(thing(track=None)), 3.0)[0] == ()


def test_without_a_gate_nobody_knows_that_a_place_did_not_change() -> None:
    known = taught(found(), heavy(thing()))
    assert served(known, found(reason="every_frame"), 2.0)[0] == ()


def test_what_heavy_alone_saw_is_lights_once_light_sees_it() -> None:
    known = taught(found(), heavy(thing(HERE, DOG, None, 0.8)))
    objects, known = served(known, found(thing(changed_box := (102.0, 100.0, 202.0, 200.0))), 2.0)
    assert told(*objects) == [(1, "dog", 0.8, changed_box)]


def test_what_light_loses_stays_where_nothing_changed_with_its_track() -> None:
    known = taught(found(thing()), heavy(thing()))
    objects, known = served(known, found(), 2.0)
    assert told(*objects) == [(1, "person", 0.5, HERE)]
    _, again = learned(known, found(), heavy(thing(score=0.7)), 3.0)
    assert told(*again) == [(1, "person", 0.7, HERE)]


def test_what_became_much_larger_is_judged_anew() -> None:
    known = taught(found(thing()), heavy())
    near = thing((50.0, 50.0, 250.0, 250.0))
    assert served(known, found(near), 2.0)[0] == (near,)


def test_an_answer_holds_for_a_time_at_most() -> None:
    known = taught(found(thing()), heavy(thing(THERE, DOG, None)))
    assert [each.label for each in served(known, found(thing()), 1.0 + MAX_AGE_S)[0]] == ["dog"]
    objects, known = served(known, found(thing()), 1.1 + MAX_AGE_S)
    assert objects == (thing(),)
    assert known.known == ()


def test_a_dozen_objects_are_few_bytes() -> None:
    many = [thing((50.0 * i, 1000.5, 50.0 * i + 44, 1100.5), i, 300 + i) for i in range(12)]
    known = taught(found(*many), heavy(*many))
    data = records.encode(known)
    assert len(data) <= 600
    assert records.decode(data, Corrections) == known


edges = st.integers(0, 6200)
sides = st.integers(20, 1500)
boxes = st.builds(
    lambda x, y, w, h: (x / 10, y / 10, (x + w) / 10, (y + h) / 10), edges, edges, sides, sides
)
scores = st.integers(1, 10_000).map(lambda parts: parts / 10_000)
classes = st.integers(0, 3)
things = st.builds(thing, boxes, classes, st.none(), scores)
several = st.lists(things, max_size=8)


@st.composite
def lights(draw: st.DrawFn) -> tuple[Object, ...]:
    """Objects of a frame: highest score first, some with tracks, none with another's."""
    objects = sorted(draw(several), key=lambda each: -each.score)
    tracks = draw(
        st.lists(st.integers(1, 9), min_size=len(objects), max_size=len(objects), unique=True)
    )
    has = draw(st.lists(st.booleans(), min_size=len(objects), max_size=len(objects)))
    rows = zip(objects, tracks, has, strict=True)
    return tuple(
        msgspec.structs.replace(each, track=track if yes else None) for each, track, yes in rows
    )


frames = st.builds(
    lambda objects, changed: found(*objects, changed=tuple(changed)),
    lights(),
    st.lists(boxes, max_size=3),
)


def _overlap(objects: Sequence[Object]) -> float:
    """The largest IoU of two of them."""
    corners = np.array([each.box for each in objects], np.float32).reshape(-1, 4)
    return float(np.triu(nms.iou(corners, corners), 1).max(initial=0))


@given(lights())
def test_an_answer_that_says_the_same_changes_nothing(objects: tuple[Object, ...]) -> None:
    frame = found(*objects)
    known, said = learned(Corrections(), frame, heavy(*objects), 1.0)
    assert told(*said) == told(*objects)
    if _overlap(objects) <= nms.SAME:
        after, _ = served(known, frame, 2.0)
        assert sorted(told(*after), key=repr) == sorted(told(*objects), key=repr)


@given(
    st.lists(st.tuples(frames, several.map(lambda each: heavy(*each)), st.booleans()), max_size=6)
)
def test_answers_are_served_as_they_are_and_tracks_are_never_doubled(
    steps: list[tuple[Detections, Boxes, bool]],
) -> None:
    known = Corrections()
    for i, (frame, answer, asks) in enumerate(steps):
        if asks:
            known, objects = learned(known, frame, answer, float(i))
            assert [each.class_id for each in objects] == answer.class_ids.tolist()
            np.testing.assert_allclose(
                np.array([each.box for each in objects]).reshape(-1, 4), answer.xyxy, atol=0.051
            )
        else:
            objects, known = served(known, frame, float(i))
            assert len(objects) <= len(frame.objects) + len(known.known)
            scores = [each.score for each in objects]
            assert scores == sorted(scores, reverse=True)
            if known.at_s is not None:  # else they are light's own, and these are apart
                assert _overlap(objects) <= nms.SAME + 1e-6
        tracks = [each.track for each in objects if each.track is not None]
        assert len(tracks) == len(set(tracks))
        assert len(known.known) <= MAX_KNOWN
        assert records.decode(records.encode(known), Corrections) == known


@given(frames, several.map(lambda each: heavy(*each)), frames)
def test_an_old_answer_leaves_lights_objects_as_they_are(
    first: Detections, answer: Boxes, later: Detections
) -> None:
    known, _ = learned(Corrections(), first, answer, 1.0)
    assert served(known, later, 1.5 + MAX_AGE_S)[0] == later.objects


@pytest.mark.parametrize("n", [MAX_KNOWN, 100])
def test_what_is_known_is_bounded(n: int) -> None:
    many = [thing((6.0 * i, 0.0, 6.0 * i + 5, 20.0), track=None) for i in range(n)]
    known, objects = learned(Corrections(), found(), heavy(*many), 1.0)
    assert len(objects) == n
    assert len(known.known) == MAX_KNOWN
