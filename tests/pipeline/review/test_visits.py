"""Visits of the database: searched, marked, and made a likeness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.contracts.episodes import Changes, EventEntry
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import Visit
from framegate.pipeline.review.projection import FILE, Projection
from framegate.pipeline.review.search import opened
from framegate.pipeline.review.visits import (
    VisitIndex,
    VisitMarks,
    VisitQuery,
    all_marks,
    likeness_of,
    mark_visit,
    marks_of,
    rule_text,
    search,
)
from tests.support.episodes import rules
from tests.support.said import moment, visit


def there(n: int) -> Visit:
    label = "car" if n % 2 else "person"
    return msgspec.structs.replace(visit(n, n + 10, n), label=label, size=(0.05 + n / 1000, 0.2))


def entry(seq: int, before: Position, *numbers: int) -> EventEntry:
    visits = tuple(there(n) for n in numbers)
    said = Changes(visits=visits)
    return EventEntry("door", Position(1, seq), before, moment(seq).captured, said)


@pytest.fixture
def projection(tmp_path: Path) -> Iterator[Projection]:
    made = Projection(tmp_path / FILE)
    made.take([entry(100, START, *range(1, 21))])
    yield made
    made.close()


def test_visits_come_back_as_they_were(projection: Projection, tmp_path: Path) -> None:
    index = VisitIndex()
    with opened(tmp_path / FILE) as database:
        found = search(index, database, VisitQuery(words="car", limit=3))
        assert (len(found.found), found.matching, found.searched) == (3, 10, 20)
        newest = found.found[0].visit
        assert newest == msgspec.structs.replace(there(19), feature=b"", feature_model="")
        nearest = search(index, database, VisitQuery(like=there(8).id, limit=2)).found
        assert nearest[0].visit.id == there(8).id
        assert nearest[1].visit.id in (there(6).id, there(10).id)
    projection.take([entry(200, Position(1, 100), 31)])
    with opened(tmp_path / FILE) as database:
        assert search(index, database, VisitQuery()).searched == 21
        with pytest.raises(ConfigFaults, match="there is no visit 'door/1-9/99'"):
            search(index, database, VisitQuery(like="door/1-9/99"))


def test_marks_are_kept_changed_and_removed(projection: Projection, tmp_path: Path) -> None:
    file = tmp_path / FILE
    for n in (1, 3, 5, 7):
        marks = mark_visit(file, "van", there(n).id, True, 1.0 + n)
    assert marks == VisitMarks("van", 4, 0)
    assert mark_visit(file, "van", there(2).id, False, 9.0) == VisitMarks("van", 4, 1)
    assert mark_visit(file, "bike", there(2).id, True, 9.0) == VisitMarks("bike", 1, 0)
    with opened(file) as database:
        assert next(iter(marks_of(database, "van").items())) == (there(1).id, True)
        with pytest.raises(ConfigFaults, match=r"4 visits are marked as alike.*mark 1 more"):
            likeness_of(VisitIndex(), database, "van")
        with pytest.raises(ConfigFaults, match=r"no visit is marked as 'vans'; did you mean van"):
            likeness_of(VisitIndex(), database, "vans")
    mark_visit(file, "van", there(9).id, True, 9.0)
    with opened(file) as database:
        query = VisitQuery(marks="van", is_trained=True)
        found = search(VisitIndex(), database, query).found
        assert {each.visit.label for each in found} == {"car"}
        assert [each.mark for each in found].count(True) == 5
        likeness = likeness_of(VisitIndex(), database, "van")
        assert likeness.marks == (5, 1)
        config = rules(rule_text("van", likeness))
        assert config.rules["van"].when == "like"
    assert mark_visit(file, "van", there(2).id, None, 10.0) == VisitMarks("van", 5, 0)
    with pytest.raises(ConfigFaults, match="there is no visit"):
        mark_visit(file, "van", "door/1-9/99", True, 10.0)
    with pytest.raises(ConfigFaults, match="a name is"):
        mark_visit(file, "A van", there(1).id, True, 10.0)
    projection.keep(12, 0.0)  # the oldest eight visits go, and their marks with them
    with opened(file) as database:
        assert {each.name: each.alike for each in all_marks(database)} == {"van": 1}
