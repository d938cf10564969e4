"""Tuning on made looks: what is learned earlier is judged later, at each size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from framegate.models.boxes import empty
from framegate.models.learning import tuning
from framegate.models.learning.teacher import TeacherLabels
from framegate.models.learning.tuning import General, Look
from tests.models.learning.test_thresholds import boxes

GENERAL = General(416, 0.42, 0.5)
CAR, PHONE, TREE = 0, 1, 2


def look(n: int) -> Look:
    """Two cars, of which the detector is little sure, and a tree that it takes for a car.

    At 224 it misses one of them.
    """
    sure = boxes((0, 1, CAR), (40, 1, CAR), (80, 1, PHONE))
    found: tuple[tuple[float, float, int], ...] = (
        (0, 0.35, CAR), (40, 0.3, CAR), (80, 0.5, PHONE), (120, 0.2, CAR), (160, 0.6, TREE),
    )  # fmt: skip
    raw = {416: boxes(*found), 320: boxes(*found), 224: boxes(*found[1:])}
    return Look("gate", float(n), TeacherLabels(sure, empty()), raw)


LOOKS = [look(n) for n in range(200)]


def test_the_earlier_part_chooses_and_the_later_one_judges() -> None:
    found = tuning.tune(LOOKS, {CAR, PHONE, TREE}, {}, GENERAL, 3)
    assert (len(found.earlier), len(found.later)) == (120, 70)
    assert max(one.moment_s for one in found.earlier) < min(one.moment_s for one in found.later)
    by_side = {one.side: one for one in found.sides}
    assert set(by_side[416].least) == {CAR, PHONE}  # there are no trees
    assert 0.2 <= by_side[416].least[CAR] < 0.3
    assert by_side[416].f1 == 1
    assert by_side[224].f1 == pytest.approx(2 * 2 / (2 + 3))
    # Of three sizes that are equally good the fastest, and not one that is worse.
    assert found.best({416: 4.0, 320: 2.0, 224: 1.0}) is by_side[320]
    verdict = found.judged(by_side[320], ("car", "cell phone", "tree"))
    assert verdict.allowed
    decides = verdict.decides
    assert (decides.frames, decides.boxes) == (70, 210)
    assert decides.f1.middle == 1
    assert decides.general.middle == pytest.approx(2 * 1 / (2 + 3))  # a phone, a tree, no car
    assert [row.label for row in decides.classes] == ["car", "cell phone", "tree"]


def test_what_is_merged_is_so_for_teacher_and_detector_but_not_as_it_comes_along() -> None:
    found = tuning.tune(LOOKS, {CAR}, {PHONE: CAR}, GENERAL, 3)
    [best] = [one for one in found.sides if one.side == 416]
    assert set(best.least) == {CAR}
    verdict = found.judged(best, ("car", "cell phone", "tree"))
    assert verdict.decides.boxes == 210
    assert verdict.decides.f1.middle == 1
    assert verdict.decides.general.middle == 0  # it calls one a phone, and shows neither car


def test_what_gets_worse_later_is_refused() -> None:
    """In the later part the detector is sure of what is not there."""

    def later(one: Look) -> Look:
        wrong = boxes((0, 0.9, CAR), (200, 0.41, CAR), (240, 0.41, CAR), (280, 0.41, CAR))
        sure = TeacherLabels(boxes((0, 1, CAR), (300, 1, CAR)), empty())
        return Look(one.source, one.moment_s, sure, {416: wrong})

    earlier = [Look(o.source, o.moment_s, o.said, {416: o.raw[416]}) for o in LOOKS[:122]]
    found = tuning.tune([*earlier, *map(later, LOOKS[122:])], {CAR}, {}, GENERAL, 3)
    verdict = found.judged(found.sides[0], ("car", "cell phone", "tree"))
    assert not verdict.allowed
    assert "the gain may be chance" in verdict.refused


def test_where_people_labelled_a_part_of_the_classes_no_other_class_is_tuned_or_judged() -> None:
    """People labelled cars, not phones: the detector's phones are neither right nor wrong."""

    def labelled(n: int) -> Look:
        sure = boxes((0, 1, CAR), (40, 1, CAR))
        return replace(look(n), said=TeacherLabels(sure, empty(), frozenset({CAR})))

    found = tuning.tune([labelled(n) for n in range(200)], {CAR, PHONE}, {}, GENERAL, 3)
    [best] = [one for one in found.sides if one.side == 416]
    assert set(best.least) == {CAR}
    verdict = found.judged(best, ("car", "cell phone", "tree"))
    assert verdict.decides.evidence == "labels"
    assert (verdict.decides.f1.middle, verdict.decides.general.middle) == (1, 0)


def test_without_later_pictures_there_is_nothing_to_judge() -> None:
    alone = tuning.tune(LOOKS[:1], {CAR}, {}, GENERAL, 3)
    assert alone.later == ()
    with pytest.raises(ValueError, match="no pictures"):
        alone.judged(alone.sides[0], ("car", "cell phone", "tree"))
