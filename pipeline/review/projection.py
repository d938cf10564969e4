"""The database of a run's episodes: what the stage `events` said, as tables that can be asked.

It is a projection: all of it but verdicts follows from the stream, and how far that has been read
is stored in the same transaction. So what is killed in between goes on without a gap or a double,
and what is read twice changes nothing. One file, `events.db` in the data folder, of SQLite, which
every language and many tools can read.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from framegate.pipeline.contracts.episodes import Change, EventEntry, Moment
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.recording.durable import transaction
from framegate.pipeline.system.clocks import (
    HostClock,
    KeptTime,
    first_kept_time,
    kept_time,
    read_host_clock,
)

FILE: Final = "events.db"  # in the data folder
VERSION: Final = 3
BUSY_S: Final = 10.0  # for which one who writes waits for another
LONG_S: Final = 3600.0  # from which on an episode is one of the few long ones
PAGES: Final = 2000  # of the file that one call of `keep` gives back

_MOMENT: Final = "{0}_epoch INTEGER NOT NULL, {0}_seq INTEGER NOT NULL, {0}_media_s REAL NOT NULL,"
_CLOCK: Final = """CREATE TABLE clock (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  wall REAL NOT NULL, up REAL NOT NULL, boot TEXT NOT NULL, kept REAL NOT NULL
) STRICT;
"""
SCHEMA: Final = f"""
CREATE TABLE episode (
  id TEXT PRIMARY KEY, source TEXT NOT NULL, rule TEXT NOT NULL, version TEXT NOT NULL,
  "when" TEXT NOT NULL, severity TEXT NOT NULL,
  {_MOMENT.format("told")} told_captured REAL NOT NULL,
  {_MOMENT.format("began")} began_captured REAL NOT NULL,
  {_MOMENT.format("last")} last_captured REAL NOT NULL,
  seconds REAL NOT NULL, label TEXT, tracks TEXT NOT NULL, value REAL, direction TEXT, box TEXT,
  sightings INTEGER NOT NULL, held INTEGER NOT NULL, models TEXT NOT NULL,
  unsure INTEGER NOT NULL, bridged INTEGER NOT NULL, ended_by TEXT,
  clip_before_s REAL, clip_after_s REAL, kept REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX by_time ON episode (began_captured, id, source, rule, label, direction);
CREATE INDEX by_source ON episode (source, began_captured, id, rule, label);
CREATE INDEX by_rule ON episode (rule, began_captured, id, source, label, direction);
CREATE INDEX by_kind ON episode (source, rule, direction, began_captured);
CREATE INDEX by_label ON episode (label, began_captured, id, source, rule);
CREATE INDEX still_open ON episode (source) WHERE ended_by IS NULL;
CREATE INDEX long ON episode (last_captured, began_captured)
  WHERE last_captured - began_captured > {LONG_S};
CREATE INDEX by_age ON episode (kept, began_epoch, began_seq, id);
CREATE TABLE change (
  episode TEXT NOT NULL, step TEXT NOT NULL, number INTEGER NOT NULL,
  {_MOMENT.format("told")} told_captured REAL NOT NULL, last_captured REAL NOT NULL,
  seconds REAL NOT NULL, value REAL, sightings INTEGER NOT NULL, held INTEGER NOT NULL,
  unsure INTEGER NOT NULL,
  PRIMARY KEY (episode, step, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE verdict (
  episode TEXT PRIMARY KEY, verdict TEXT NOT NULL CHECK (verdict IN ('true', 'false', 'unsure')),
  judged REAL NOT NULL, began REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX judged_by_time ON verdict (began);
CREATE TABLE unknown (
  source TEXT NOT NULL, rule TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  since REAL NOT NULL, until REAL, kept REAL NOT NULL DEFAULT 0,
  PRIMARY KEY (source, rule, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE watched (
  source TEXT NOT NULL, epoch INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
  kept REAL NOT NULL DEFAULT 0,
  PRIMARY KEY (source, epoch)
) STRICT, WITHOUT ROWID;
CREATE TABLE lost (
  source TEXT NOT NULL, after TEXT NOT NULL, before TEXT NOT NULL, PRIMARY KEY (source, after)
) STRICT, WITHOUT ROWID;
CREATE TABLE stream (
  source TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  frame_epoch INTEGER NOT NULL, frame_seq INTEGER NOT NULL, captured REAL NOT NULL
) STRICT, WITHOUT ROWID;
{_CLOCK}"""
"""Columns are named after the fields of `Change`, those of a moment `began_captured` and so on;
lists are JSON, and null is NULL. Times are UNIX seconds. `kept` is when a row was written, by the
kept time of this database (see `clocks`), which says how old a row is. Beside episodes:

change   each step of an episode: how it came to be what it is
verdict  what people say of episodes; `began`: that of the episode
unknown  from when to when a rule of a source could not be judged; until NULL: it still cannot
watched  from when to when frames of an epoch are known to have been published
lost     what was removed from the stream before it was read: entries after `after`, before `before`
stream   how far each source's stream was read, and the last frame in it
clock    the kept time, and what the clocks of the host showed then
"""

# A data folder of 0.2, which tests/releases keeps, has version 2.
FROM_2: Final = f"""
ALTER TABLE episode ADD COLUMN kept REAL NOT NULL DEFAULT 0;
ALTER TABLE unknown ADD COLUMN kept REAL NOT NULL DEFAULT 0;
ALTER TABLE watched ADD COLUMN kept REAL NOT NULL DEFAULT 0;
CREATE INDEX by_age ON episode (kept, began_epoch, began_seq, id);
{_CLOCK}"""
"""Statements that bring a database of version 2 to version 3."""

_BELIEVED_S: Final = 400 * 86_400.0
_UNDATED: Final = (("episode", "told_captured"), ("unknown", "since"), ("watched", "last"))


class DatabaseRefused(FramegateError):
    """The database cannot be used: another program's, damaged, or of a newer Framegate."""


class Watched(NamedTuple):
    """Frames of this epoch were published that were captured from then to then, UNIX seconds."""

    source: str
    epoch: int
    first: float
    last: float


class Gap(NamedTuple):
    """What was removed from a source's stream before it was read: after one and before another."""

    source: str
    after: Position
    before: Position

    def __str__(self) -> str:
        return (
            f"source {self.source}: the output of rules after {self.after} and before "
            f"{self.before} was removed from the store before it was read; lists and counts lack it"
        )


def open_database(
    place: str, *, uri: bool = False, may_be_older: bool = False
) -> sqlite3.Connection:
    """Open a database of episodes, of this version. DatabaseRefused, sqlite3.OperationalError."""
    database = sqlite3.connect(
        place, timeout=BUSY_S, isolation_level=None, check_same_thread=False, uri=uri
    )
    try:
        version = _version(database)
        if version > VERSION:
            raise DatabaseRefused(
                f"{place}: a newer Framegate wrote it (version {version}; this one reads up to "
                f"{VERSION}); use that version"
            )
        if 0 < version < VERSION and not may_be_older:
            raise DatabaseRefused(
                f"{place}: an older Framegate wrote it (version {version}; this one reads "
                f"{VERSION}); the run with --resume brings it up to date"
            )
    except BaseException as error:
        database.close()
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            raise DatabaseRefused(f"{place}: {error}") from error
        raise
    return database


def open_to_read(file: Path) -> sqlite3.Connection:
    """Open a database to read. DatabaseRefused, sqlite3.OperationalError.

    One of an older version is copied into memory and brought up to date there, so that the episodes
    of a run whose sources are gone can be read. The file stays as it is. One in which a killed run
    made no tables has no episodes.
    """
    place = f"file:{quote(str(file.absolute()))}?mode=ro"
    database = open_database(place, uri=True, may_be_older=True)
    if _version(database) == VERSION:
        return database
    with contextlib.closing(database):
        copied = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if _version(database):
            database.backup(copied)
    _bring_up_to_date(copied)
    return copied


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _bring_up_to_date(database: sqlite3.Connection) -> None:
    """Make the tables of this version, from nothing or from those of an older version."""
    version = _version(database)
    if version == VERSION:
        return
    script = FROM_2 if version == 2 else SCHEMA
    for statement in script.split(";\n"):
        database.execute(statement)
    database.execute(f"PRAGMA user_version = {VERSION}")


class Projection:
    """The database for the one who fills it. Any thread, one at a time; the file may have readers.

    Each method is one transaction. sqlite3.Error if the disk does not take it: nothing has changed
    then, and the same may be tried again.
    """

    def __init__(self, file: Path | None, clock: Callable[[], HostClock] = read_host_clock) -> None:
        """Open the database.

        file   made if it is not there; None: in memory
        clock  reads the clocks of this host
        Raises DatabaseRefused and sqlite3.Error.
        """
        self._clock = clock
        self._database = open_database(":memory:" if file is None else str(file), may_be_older=True)
        self._turn = threading.RLock()
        try:
            self._begin()
        except BaseException:
            self._database.close()
            raise

    def _begin(self) -> None:
        self._database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is read anew
        with self._written() as database:
            version = _version(database)
            _bring_up_to_date(database)
            kept_s = self._kept_time(database)
            if 0 < version < VERSION:
                _date_rows(database, kept_s)

    def _kept_time(self, database: sqlite3.Connection) -> float:
        """Return the kept time now, and store it."""
        now = self._clock()
        row = database.execute("SELECT wall, up, boot, kept FROM clock").fetchone()
        if row is None:
            time_now = first_kept_time(now)
        else:
            time_now = kept_time(KeptTime(HostClock(*row[:3]), row[3]), now)
        database.execute(
            "INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?, ?)", (*now, time_now.kept_s)
        )
        return time_now.kept_s

    @property
    def database(self) -> sqlite3.Connection:
        """Its connection, for one who reads in the same thread."""
        return self._database

    def close(self) -> None:
        """Close the file. Where nobody reads it just now it is left so that readers, also those of
        a folder that they may not write, need no files beside it.
        """
        with self._turn:
            with contextlib.suppress(sqlite3.OperationalError):
                self._database.execute("PRAGMA busy_timeout = 0")
                self._database.execute("PRAGMA journal_mode = DELETE")
            self._database.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[sqlite3.Connection]:
        """One transaction of the only one who writes in this process."""
        with self._turn, transaction(self._database):
            yield self._database

    def positions(self) -> dict[str, Position]:
        """How far each source's stream was read."""
        with self._turn:
            rows = self._database.execute("SELECT source, epoch, seq FROM stream").fetchall()
        return {source: Position(epoch, seq) for source, epoch, seq in rows}

    def take(self, said: Iterable[EventEntry]) -> list[Gap]:
        """Store what was said, each source's in order; what is there already is left out.

        Returns what was removed from the stream before it was read.
        """
        with self._written() as database:
            kept_s = self._kept_time(database)
            return [gap for each in said if (gap := _take(database, each, kept_s)) is not None]

    def watch(self, seen: Iterable[Watched]) -> None:
        """Note that sources were watched."""
        with self._written() as database:
            kept_s = self._kept_time(database)
            database.executemany(
                "INSERT INTO watched VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " kept = iif(excluded.last > last, excluded.kept, kept),"
                " first = min(first, excluded.first), last = max(last, excluded.last)",
                [(*each, kept_s) for each in seen],
            )

    def keep(self, most: int, age_s: float) -> int:
        """Remove episodes but the `most` that were written last, and those that were written longer
        ago than `age_s`, with their changes and verdicts; 0: no limit. Returns how many went.

        No clock of a camera counts for that, and of this host only the time that has passed.
        """
        with self._written() as database:
            kept_s = self._kept_time(database)
            first: _Age = (kept_s - age_s if age_s else 0.0, -1, -1, "")
            if most:
                newest = f"SELECT {_AGE} FROM episode ORDER BY {_DOWN} LIMIT 1 OFFSET ?"
                row = database.execute(newest, (most - 1,)).fetchone()
                first = max(first, row) if row is not None else first
            if first[0] <= 0:
                return 0
            old = f"FROM episode WHERE ({_AGE}) < (?, ?, ?, ?)"
            for table in ("change", "verdict"):
                database.execute(f"DELETE FROM {table} WHERE episode IN (SELECT id {old})", first)
            gone: int = database.execute(f"DELETE {old}", first).rowcount
            database.execute("DELETE FROM unknown WHERE until NOTNULL AND kept < ?", first[:1])
            database.execute("DELETE FROM watched WHERE kept < ?", first[:1])
        with self._turn:
            self._database.executescript(f"PRAGMA incremental_vacuum({PAGES})")
        return gone


def _date_rows(database: sqlite3.Connection, kept_s: float) -> None:
    """Give rows of an older version, which did not note it, the time at which they were written:
    that of the camera if it is plausible. Else they count as new, because no row may go for a
    camera's wrong clock.
    """
    for table, captured in _UNDATED:
        database.execute(
            f"UPDATE {table} SET kept = iif({captured} BETWEEN ? AND ?, {captured}, ?)"
            " WHERE kept = 0",
            (kept_s - _BELIEVED_S, kept_s, kept_s),
        )


_AGE: Final = "kept, began_epoch, began_seq, id"  # what was written together: by position
_DOWN: Final = ", ".join(f"{name} DESC" for name in _AGE.split(", "))
_Age = tuple[float, int, int, str]


def _take(database: sqlite3.Connection, said: EventEntry, kept_s: float) -> Gap | None:
    row = database.execute(
        "SELECT epoch, seq, frame_epoch, frame_seq, captured FROM stream WHERE source = ?",
        (said.source,),
    ).fetchone() or (*START, *START, 0.0)
    read, frame, captured = Position(*row[:2]), Position(*row[2:4]), row[4]
    if said.position <= read:
        return None
    gap = None
    if said.before is not None:
        if said.before > frame:
            gap = Gap(said.source, frame, said.position)
            database.execute(
                "INSERT OR IGNORE INTO lost VALUES (?, ?, ?)", (gap[0], str(gap[1]), str(gap[2]))
            )
        frame = said.position
    times = [change.told.captured for change in said.changes.changes]
    captured = said.captured or max(times, default=captured)
    for change in said.changes.changes:
        _take_change(database, change, kept_s)
    for rule in said.changes.unknown:
        database.execute(
            "INSERT OR IGNORE INTO unknown SELECT ?1, ?2, ?3, ?4, ?5, NULL, ?6 WHERE NOT EXISTS"
            " (SELECT 1 FROM unknown WHERE source = ?1 AND rule = ?2 AND until IS NULL)",
            (said.source, rule, *said.position, captured, kept_s),
        )
    for rule in said.changes.known:
        database.execute(
            "UPDATE unknown SET until = ?, kept = ?"
            " WHERE source = ? AND rule = ? AND until IS NULL",
            (captured, kept_s, said.source, rule),
        )
    database.execute(
        "INSERT OR REPLACE INTO stream VALUES (?, ?, ?, ?, ?, ?)",
        (said.source, *said.position, *frame, captured),
    )
    return gap


def _moment(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{field}" for field in Moment.__struct_fields__)


_AS_THEY_ARE: Final = (
    "source", "rule", "version", "when", "severity", "seconds", "label", "value", "direction",
    "sightings", "held", "unsure", "bridged", "ended_by",
)  # fmt: skip
_LISTS: Final = ("tracks", "box", "models")
COLUMNS: Final = (
    "id", *_AS_THEY_ARE, *_LISTS, *_moment("told"), *_moment("began"), *_moment("last"),
    "clip_before_s", "clip_after_s",
)  # fmt: skip
_FIXED: Final = {"id", *_moment("told"), *_moment("began")}  # a start says it once for all
_CHANGE: Final = (
    "step", "number", *_moment("told"), "last_captured", "seconds", "value", "sightings", "held",
    "unsure",
)  # fmt: skip


def _insert(table: str, columns: Sequence[str], ending: str = "") -> str:
    names, values = (", ".join(form.format(c) for c in columns) for form in ('"{}"', ":{}"))
    return f"INSERT INTO {table} ({names}) VALUES ({values}) {ending}"


_ADD_CHANGE: Final = _insert("change", ("episode", *_CHANGE), "ON CONFLICT DO NOTHING")
_ADD_EPISODE: Final = _insert(
    "episode",
    (*COLUMNS, "kept"),
    "ON CONFLICT DO UPDATE SET "
    + ", ".join(f'"{name}" = excluded."{name}"' for name in COLUMNS if name not in _FIXED)
    + " WHERE episode.ended_by IS NULL",
)


def _take_change(database: sqlite3.Connection, change: Change, kept_s: float) -> None:
    values: dict[str, Any] = {
        **{name: getattr(change, name) for name in _AS_THEY_ARE},
        **{
            f"{name}_{field}": value
            for name in ("told", "began", "last")
            for field, value in msgspec.structs.asdict(getattr(change, name)).items()
        },
        **{name: _as_json(getattr(change, name)) for name in _LISTS},
        "id": change.episode,
        "episode": change.episode,
        "step": change.step,
        "number": change.number,
        "ended_by": change.ended_by or ("over" if change.step == "end" else None),
        "clip_before_s": change.clip.before_s if change.clip else None,
        "clip_after_s": change.clip.after_s if change.clip else None,
        "kept": kept_s,
    }
    if database.execute(_ADD_CHANGE, values).rowcount:
        database.execute(_ADD_EPISODE, values)


def _as_json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
