"""Visits of the database: searched, marked, and made a likeness."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from framegate.pipeline.contracts.episodes import Changes, EventEntry, Step
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import PathPoint, Visit, VisitEntry
from framegate.pipeline.review import visit_index
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.projection import Projection
from framegate.pipeline.review.visit_index import VisitIndex
from framegate.pipeline.review.visit_rows import all_visits
from framegate.pipeline.review.visit_search import table_of
from framegate.pipeline.review.visits import (
    VisitMarks,
    VisitQuery,
    all_marks,
    likeness_of,
    mark_visit,
    marks_of,
    rule_text,
    search,
    try_rule,
)
from tests.support.episodes import rules
from tests.support.said import change, visit


def there(n: int) -> Visit:
    label = "car" if n % 2 else "person"
    sounds: tuple[str, ...] = ()
    if n % 3 == 0:
        sounds = ("bark",)
    seen = visit(n, n + 10, n)
    return msgspec.structs.replace(seen, label=label, size=(0.05 + n / 1000, 0.2), sounds=sounds)


def entry(seq: int, before: Position, *numbers: int) -> VisitEntry:
    visits = tuple(there(n) for n in numbers)
    return VisitEntry("door", Position(1, seq), before, visits)


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


def read_rows(index: VisitIndex, file: Path) -> tuple[list[int], int]:
    """Return the rowids of an index, and the number of rows that it read anew."""
    with opened(file) as database:
        statements: list[str] = []
        database.set_trace_callback(statements.append)
        rowids, table = index.read(database)
        database.set_trace_callback(None)
        assert len(table) == len(rowids)
        [after] = [each for each in statements if "min(number)" in each]
        last = int(after.split("number > ")[1].split()[0])
        ids = [row[0] for row in database.execute("SELECT rowid FROM visits ORDER BY rowid")]
        assert rowids.tolist() == ids
        expected = table_of(all_visits(database))
        assert np.array_equal(table.numbers, expected.numbers)
        assert np.array_equal(table.began, expected.began)
        labels = [table.label_names[label] for label in table.labels.tolist()]
        assert labels == [expected.label_names[label] for label in expected.labels.tolist()]
        sounds = {name: rows.tolist() for name, rows in table.sounds.items() if rows.size}
        assert sounds == {name: rows.tolist() for name, rows in expected.sounds.items()}
    return ids, sum(rowid > last for rowid in ids)


def test_a_search_reads_only_new_visits_and_drops_removed_ones(
    projection: Projection, tmp_path: Path
) -> None:
    file = tmp_path / FILE
    index = VisitIndex()
    assert read_rows(index, file)[1] == 20
    with opened(file) as database:
        _, earlier = index.read(database)
        before = earlier.numbers.copy()
    assert read_rows(index, file)[1] == 0
    projection.take([entry(200, Position(1, 100), 31, 32)])
    assert read_rows(index, file)[1] == 2
    projection.keep(12, 0.0)
    ids, new = read_rows(index, file)
    assert (len(ids), new) == (12, 0)
    with sqlite3.connect(file) as database:  # not the oldest one, as after a repair
        database.execute("DELETE FROM visits WHERE rowid = ?", (ids[5],))
    assert read_rows(index, file) == ([*ids[:5], *ids[6:]], 0)
    with sqlite3.connect(file) as database:  # the row of the last visit has another one
        database.execute("UPDATE visits SET id = 'door/1-7/7' WHERE rowid = ?", (ids[-1],))
    assert read_rows(index, file)[1] == 11
    assert np.array_equal(earlier.numbers, before), "a table that was given does not change"


def test_only_the_newest_visits_are_searched(
    projection: Projection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit_index, "MAX_VISITS", 15)
    index = VisitIndex()
    for start in (21, 24, 24):
        with opened(tmp_path / FILE) as database:
            rowids, _ = index.read(database)
            assert rowids.tolist() == list(range(start - 15, start))
            with pytest.raises(ConfigFaults, match="not searched any more"):
                search(index, database, VisitQuery(like=there(1).id))
        if start == 21:
            projection.take([entry(200, Position(1, 100), 31, 32, 33)])
        else:
            projection.keep(18, 0.0)


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
    with sqlite3.connect(file) as database:  # an earlier version could leave such a mark
        database.execute("INSERT INTO mark VALUES ('van', 'door/1-9/99', 1, 10.0)")
    assert mark_visit(file, "van", there(2).id, None, 10.0) == VisitMarks("van", 5, 0)
    with pytest.raises(ConfigFaults, match="there is no visit"):
        mark_visit(file, "van", "door/1-9/99", True, 10.0)
    with pytest.raises(ConfigFaults, match="a name is"):
        mark_visit(file, "A van", there(1).id, True, 10.0)
    projection.keep(12, 0.0)  # the oldest eight visits go, and their marks with them
    with opened(file) as database:
        assert {each.name: each.alike for each in all_marks(database)} == {"van": 1}


def test_a_trial_reports_what_a_run_would_report(projection: Projection, tmp_path: Path) -> None:
    """A visit without a path has the numbers of visits that stand in the middle of the picture."""
    middle = (PathPoint(0.0, 0.5, 0.5),)
    still = [msgspec.structs.replace(there(n), path=middle) for n in range(31, 36)]
    lost = msgspec.structs.replace(there(37), path=())
    visits = VisitEntry("door", Position(1, 200), Position(1, 100), (*still, lost))
    projection.take([visits])
    file = tmp_path / FILE
    for each in still:
        mark_visit(file, "van", each.id, True, 1.0)
    with opened(file) as database:
        likeness = likeness_of(VisitIndex(), database, "van")
        assert likeness.of(lost) > 0.5
        trial = try_rule(VisitIndex(), database, "van")
    assert {each.visit.id for each in trial.would_report} == {each.id for each in still}
    assert lost.id in {each.visit.id for each in trial.just_below}
    assert (trial.searched, trial.reported, trial.alike_reported) == (26, 5, 5)


def test_a_visit_has_the_episodes_of_its_track(projection: Projection, tmp_path: Path) -> None:
    """Visit n is track n from frame n to n + 10."""

    def told(step: Step, began: int, last: int, track: int, rank: int) -> None:
        said = change(step, began, last, rank=rank, tracks=(99, track))
        at = Position(1, 200 + 2 * rank + (step == "end"))
        projection.take([EventEntry("door", at, START, None, Changes((said,)))])

    spans = [(5, 9, 5), (5, 9, 6), (16, 20, 5), (1, 4, 5)]  # the last two miss track 5
    for rank, (began, last, track) in enumerate(spans):
        told("start", began, last, track, rank)
        told("end", began, last, track, rank)
    told("start", 2, 2, 5, 9)  # open, so it may have been passed on
    with opened(tmp_path / FILE) as database:
        found = search(VisitIndex(), database, VisitQuery()).found
    episodes = {each.visit.track: each.visit.episodes for each in found}
    assert episodes[5] == ("door/visitor/1-2/9", "door/visitor/1-5/0")
    assert episodes[6] == ("door/visitor/1-5/1",)
    assert episodes[7] == ()


# Of version 4, by hand: visits without a number, and streams without a stage.
TO_4 = """
ALTER TABLE watched DROP COLUMN why;
DROP TABLE searched;
DROP TABLE picture;
DROP INDEX by_frame;
DROP TABLE lost;
DROP TABLE stream;
CREATE TABLE lost (
  source TEXT NOT NULL, after TEXT NOT NULL, before TEXT NOT NULL, PRIMARY KEY (source, after)
) STRICT, WITHOUT ROWID;
CREATE TABLE stream (
  source TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  frame_epoch INTEGER NOT NULL, frame_seq INTEGER NOT NULL, captured REAL NOT NULL
) STRICT, WITHOUT ROWID;
DROP TABLE visits;
ALTER TABLE former RENAME TO visits;
CREATE INDEX visits_by_time ON visits (began_captured, source, label);
CREATE INDEX visits_by_age ON visits (kept, began_epoch, began_seq, id);
ALTER TABLE visits ADD COLUMN episodes TEXT NOT NULL DEFAULT '[]';
PRAGMA user_version = 4;
"""


def test_an_upgrade_keeps_visits_and_marks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / FILE
    projection = Projection(file)
    projection.take([entry(100, START, *range(1, 21))])
    mark_visit(file, "van", there(3).id, True, 1.0)
    mark_visit(file, "van", there(4).id, False, 2.0)
    projection.close()
    with closing(sqlite3.connect(file)) as database:
        columns = database.execute("SELECT name FROM pragma_table_info('visits')").fetchall()
        names = ", ".join(name for (name,) in columns if name != "number")
        database.executescript(f"CREATE TABLE former AS SELECT {names} FROM visits;")
        database.executescript(TO_4)
    for _ in range(2):  # in memory by a reader, then in the file by a run
        with opened(file) as database:
            assert [each.id for each in all_visits(database)] == [there(n).id for n in range(1, 21)]
            assert marks_of(database, "van") == {there(3).id: True, there(4).id: False}
            assert search(VisitIndex(), database, VisitQuery(words="car")).matching == 10
        with caplog.at_level("INFO"):
            Projection(file).close()
    assert caplog.text.count("20 visits and 2 marks") == 1


def test_an_upgrade_makes_the_numbers_of_visits_again(tmp_path: Path) -> None:
    file = tmp_path / FILE
    projection = Projection(file)
    projection.take([entry(100, START, *range(1, 21))])
    projection.close()
    with closing(sqlite3.connect(file)) as database:
        rows = database.execute("SELECT * FROM searched ORDER BY number").fetchall()
        database.execute("UPDATE searched SET numbers = substr(numbers, 1, 148)")  # 37, as before
        database.execute("ALTER TABLE watched DROP COLUMN why")
        database.execute("PRAGMA user_version = 6")
        database.commit()
    Projection(file).close()
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT * FROM searched ORDER BY number").fetchall() == rows
