"""Labels of visits: boxes between anchors, checks, matching and questions. Expected by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.alike import questions, visit_labels
from benchmarks.alike.questions import PartCount, Question
from benchmarks.alike.visit_labels import (
    Anchor,
    LabelledVisit,
    Match,
    Presence,
    VisitLabels,
    longest,
    match,
)
from benchmarks.truth.labels import NUMBERING, Edges, LabelsInvalid


def square(left: float, top: float = 0.0) -> Edges:
    return left, top, left + 10, top + 10


def anchor(frame: int, left: float, top: float = 0.0) -> Anchor:
    return Anchor(frame, *square(left, top))


CAR = LabelledVisit(
    anchors=(anchor(0, 0), anchor(10, 50)),
    visit=1,
    kind="car",
    direction="right",
    lane="near",
    stops="no",
    colour="white",
    bag="no",
    group="no",
)
PERSON = LabelledVisit(
    anchors=(anchor(70, 0, 50), anchor(90, 0, 50)),
    visit=2,
    kind="person",
    direction="none",
    lane="unsure",
    stops="yes",
    colour="unsure",
    bag="yes",
    group="no",
)
SMALL = Presence((anchor(0, 80), anchor(99, 80)))
LABELS = VisitLabels(
    protocol=1,
    clip="street",
    sha256="ab",
    width=100,
    height=80,
    numbering=NUMBERING,
    frames=100,
    fps=10.0,
    lanes=("near", "far"),
    visits=(CAR, PERSON),
    unsure=(SMALL,),
)
CARS = Question("white cars", ("street",), {"kind": ("car",), "colour": ("white",)})


def changed(visit: LabelledVisit, **fields: object) -> VisitLabels:
    return msgspec.structs.replace(
        LABELS, visits=(msgspec.structs.replace(visit, **fields),), unsure=()
    )


def faults_of(labels: VisitLabels) -> tuple[str, ...]:
    with pytest.raises(LabelsInvalid) as invalid:
        visit_labels.check(labels, "street")
    return invalid.value.faults


def test_a_box_moves_evenly_between_anchors() -> None:
    assert CAR.box(0) == square(0)
    assert CAR.box(4) == square(20)
    assert CAR.box(10) == square(50)


def test_a_written_file_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "street.json"
    visit_labels.write(path, LABELS)
    assert visit_labels.read(path) == LABELS
    empty = msgspec.structs.replace(LABELS, visits=(), unsure=())
    visit_labels.write(path, empty)
    assert visit_labels.read_all(tmp_path) == {"street": empty}


def test_each_fault_is_reported() -> None:
    assert "unknown kind 'tank'" in faults_of(changed(CAR, kind="tank"))[0]
    assert "lane must be any of near, far, unsure" in faults_of(changed(CAR, lane="none"))[0]
    assert "attributes of people" in faults_of(changed(CAR, bag="unsure"))[0]
    assert "at least one box" in faults_of(changed(CAR, anchors=()))[0]
    twice = (anchor(3, 0), anchor(3, 5))
    assert "ascend from 0 to 99" in faults_of(changed(CAR, anchors=twice))[0]
    assert "outside the picture" in faults_of(changed(CAR, anchors=(anchor(3, 95),)))[0]
    assert "version 2" in faults_of(msgspec.structs.replace(LABELS, protocol=2))[0]


def test_a_colour_that_is_none_of_the_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "street.json"
    visit_labels.write(path, LABELS)
    path.write_text(
        path.read_text(encoding="utf-8").replace('"white"', '"silver"'), encoding="utf-8"
    )
    with pytest.raises(LabelsInvalid, match="silver"):
        visit_labels.read(path)


def test_a_track_shows_the_object_that_it_overlaps_in_half_of_its_frames() -> None:
    on_car = {frame: square(5 * frame + 1) for frame in range(4)}
    fragment = {frame: square(5 * frame) for frame in range(5, 11)}
    half_gone = {**on_car, **{frame: square(0, 60) for frame in range(4, 9)}}
    tracks = {
        1: on_car,
        2: fragment,
        3: half_gone,
        4: {frame: square(81) for frame in range(50, 60)},
        5: {70: square(0, 50), 71: square(40, 40)},
    }
    matches = match(LABELS, tracks)
    assert matches[1] == Match(1, False, 4)
    assert matches[2] == Match(1, False, 6)
    assert matches[3] == Match(None, False, 0)
    assert matches[3].is_judged
    assert matches[4] == Match(None, True, 10)
    assert not matches[4].is_judged
    assert matches[5] == Match(2, False, 1)
    assert longest(matches) == {1: 2, 2: 5}


def test_an_unsure_attribute_is_judged_only_where_another_one_decides() -> None:
    assert questions.answer(CARS, CAR) is True
    assert questions.answer(CARS, PERSON) is False
    people = Question("people in black", ("street",), {"kind": ("person",), "colour": ("black",)})
    assert questions.answer(people, PERSON) is None
    assert questions.answer(people, CAR) is False
    small = msgspec.structs.replace(CAR, kind="vehicle")
    assert questions.answer(CARS, small) is None


def test_a_visit_counts_in_the_part_in_which_it_ends() -> None:
    [counted] = questions.recounted([CARS], {"street": LABELS})
    assert (counted.first, counted.last) == (PartCount(true=1), PartCount(false=1))
    between = changed(CAR, anchors=(anchor(0, 0), anchor(62, 50)))
    [counted] = questions.recounted([CARS], {"street": between})
    assert (counted.first, counted.last) == (PartCount(), PartCount())


def test_a_question_with_few_marks_or_other_numbers_is_refused() -> None:
    with pytest.raises(LabelsInvalid) as invalid:
        questions.check([CARS], {"street": LABELS})
    assert [fault.partition(": ")[2] for fault in invalid.value.faults] == [
        "the labels have other numbers; `count` writes them",
        "needs 5 true visits in the first part",
        "needs true and false visits in the last part",
    ]


def test_the_labels_and_the_questions_of_the_repository_are_valid() -> None:
    labels = visit_labels.read_all()
    questions.check(questions.read(), labels)
    again = visit_labels.read_all(visit_labels.SECOND_PASS)
    for clip, second in again.items():
        first = {visit.visit: visit.anchors for visit in labels[clip].visits}
        assert all(first[visit.visit] == visit.anchors for visit in second.visits)
