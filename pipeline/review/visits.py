"""Search the visits of the database, and the marks that users set on them.

A mark states whether a visit is like the others with the same name. Marks are kept like verdicts:
they are in the database only, and go with their visit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.likeness import MIDDLE, PLACES, Likeness
from framegate.pipeline.contracts.visits import Visit
from framegate.pipeline.review.event_database import open_database
from framegate.pipeline.review.kept_pictures import drop_picture
from framegate.pipeline.review.likeness_fit import fit
from framegate.pipeline.review.visit_index import RowIds, VisitIndex
from framegate.pipeline.review.visit_rows import visits_in
from framegate.pipeline.review.visit_search import (
    HALF,
    VOCABULARY,
    StrengthArray,
    VisitRows,
    VisitTable,
    best_rows,
    by_example,
    by_likeness,
    by_words,
)

TRIED: Final = 24  # visits of each kind that a trial of a rule shows
DAY_S: Final = 86400.0


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


@dataclass(frozen=True)
class VisitQuery:
    """A search.

    words       such as "car, left, stops"; "": all visits
    like        id of a visit: the nearest to it come first; "": none
    marks       name of marks, which the answer has; "": none
    is_trained  the visits that are like the marked ones come first, and others are left out
    limit       greatest number of visits
    sources     only visits of these sources are searched; None: of all
    """

    words: str = ""
    like: str = ""
    marks: str = ""
    is_trained: bool = False
    limit: int = 100
    sources: Collection[str] | None = None


def search(index: VisitIndex, database: sqlite3.Connection, query: VisitQuery) -> FoundVisits:
    """Return the visits that a query selects, the strongest first. ConfigFaults.

    A visit that is removed meanwhile is left out.
    """
    rowids, table = index.read(database)
    if query.sources is not None:
        rows_of_sources, table = table.of_sources(query.sources)
        rowids = rowids[rows_of_sources]
    strength = by_words(table, query.words)
    is_said = strength >= HALF
    if query.like:
        example = _row(rowids, database, query.like)
        strength = np.where(is_said, HALF + HALF * by_example(table, example), 0)
    elif query.is_trained:
        likeness = _fitted(rowids, table, database, query.marks)
        strength = np.where(is_said, by_likeness(table, likeness), 0)
    rows = best_rows(table, strength, query.limit)
    found = _shown(database, rowids, rows, strength, marks_of(database, query.marks))
    return FoundVisits(found, int((strength >= HALF).sum()), len(table))


def _shown(
    database: sqlite3.Connection,
    rowids: RowIds,
    rows: VisitRows | list[int],
    strength: StrengthArray,
    marked: Mapping[str, bool],
) -> list[FoundVisit]:
    """Return the visits in some rows of the table with their strengths and marks."""
    found = []
    read = list(visits_in(database, rowids[rows].tolist()))
    episodes = _episodes_of(database, [visit for _, visit in read])
    for place, visit in read:
        shown = msgspec.structs.replace(
            visit, feature=b"", feature_model="", episodes=episodes[visit.id]
        )
        found.append(
            FoundVisit(shown, round(float(strength[rows[place]]), 4), marked.get(visit.id))
        )
    return found


# An episode of the track of a visit begins with the track, or is passed to it by an earlier one.
# Frames have a place in media time; the capture times of a file depend on the speed of the run.
_EARLIER_S: Final = 600.0
_PLACE: Final = "id, tracks, began_media_s, last_epoch, last_media_s, ended_by"
_EPISODES_OF: Final = f"""
SELECT near.id, track.value, began_media_s,
  iif(last_epoch > :epoch, 9e999, last_media_s), ended_by IS NULL
FROM (
  SELECT {_PLACE} FROM episode INDEXED BY by_frame WHERE source = :source
    AND began_epoch = :epoch AND began_media_s BETWEEN :since AND :until
  UNION SELECT {_PLACE} FROM episode
    WHERE source = :source AND ended_by IS NULL AND began_epoch = :epoch
) AS near, json_each(tracks) AS track
WHERE track.value IN (SELECT value FROM json_each(:tracks)) ORDER BY near.id"""


def _episodes_of(
    database: sqlite3.Connection, visits: Sequence[Visit]
) -> Mapping[str, tuple[str, ...]]:
    """Return the ids of the episodes of each visit's track, by the id of the visit.

    One query for all visits of a connection: a long visit alone can span all its episodes.
    """
    epochs: dict[tuple[str, int], list[Visit]] = {}
    for visit in visits:
        epochs.setdefault((visit.source, visit.began.epoch), []).append(visit)
    episodes: dict[str, tuple[str, ...]] = {}
    for (source, epoch), some in epochs.items():
        place = {
            "source": source,
            "epoch": epoch,
            "since": min(visit.began.media_s for visit in some) - _EARLIER_S,
            "until": max(visit.last.media_s for visit in some),
            "tracks": msgspec.json.encode([visit.track for visit in some]).decode(),
        }
        of_track: dict[int, list[tuple[str, float, float, int]]] = {}
        for id_, track, *rest in database.execute(_EPISODES_OF, place):
            of_track.setdefault(track, []).append((id_, *rest))
        for visit in some:
            since = visit.began.media_s - _EARLIER_S
            episodes[visit.id] = tuple(
                id_
                for id_, began, last, is_open in of_track.get(visit.track, ())
                if is_open or (since <= began <= visit.last.media_s and last >= visit.began.media_s)
            )
    return episodes


def _row(rowids: RowIds, database: sqlite3.Connection, visit: str) -> int:
    """Return the row of a visit in the table. ConfigFaults if it is not there."""
    found = database.execute("SELECT rowid FROM visits WHERE id = ?", (visit,)).fetchone()
    if found is not None:
        row = int(np.searchsorted(rowids, found[0]))
        if row < rowids.size and rowids[row] == found[0]:
            return row
    raise ConfigFaults([f"there is no visit {visit[:100]!r}, or it is not searched any more"])


def likeness_of(index: VisitIndex, database: sqlite3.Connection, name: str) -> Likeness:
    """Return the likeness to the visits with marks of a name. ConfigFaults."""
    if not marks_of(database, name):
        known = [each.name for each in all_marks(database)]
        near = did_you_mean(name, known)
        raise ConfigFaults([f"no visit is marked as {name[:64]!r}{near}"])
    rowids, table = index.read(database)
    return _fitted(rowids, table, database, name)


def _fitted(rowids: RowIds, table: VisitTable, database: sqlite3.Connection, name: str) -> Likeness:
    alike, others = _marked_rows(rowids, database, name)
    return fit(table, alike, others)


def _marked_rows(
    rowids: RowIds, database: sqlite3.Connection, name: str
) -> tuple[list[int], list[int]]:
    """Return the rows of the visits that are marked as alike, and as not alike."""
    marked = database.execute(
        "SELECT number, is_alike FROM mark JOIN visits ON visits.id = visit WHERE name = ?"
        " ORDER BY marked, visit",
        (name,),
    ).fetchall()
    sides: tuple[list[int], list[int]] = ([], [])
    for rowid, is_alike in marked:
        row = int(np.searchsorted(rowids, rowid))
        if row < rowids.size and rowids[row] == rowid:
            sides[not is_alike].append(row)
    return sides


class RuleTrial(msgspec.Struct, frozen=True):
    """A rule about visits that are like the marked ones, tried on the stored visits.

    like          its likeness, as text
    toml          its lines for pipeline.toml
    searched      number of visits on which it was tried, the newest
    reported      number of these that it would have reported; each would have been an episode
    days          days from the beginning of the first of these visits to that of the last
    alike         number of visits that are marked as alike
    alike_reported  number of these that it would have reported
    others        number of visits that are marked as not alike
    others_reported  number of these that it would have reported
    would_report  the newest visits that it would have reported, at most TRIED
    just_below    the strongest visits that it would not have reported, at most TRIED
    """

    like: str
    toml: str
    searched: int
    reported: int
    days: float
    alike: int
    alike_reported: int
    others: int
    others_reported: int
    would_report: list[FoundVisit]
    just_below: list[FoundVisit]


def try_rule(index: VisitIndex, database: sqlite3.Connection, name: str) -> RuleTrial:
    """Try the rule of marks on the stored visits. ConfigFaults if there are too few marks.

    It is the same likeness as in a run, so the run would have had an episode for each of these
    visits. A visit whose window was lost has no path, and a run reports none of these.
    """
    likeness = likeness_of(index, database, name)
    rowids, table = index.read(database)
    strength = by_likeness(table, likeness)
    is_reported = strength >= HALF
    is_reported[_without_path(rowids, table, database)] = False
    alike, others = _marked_rows(rowids, database, name)
    reported = np.flatnonzero(is_reported)
    newest = reported[np.argsort(-table.began[reported], kind="stable")[:TRIED]]
    below = np.flatnonzero(~is_reported)
    strongest = below[np.argsort(-strength[below], kind="stable")[:TRIED]]
    marked = marks_of(database, name)
    days = 0.0
    if len(table):
        days = float(table.began.max() - table.began.min()) / DAY_S
    return RuleTrial(
        likeness.text(),
        rule_text(name, likeness),
        len(table),
        reported.size,
        round(days, 4),
        len(alike),
        int(is_reported[alike].sum()),
        len(others),
        int(is_reported[others].sum()),
        _shown(database, rowids, newest, strength, marked),
        _shown(database, rowids, strongest, strength, marked),
    )


def _without_path(rowids: RowIds, table: VisitTable, database: sqlite3.Connection) -> VisitRows:
    """Return the rows of the visits without a path.

    Only those with the numbers of such a visit are read from the database.
    """
    place = np.stack([table.number(name) for name in PLACES])
    rows = np.flatnonzero((place == MIDDLE).all(axis=0))
    read = visits_in(database, rowids[rows].tolist())
    return rows[[index for index, visit in read if not visit.path]]


def rule_text(name: str, likeness: Likeness) -> str:
    """Return the lines of pipeline.toml for a rule about visits that are like the marked ones."""
    alike, others = likeness.marks
    return (
        f"[events.rules.{name}]\n# Like {alike} marked visits, and not like {others} others.\n"
        f'when = "like"\nlike = "{likeness.text()}"\n'
    )


# -- Marks.


def marks_of(database: sqlite3.Connection, name: str) -> dict[str, bool]:
    """Return whether each visit with a mark of a name is alike, by its id, the oldest first."""
    rows = database.execute(
        "SELECT visit, is_alike FROM mark WHERE name = ? ORDER BY marked, visit", (name,)
    )
    return {visit: bool(is_alike) for visit, is_alike in rows}


def all_marks(
    database: sqlite3.Connection, sources: Collection[str] | None = None
) -> list[VisitMarks]:
    """Return the numbers of marks by name. sources: of visits of these; None: of all"""
    where = ""
    values: list[str] = []
    if sources is not None:
        where = " WHERE source IN (SELECT value FROM json_each(?))"
        values = [msgspec.json.encode(sorted(sources)).decode()]
    rows = database.execute(
        "SELECT name, sum(is_alike), sum(1 - is_alike) FROM mark"
        f" JOIN visits ON visits.id = visit{where} GROUP BY name ORDER BY name",
        values,
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
        if is_alike is None:
            database.execute("DELETE FROM mark WHERE name = ? AND visit = ?", (name, visit))
            drop_picture(database, visit)
        else:
            # One statement: a visit that is removed meanwhile leaves no mark behind.
            stored = database.execute(
                "INSERT OR REPLACE INTO mark SELECT ?, id, ?, ? FROM visits WHERE id = ?",
                (name, int(is_alike), now, visit),
            )
            if not stored.rowcount:
                raise ConfigFaults([f"there is no visit {visit[:100]!r}"])
        counts = {each.name: each for each in all_marks(database)}
    return counts.get(name, VisitMarks(name, 0, 0))
