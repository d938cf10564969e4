"""The database of a run's episodes: the output of the stage `events` as SQL tables.

It is a projection of the stream: everything except verdicts follows from the stream, and each
transaction stores the position up to which the stream was read. A process that is killed continues
without gaps or duplicates, and reading an entry twice changes nothing. The database is one SQLite
file, `events.db` in the data folder.
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

from framegate.pipeline.contracts.episodes import Change, EventEntry
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import Visit
from framegate.pipeline.recording.durable import transaction
from framegate.pipeline.system.clocks import (
    HostClock,
    KeptTime,
    first_kept_time,
    kept_time,
    read_host_clock,
)

FILE: Final = "events.db"  # in the data folder
VERSION: Final = 4
BUSY_S: Final = 10.0  # for which a writer waits for another
LONG_S: Final = 3600.0  # a longer episode is in the index `long`
PAGES: Final = 2000  # of the file that one call of `keep` returns to the file system

_MOMENT: Final = "{0}_epoch INTEGER NOT NULL, {0}_seq INTEGER NOT NULL, {0}_media_s REAL NOT NULL,"
_CLOCK: Final = """CREATE TABLE clock (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  wall REAL NOT NULL, up REAL NOT NULL, boot TEXT NOT NULL, kept REAL NOT NULL
) STRICT;
"""
_VISITS: Final = f"""CREATE TABLE visits (
  id TEXT PRIMARY KEY, source TEXT NOT NULL, track INTEGER NOT NULL, label TEXT NOT NULL,
  {_MOMENT.format("began")} began_captured REAL NOT NULL,
  {_MOMENT.format("last")} last_captured REAL NOT NULL,
  path TEXT NOT NULL, width REAL NOT NULL, height REAL NOT NULL, speed REAL NOT NULL,
  dwell_s REAL NOT NULL, stops INTEGER NOT NULL, mean_score REAL NOT NULL,
  top_score REAL NOT NULL, looks INTEGER NOT NULL, colours TEXT NOT NULL, feature BLOB NOT NULL,
  feature_model TEXT NOT NULL, sounds TEXT NOT NULL, episodes TEXT NOT NULL, kept REAL NOT NULL
) STRICT;
CREATE INDEX visits_by_time ON visits (began_captured, source, label);
CREATE INDEX visits_by_age ON visits (kept, began_epoch, began_seq, id);
CREATE TABLE mark (
  name TEXT NOT NULL, visit TEXT NOT NULL, is_alike INTEGER NOT NULL, marked REAL NOT NULL,
  PRIMARY KEY (name, visit)
) STRICT, WITHOUT ROWID;
"""
_MUTED_ONES: Final = (
    "CREATE INDEX muted_ones ON episode (began_captured, id, source, rule, direction)"
    " WHERE muted NOTNULL;"
)
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
  clip_before_s REAL, clip_after_s REAL, kept REAL NOT NULL DEFAULT 0,
  muted TEXT, traits TEXT
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
{_MUTED_ONES}
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
{_VISITS}{_CLOCK}"""
"""Columns have the names of the fields of `Change`; a moment has several, such as `began_captured`.
Lists are JSON, and null is NULL. Times are UNIX seconds. `kept` is the time at which a row was
written, by the kept time of this database (see `clocks`); the age of a row follows from it.

change   the changes of each episode
visits   the visits of tracks that have ended; `width` and `height` are their `size`
mark     visits that users marked as alike or not alike, by the name of the marks
verdict  the verdicts of users; `began` is that of the episode
unknown  periods in which the state of a rule was unknown; until NULL: it still is
watched  periods of an epoch in which frames are known to have been published
lost     gaps: entries after `after` and before `before` were removed before they were read
stream   position up to which each source's stream was read, and the last frame in it
clock    the kept time, and the clocks of the host at the same moment
"""

FROM_3: Final = f"""
ALTER TABLE episode ADD COLUMN muted TEXT;
ALTER TABLE episode ADD COLUMN traits TEXT;
{_MUTED_ONES}
{_VISITS}"""
"""Statements that bring a database of version 3 to the present version."""

# A data folder of 0.2, which tests/releases keeps, has version 2.
FROM_2: Final = f"""
ALTER TABLE episode ADD COLUMN kept REAL NOT NULL DEFAULT 0;
ALTER TABLE unknown ADD COLUMN kept REAL NOT NULL DEFAULT 0;
ALTER TABLE watched ADD COLUMN kept REAL NOT NULL DEFAULT 0;
CREATE INDEX by_age ON episode (kept, began_epoch, began_seq, id);
{FROM_3}{_CLOCK}"""
"""Statements that bring a database of version 2 to the present version."""

_PLAUSIBLE_S: Final = 400 * 86_400.0  # age of a row by a camera's clock
_UNDATED: Final = (("episode", "told_captured"), ("unknown", "since"), ("watched", "last"))


class DatabaseRefused(FramegateError):
    """The database cannot be used: another program made it, it is damaged, or it is newer."""


class Watched(NamedTuple):
    """Capture times of the first and the last published frame of an epoch, UNIX seconds."""

    source: str
    epoch: int
    first: float
    last: float


class Gap(NamedTuple):
    """A gap: entries of a stream between two positions were removed before they were read."""

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
    """Open a database of episodes. DatabaseRefused, sqlite3.OperationalError.

    may_be_older  whether a database of an older version is opened too
    """
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
        is_temporary = isinstance(error, sqlite3.OperationalError)
        if isinstance(error, sqlite3.DatabaseError) and not is_temporary:
            raise DatabaseRefused(f"{place}: {error}") from error
        raise
    return database


def open_to_read(file: Path) -> sqlite3.Connection:
    """Open a database to read. DatabaseRefused, sqlite3.OperationalError.

    A database of an older version is copied into memory and upgraded there; the file does not
    change. A file in which a killed run made no tables yields an empty database.
    """
    place = f"file:{quote(str(file.absolute()))}?mode=ro"
    database = open_database(place, uri=True, may_be_older=True)
    if _version(database) == VERSION:
        return database
    with contextlib.closing(database):
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if _version(database):
            database.backup(copy)
    _upgrade(copy)
    return copy


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _upgrade(database: sqlite3.Connection) -> None:
    """Make the tables of this version in an empty database, or from those of an older version."""
    version = _version(database)
    if version == VERSION:
        return
    script = SCHEMA
    if version == 2:
        script = FROM_2
    elif version == 3:
        script = FROM_3
    for statement in script.split(";\n"):
        database.execute(statement)
    database.execute(f"PRAGMA user_version = {VERSION}")


class Projection:
    """The database, opened by its only writer. Methods may run in any thread.

    Each method is a transaction. If it raises sqlite3.Error because the disk fails, nothing has
    changed, and the call can be repeated.
    """

    def __init__(self, file: Path | None, clock: Callable[[], HostClock] = read_host_clock) -> None:
        """Open the database. DatabaseRefused, sqlite3.Error.

        file   made if it is missing; None: in memory
        clock  reads the clocks of this host
        """
        self._clock = clock
        place = ":memory:"
        if file is not None:
            place = str(file)
        self._database = open_database(place, may_be_older=True)
        self._turn = threading.RLock()
        try:
            self._begin()
        except BaseException:
            self._database.close()
            raise

    def _begin(self) -> None:
        self._database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._database.execute("PRAGMA journal_mode = WAL")
        # NORMAL: transactions that a power cut loses are read from the stream again.
        self._database.execute("PRAGMA synchronous = NORMAL")
        with self._written() as database:
            version = _version(database)
            _upgrade(database)
            kept_s = self._kept_time(database)
            if version == 2:
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
        """The connection, for reads in the thread that writes."""
        return self._database

    def close(self) -> None:
        """Close the file, and remove its write-ahead log if no process reads it now.

        Without the log, readers that may not write to the folder can open the file.
        """
        with self._turn:
            with contextlib.suppress(sqlite3.OperationalError):
                self._database.execute("PRAGMA busy_timeout = 0")
                self._database.execute("PRAGMA journal_mode = DELETE")
            self._database.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[sqlite3.Connection]:
        with self._turn, transaction(self._database):
            yield self._database

    def positions(self) -> dict[str, Position]:
        """Return the position up to which each source's stream was read."""
        with self._turn:
            rows = self._database.execute("SELECT source, epoch, seq FROM stream").fetchall()
        return {source: Position(epoch, seq) for source, epoch, seq in rows}

    def take(self, entries: Iterable[EventEntry]) -> list[Gap]:
        """Store entries, those of each source in order. Skip entries that are stored already.

        Returns the gaps before these entries.
        """
        with self._written() as database:
            kept_s = self._kept_time(database)
            gaps = [_take(database, entry, kept_s) for entry in entries]
            return [gap for gap in gaps if gap is not None]

    def watch(self, periods: Iterable[Watched]) -> None:
        """Store periods in which sources were watched, or extend those of the same epoch."""
        with self._written() as database:
            kept_s = self._kept_time(database)
            database.executemany(
                "INSERT INTO watched VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " kept = iif(excluded.last > last, excluded.kept, kept),"
                " first = min(first, excluded.first), last = max(last, excluded.last)",
                [(*period, kept_s) for period in periods],
            )

    def keep(self, max_episodes: int, age_s: float) -> int:
        """Remove old episodes with their changes and verdicts, and old visits.

        Return the number of removed episodes.

        max_episodes  keep only this number of each, those written last; 0: no limit
        age_s         keep only rows written in the last `age_s` seconds; 0: no limit

        The age does not depend on cameras' clocks, nor on jumps of this host's clock.
        """
        with self._written() as database:
            kept_s = self._kept_time(database)
            oldest: _Age = (0.0, -1, -1, "")  # the oldest row that stays
            if age_s:
                oldest = (kept_s - age_s, -1, -1, "")
            visits_from = _oldest_kept(database, "visits", max_episodes, oldest)
            old_visits = f"FROM visits WHERE ({_AGE}) < (?, ?, ?, ?)"
            database.execute(
                f"DELETE FROM mark WHERE visit IN (SELECT id {old_visits})", visits_from
            )
            database.execute(f"DELETE {old_visits}", visits_from)
            first = _oldest_kept(database, "episode", max_episodes, oldest)
            if first[0] <= 0:
                return 0
            old = f"FROM episode WHERE ({_AGE}) < (?, ?, ?, ?)"
            for table in ("change", "verdict"):
                database.execute(f"DELETE FROM {table} WHERE episode IN (SELECT id {old})", first)
            removed: int = database.execute(f"DELETE {old}", first).rowcount
            database.execute("DELETE FROM unknown WHERE until NOTNULL AND kept < ?", first[:1])
            database.execute("DELETE FROM watched WHERE kept < ?", first[:1])
        with self._turn:
            self._database.executescript(f"PRAGMA incremental_vacuum({PAGES})")
        return removed


def _date_rows(database: sqlite3.Connection, kept_s: float) -> None:
    """Set the time at which rows were written, which the older version did not store.

    It is the time of the camera if that is plausible. Otherwise the rows count as new, so that a
    wrong clock of a camera removes no row.
    """
    for table, captured in _UNDATED:
        database.execute(
            f"UPDATE {table} SET kept = iif({captured} BETWEEN ? AND ?, {captured}, ?)"
            " WHERE kept = 0",
            (kept_s - _PLAUSIBLE_S, kept_s, kept_s),
        )


_AGE: Final = "kept, began_epoch, began_seq, id"  # rows of one transaction are in stream order
_DOWN: Final = ", ".join(f"{name} DESC" for name in _AGE.split(", "))
_Age = tuple[float, int, int, str]


def _oldest_kept(database: sqlite3.Connection, table: str, most: int, oldest: _Age) -> _Age:
    """Return the age of the oldest of at most `most` rows that stay; 0: no limit.

    oldest  the same by another limit
    """
    if not most:
        return oldest
    newest = f"SELECT {_AGE} FROM {table} ORDER BY {_DOWN} LIMIT 1 OFFSET ?"
    row: _Age | None = database.execute(newest, (most - 1,)).fetchone()
    return max(oldest, row or oldest)


def _take(database: sqlite3.Connection, entry: EventEntry, kept_s: float) -> Gap | None:
    row = database.execute(
        "SELECT epoch, seq, frame_epoch, frame_seq, captured FROM stream WHERE source = ?",
        (entry.source,),
    ).fetchone() or (*START, *START, 0.0)
    read = Position(*row[:2])
    frame = Position(*row[2:4])
    captured = row[4]
    if entry.position <= read:
        return None
    gap = None
    # A frame's entry names the frame before it. If that is not the last one read, entries between
    # them were removed.
    if entry.before is not None:
        if entry.before > frame:
            gap = Gap(entry.source, frame, entry.position)
            database.execute(
                "INSERT OR IGNORE INTO lost VALUES (?, ?, ?)",
                (gap.source, str(gap.after), str(gap.before)),
            )
        frame = entry.position
    times = [change.told.captured for change in entry.changes.changes]
    times += [visit.last.captured for visit in entry.changes.visits]
    captured = entry.captured or max(times, default=captured)
    for change in entry.changes.changes:
        _take_change(database, change, kept_s)
    for visit in entry.changes.visits:
        _take_visit(database, visit, kept_s)
    for rule in entry.changes.unknown:
        database.execute(
            "INSERT OR IGNORE INTO unknown SELECT ?1, ?2, ?3, ?4, ?5, NULL, ?6 WHERE NOT EXISTS"
            " (SELECT 1 FROM unknown WHERE source = ?1 AND rule = ?2 AND until IS NULL)",
            (entry.source, rule, *entry.position, captured, kept_s),
        )
    for rule in entry.changes.known:
        database.execute(
            "UPDATE unknown SET until = ?, kept = ?"
            " WHERE source = ? AND rule = ? AND until IS NULL",
            (captured, kept_s, entry.source, rule),
        )
    database.execute(
        "INSERT OR REPLACE INTO stream VALUES (?, ?, ?, ?, ?, ?)",
        (entry.source, *entry.position, *frame, captured),
    )
    return gap


def _moment(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{field}" for field in Moment.__struct_fields__)


_AS_THEY_ARE: Final = (
    "source", "rule", "version", "when", "severity", "seconds", "label", "value", "direction",
    "sightings", "held", "unsure", "bridged", "ended_by", "muted",
)  # fmt: skip
_JSON: Final = ("tracks", "box", "models", "traits")
COLUMNS: Final = (
    "id", *_AS_THEY_ARE, *_JSON, *_moment("told"), *_moment("began"), *_moment("last"),
    "clip_before_s", "clip_after_s",
)  # fmt: skip
_FIXED: Final = {
    "id",
    "traits",
    *_moment("told"),
    *_moment("began"),
}  # those of the first change stay
_CHANGE: Final = (
    "step", "number", *_moment("told"), "last_captured", "seconds", "value", "sightings", "held",
    "unsure",
)  # fmt: skip


def _insert(table: str, columns: Sequence[str], ending: str = "") -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(f":{column}" for column in columns)
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
    values: dict[str, Any] = {name: getattr(change, name) for name in _AS_THEY_ARE}
    for name in ("told", "began", "last"):
        moment = msgspec.structs.asdict(getattr(change, name))
        values |= {f"{name}_{field}": value for field, value in moment.items()}
    for name in _JSON:
        value = getattr(change, name)
        if value is not None:
            value = msgspec.json.encode(value).decode()
        values[name] = value
    if change.step == "end":
        values["ended_by"] = change.ended_by or "over"
    values |= {
        "id": change.episode,
        "episode": change.episode,
        "step": change.step,
        "number": change.number,
        "clip_before_s": None,
        "clip_after_s": None,
        "kept": kept_s,
    }
    if change.clip is not None:
        values["clip_before_s"] = change.clip.before_s
        values["clip_after_s"] = change.clip.after_s
    if database.execute(_ADD_CHANGE, values).rowcount:
        database.execute(_ADD_EPISODE, values)


VISIT_COLUMNS: Final = (
    "id", "source", "track", "label", *_moment("began"), *_moment("last"), "path", "width",
    "height", "speed", "dwell_s", "stops", "mean_score", "top_score", "looks", "colours",
    "feature", "feature_model", "sounds", "episodes",
)  # fmt: skip
_ADD_VISIT: Final = _insert("visits", (*VISIT_COLUMNS, "kept"), "ON CONFLICT DO NOTHING")
# An episode of the track of a visit begins with the track, or is passed to it by an earlier one.
_EARLIER_S: Final = 600.0
_EPISODES_OF: Final = """
SELECT id, tracks FROM episode WHERE source = :source AND began_epoch = :epoch
  AND began_captured BETWEEN :since AND :until AND last_captured >= :began
UNION SELECT id, tracks FROM episode WHERE source = :source AND ended_by IS NULL ORDER BY id"""


def _take_visit(database: sqlite3.Connection, visit: Visit, kept_s: float) -> None:
    values = msgspec.structs.asdict(visit)
    for name in ("began", "last"):
        moment = msgspec.structs.asdict(getattr(visit, name))
        values |= {f"{name}_{field}": value for field, value in moment.items()}
    width, height = visit.size
    mean_score, top_score = visit.scores
    values |= {
        "width": width,
        "height": height,
        "mean_score": mean_score,
        "top_score": top_score,
        "episodes": _episodes_of(database, visit),
        "kept": kept_s,
    }
    for name in ("path", "colours", "sounds", "episodes"):
        values[name] = msgspec.json.encode(values[name]).decode()
    database.execute(_ADD_VISIT, {name: values[name] for name in (*VISIT_COLUMNS, "kept")})


def _episodes_of(database: sqlite3.Connection, visit: Visit) -> tuple[str, ...]:
    """Return the ids of the known episodes of a visit's track."""
    place = {
        "source": visit.source,
        "epoch": visit.began.epoch,
        "since": visit.began.captured - _EARLIER_S,
        "began": visit.began.captured,
        "until": visit.last.captured,
    }
    rows = database.execute(_EPISODES_OF, place).fetchall()
    return tuple(id_ for id_, tracks in rows if visit.track in msgspec.json.decode(tracks))
