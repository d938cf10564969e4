"""The tables of the index of recordings: two SQLite files that are asked as one.

index.db holds what can be read again from the files of recordings. pins.db holds pins, which exist
nowhere else, and its changes reach the disk at once. A damaged file is moved aside, and an empty
one takes its place: the caller continues, and the index is filled again from the recordings.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError
from framegate.pipeline.recording.durable import make_folder, transaction

T = TypeVar("T")

log = logging.getLogger(__name__)

FOLDER: Final = "recordings"  # of a data folder
NAME: Final = "index.db"
PINS: Final = "pins.db"
BUSY_S: Final = 20.0
VERSION: Final = 3
PRIVATE_FOLDER: Final = 0o700
PRIVATE_FILE: Final = 0o640
ASIDE: Final = ".damaged"  # ends the name of a file that was moved aside; one is kept of each
_WITH_IT: Final = ("", "-wal", "-shm")  # what SQLite keeps beside a file belongs to it

GapReason = Literal[
    "disk_full", "disk_error", "index_error", "slow_disk", "bad_packet", "no_picture"
]

_TABLES: Final = """
CREATE TABLE segment (
  path TEXT PRIMARY KEY, source TEXT NOT NULL, epoch INTEGER NOT NULL,
  pts REAL NOT NULL, pts_end REAL NOT NULL, shift REAL NOT NULL,
  captured REAL NOT NULL, captured_end REAL NOT NULL,
  bytes INTEGER NOT NULL, head INTEGER NOT NULL, init TEXT NOT NULL,
  is_key INTEGER NOT NULL, sound INTEGER NOT NULL, pinned INTEGER NOT NULL,
  written REAL NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX by_time ON segment (source, captured);
CREATE INDEX by_pts ON segment (source, epoch, pts);
CREATE TABLE gap (
  source TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL, why TEXT NOT NULL,
  written REAL NOT NULL DEFAULT 0, PRIMARY KEY (source, since, why)
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

# A data folder of 0.2, which tests/releases keeps, has version 2 of both files.
_FROM_2: Final = """
ALTER TABLE segment ADD COLUMN written REAL NOT NULL DEFAULT 0;
ALTER TABLE gap ADD COLUMN written REAL NOT NULL DEFAULT 0;
UPDATE segment SET written = written_of(path, captured_end);
UPDATE gap SET written = written_of(NULL, until);
DROP INDEX by_age;
"""

_AGE: Final = """
CREATE INDEX by_age ON segment (pinned, written);
CREATE INDEX by_share ON segment (source, pinned, written);
CREATE INDEX gap_by_age ON gap (written);
CREATE TABLE clock (
  one INTEGER PRIMARY KEY CHECK (one = 1), wall_s REAL NOT NULL, up_s REAL NOT NULL,
  boot TEXT NOT NULL, kept_s REAL NOT NULL
) STRICT;
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), is_whole INTEGER NOT NULL) STRICT;
"""
"""The time by which everything here ages (`system.clocks`); and whether each file has its row."""

_PIN_TABLE: Final = """
CREATE TABLE IF NOT EXISTS pins.pin (
  why TEXT PRIMARY KEY, source TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
  level INTEGER NOT NULL, written REAL NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS pins.pin_by_time ON pin (source, until);
"""

_PINS_FROM_2: Final = """
ALTER TABLE pins.pin ADD COLUMN written REAL NOT NULL DEFAULT 0;
UPDATE pins.pin SET written = written_of(NULL, until);
"""


class RecordingLost(FramegateError):
    """The index of recordings cannot be read or written. reason: as a gap in a recording has it."""

    def __init__(self, message: str, reason: GapReason = "index_error") -> None:
        super().__init__(message)
        self.reason: GapReason = reason


class IndexReplaced(RecordingLost):
    """The index was damaged or removed, and an empty one has taken its place: try again."""


def repeat_if_replaced(step: Callable[[], T]) -> T:
    """Return what `step` returns; do it once more if the index was replaced meanwhile."""
    try:
        return step()
    except IndexReplaced:
        return step()


class IndexTables:
    """The tables of one data folder. One thread each; any number of them at once, in any process.

    folder  the folder of recordings
    opened  how often its files were opened: once, and again whenever others took their place
    """

    def __init__(self, data: Path, *, makes: bool = True) -> None:
        """makes: also where nothing was recorded yet; else ConfigFaults says so."""
        self.folder, self.opened = data / FOLDER, 0
        if not makes and not self.folder.is_dir():
            raise ConfigFaults(
                [
                    f"{data}: nothing was recorded there; a run records its cameras with [record] "
                    "sources = true in its pipeline.toml, files that are named there, and with "
                    "--record what its command line names"
                ]
            )
        try:
            make_folder(self.folder, PRIVATE_FOLDER)
        except OSError as error:
            message = f"{self.folder}: the folder of recordings cannot be made: {error}"
            raise RecordingLost(message, "disk_error") from error
        with self._as_lost():
            self._open()

    # -- opening it

    def _open(self) -> None:
        """Open the files; one that is damaged is moved aside first."""
        try:
            self._connect()
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            set_damaged_aside(self.folder)
            self._connect()

    def _connect(self) -> None:
        # While others move damaged files aside, a new one would lose its log to the old one.
        with _locked(self.folder, fcntl.LOCK_SH):
            self._connect_now()

    def _connect_now(self) -> None:
        self.opened += 1
        for name in (NAME, PINS):
            with suppress(FileExistsError):
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(os.open(self.folder / name, flags, PRIVATE_FILE))
        self._files = self._identity()
        path = self.folder / NAME
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
        self._db.create_function("written_of", 2, self._written_of)
        with transaction(self._db):
            self._upgrade("pins", _PINS_FROM_2 if self._version("pins") == 2 else _PIN_TABLE)
            if self._version("main") == 2:
                self._upgrade("main", _FROM_2 + _AGE, is_whole=True)
            else:
                self._upgrade("main", _TABLES + _AGE)

    def _upgrade(self, name: str, script: str, is_whole: bool = False) -> None:
        """Bring the tables of one file up to date, in a transaction."""
        version = self._version(name)
        if version > VERSION:
            file = self.folder / {"main": NAME, "pins": PINS}[name]
            raise RecordingLost(f"{file}: a newer Framegate wrote it (version {version})")
        if version == VERSION:
            return
        for statement in _statements(script):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA {name}.user_version = {VERSION}")
        if name == "main":
            is_whole = is_whole or not any(each.is_dir() for each in self.folder.iterdir())
            self._db.execute("INSERT INTO state VALUES (1, ?)", (int(is_whole),))
            if version:
                os.chmod(self.folder, PRIVATE_FOLDER)  # 0.2 let other users read it

    def _written_of(self, path: str | None, otherwise: float) -> float:
        """Return when a file was written, by this host's clock."""
        if path is not None:
            with suppress(OSError):
                otherwise = (self.folder / path).stat().st_mtime
        return min(otherwise, time.time())

    def _version(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}.user_version").fetchone()[0])

    def close(self) -> None:
        """Close it."""
        self._db.close()

    # -- using it

    def rows(self, said: str, values: Sequence[object] = ()) -> list[Any]:
        """Ask, also within `writing`; gives tuples. RecordingLost."""
        with self._as_lost():
            if not self._db.in_transaction:
                self._follow()
            return self._db.execute(said, values).fetchall()

    @contextmanager
    def writing(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction. durable: a power cut does not take it back. RecordingLost; after
        IndexReplaced the same may be done again.
        """
        with self._as_lost():
            self._follow()
            self._db.execute(f"PRAGMA main.synchronous = {'FULL' if durable else 'NORMAL'}")
            with transaction(self._db):
                yield self._db
            if self._follow():
                raise IndexReplaced(f"{self.folder / NAME}: it was replaced meanwhile")

    def _follow(self) -> bool:
        """Open the files again if others have taken their place; return whether they had.

        A row that was written into a file just before it was moved aside would be lost, so this is
        looked at after each transaction, too.
        """
        if self._identity() == self._files:
            return False
        self._db.close()
        self._open()
        return True

    def _identity(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for name in (NAME, PINS):
            try:
                there = os.stat(self.folder / name)
            except OSError:
                found.append(None)
            else:
                found.append((there.st_dev, there.st_ino))
        return found

    @contextmanager
    def _as_lost(self) -> Iterator[None]:
        """Raise errors as RecordingLost; move damaged files aside."""
        try:
            yield
        except OSError as error:
            reason = gap_reason(error)
            raise RecordingLost(
                f"{self.folder}: its index cannot be used: {error}", reason
            ) from error
        except sqlite3.Error as error:
            if _is_damage(error):
                raise self._replaced(error) from error
            files = f"{self.folder / NAME}, or {PINS} beside it"
            raise RecordingLost(f"{files}, cannot be used: {error}", gap_reason(error)) from error

    def _replaced(self, damage: sqlite3.Error) -> RecordingLost:
        """Move aside what is damaged, and open what takes its place."""
        self._db.close()
        try:
            aside = set_damaged_aside(self.folder)
            self._connect()
        except (sqlite3.Error, OSError) as error:
            said = f"{self.folder}: its index is damaged and cannot be replaced: {error}"
            return RecordingLost(said, gap_reason(error))
        if not aside:
            return IndexReplaced(f"{self.folder}: its index is damaged, or just was: {damage}")
        names = " and ".join(f"{name} to {name}{ASIDE}" for name in aside)
        return IndexReplaced(f"{self.folder}: damaged ({damage}); moved {names}")


# -- What is wrong with a file.


def damage_of(file: Path) -> str | None:
    """Return what is wrong with an SQLite file; None if nothing is, or if it is not there. A disk
    that cannot be read is not damage: sqlite3.Error.
    """
    if not file.exists():
        return None
    place = f"file:{urllib.parse.quote(str(file))}?mode=rw"
    try:
        with closing(sqlite3.connect(place, BUSY_S, uri=True)) as database:
            (said, *_) = database.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        if _is_damage(error):
            return str(error)
        raise
    return None if said == "ok" else str(said)


def set_damaged_aside(folder: Path) -> list[str]:
    """Move the damaged files of an index aside; return their names. The caller's own connections
    to them must be closed. OSError, sqlite3.Error.

    Others may find the same damage at the same time: one after the other looks again.
    """
    moved = []
    with _locked(folder, fcntl.LOCK_EX):
        for name in (NAME, PINS):
            wrong = damage_of(folder / name)
            if wrong is None:
                continue
            for ending in _WITH_IT:
                with suppress(FileNotFoundError):
                    os.replace(folder / f"{name}{ending}", folder / f"{name}{ASIDE}{ending}")
            moved.append(name)
            log.error(
                "%s was damaged (%s) and is now %s%s: %s",
                *(folder / name, wrong, name, ASIDE, _LOSES[name]),
            )
    return moved


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold a lock of the folder of recordings for the length of a block. OSError.

    how  LOCK_SH to open the files of the index, LOCK_EX to move them
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, how)
        yield
    finally:
        os.close(number)


_LOSES: Final = {
    NAME: "the recordings are all still there, and the index is made again from them; only its "
    "notes of gaps and of removed files are lost",
    PINS: "which times are clips of episodes is lost; files that are marked as clips stay so, and "
    "an episode that is still open marks its clip again with its next change",
}


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error may come from a damaged file. Our statements are right, so an error
    in one of them means that the file is not as we made it.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def gap_reason(error: Exception) -> GapReason:
    """Return the reason that a gap in a recording has, by the error that caused it."""
    if isinstance(error, RecordingLost):
        return error.reason
    if isinstance(error, OSError):
        return "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk_error"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return "disk_full"
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
        return "disk_error"
    return "index_error"


def _statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would end the transaction that it is in."""
    said = ""
    for part in script.split(";"):
        said += f"{part};"
        if sqlite3.complete_statement(said):
            if said.strip(" \n;"):
                yield said
            said = ""
