"""The tables of the index of recordings: two SQLite files with one connection.

index.db can be rebuilt from the files of recordings. pins.db holds pins, which exist nowhere else,
so its changes are synced at once. A damaged file is moved aside and replaced by an empty one: the
caller continues, and the index is filled again from the recordings.

Invariant: a change that is reported as done is not in a file that was moved aside. Files are moved
under an exclusive lock of the folder, and opened under a shared one; after each transaction the
identity of the files is compared (`_follow`), and IndexReplaced makes the caller repeat it.
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
from framegate.pipeline.contracts.keys import is_name
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
ASIDE: Final = ".damaged"  # suffix of a file that was moved aside; the last one of each is kept
_WITH_IT: Final = ("", "-wal", "-shm")  # suffixes of a database's files

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
"""The kept time by which everything ages (`system.clocks`); and whether each file has its row."""

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
    """The index of recordings cannot be read or written. reason: for a gap in a recording."""

    def __init__(self, message: str, reason: GapReason = "index_error") -> None:
        super().__init__(message)
        self.reason: GapReason = reason


class IndexReplaced(RecordingLost):
    """The index was damaged or removed, and an empty one replaces it: repeat the operation."""


def repeat_if_replaced(step: Callable[[], T]) -> T:
    """Return the result of `step`; repeat it once if the index was replaced meanwhile."""
    try:
        return step()
    except IndexReplaced:
        return step()


class IndexTables:
    """The tables of one data folder. Each has one thread; processes may open any number at once.

    folder  the folder of recordings
    opened  how often the files were opened: once, and again after each replacement
    """

    def __init__(self, data: Path, *, makes: bool = True) -> None:
        """makes: create a missing index; otherwise raise ConfigFaults."""
        self.folder = data / FOLDER
        self.opened = 0
        self._files: list[tuple[int, int] | None] | None = None  # None: no file is open
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

    # -- opening

    def _open(self) -> None:
        """Open the files; move damaged ones aside first."""
        try:
            self._connect()
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            set_damaged_aside(self.folder)
            self._connect()

    def _connect(self) -> None:
        # While another process moves files aside, a new file would get the old file's log.
        with _locked(self.folder, fcntl.LOCK_SH):
            self._connect_now()

    def _connect_now(self) -> None:
        self.opened += 1
        for name in (NAME, PINS):
            with suppress(FileExistsError):
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(os.open(self.folder / name, flags, PRIVATE_FILE))
        files = self._identity()
        path = self.folder / NAME
        self._db = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._begin()
        except BaseException:
            self._db.close()
            raise
        self._files = files

    def _begin(self) -> None:
        self._db.execute("ATTACH ? AS pins", (str(self.folder / PINS),))
        for name in ("main", "pins"):
            self._db.execute(f"PRAGMA {name}.journal_mode = WAL")
        self._db.execute("PRAGMA main.synchronous = NORMAL")  # a lost row is rebuilt from its file
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
        """Upgrade the tables of one file, within a transaction."""
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
            is_empty = not source_folders(self.folder)
            is_whole = is_whole or is_empty
            self._db.execute("INSERT INTO state VALUES (1, ?)", (int(is_whole),))
            if version:
                os.chmod(self.folder, PRIVATE_FOLDER)  # 0.2 let other users read the folder

    def _written_of(self, path: str | None, otherwise: float) -> float:
        """Return when a file was written, by this host's clock."""
        if path is not None:
            with suppress(OSError):
                otherwise = (self.folder / path).stat().st_mtime
        return min(otherwise, time.time())

    def _version(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}.user_version").fetchone()[0])

    def close(self) -> None:
        """Close the files. The next query or change opens them again."""
        self._files = None
        self._db.close()

    # -- queries and changes

    def rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        """Return the rows of a query as tuples; also within `writing`. RecordingLost."""
        with self._as_lost():
            if self._files is None or not self._db.in_transaction:
                self._follow()
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def writing(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction. durable: sync it to the disk. RecordingLost; after
        IndexReplaced repeat it.
        """
        with self._as_lost():
            self._follow()
            level = "FULL" if durable else "NORMAL"
            self._db.execute(f"PRAGMA main.synchronous = {level}")
            with transaction(self._db):
                yield self._db
            if self._follow():
                raise IndexReplaced(f"{self.folder / NAME}: it was replaced meanwhile")

    def _follow(self) -> bool:
        """Open the files again if they were replaced or are closed; return whether that was so.

        A row written just before its file was moved aside would be lost, so `writing` also checks
        this after each transaction.
        """
        if self._identity() == self._files:
            return False
        self.close()
        self._open()
        return True

    def _identity(self) -> list[tuple[int, int] | None]:
        identity: list[tuple[int, int] | None] = []
        for name in (NAME, PINS):
            try:
                status = os.stat(self.folder / name)
            except OSError:
                identity.append(None)
            else:
                identity.append((status.st_dev, status.st_ino))
        return identity

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
        """Move the damaged files aside and open new ones; return the error to raise."""
        self.close()
        try:
            aside = set_damaged_aside(self.folder)
            self._connect()
        except (sqlite3.Error, OSError) as error:
            text = f"{self.folder}: its index is damaged and cannot be replaced: {error}"
            return RecordingLost(text, gap_reason(error))
        if not aside:
            return IndexReplaced(f"{self.folder}: its index is damaged, or just was: {damage}")
        names = " and ".join(f"{name} to {name}{ASIDE}" for name in aside)
        return IndexReplaced(f"{self.folder}: damaged ({damage}); moved {names}")


# -- damage


def damage_of(file: Path) -> str | None:
    """Return the damage of an SQLite file; None if it is whole or missing. sqlite3.Error: the disk
    cannot be read, which is not damage.
    """
    if not file.exists():
        return None
    place = f"file:{urllib.parse.quote(str(file))}?mode=rw"
    try:
        with closing(sqlite3.connect(place, timeout=BUSY_S, uri=True)) as database:
            (result, *_) = database.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        if _is_damage(error):
            return str(error)
        raise
    return None if result == "ok" else str(result)


def set_damaged_aside(folder: Path) -> list[str]:
    """Move the damaged files of an index aside; return their names. The caller must have closed its
    connections to them. OSError, sqlite3.Error.

    Several processes may find the same damage; each checks again once it has the lock.
    """
    moved = []
    with _locked(folder, fcntl.LOCK_EX):
        for name in (NAME, PINS):
            damage = damage_of(folder / name)
            if damage is None:
                continue
            for ending in _WITH_IT:
                with suppress(FileNotFoundError):
                    os.replace(folder / f"{name}{ending}", folder / f"{name}{ASIDE}{ending}")
            moved.append(name)
            log.error(
                "%s was damaged (%s) and is now %s%s: %s",
                *(folder / name, damage, name, ASIDE, _LOSES[name]),
            )
    return moved


@contextmanager
def _locked(folder: Path, mode: int) -> Iterator[None]:
    """Hold a lock of the folder of recordings during a block. OSError.

    mode  LOCK_SH to open the files of the index, LOCK_EX to move them
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, mode)
        yield
    finally:
        os.close(number)


_LOSES: Final = {
    NAME: "all recordings are still there, and the index is rebuilt from them; only its notes of "
    "gaps and of removed files are lost",
    PINS: "the pins of clips are lost; files that are marked as clips stay so, and an open episode "
    "pins its clip again with its next change",
}


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error may be caused by a damaged file. Our statements are correct, so an
    error in one of them means that the file is not as we wrote it.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def source_folders(folder: Path) -> list[Path]:
    """Return the folders of sources in a folder of recordings, by name. Others, such as the
    lost+found of a disk, are left out.
    """
    return sorted(path for path in folder.iterdir() if is_name(path.name) and path.is_dir())


def gap_reason(error: Exception) -> GapReason:
    """Return the reason of the gap that an error causes."""
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
    """Yield the statements of a script: `executescript` would end the transaction."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            if statement.strip(" \n;"):
                yield statement
            statement = ""
