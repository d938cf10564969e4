"""Decisions about proposed tracks: cuts, joins, thinning, and the second pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.alike.visit_labels import Anchor, VisitLabels
from benchmarks.truth.labels import LabelsInvalid
from tools.label_visits.decisions import VisitDecisions, second_answers, thinned
from tools.label_visits.proposals import ProposedTrack, VisitProposals


def anchor(frame: int, left: float) -> Anchor:
    return Anchor(frame, left, 0.0, left + 10, 10.0)


def track(number: int, first: int, last: int, left: float = 0.0) -> ProposedTrack:
    boxes = tuple(anchor(frame, left) for frame in range(first, last + 1))
    return ProposedTrack(number, "car", 0.5, boxes)


PROPOSALS = VisitProposals(
    "street", "ab", 100, 80, 100, 10.0, "light", (track(1, 0, 20), track(2, 25, 40), track(3, 5, 9))
)


def decided(folder: Path, text: str) -> VisitLabels:
    path = folder / "street.txt"
    path.write_text(text, encoding="utf-8")
    return VisitDecisions(path, PROPOSALS).labels()


def test_tracks_are_cut_and_joined(tmp_path: Path) -> None:
    text = """
        lanes near far
        track 9 50 0 0 10 10 60 40 0 50 10
        visit 1:0-10 car right near no white
        visit 1:11-20+2 person none far yes unsure yes no   # another object from frame 11 on
        unsure 9
        drop 3
    """
    labels = decided(tmp_path, text)
    car, person = labels.visits
    assert (car.visit, car.first, car.last, car.kind, car.bag) == (1, 0, 10, "car", "no")
    assert (person.visit, person.first, person.last, person.bag) == (2, 11, 40, "yes")
    assert [presence.box(55)[0] for presence in labels.unsure] == [20]


def test_each_fault_is_reported_with_its_line(tmp_path: Path) -> None:
    text = """visit 1 car right none no silver
visit 2 person right none no white
drop 7
keep 3
visit 2:80-90 car right none no white
"""
    with pytest.raises(LabelsInvalid) as invalid:
        decided(tmp_path, text)
    faults = [fault.replace(f"{tmp_path}/street.txt:", "") for fault in invalid.value.faults]
    assert faults[0].startswith("1: Invalid enum value 'silver'")
    assert faults[1].startswith("2: a person has two more attributes")
    assert faults[2] == "3: there is no track 7"
    assert faults[3].startswith("4: unknown decision 'keep'")
    assert faults[4] == "5: 2:80-90 has no box in these frames"
    assert faults[5].endswith("track 3 has no decision")


def test_only_the_anchors_of_a_bend_remain() -> None:
    there = [anchor(frame, 2.0 * frame) for frame in range(11)]
    back = [anchor(10 + frame, 20 - 2.0 * frame) for frame in range(1, 11)]
    assert [each.frame for each in thinned([*there, *back])] == [0, 10, 20]


def test_the_second_pass_answers_some_visits_again(tmp_path: Path) -> None:
    first = decided(
        tmp_path, "visit 1 car right none no white\nvisit 2 car left none no red\ndrop 3"
    )
    path = tmp_path / "second.txt"
    path.write_text("visit 2 truck left none no unsure", encoding="utf-8")
    second = second_answers(path, first)
    [again] = second.visits
    assert (again.visit, again.kind, again.colour) == (2, "truck", "unsure")
    assert again.anchors == first.visits[1].anchors
    path.write_text("visit 8 truck left none no unsure", encoding="utf-8")
    with pytest.raises(LabelsInvalid, match="there is no visit 8"):
        second_answers(path, first)
