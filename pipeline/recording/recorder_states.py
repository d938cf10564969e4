"""The states that recorders report, and the gaps: received packets that were not recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

import msgspec

from framegate.pipeline.recording.index_tables import IndexTables

SUFFIX: Final = ".mp4"  # of a finished file
OPEN: Final = ".open"  # added to the name of a growing file


class RecordingGap(msgspec.Struct, frozen=True):
    """A time, UNIX seconds, whose packets were received and not recorded, and the reason."""

    source: str
    since: float
    until: float
    why: str


class RecorderState(msgspec.Struct, frozen=True):
    """The last reported state of a source's recording.

    since       UNIX seconds of the report
    path        growing file, relative to the folder of recordings, without `.open`; None: none
    why         why it is not recorded, in words; None: it is, or its connection ended
    most_bytes  limit of all recordings together
    """

    source: str
    since: float
    path: str | None
    why: str | None
    most_bytes: int

    @property
    def growing_file(self) -> str | None:
        """The name of the growing file, relative to the folder of recordings; None: none."""
        if self.path is None:
            return None
        return f"{self.path}{OPEN}"


class RecordedLoss(msgspec.Struct, frozen=True):
    """All gaps of a source for one reason. until: UNIX seconds at which the last one ended."""

    source: str
    why: str
    times: int
    seconds: float
    until: float


class Recorders:
    """The reports of the recorders of one data folder. One thread. Methods raise RecordingLost."""

    def __init__(self, tables: IndexTables, now: Callable[[], float]) -> None:
        """now: returns the kept time of the index."""
        self._tables = tables
        self._now = now

    def note(self, state: RecorderState) -> None:
        """Store the state of a source's recording."""
        with self._tables.writing() as db:
            row = msgspec.structs.astuple(state)
            db.execute("INSERT OR REPLACE INTO recorder VALUES (?, ?, ?, ?, ?)", row)

    def note_end(self, source: str, since: float, path: str) -> None:
        """Store that a file no longer grows, unless a later connection has reported its state."""
        with self._tables.writing() as db:
            query = "UPDATE recorder SET since = ?, path = NULL WHERE source = ? AND path = ?"
            db.execute(query, (since, source, path))

    def states(self) -> list[RecorderState]:
        """Return the last state of each source's recording."""
        query = "SELECT source, since, path, why, most_bytes FROM recorder ORDER BY source"
        return [RecorderState(*row) for row in self._tables.rows(query)]

    def note_gap(self, gap: RecordingGap) -> None:
        """Store a gap."""
        with self._tables.writing() as db:
            row = (gap.source, gap.since, gap.until, gap.why, self._now())
            db.execute("INSERT OR REPLACE INTO gap VALUES (?, ?, ?, ?, ?)", row)

    def gaps(self, source: str, since: float, until: float) -> list[RecordingGap]:
        """Return the gaps of a source within a time."""
        rows = self._tables.rows(
            "SELECT source, since, until, why FROM gap WHERE source = ? AND since < ? AND "
            "until > ? ORDER BY since",
            (source, until, since),
        )
        return [RecordingGap(*row) for row in rows]

    def losses(self, since: float) -> list[RecordedLoss]:
        """Return the gaps of all sources that ended after `since`, by source and reason."""
        query = (
            "SELECT source, why, COUNT(*), SUM(until - since), MAX(until) FROM gap WHERE until > ? "
            "GROUP BY source, why ORDER BY source, why"
        )
        return [RecordedLoss(*row) for row in self._tables.rows(query, (since,))]

    def has_before(self, written: float) -> bool:
        """Return whether gaps were noted before a time."""
        query = "SELECT EXISTS (SELECT 1 FROM gap WHERE written < ?)"
        return self._tables.rows(query, (written,)) == [(1,)]

    def forget_before(self, db: sqlite3.Connection, written: float) -> None:
        """Remove gaps that were noted before a time, in a transaction of the tables."""
        db.execute("DELETE FROM gap WHERE written < ?", (written,))

    def forget(self, db: sqlite3.Connection, source: str, before: float) -> None:
        """Remove gaps that ended before a time, UNIX seconds, in a transaction of the tables."""
        db.execute("DELETE FROM gap WHERE source = ? AND until < ?", (source, before))
