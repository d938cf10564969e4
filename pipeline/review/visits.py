"""The visits of the database as arrays, and the marks that users set on them.

A mark states whether a visit is like the others with the same name. Marks are kept like verdicts:
they are in the database only, and go with their visit.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.likeness import Likeness
from framegate.pipeline.contracts.visits import VERSION, Visit
from framegate.pipeline.review.likeness_fit import fit
from framegate.pipeline.review.projection import open_database
from framegate.pipeline.review.visit_search import (
    HALF,
    VOCABULARY,
    VisitTable,
    best_rows,
    by_example,
    by_likeness,
    by_words,
    table_of,
)

MAX_VISITS: Final = 1_000_000  # that are searched, the newest
_COLUMNS: Final = (
    "id, source, track, label, began_epoch, began_seq, began_media_s, began_captured, last_epoch,"
    " last_seq, last_media_s, last_captured, path, width, height, speed, dwell_s, stops,"
    " mean_score, top_score, looks, colours, sounds, episodes, feature, feature_model"
)


class FoundVisit(msgspec.Struct, frozen=True):
    """A visit that a search found.

    visit     the visit, without its feature
    strength  how much it is what was searched, 0 to 1; at least 0.5
    mark      true: it is marked as alike. false: as not alike. null: it has no mark of this name
    """

    visit: Visit
    strength: float
    mark: bool | None


class FoundVisits(msgspec.Struct, frozen=True):
    """The result of a search.

    found     the strongest visits, the strongest first
    matching  number of visits with a strength of at least 0.5
    searched  number of visits that were searched
    words     the words that a search can have
    """

    found: list[FoundVisit]
    matching: int
    searched: int
    words: str = VOCABULARY


class VisitMarks(msgspec.Struct, frozen=True):
    """The marks of one name. alike, others: numbers of visits that are marked as alike, and not."""

    name: str
    alike: int
    others: int


class VisitIndex:
    """The visits of a database in memory. Any thread."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._seen = (-1, -1, -1)
        self._visits: tuple[Visit, ...] = ()
        self._table = table_of(())

    def read(self, database: sqlite3.Connection) -> tuple[Sequence[Visit], VisitTable]:
        """Return all visits of a database, oldest first, and as arrays.

        They are read again only if there are others than at the last call.
        """
        with self._turn:
            seen = database.execute(
                "SELECT count(*), coalesce(min(rowid), 0), coalesce(max(rowid), 0) FROM visits"
            ).fetchone()
            if seen != self._seen:
                self._visits = tuple(all_visits(database))
                self._table = table_of(self._visits)
                self._seen = seen
            return self._visits, self._table


def all_visits(database: sqlite3.Connection) -> list[Visit]:
    """Return the newest MAX_VISITS visits, the oldest first."""
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM visits ORDER BY rowid DESC LIMIT ?", (MAX_VISITS,)
    )
    return [_visit(row) for row in rows][::-1]


def _visit(row: Sequence[Any]) -> Visit:
    names = ("epoch", "seq", "media_s", "captured")
    began = dict(zip(names, row[4:8], strict=True))
    last = dict(zip(names, row[8:12], strict=True))
    path, width, height, speed, dwell_s, stops, mean_score, top_score, looks = row[12:21]
    colours, sounds, episodes = (msgspec.json.decode(text) for text in row[21:24])
    fields = {
        "v": VERSION,
        **dict(zip(("id", "source", "track", "label"), row[:4], strict=True)),
        "began": began,
        "last": last,
        "path": msgspec.json.decode(path),
        "size": (width, height),
        "speed": speed,
        "dwell_s": dwell_s,
        "stops": stops,
        "scores": (mean_score, top_score),
        "looks": looks,
        "colours": colours,
        "sounds": sounds,
        "episodes": episodes,
        "feature": row[24],
        "feature_model": row[25],
    }
    return msgspec.convert(fields, Visit, strict=False)


@dataclass(frozen=True)
class VisitQuery:
    """A search.

    words       such as "car, left, stops"; "": all visits
    like        id of a visit: the nearest to it come first; "": none
    marks       name of marks, which the answer has; "": none
    is_trained  the visits that are like the marked ones come first, and others are left out
    limit       greatest number of visits
    """

    words: str = ""
    like: str = ""
    marks: str = ""
    is_trained: bool = False
    limit: int = 100


def search(index: VisitIndex, database: sqlite3.Connection, query: VisitQuery) -> FoundVisits:
    """Return the visits that a query selects, the strongest first. ConfigFaults."""
    visits, table = index.read(database)
    marked = marks_of(database, query.marks)
    strength = by_words(table, query.words)
    is_said = strength >= HALF
    if query.like:
        if query.like not in table.ids:
            near = did_you_mean(query.like, table.ids)
            raise ConfigFaults([f"there is no visit {query.like[:100]!r}{near}"])
        nearness = by_example(table, table.ids.index(query.like))
        strength = np.where(is_said, HALF + HALF * nearness, 0)
    elif query.is_trained:
        strength = np.where(is_said, by_likeness(table, _fitted(table, marked)), 0)
    rows = best_rows(table, strength, query.limit)
    found = []
    for row in rows:
        shown = msgspec.structs.replace(visits[row], feature=b"", feature_model="")
        mark = marked.get(table.ids[row])
        found.append(FoundVisit(shown, round(float(strength[row]), 4), mark))
    return FoundVisits(found, int((strength >= HALF).sum()), len(table))


def likeness_of(index: VisitIndex, database: sqlite3.Connection, name: str) -> Likeness:
    """Return the likeness to the visits with marks of a name. ConfigFaults."""
    marked = marks_of(database, name)
    if not marked:
        known = [each.name for each in all_marks(database)]
        near = did_you_mean(name, known)
        raise ConfigFaults([f"no visit is marked as {name[:64]!r}{near}"])
    _, table = index.read(database)
    return _fitted(table, marked)


def _fitted(table: VisitTable, marked: Mapping[str, bool]) -> Likeness:
    rows = {name: row for row, name in enumerate(table.ids)}
    alike = [rows[name] for name, is_alike in marked.items() if is_alike and name in rows]
    others = [rows[name] for name, is_alike in marked.items() if not is_alike and name in rows]
    return fit(table, alike, others)


def rule_text(name: str, likeness: Likeness) -> str:
    """Return the lines of pipeline.toml for a rule about visits that are like the marked ones."""
    alike, others = likeness.marks
    return (
        f"# Like {alike} marked visits, and not like {others} others.\n"
        f'[events.rules.{name}]\nwhen = "like"\nlike = "{likeness.text()}"\n'
    )


# -- Marks.


def marks_of(database: sqlite3.Connection, name: str) -> dict[str, bool]:
    """Return whether each visit with a mark of a name is alike, by its id, the oldest first."""
    rows = database.execute(
        "SELECT visit, is_alike FROM mark WHERE name = ? ORDER BY marked, visit", (name,)
    )
    return {visit: bool(is_alike) for visit, is_alike in rows}


def all_marks(database: sqlite3.Connection) -> list[VisitMarks]:
    """Return the numbers of marks by name."""
    rows = database.execute(
        "SELECT name, sum(is_alike), sum(1 - is_alike) FROM mark GROUP BY name ORDER BY name"
    )
    return [VisitMarks(*row) for row in rows]


def mark_visit(file: Path, name: str, visit: str, is_alike: bool | None, now: float) -> VisitMarks:
    """Store a mark durably; None removes it. Return the numbers of marks of its name. Any thread.

    now  UNIX seconds

    ConfigFaults if there is no such visit, or for a name that is none; DatabaseRefused;
    sqlite3.Error if the disk fails.
    """
    if not is_name(name):
        raise ConfigFaults([f"marks {name[:40]!r}: not a name; a name is {NAME_RULE}"])
    with closing(open_database(str(file))) as database:
        database.execute("PRAGMA synchronous = FULL")
        if database.execute("SELECT 1 FROM visits WHERE id = ?", (visit,)).fetchone() is None:
            raise ConfigFaults([f"there is no visit {visit[:100]!r}"])
        if is_alike is None:
            database.execute("DELETE FROM mark WHERE name = ? AND visit = ?", (name, visit))
        else:
            row = (name, visit, int(is_alike), now)
            database.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", row)
        counts = {each.name: each for each in all_marks(database)}
    return counts.get(name, VisitMarks(name, 0, 0))
