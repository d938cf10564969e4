"""Judging: counts by class, intervals as scipy has them, and what is refused with which words."""

from __future__ import annotations

import numpy as np
import pytest
import scipy

from framegate.models.boxes import Boxes, empty
from framegate.models.learning.box_verdicts import BoxVerdicts
from framegate.models.learning.judgement import (
    BLOCK,
    NOT_JUDGED,
    JudgedBy,
    ModelVerdict,
    blocks_of,
    counted,
    difference_of,
    f1_of,
    judge,
    refusal_of,
)
from framegate.models.learning.teacher import TeacherLabels, chosen
from tests.models.learning.test_thresholds import boxes

LABELS = ("bottle", "vase")


def test_counts_are_by_class_and_leave_out_what_is_unsure():
    ours = boxes((0, 0.9, 0), (20, 0.8, 1), (40, 0.7, 1), (60, 0.6, 0))
    sure, unsure = boxes((0, 1, 0), (20, 1, 0), (80, 1, 1)), boxes((40, 0.2, 0))
    [counts] = counted([ours], [sure], [unsure], 2)
    assert counts.tolist() == [[1, 2, 2], [0, 1, 1]]
    [nothing] = counted([empty()], [empty()], [empty()], 2)
    assert nothing.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_blocks_are_neighbours_of_one_source_and_a_source_has_eight_if_it_can() -> None:
    assert blocks_of(["a"] * 81).tolist() == [*np.repeat(range(8), BLOCK), 8]
    assert blocks_of(["a"] * 16 + ["b"] * 2).tolist() == [*np.repeat(range(8), 2), 8, 9]
    assert blocks_of(["a", "b", "a", "b"]).tolist() == [0, 1, 2, 3]


def made(n: int, right: float, seed: int) -> np.ndarray:
    """Counts of two classes, five objects a picture; a share of them is found."""
    rng = np.random.default_rng(seed)
    there = np.full((n, 2), [3, 2])
    shown = rng.integers(1, 5, (n, 2))
    pairs = rng.binomial(np.minimum(there, shown), right)
    return np.stack([pairs, shown, there], axis=2).astype(np.int64)


def f1(sums: np.ndarray) -> float:
    pairs, shown, there = sums
    return 2 * pairs / (shown + there)


def test_intervals_are_those_of_an_independent_bootstrap():
    ours, theirs, sources = made(200, 0.9, 1), made(200, 0.7, 2), ["a"] * 200
    blocks = [
        each.reshape(-1, BLOCK, 2, 3).sum(axis=(1, 2)).astype(float) for each in (ours, theirs)
    ]

    def both(*columns, axis=-1):
        own, other = np.stack(columns[:3]), np.stack(columns[3:])
        return f1(own.sum(axis=axis)) - f1(other.sum(axis=axis))

    columns = tuple(column for one in blocks for column in one.T)
    expected = scipy.stats.bootstrap(
        columns, both, paired=True, method="percentile", n_resamples=4000, rng=5
    ).confidence_interval
    found = difference_of(ours, theirs, sources)
    assert found.middle == pytest.approx(f1(ours.sum((0, 1))) - f1(theirs.sum((0, 1))))
    width = found.high - found.low
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)
    # Paired: much narrower than what the two say apart would allow.
    same = difference_of(ours, ours, sources)
    assert (same.low, same.middle, same.high) == (0, 0, 0)
    alone = f1_of(ours, sources)
    assert alone.low < alone.middle < alone.high


# -- Pictures with five objects, at 0, 20, 40, 60 and 80.

PLACES = (0, 20, 40, 60, 80)


def objects(n_right: int, n_wrong: int = 0) -> Boxes:
    """Boxes on the first objects, and boxes where nothing is."""
    rows = [(place, 0.9, 0) for place in PLACES[:n_right]]
    return boxes(*rows, *((200 + 20 * place, 0.9, 0) for place in range(n_wrong)))


def shown(n: int, n_right: int, n_wrong: int = 0) -> list[Boxes]:
    """The same boxes in each picture, except that every fourth lacks the first."""
    return [objects(n_right - (row % 4 == 0), n_wrong) for row in range(n)]


def labels_of(n: int, evidence: JudgedBy) -> list[TeacherLabels]:
    """Pictures with five objects each, labelled by people or by a teacher."""
    people = frozenset({0}) if evidence == "labels" else None
    return [TeacherLabels(objects(5), empty(), people) for _ in range(n)]


def verdict_of(
    ours: list[Boxes], general: list[Boxes], said: list[TeacherLabels], **more: list[Boxes]
) -> ModelVerdict:
    """Judge models on pictures of one source."""
    return judge(ours, general, said, ["a"] * len(said), LABELS, **more)


def test_agreement_must_show_a_gain_and_is_called_so() -> None:
    better = verdict_of(shown(60, 5), shown(60, 3), labels_of(60, "teacher"))
    assert better.allowed
    assert better.decides.evidence == "teacher"
    assert better.metrics["decided_by"] == "teacher"
    assert refusal_of(better.metrics) == ""
    assert [(row.label, row.there) for row in better.decides.classes] == [("bottle", 300)]
    same = verdict_of(shown(60, 4), shown(60, 4), labels_of(60, "teacher"))
    assert "its interval includes zero (F1 +0.000, +0.000 to +0.000)" in same.refused
    assert refusal_of(same.metrics) == same.refused


@pytest.mark.parametrize(
    ("n", "evidence", "words"),
    [
        (19, "teacher", "the teacher has 95 objects in the judging pictures; 100 are needed"),
        (49, "teacher", "49 pictures judge; 50 are needed"),
        (7, "labels", "people labelled 35 objects in the judging pictures; 40 are needed"),
        (19, "labels", "people labelled 19 of the judging pictures; 20 are needed"),
    ],
)
def test_what_is_missing_is_stated(n: int, evidence: JudgedBy, words: str) -> None:
    assert verdict_of(shown(n, 5), shown(n, 3), labels_of(n, evidence)).refused == words


def test_by_labels_a_model_must_not_be_worse_but_need_not_be_better() -> None:
    said = labels_of(20, "labels")
    same = verdict_of(shown(20, 4), shown(20, 4), said)
    assert same.allowed
    assert same.decides.evidence == "labels"
    worse = verdict_of([*shown(19, 4), objects(0)], shown(20, 4), said)
    assert "by people's labels, it is worse than the shipped detector: F1 -0.0" in worse.refused


def test_a_model_that_shows_no_labelled_object_is_refused_even_beside_one_like_it() -> None:
    blind = verdict_of([empty()] * 20, [empty()] * 20, labels_of(20, "labels"))
    assert blind.refused == "it shows none of the 100 objects in the judging pictures"


def test_a_ball_that_only_the_teacher_sees_admits_no_model() -> None:
    """Two people in each picture, which both models find; the teacher sees a ball besides."""
    people = boxes((0, 1, 0), (20, 1, 0))
    ball = boxes((0, 1, 0), (20, 1, 0), (40, 1, 1))
    teaching = [TeacherLabels(ball, empty()) for _ in range(60)]
    tuned, shipped = [ball] * 80, [people] * 80
    assert judge(tuned[:60], shipped[:60], teaching, ["a"] * 60, LABELS).allowed
    # Without a person who confirmed balls, they are neither right nor wrong.
    unconfirmed = [chosen(labels, {0}, {}) for labels in teaching]
    refused = judge(tuned[:60], shipped[:60], unconfirmed, ["a"] * 60, LABELS).refused
    assert "its interval includes zero" in refused
    # People labelled both classes in some pictures: there the ball is wrong, and that decides.
    said = [*teaching, *(TeacherLabels(people, empty(), frozenset({0, 1})) for _ in range(20))]
    by_labels = judge(tuned, shipped, said, ["a"] * 80, LABELS)
    assert by_labels.decides.evidence == "labels"
    assert by_labels.decides.difference.middle == pytest.approx(-0.2)  # 4/5 instead of 1
    assert "by people's labels, it is worse" in by_labels.refused
    [agreement] = by_labels.others
    assert agreement.difference.middle > 0.1


def test_few_labels_decide_nothing_but_refuse_what_is_worse_by_them() -> None:
    said = [*labels_of(60, "teacher"), *labels_of(3, "labels")]
    better = verdict_of(shown(63, 5), shown(63, 3), said)
    assert better.allowed
    assert better.decides.evidence == "teacher"
    worse = verdict_of([*shown(60, 5), *shown(3, 1)], shown(63, 3), said)
    assert "by people's labels, it is worse" in worse.refused


def test_verdicts_decide_before_the_teacher_if_there_are_enough_of_both_kinds() -> None:
    """The shipped model repeats each mistake, the other one does not, and lacks no object."""
    judged = BoxVerdicts(objects(1), boxes((200, 1, 0)))
    said = [TeacherLabels(objects(5), empty(), None, judged) for _ in range(60)]
    better = verdict_of([objects(1)] * 60, [objects(1, 1)] * 60, said)
    assert better.allowed
    assert better.decides.evidence == "verdicts"
    assert better.decides.boxes == 120
    assert better.decides.difference.middle == pytest.approx(1 - 2 / 3)
    # A model without any box repeats no mistake either.
    blind = verdict_of([empty()] * 60, [objects(1, 1)] * 60, said)
    assert "by people's verdicts, it is worse" in blind.refused
    few = [TeacherLabels(objects(5), empty(), None, judged if n < 9 else None) for n in range(60)]
    assert verdict_of(shown(60, 5), shown(60, 3), few).decides.evidence == "teacher"


def test_a_cheaper_model_must_not_be_much_worse_than_the_tuned_one() -> None:
    said = labels_of(60, "teacher")
    cheaper = verdict_of(shown(60, 4), shown(60, 2), said, tuned=shown(60, 5))
    assert "below the tuned detector's; allowed is 0.05" in cheaper.refused
    assert verdict_of(shown(60, 4), shown(60, 2), said, tuned=shown(60, 4)).allowed


def test_models_that_were_judged_by_other_rules_count_as_not_judged() -> None:
    assert refusal_of({}) == NOT_JUDGED
    assert refusal_of({"judged_frames": 60, "judged_boxes": 300, "difference_low": 0.1}) == (
        NOT_JUDGED
    )


def test_without_pictures_nothing_is_judged() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        judge([], [], [], [], LABELS)
