"""Rows of visits in the database, without arrays: the supervisor writes them too."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from framegate.pipeline.contracts.likeness import NUMBERS, numbers_of
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.visits import VERSION, Colour, PathPoint, Visit

_COLUMNS: Final = (
    "number, id, source, track, label, began_epoch, began_seq, began_media_s, began_captured,"
    " last_epoch, last_seq, last_media_s, last_captured, path, width, height, speed, dwell_s,"
    " stops, mean_score, top_score, looks, colours, sounds, feature, feature_model, kept"
)
_PATH: Final = msgspec.json.Decoder(tuple[PathPoint, ...])
_COLOURS: Final = msgspec.json.Decoder(dict[Colour, float])
_NAMES: Final = msgspec.json.Decoder(tuple[str, ...])
_NUMBERS: Final = struct.Struct(f"<{NUMBERS}f")


def add_searched(database: sqlite3.Connection, number: int | None, visit: Visit) -> None:
    """Store what a search reads of a visit.

    number  of its row in the table `visits`
    """
    numbers = _NUMBERS.pack(*numbers_of(visit))
    sounds = msgspec.json.encode(visit.sounds).decode()
    database.execute(
        "INSERT OR REPLACE INTO searched VALUES (?, ?, ?, ?, ?, ?)",
        (number, visit.began.captured, visit.source, visit.label, sounds, numbers),
    )


def restore_searched(database: sqlite3.Connection) -> None:
    """Make the table `searched` fit the table `visits` again, after a change of single rows."""
    database.execute("DELETE FROM searched WHERE number NOT IN (SELECT number FROM visits)")
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM visits WHERE number NOT IN (SELECT number FROM searched)"
    ).fetchall()
    for row in rows:
        add_searched(database, row[0], visit_of(row[1:]))


def all_visits(database: sqlite3.Connection) -> list[Visit]:
    """Return the visits of a database, the oldest first."""
    rows = database.execute(f"SELECT {_COLUMNS} FROM visits ORDER BY rowid")
    return [visit_of(row[1:]) for row in rows]


def visits_in(database: sqlite3.Connection, rowids: Sequence[int]) -> Iterator[tuple[int, Visit]]:
    """Yield the visits with these rowids, with the index of each; those that are gone are not."""
    for index, rowid in enumerate(rowids):
        row = database.execute(
            f"SELECT {_COLUMNS} FROM visits WHERE rowid = ?", (rowid,)
        ).fetchone()
        if row is not None:
            yield index, visit_of(row[1:])


def visit_named(database: sqlite3.Connection, name: str) -> Visit | None:
    """Return the visit with this id; None if there is none."""
    row = database.execute(f"SELECT {_COLUMNS} FROM visits WHERE id = ?", (name,)).fetchone()
    if row is None:
        return None
    return visit_of(row[1:])


def visit_of(row: Sequence[Any]) -> Visit:
    """Return the visit of a row with all _COLUMNS after the rowid."""
    visit, source, track, label = row[:4]
    path, width, height, speed, dwell_s, stops, mean_score, top_score, looks = row[12:21]
    colours, sounds, feature, feature_model = row[21:25]
    return Visit(
        VERSION,
        visit,
        source,
        track,
        label,
        Moment(*row[4:8]),
        Moment(*row[8:12]),
        _PATH.decode(path),
        (width, height),
        speed,
        dwell_s,
        stops,
        (mean_score, top_score),
        looks,
        _COLOURS.decode(colours),
        feature,
        feature_model,
        _NAMES.decode(sounds),
    )
