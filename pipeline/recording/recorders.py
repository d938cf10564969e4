"""What recorders say of themselves: how each stands, and what came and was not recorded."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

import msgspec

from framegate.pipeline.recording.tables import IndexTables

SUFFIX: Final = ".mp4"  # ends the name of a file that is finished
OPEN: Final = ".open"  # ends the name of a file that grows


class RecordingGap(msgspec.Struct, frozen=True):
    """A time of which packets came that were not recorded, UNIX seconds, and why."""

    source: str
    since: float
    until: float
    why: str


class RecorderState(msgspec.Struct, frozen=True):
    """What was told last of the recording of a source.

    since       UNIX seconds of when that was
    path        file that grows, from the folder of recordings, without `.open`; None: none does
    why         it is not recorded, in words; None: it is, or its connection ended
    most_bytes  that all recordings together may take
    """

    source: str
    since: float
    path: str | None
    why: str | None
    most_bytes: int


class RecordedLoss(msgspec.Struct, frozen=True):
    """What of a source was not recorded though it came, for one reason, all together. until: UNIX
    seconds at which the last of it ended.
    """

    source: str
    why: str
    times: int
    seconds: float
    until: float


class Recorders:
    """What is told of the recorders of one data folder. One thread. All may raise RecordingLost."""

    def __init__(self, tables: IndexTables, now: Callable[[], float]) -> None:
        """now: gives the kept time of the index."""
        self._tables, self._now = tables, now

    def note(self, state: RecorderState) -> None:
        """Tell how the recording of a source stands."""
        with self._tables.writing() as db:
            row = msgspec.structs.astuple(state)
            db.execute("INSERT OR REPLACE INTO recorder VALUES (?, ?, ?, ?, ?)", row)

    def states(self) -> list[RecorderState]:
        """How the recording of each source stood when that was last told."""
        said = "SELECT source, since, path, why, most_bytes FROM recorder ORDER BY source"
        return [RecorderState(*row) for row in self._tables.rows(said)]

    def note_gap(self, gap: RecordingGap) -> None:
        """Tell of packets that came and were not recorded."""
        with self._tables.writing() as db:
            row = (gap.source, gap.since, gap.until, gap.why, self._now())
            db.execute("INSERT OR REPLACE INTO gap VALUES (?, ?, ?, ?, ?)", row)

    def gaps(self, source: str, since: float, until: float) -> list[RecordingGap]:
        """What of that time was not recorded though it came."""
        rows = self._tables.rows(
            "SELECT source, since, until, why FROM gap WHERE source = ? AND since < ? AND "
            "until > ? ORDER BY since",
            (source, until, since),
        )
        return [RecordingGap(*row) for row in rows]

    def losses(self, since: float) -> list[RecordedLoss]:
        """What was not recorded though it came, of all sources, of gaps that ended since then."""
        said = (
            "SELECT source, why, COUNT(*), SUM(until - since), MAX(until) FROM gap WHERE until > ? "
            "GROUP BY source, why ORDER BY source, why"
        )
        return [RecordedLoss(*row) for row in self._tables.rows(said, (since,))]

    def has_before(self, written: float) -> bool:
        """Return whether there are gaps that were noted before a time."""
        said = "SELECT EXISTS (SELECT 1 FROM gap WHERE written < ?)"
        return self._tables.rows(said, (written,)) == [(1,)]

    def forget_before(self, db: sqlite3.Connection, written: float) -> None:
        """Remove gaps that were noted before a time, in a transaction of the tables."""
        db.execute("DELETE FROM gap WHERE written < ?", (written,))

    def forget(self, db: sqlite3.Connection, source: str, before: float) -> None:
        """Let go of gaps that ended before a time, UNIX seconds, in a transaction of the tables."""
        db.execute("DELETE FROM gap WHERE source = ? AND until < ?", (source, before))
