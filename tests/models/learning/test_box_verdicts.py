"""Verdicts about single boxes, counted by hand: what nobody judged is neither right nor wrong."""

from __future__ import annotations

from framegate.models.boxes import empty
from framegate.models.learning.box_verdicts import BoxVerdicts, corrected, counted_by_verdicts
from tests.models.learning.test_thresholds import boxes

PERSON, CAR = 0, 1
# Squares of 10 pixels; two of them 2 apart have an IoU of 8/12, 4 apart of 6/14.
VERDICTS = BoxVerdicts(boxes((0, 1, PERSON), (20, 1, CAR)), boxes((40, 1, PERSON), (60, 1, CAR)))


def counts(*ours: tuple[float, float, int]) -> list[list[int]]:
    """Count these boxes by VERDICTS: of persons and cars, hits, shown, right boxes."""
    return counted_by_verdicts(boxes(*ours), VERDICTS, 2).tolist()


def test_a_model_that_shows_nothing_misses_the_right_boxes_and_repeats_no_wrong_one() -> None:
    assert counts() == [[0, 0, 1], [0, 0, 1]]


def test_right_and_wrong_boxes_count_and_all_others_do_not() -> None:
    shown = ((2, 0.9, PERSON), (40, 0.9, PERSON), (80, 0.9, PERSON), (100, 0.9, CAR))
    assert counts(*shown) == [[1, 2, 1], [0, 0, 1]]


def test_another_class_at_a_judged_box_is_not_judged() -> None:
    assert counts((0, 0.9, CAR), (40, 0.9, CAR)) == [[0, 0, 1], [0, 0, 1]]


def test_a_second_box_on_a_right_object_is_not_judged() -> None:
    assert counts((0, 0.9, PERSON), (1, 0.8, PERSON)) == [[1, 1, 1], [0, 0, 1]]


def test_a_box_that_fits_a_right_and_a_wrong_one_shows_the_object() -> None:
    near = BoxVerdicts(boxes((0, 1, PERSON)), boxes((4, 1, PERSON)))
    both = counted_by_verdicts(boxes((2, 0.9, PERSON)), near, 1)
    assert both.tolist() == [[1, 1, 1]]
    two = counted_by_verdicts(boxes((0, 0.9, PERSON), (4, 0.9, PERSON)), near, 1)
    assert two.tolist() == [[1, 2, 1]]


def test_a_teacher_is_corrected_only_where_a_person_judged() -> None:
    sure = boxes((0, 0.9, PERSON), (40, 0.8, PERSON), (80, 0.7, CAR))
    found = corrected(sure, VERDICTS)
    assert found.xyxy[:, 0].tolist() == [0, 80, 20]  # without 40, with the car at 20
    assert found.class_ids.tolist() == [PERSON, CAR, CAR]
    assert corrected(sure, BoxVerdicts(empty(), empty())).xyxy.tolist() == sure.xyxy.tolist()
