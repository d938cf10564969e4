"""An object of low score is published if it moves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from framegate.pipeline.contracts.moments import StoredMoment
from framegate.pipeline.contracts.results import Object, Origin, Reason
from framegate.stages.detections import ChangedParts, Detections
from framegate.stages.windows.evidence import TrackEvidence, is_unsure
from framegate.stages.windows.stage import ObjectWindows, step

FPS = 10


def person(
    x: float, score: float = 0.3, label: str = "person", origin: Origin = "detected"
) -> Object:
    """Return an object of 10 x 20 pixels."""
    return Object(1, label, 0, score, (x, 40.0, x + 10, 60.0), origin)


def shown(
    frames: Sequence[Object], published: bool, decides: bool = True, other: Object | None = None
) -> list[bool]:
    """Return for each frame whether its object is published.

    published  whether detect publishes it; otherwise it is a candidate
    other      another object that detect publishes in each frame
    """
    windows: ObjectWindows = {}
    before: StoredMoment | None = None
    found = []
    for number, each in enumerate(frames):
        others = (other,) if other is not None else ()
        objects, candidates = others, (each,)
        if published:
            objects, candidates = (each, *others), ()
        given = Detections("detected", "whole", "changed", objects, (), candidates=candidates)
        now = StoredMoment(1, number, number / FPS, 0.0)
        windows, after = step(windows, given, before, now, (), decides)
        before = now
        found.append(each in after)
    return found


def test_a_candidate_appears_at_its_third_look_if_it_has_moved_by_half_its_height() -> None:
    walking = [person(3.0 * n) for n in range(8)]
    # at 3 pixels a look the centre has moved by more than 10 pixels at the fifth
    assert shown(walking, published=False) == [False] * 4 + [True] * 4
    running = [person(20.0 * n) for n in range(5)]
    assert shown(running, published=False) == [False, False, True, True, True]
    standing = [person(3.0 * (n % 2)) for n in range(40)]
    assert not any(shown(standing, published=False))


def test_a_candidate_that_is_published_stays_at_a_lower_score_than_it_appears() -> None:
    """The score to appear is 0.3; detect gives no candidate that may not even stay."""

    def shown_with(scores: Sequence[float]) -> list[bool]:
        windows: ObjectWindows = {}
        before: StoredMoment | None = None
        found = []
        for number, score in enumerate(scores):
            candidates = (person(20.0 * number, score),) if score else ()
            given = Detections(
                "detected", "whole", "changed", (), (), candidates=candidates, least={"person": 0.3}
            )
            now = StoredMoment(1, number, number / FPS, 0.0)
            windows, objects = step(windows, given, before, now)
            before = now
            found.append(bool(objects))
        return found

    low, high = 0.28, 0.31
    assert not any(shown_with([low] * 8))
    assert shown_with([high] * 3 + [low] * 4) == [False] * 2 + [True] * 5
    gone = shown_with([high] * 3 + [low, 0, low, high, low])
    assert gone == [False, False, True, True, False, False, True, True]


def test_a_candidate_whose_box_shrinks_to_a_thing_that_hides_it_is_hidden() -> None:
    walking = [person(20.0 * n) for n in range(6)]
    sign = msgspec.structs.replace(walking[-1], box=(100.0, 40.0, 110.0, 50.0))
    # The mean heights after the looks at the sign are 18.6, 17.5 and 16.7; its own is 10.
    assert shown([*walking, sign, sign, sign], published=False)[2:] == [True] * 4 + [False] * 3
    partly_hidden = msgspec.structs.replace(walking[-1], box=(100.0, 40.0, 110.0, 55.0))
    assert all(shown([*walking, partly_hidden], published=False)[2:])


@pytest.mark.parametrize("looks", [40, 80, 200])
def test_a_candidate_that_walks_away_is_not_hidden(looks: int) -> None:
    """From 200 to 50 pixels in 4 to 20 s, while the mean of all looks is 125 or more."""
    frames = []
    for number in range(looks):
        height = 200 - 150 * number / (looks - 1)
        box = (50.0, 300 - height, 50 + height / 2, 300.0)
        frames.append(msgspec.structs.replace(person(50.0), box=box))
    found = shown(frames, published=False)
    first = found.index(True)
    assert found[first:] == [True] * (looks - first)


def test_a_carried_box_is_no_evidence() -> None:
    frames = [person(20.0 * n, origin="moved") for n in range(8)]
    assert not any(shown(frames, published=False))


def test_a_candidate_on_a_published_object_stays_hidden() -> None:
    walking = [person(20.0 * n) for n in range(6)]
    other = Object(2, "person", 0, 0.9, (0.0, 38.0, 200.0, 62.0), "detected")
    assert not any(shown(walking, published=False, other=other))


SURE = 0.45
STIRS = ChangedParts(50, 50, b"\xff" * 200)


def times_shown(
    frames: Sequence[Object],
    stirs_at: Sequence[int] = (),
    sure: float = SURE,
    fps: float = FPS,
    compared_at: Sequence[int] | None = None,
) -> list[int]:
    """Return the numbers of the frames in which an object that detect publishes is published.

    stirs_at     frames in which the picture changes in its box
    compared_at  frames that the gate compares with earlier ones; None: all
    """
    windows: ObjectWindows = {}
    before: StoredMoment | None = None
    found = []
    for number, each in enumerate(frames):
        changes = None
        if number in stirs_at:
            changes = STIRS
        reason: Reason = "changed"
        if compared_at is not None and number not in compared_at:
            reason = "undecoded"
        given = Detections(
            "detected", "whole", reason, (each,), (), changes=changes, sure={each.label: sure}
        )
        now = StoredMoment(1, number, number / fps, 0.0)
        windows, after = step(windows, given, before, now)
        before = now
        if each in after:
            found.append(number)
    return found


def test_a_person_of_low_score_that_never_moves_or_stirs_is_furniture_after_five_seconds() -> None:
    cone = [person(50.0, 0.4)] * 100
    assert times_shown(cone) == [*range(50)]
    seldom = [0, 20, 40, 60, 80]  # a twentieth of the time
    assert times_shown(cone, seldom) == [*range(50)]
    assert times_shown(cone, [*range(0, 100, 5)]) == [*range(100)]  # a fifth


@pytest.mark.parametrize("fps", [25, 5, 2, 1, 0.4])
def test_whether_a_person_stirs_does_not_depend_on_the_frame_rate(fps: float) -> None:
    still = [person(50.0, 0.4)] * 1000
    assert times_shown(still, range(0, 1000, 5), fps=fps) == [*range(1000)]  # a fifth
    first_hidden = max(5 * fps, 25)  # a frame counts as at most 200 ms
    assert times_shown(still, fps=fps) == [*range(round(first_hidden))]


def test_time_without_a_comparison_does_not_count_as_stillness() -> None:
    still = [person(50.0, 0.4)] * 600
    awake = [number for number in range(600) if number % 100 < 20]  # 2 of each 10 s
    assert times_shown(still, awake[::4], compared_at=awake) == [*range(600)]
    # In the third span the compared time reaches five seconds: 1.9 + 2 + 1.1.
    assert times_shown(still, compared_at=awake) == [*range(210)]


def test_a_person_who_was_still_for_an_hour_is_back_after_seven_seconds_of_stirring() -> None:
    still, stirring = 36_000, range(36_000, 36_100)
    found = times_shown([person(50.0, 0.4)] * 36_100, stirring)
    back = [number for number in found if number >= still]
    assert still + 30 <= back[0] <= still + 70
    assert back == [*range(back[0], 36_100)]


def test_a_person_who_stirred_at_first_is_judged_by_the_last_minute() -> None:
    found = times_shown([person(50.0, 0.4)] * 3000, range(600))
    assert found == [*range(len(found))]
    assert 600 < len(found) < 600 + 1800


def test_without_a_look_nothing_is_furniture() -> None:
    """As after the loss of the windows, when only the boxes of detect are known."""
    carried = [person(50.0, 0.9, origin="carried")] * 80
    assert times_shown(carried) == [*range(80)]
    looked = [*carried, person(50.0, 0.4), *[person(50.0, 0.4, origin="carried")] * 80]
    found = times_shown(looked)
    assert found == [*range(len(found))]
    assert 129 < len(found) < 133  # five seconds after the look


def test_what_was_sure_or_moved_once_is_no_furniture() -> None:
    still = [person(50.0, 0.4)] * 80
    assert times_shown([person(50.0, 0.5), *still]) == [*range(81)]
    assert times_shown([person(44.0, 0.4), *still]) == [*range(81)]  # 6 pixels of 20
    assert times_shown([person(46.0, 0.4), *still]) == [*range(50)]


def test_a_thing_that_does_not_live_and_a_score_of_a_user_are_no_furniture() -> None:
    assert times_shown([person(50.0, 0.4, "car")] * 80) == [*range(80)]
    assert times_shown([person(50.0, 0.4)] * 80, sure=0.0) == [*range(80)]


def test_the_score_of_another_class_decides_nothing() -> None:
    looked, each = TrackEvidence(looks=1, top=0.4), person(50.0, 0.4)
    for sure, is_so in (
        ({"person": SURE}, True),
        ({"person": 0.0, "dog": SURE}, False),
        ({"dog": SURE}, False),
    ):
        given = Detections("detected", "whole", "changed", (each,), (), sure=sure)
        assert is_unsure(looked, each, given) is is_so


def test_a_promise_has_the_objects_of_its_audits() -> None:
    walking = [person(20.0 * n) for n in range(6)]
    assert not any(shown(walking, published=False, decides=False))


def judged_shown(frames: Sequence[Object], answers: dict[int, tuple[Object, ...]]) -> list[bool]:
    """Return for each frame whether the track of a candidate is published.

    answers  of the heavy model, by frame
    """
    windows: ObjectWindows = {}
    before: StoredMoment | None = None
    shown_in = []
    for number, each in enumerate(frames):
        given = Detections("detected", "whole", "changed", (), (), candidates=(each,))
        if number in answers:
            given = msgspec.structs.replace(given, objects=answers[number], escalation="done")
        now = StoredMoment(1, number, number / FPS, 0.0)
        windows, objects = step(windows, given, before, now)
        before = now
        tracks = [one.track for one in objects]
        assert len(objects) <= 1
        shown_in.append(tracks == [1])
    return shown_in


def test_a_candidate_that_the_heavy_model_sees_has_its_track_in_each_frame() -> None:
    frames = [person(2.0 * n) for n in range(60)]
    answers = {}
    for number in range(9, 60, 10):
        seen = msgspec.structs.replace(
            frames[number], track=None, untracked="heavy", origin="escalated", score=0.8
        )
        answers[number] = (seen,)
    shown_in = judged_shown(frames, answers)
    assert shown_in == [False] * 6 + [True] * 54  # 10 pixels are half its height


def test_a_candidate_that_moves_is_published_although_the_heavy_model_does_not_see_it() -> None:
    frames = [person(2.0 * n) for n in range(60)]
    assert judged_shown(frames, {9: (), 29: ()}) == [False] * 6 + [True] * 54


def times_shown_refuted(frames: Sequence[Object], first: int, last: int) -> list[int]:
    """Return the numbers of the frames in which an object is published that detect publishes.

    first, last  frames from which and to which an answer is valid that does not contain it
    """
    windows: ObjectWindows = {}
    before: StoredMoment | None = None
    found = []
    for number, each in enumerate(frames):
        given = Detections("detected", "whole", "changed", (each,), (), sure={each.label: SURE})
        if first <= number <= last:
            given = msgspec.structs.replace(given, objects=(), refuted=(each,))
        now = StoredMoment(1, number, number / FPS, 0.0)
        windows, objects = step(windows, given, before, now)
        before = now
        assert len(objects) <= 1
        if each in objects:
            found.append(number)
    return found


def test_a_person_that_the_heavy_model_does_not_see_is_furniture_if_it_never_moves() -> None:
    walking = [person(2.0 * n, 0.6) for n in range(200)]
    assert times_shown_refuted(walking, 10, 150) == [*range(200)]
    still = [person(50.0, 0.6)] * 200
    # sure by its score, so the five seconds begin with the answer
    assert times_shown_refuted(still, 10, 150) == [*range(10 + 49), *range(151, 200)]
    car = [person(50.0, 0.6, "car")] * 200
    assert times_shown_refuted(car, 10, 150) == [*range(200)]


def test_a_person_that_the_heavy_model_sees_is_no_furniture() -> None:
    windows: ObjectWindows = {}
    before: StoredMoment | None = None
    cone = person(50.0, 0.4)
    for number in range(200):
        given = Detections("detected", "whole", "changed", (cone,), (), sure={"person": SURE})
        if number >= 100:
            given = msgspec.structs.replace(given, confirmed=(1,))
        now = StoredMoment(1, number, number / FPS, 0.0)
        windows, objects = step(windows, given, before, now)
        before = now
        assert bool(objects) is (number < 50 or number >= 100)


def test_an_object_that_the_heavy_model_sees_as_another_box_is_published_once() -> None:
    windows: ObjectWindows = {}
    light = person(50.0, 0.6)
    box = (48.0, 30.0, 62.0, 62.0)
    alone = Object(None, "person", 0, 0.8, box, "escalated", untracked="heavy")
    given = Detections("detected", "whole", "changed", (alone,), (), refuted=(light,))
    _, objects = step(windows, given, None, StoredMoment(1, 0, 0.0, 0.0))
    assert objects == (msgspec.structs.replace(alone, track=1, untracked=None),)
