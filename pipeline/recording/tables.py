"""The tables of the index of recordings: two SQLite files that are asked as one.

What the files of recordings say again is in one, whose tables are made anew where an older
Framegate wrote them. Pins, which nothing else tells, are in the other, and reach the disk at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from framegate.pipeline.errors import ConfigFaults, FramegateError
from framegate.pipeline.recording.durable import make_folder, transaction

FOLDER: Final = "recordings"  # of a data folder
NAME: Final = "index.db"
PINS: Final = "pins.db"
BUSY_S: Final = 20.0
VERSION: Final = 2

_TABLES: Final = """
DROP TABLE IF EXISTS segment;
DROP TABLE IF EXISTS gap;
CREATE TABLE segment (
  path TEXT PRIMARY KEY, source TEXT NOT NULL, epoch INTEGER NOT NULL,
  pts REAL NOT NULL, pts_end REAL NOT NULL, shift REAL NOT NULL,
  captured REAL NOT NULL, captured_end REAL NOT NULL,
  bytes INTEGER NOT NULL, head INTEGER NOT NULL, init TEXT NOT NULL,
  is_key INTEGER NOT NULL, sound INTEGER NOT NULL, pinned INTEGER NOT NULL
) STRICT;
CREATE INDEX by_time ON segment (source, captured);
CREATE INDEX by_pts ON segment (source, epoch, pts);
CREATE INDEX by_age ON segment (pinned, captured);
CREATE TABLE gap (
  source TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL, why TEXT NOT NULL,
  PRIMARY KEY (source, since, why)
) STRICT;
CREATE INDEX gap_by_time ON gap (until);
CREATE TABLE IF NOT EXISTS trimmed (
  source TEXT NOT NULL, cause TEXT NOT NULL, until REAL NOT NULL, segments INTEGER NOT NULL,
  bytes INTEGER NOT NULL, PRIMARY KEY (source, cause)
) STRICT;
CREATE TABLE recorder (
  source TEXT PRIMARY KEY, since REAL NOT NULL, path TEXT, why TEXT, most_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE kept (
  source TEXT PRIMARY KEY, segments INTEGER NOT NULL, seconds REAL NOT NULL,
  bytes INTEGER NOT NULL, pinned INTEGER NOT NULL, sounds INTEGER NOT NULL
) STRICT;
CREATE TRIGGER grows AFTER INSERT ON segment BEGIN
  INSERT OR IGNORE INTO kept VALUES (NEW.source, 0, 0, 0, 0, 0);
  UPDATE kept SET segments = segments + 1, seconds = seconds + NEW.pts_end - NEW.pts,
    bytes = bytes + NEW.bytes, pinned = pinned + iif(NEW.pinned, NEW.bytes, 0),
    sounds = sounds + NEW.sound WHERE source = NEW.source; END;
CREATE TRIGGER shrinks AFTER DELETE ON segment BEGIN
  UPDATE kept SET segments = segments - 1, seconds = seconds - OLD.pts_end + OLD.pts,
    bytes = bytes - OLD.bytes, pinned = pinned - iif(OLD.pinned, OLD.bytes, 0),
    sounds = sounds - OLD.sound WHERE source = OLD.source;
  DELETE FROM kept WHERE source = OLD.source AND segments = 0; END;
CREATE TRIGGER is_pinned AFTER UPDATE OF pinned ON segment BEGIN
  UPDATE kept SET pinned = pinned + iif(NEW.pinned, NEW.bytes, 0) - iif(OLD.pinned, OLD.bytes, 0)
    WHERE source = NEW.source; END;
"""
"""What an older Framegate wrote is made again from the files."""

_PIN_TABLE: Final = """
CREATE TABLE IF NOT EXISTS pins.pin (
  why TEXT PRIMARY KEY, source TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
  level INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS pins.pin_by_time ON pin (source, until);
"""


class RecordingLost(FramegateError):
    """The index of recordings cannot be read or written."""


class IndexTables:
    """The tables of one data folder. One thread each; any number of them at once, in any process.

    folder  the folder of recordings
    """

    def __init__(self, data: Path, *, makes: bool = True) -> None:
        """makes: also where nothing was recorded yet; else ConfigFaults says so."""
        self.folder = data / FOLDER
        path = self.folder / NAME
        if not makes and not self.folder.is_dir():
            raise ConfigFaults(
                [
                    f"{data}: nothing was recorded there; a run records its cameras with [record] "
                    "sources = true in its pipeline.toml, files that are named there, and with "
                    "--record what its command line names"
                ]
            )
        make_folder(self.folder)
        with _told(path):
            self._db = sqlite3.connect(path, BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._begin()
            except BaseException:
                self._db.close()
                raise

    def _begin(self) -> None:
        self._db.execute("ATTACH ? AS pins", (str(self.folder / PINS),))
        for name in ("main", "pins"):
            self._db.execute(f"PRAGMA {name}.journal_mode = WAL")
        self._db.execute("PRAGMA main.synchronous = NORMAL")  # a row that is lost is found again
        self._db.execute("PRAGMA pins.synchronous = FULL")
        if self._version("main") == self._version("pins") == VERSION:
            return
        with transaction(self._db):
            for name, tables in (("pins", _PIN_TABLE), ("main", _TABLES)):
                if self._version(name) > VERSION:
                    raise RecordingLost(f"{self.folder / NAME}: a newer Framegate wrote it")
                if self._version(name) < VERSION:
                    for statement in _statements(tables):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA {name}.user_version = {VERSION}")

    def _version(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}.user_version").fetchone()[0])

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def rows(self, said: str, values: Sequence[object] = ()) -> list[Any]:
        """Ask, also within `writing`; gives tuples. RecordingLost."""
        with _told(self.folder / NAME):
            return self._db.execute(said, values).fetchall()

    @contextmanager
    def writing(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction. durable: a power cut does not take it back. RecordingLost."""
        with _told(self.folder / NAME):
            self._db.execute(f"PRAGMA main.synchronous = {'FULL' if durable else 'NORMAL'}")
            with transaction(self._db):
                yield self._db


def _statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would end the transaction that it is in."""
    said = ""
    for part in script.split(";"):
        said += f"{part};"
        if sqlite3.complete_statement(said):
            if said.strip(" \n;"):
                yield said
            said = ""


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RecordingLost(f"{path}: the index of recordings cannot be used: {error}") from error
