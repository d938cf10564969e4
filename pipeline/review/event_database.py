"""The file `events.db`: its tables, its versions, and how readers and the writer open it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError
from framegate.pipeline.review.visit_rows import restore_searched

FILE: Final = "events.db"  # in the data folder
VERSION: Final = 8
BUSY_S: Final = 10.0  # for which a writer waits for another
LONG_S: Final = 3600.0  # a longer episode is in the index `long`

_MOMENT: Final = "{0}_epoch INTEGER NOT NULL, {0}_seq INTEGER NOT NULL, {0}_media_s REAL NOT NULL,"
_CLOCK: Final = """CREATE TABLE clock (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  wall REAL NOT NULL, up REAL NOT NULL, boot TEXT NOT NULL, kept REAL NOT NULL
) STRICT;
"""
_PICTURES: Final = """CREATE TABLE picture (
  number INTEGER PRIMARY KEY, owner TEXT NOT NULL UNIQUE, jpeg BLOB NOT NULL,
  is_blurred INTEGER NOT NULL DEFAULT 0
) STRICT;
"""
_VISITS: Final = f"""CREATE TABLE visits (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL,
  track INTEGER NOT NULL, label TEXT NOT NULL,
  {_MOMENT.format("began")} began_captured REAL NOT NULL,
  {_MOMENT.format("last")} last_captured REAL NOT NULL,
  path TEXT NOT NULL, width REAL NOT NULL, height REAL NOT NULL, speed REAL NOT NULL,
  dwell_s REAL NOT NULL, stops INTEGER NOT NULL, mean_score REAL NOT NULL,
  top_score REAL NOT NULL, looks INTEGER NOT NULL, colours TEXT NOT NULL, feature BLOB NOT NULL,
  feature_model TEXT NOT NULL, sounds TEXT NOT NULL, kept REAL NOT NULL
) STRICT;
CREATE INDEX visits_by_time ON visits (began_captured, source, label);
CREATE INDEX visits_by_age ON visits (kept, began_epoch, began_seq, id);
CREATE TABLE searched (
  number INTEGER PRIMARY KEY, began REAL NOT NULL, source TEXT NOT NULL, label TEXT NOT NULL,
  sounds TEXT NOT NULL, numbers BLOB NOT NULL
) STRICT;
{_PICTURES}CREATE TABLE mark (
  name TEXT NOT NULL, visit TEXT NOT NULL, is_alike INTEGER NOT NULL, marked REAL NOT NULL,
  PRIMARY KEY (name, visit)
) STRICT, WITHOUT ROWID;
"""
_STREAMS: Final = """CREATE TABLE lost (
  source TEXT NOT NULL, stage TEXT NOT NULL, after TEXT NOT NULL, before TEXT NOT NULL,
  PRIMARY KEY (source, stage, after)
) STRICT, WITHOUT ROWID;
CREATE TABLE stream (
  source TEXT NOT NULL, stage TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  frame_epoch INTEGER NOT NULL, frame_seq INTEGER NOT NULL, captured REAL NOT NULL,
  PRIMARY KEY (source, stage)
) STRICT, WITHOUT ROWID;
"""
_BY_FRAME: Final = "CREATE INDEX by_frame ON episode (source, began_epoch, began_media_s);"
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
{_BY_FRAME}
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
  kept REAL NOT NULL DEFAULT 0, why TEXT,
  PRIMARY KEY (source, epoch)
) STRICT, WITHOUT ROWID;
{_STREAMS}{_VISITS}{_CLOCK}"""
"""Columns have the names of the fields of `Change`; a moment has several, such as `began_captured`.
Lists are JSON, and null is NULL. Times are UNIX seconds. `kept` is the time at which a row was
written, by the kept time of this database (see `clocks`); the age of a row follows from it.

change   the changes of each episode
visits   the visits of tracks that have ended; `width` and `height` are their `size`
searched what a search reads of each visit: `numbers` are those of `likeness.numbers_of`, float32.
         If these change, VERSION changes, and `upgrade` makes the table again
mark     visits that users marked as alike or not alike, by the name of the marks
picture  pictures of episodes with a verdict, and of visits with a mark, by the id of the owner,
         which begins with its source and a slash; `is_blurred`: with blurred faces
verdict  the verdicts of users; `began` is that of the episode
unknown  periods in which the state of a rule was unknown; until NULL: it still is
watched  periods of an epoch in which frames are known to have been published; `why` is the reason
         of the camera's absence after it, empty while no end of the epoch is stored, and NULL if an
         older version wrote the row. `first` and `last` of a camera that never came are equal
lost     gaps: entries after `after` and before `before` were removed before they were read
stream   position up to which each stream of a source was read, and the last frame in it
clock    the kept time, and the clocks of the host at the same moment
"""

_BY_STAGE: Final = f"""ALTER TABLE lost RENAME TO former_lost;
ALTER TABLE stream RENAME TO former_stream;
{_STREAMS}INSERT INTO lost SELECT source, '{keys.EVENTS}', after, before FROM former_lost;
INSERT INTO stream SELECT source, '{keys.EVENTS}', epoch, seq, frame_epoch, frame_seq, captured
  FROM former_stream;
DROP TABLE former_lost;
DROP TABLE former_stream;
{_BY_FRAME}
"""
_KEPT_4: Final = (
    "id, source, track, label, began_epoch, began_seq, began_media_s, began_captured, last_epoch,"
    " last_seq, last_media_s, last_captured, path, width, height, speed, dwell_s, stops,"
    " mean_score, top_score, looks, colours, feature, feature_model, sounds, kept"
)
FROM_7: Final = "ALTER TABLE watched ADD COLUMN why TEXT"
"""The statement that brings a database of version 7 to the present one."""

FROM_4: Final = f"""{_BY_STAGE}ALTER TABLE visits RENAME TO former_visits;
ALTER TABLE mark RENAME TO former_mark;
DROP INDEX visits_by_time;
DROP INDEX visits_by_age;
{_VISITS}INSERT INTO visits ({_KEPT_4}) SELECT {_KEPT_4} FROM former_visits ORDER BY rowid;
INSERT INTO mark SELECT name, visit, is_alike, marked FROM former_mark;
DROP TABLE former_visits;
DROP TABLE former_mark;
{FROM_7};
"""
"""Statements that bring a database of version 4 to the present one, with its visits and marks. The
streams have no such visits any more, and `restore_searched` makes their rows of `searched`.
"""

FROM_6: Final = f"DELETE FROM searched;\n{FROM_7}"
"""The statements after which `restore_searched` makes the numbers of all visits again: those of
version 6, which no release wrote, had no sounds.
"""

FROM_5: Final = f"ALTER TABLE picture ADD COLUMN is_blurred INTEGER NOT NULL DEFAULT 0;\n{FROM_6}"
"""Statements that bring a database of version 5, which no release wrote, to the present one."""

FROM_3: Final = f"""
ALTER TABLE episode ADD COLUMN muted TEXT;
ALTER TABLE episode ADD COLUMN traits TEXT;
{_MUTED_ONES}
{_BY_STAGE}{_VISITS}{FROM_7};
"""
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
    upgrade(copy)
    return copy


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def upgrade(database: sqlite3.Connection) -> int:
    """Make the tables of this version in an empty database, or from those of an older version.

    Return the version before; 0: the database was empty.
    """
    version = _version(database)
    if version == VERSION:
        return version
    script = SCHEMA
    if version == 2:
        script = FROM_2
    elif version == 3:
        script = FROM_3
    elif version == 4:
        script = FROM_4
    elif version == 5:
        script = FROM_5
    elif version == 6:
        script = FROM_6
    elif version == 7:
        script = FROM_7
    for statement in script.split(";\n"):
        database.execute(statement)
    if 4 <= version < 7:
        restore_searched(database)
    database.execute(f"PRAGMA user_version = {VERSION}")
    return version


def date_rows(database: sqlite3.Connection, kept_s: float) -> None:
    """Set the time at which rows were written, which version 2 did not store.

    It is the time of the camera if that is plausible. Otherwise the rows count as new, so that a
    wrong clock of a camera removes no row.
    """
    for table, captured in _UNDATED:
        database.execute(
            f"UPDATE {table} SET kept = iif({captured} BETWEEN ? AND ?, {captured}, ?)"
            " WHERE kept = 0",
            (kept_s - _PLAUSIBLE_S, kept_s, kept_s),
        )


@contextlib.contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database to read during a block. It may be of an older version.

    ConfigFaults if the file is missing; DatabaseRefused.
    """
    if not file.is_file():
        raise ConfigFaults([f"{file}: no such file; a run makes it"])
    with contextlib.closing(open_to_read(file)) as database:
        yield database
