"""benchmarks.alike: its figures by hand, and which visits teach and judge."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.alike import (
    SIDES,
    Asked,
    asked,
    average_precision,
    fill,
    precision_first,
    role_of,
)
from benchmarks.alike.questions import Question
from benchmarks.alike.runs import RunVisit, matched
from benchmarks.alike.visit_labels import Anchor, LabelledVisit, Presence, VisitLabels
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.visit_index import VisitIndex
from framegate.pipeline.review.visit_search import table_of
from tests.support.said import visit


def test_figures_by_hand() -> None:
    truth = np.array([True, False, True, False])
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    assert average_precision(truth, scores) == pytest.approx((1 + 2 / 3) / 2)
    assert precision_first(truth, scores) == 0.5  # of the first two, as two are true
    assert average_precision(truth, -scores) == pytest.approx((1 / 2 + 2 / 4) / 2)


def labelled(number: int, first: int, last: int, direction: str) -> LabelledVisit:
    fields = {
        "anchors": [[first, 0, 0, 20, 40], [last, 0, 0, 20, 40]],
        "visit": number, "kind": "person", "direction": direction, "lane": "none",
        "stops": "no", "colour": "red", "bag": "no", "group": "no",
    }  # fmt: skip
    return msgspec.convert(fields, LabelledVisit)


LABELS = VisitLabels(
    1, "door", "", 640, 360, "", 1000, 25.0, (),
    (
        labelled(1, 0, 100, "left"),
        labelled(2, 200, 300, "right"),
        labelled(3, 700, 800, "left"),
        labelled(4, 850, 900, "unsure"),
    ),
    (Presence((Anchor(910, 0, 0, 20, 40), Anchor(990, 0, 0, 20, 40))),),
)  # fmt: skip


def run() -> list[RunVisit]:
    """Six tracks: one for each labelled visit, a fragment of the third, and an unsure object."""
    spans = {1: (0, 100), 2: (200, 300), 3: (700, 790), 4: (850, 900), 5: (791, 800), 6: (910, 990)}
    tracks = {
        track: dict.fromkeys(range(first, last + 1), (0.0, 0.0, 20.0, 40.0))
        for track, (first, last) in spans.items()
    }
    visits = [visit(first, last, track) for track, (first, last) in spans.items()]
    return matched("door", LABELS, visits, tracks)


def test_who_teaches_and_who_judges() -> None:
    visits = run()
    assert [each.shows for each in visits] == [1, 2, 3, 4, 3, None]
    question = Question("to the left", ("door",), {"direction": ("left",)})
    query = asked(question, visits, {"door": LABELS})
    assert query.marks == [0]
    assert query.teaches == [0, 1]
    # Not the fragment, the visit whose direction is unsure, nor the object that is unsure.
    assert query.judge == [2]
    assert query.is_true.tolist() == [True, False, True, False, False, False]
    assert query.is_judged.tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("side", ["ours", "path", "logistic"])
def test_visits_that_judge_teach_nothing(side: str) -> None:
    table = table_of([visit(30 * n, 30 * n + 5 * n, n) for n in range(1, 13)])
    features = np.random.default_rng(0).normal(size=(12, 96))
    no = np.zeros(12, np.bool_)
    teaches = list(range(8))
    query = Asked(table, teaches, features, no, no, [0, 1, 2, 3, 4], [11])
    before = SIDES[side](query, query.marks)
    table.numbers[:, 8:] += 9
    features[8:] += 9
    after = SIDES[side](query, query.marks)
    assert np.array_equal(before[teaches], after[teaches])
    assert not np.array_equal(before, after)


def test_the_role_of_a_question_is_that_of_its_clips() -> None:
    clips = {"pets2001-campus": "chooses", "cctv-highway-overlay": "reports"}
    for clip, role in clips.items():
        assert role_of(Question("", (clip,), {})) == role
    assert role_of(Question("", tuple(clips), {})) == "both"


def test_many_visits_are_those_of_the_clips_moved_a_little(tmp_path: Path) -> None:
    visits = [visit(n, n + 10, n) for n in range(1, 5)]
    fill(tmp_path / FILE, visits, 1001)
    with opened(tmp_path / FILE) as database:
        rowids, large = VisitIndex().read(database)
    assert len(rowids) == len(large) == 1001
    assert np.abs(large.numbers.mean(1) - table_of(visits).numbers.mean(1)).max() < 0.3
