"""What a teacher says, sorted out."""

from __future__ import annotations

import numpy as np

from framegate.models.learning.box_verdicts import BoxVerdicts
from framegate.models.learning.split_footage import split
from framegate.models.learning.teacher import (
    SeenClass,
    TeacherLabels,
    chosen,
    confirmed,
    renamed,
    seen,
)
from tests.models.learning.test_thresholds import boxes


def test_a_class_is_seen_in_two_pictures_or_more() -> None:
    nothing = boxes()
    looks = [
        TeacherLabels(boxes((0, 1, 0), (20, 1, 0), (40, 1, 2)), nothing),
        TeacherLabels(boxes((0, 1, 0), (20, 1, 1), (40, 1, 1)), boxes((60, 0.2, 2))),
        TeacherLabels(boxes((0, 1, 1)), boxes((60, 0.2, 2))),
    ]
    assert seen(looks) == (SeenClass(0, 3, 2), SeenClass(1, 3, 2))
    assert seen([]) == ()


def test_what_is_struck_is_unsure_and_what_is_merged_has_the_other_name() -> None:
    sure = boxes((0, 0.9, 0), (20, 0.8, 1), (40, 0.7, 2))
    one = TeacherLabels(sure, boxes((60, 0.2, 2)))
    found = chosen(one, {0}, {2: 0})
    assert found.sure.class_ids.tolist() == [0, 0]
    assert found.sure.scores.tolist() == [np.float32(0.9), np.float32(0.7)]
    assert found.unsure.class_ids.tolist() == [1, 0]
    assert found.unsure.scores.tolist() == [np.float32(0.8), np.float32(0.2)]
    assert renamed(one.sure, {}) is one.sure


def test_a_class_is_labelled_by_people_only_if_all_that_become_it_are() -> None:
    one = TeacherLabels(boxes((0, 1, 0), (20, 1, 2)), boxes(), frozenset({0, 2}))
    assert chosen(one, {0}, {2: 0}).people == {0}
    assert chosen(one, {0, 1}, {2: 0}).people == {0}
    assert chosen(one, {0}, {1: 0}).people == frozenset()
    assert confirmed([one]) == {0, 2}


def test_boxes_of_classes_that_people_did_not_label_are_neither_right_nor_wrong() -> None:
    one = TeacherLabels(boxes((0, 1, 0)), boxes(), frozenset({0}))
    assert one.judgeable(boxes((0, 0.9, 0), (20, 0.9, 1))).class_ids.tolist() == [0]
    by_model = TeacherLabels(boxes((0, 1, 0)), boxes())
    assert len(by_model.judgeable(boxes((0, 0.9, 0), (20, 0.9, 1)))) == 2


def test_a_box_that_is_wrong_under_a_merged_name_may_be_right_under_the_other() -> None:
    verdicts = BoxVerdicts(boxes((0, 1, 2)), boxes((20, 1, 2), (40, 1, 0)))
    one = TeacherLabels(boxes(), boxes(), None, verdicts)
    found = chosen(one, {0}, {2: 0}).verdicts
    assert found is not None
    assert (found.right.xyxy[:, 0].tolist(), found.wrong.xyxy[:, 0].tolist()) == ([0], [40])
    assert chosen(one, {1}, {}).verdicts is None
    assert confirmed([one]) == {2}


def test_of_each_source_the_later_part_judges_and_a_gap_is_between() -> None:
    moments = [*(("a", second) for second in range(101)), *(("b", second) for second in range(101))]
    earlier, later = split(moments)
    for name in "ab":
        assert [moments[row][1] for row in earlier if moments[row][0] == name] == list(range(61))
        assert [moments[row][1] for row in later if moments[row][0] == name] == list(range(66, 101))
