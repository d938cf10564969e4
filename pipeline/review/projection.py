"""Write the database of a run's episodes: the streams of `events` and `visits` as SQL tables.

It is a projection of these streams: everything except verdicts and marks follows from them, and
each transaction stores the position up to which a stream was read. A process that is killed
continues without gaps or duplicates, and reading an entry twice changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.episodes import Change, EventEntry
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.visits import Visit, VisitEntry
from framegate.pipeline.recording.durable import transaction
from framegate.pipeline.recording.index import OPEN_S, Pin
from framegate.pipeline.review.event_database import (
    VERSION,
    date_rows,
    open_database,
    upgrade,
)
from framegate.pipeline.review.kept_pictures import hide_pictures
from framegate.pipeline.review.visit_rows import add_searched
from framegate.pipeline.system.clocks import (
    HostClock,
    KeptTime,
    first_kept_time,
    kept_time,
    read_host_clock,
)

log = logging.getLogger(__name__)

PAGES: Final = 2000  # of the file that one call of `keep` returns to the file system
MAX_LAST: Final = 1000  # clips of a source that its next recorded file may belong to
MAX_GAPS: Final = 100  # of each stream, the newest; an older one explains lists that few still read


class Watched(NamedTuple):
    """Capture times of the first and the last published frame of an epoch, UNIX seconds.

    first, last  of a camera that never came: both the time since which it is missing
    why          reason of the camera's absence after the epoch, and the fault, as in End; empty: no
                 end of the epoch is stored; None: an older version stored none
    """

    source: str
    epoch: int
    first: float
    last: float
    why: str | None = ""


class Gap(NamedTuple):
    """A gap: entries of a stream between two positions were removed before they were read."""

    source: str
    stage: str
    after: Position
    before: Position

    def __str__(self) -> str:
        return (
            f"source {self.source}: output of the stage {self.stage} after {self.after} and before "
            f"{self.before} was removed from the store before it was read; lists and counts lack it"
        )


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
            earlier = upgrade(database)
            kept_s = self._kept_time(database)
            if earlier == 2:
                date_rows(database, kept_s)
        if 0 < earlier < VERSION:
            visits, marks, verdicts = self._database.execute(
                "SELECT (SELECT count(*) FROM visits), (SELECT count(*) FROM mark),"
                " (SELECT count(*) FROM verdict)"
            ).fetchone()
            log.info(
                "the database of episodes was upgraded from version %d to %d with all episodes, "
                "%d verdicts, %d visits and %d marks",
                earlier, VERSION, verdicts, visits, marks,
            )  # fmt: skip

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

    def positions(self, stage: str) -> dict[str, Position]:
        """Return the position up to which the stream of a stage was read, by source."""
        with self._turn:
            rows = self._database.execute(
                "SELECT source, epoch, seq FROM stream WHERE stage = ?", (stage,)
            ).fetchall()
        return {source: Position(epoch, seq) for source, epoch, seq in rows}

    def take(self, entries: Iterable[EventEntry | VisitEntry]) -> list[Gap]:
        """Store entries, those of each stream in order. Skip entries that are stored already.

        Returns the gaps before these entries.
        """
        with self._written() as database:
            kept_s = self._kept_time(database)
            gaps = [_take(database, entry, kept_s) for entry in entries]
            return [gap for gap in gaps if gap is not None]

    def hide_pictures(self, blurs_faces: bool, masked: Collection[str]) -> None:
        """Remove the kept pictures that the settings of a run hide; log their number.

        masked  sources with areas that are hidden
        """
        self._database.execute("PRAGMA secure_delete = ON")  # of their bytes nothing stays
        with self._written() as database:
            removed = hide_pictures(database, blurs_faces, masked)
        if removed:
            log.info("[privacy]: %d kept pictures were removed from events.db", removed)

    def watch(self, periods: Iterable[Watched]) -> None:
        """Store periods in which sources were watched, or extend those of the same epoch."""
        with self._written() as database:
            kept_s = self._kept_time(database)
            database.executemany(
                "INSERT INTO watched (source, epoch, first, last, why, kept)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " kept = iif(excluded.last > last, excluded.kept, kept), why = excluded.why,"
                " first = min(first, excluded.first), last = max(last, excluded.last)",
                [(*period, kept_s) for period in periods],
            )

    def last_clips(self, sources: Iterable[str]) -> list[Pin]:
        """Return the pins of those clips of sources that end after their last episode began.

        At most MAX_LAST of each source. What is recorded from now on can belong to these only.
        """
        pins = []
        for source in sources:
            with self._turn:
                rows = self._database.execute(_LAST_CLIPS, (source, MAX_LAST)).fetchall()
            pins += [Pin(*row) for row in rows]
        return pins

    def keep(self, max_episodes: int, age_s: float) -> int:
        """Remove old episodes with their changes and verdicts, old visits, and old gaps.

        Return the number of removed episodes.

        max_episodes  keep only this number of each, those written last; 0: no limit
        age_s         keep only rows written in the last `age_s` seconds; 0: no limit

        The age does not depend on cameras' clocks, nor on jumps of this host's clock.
        """
        with self._written() as database:
            database.execute(_REMOVE_OLD_GAPS, (MAX_GAPS,))
            kept_s = self._kept_time(database)
            oldest: _Age = (0.0, -1, -1, "")  # the oldest row that stays
            if age_s:
                oldest = (kept_s - age_s, -1, -1, "")
            visits_from = _oldest_kept(database, "visits", max_episodes, oldest)
            old_visits = f"FROM visits WHERE ({_AGE}) < (?, ?, ?, ?)"
            database.execute(
                f"DELETE FROM mark WHERE visit IN (SELECT id {old_visits})", visits_from
            )
            database.execute(
                f"DELETE FROM searched WHERE number IN (SELECT number {old_visits})", visits_from
            )
            database.execute(
                f"DELETE FROM picture WHERE owner IN (SELECT id {old_visits})", visits_from
            )
            database.execute(f"DELETE {old_visits}", visits_from)
            first = _oldest_kept(database, "episode", max_episodes, oldest)
            if first[0] <= 0:
                return 0
            old = f"FROM episode WHERE ({_AGE}) < (?, ?, ?, ?)"
            for table in ("change", "verdict"):
                database.execute(f"DELETE FROM {table} WHERE episode IN (SELECT id {old})", first)
            database.execute(f"DELETE FROM picture WHERE owner IN (SELECT id {old})", first)
            removed: int = database.execute(f"DELETE {old}", first).rowcount
            database.execute("DELETE FROM unknown WHERE until NOTNULL AND kept < ?", first[:1])
            database.execute("DELETE FROM watched WHERE kept < ?", first[:1])
        with self._turn:
            self._database.executescript(f"PRAGMA incremental_vacuum({PAGES})")
        return removed


_REMOVE_OLD_GAPS: Final = (
    "DELETE FROM lost WHERE (source, stage, after) IN (SELECT source, stage, after FROM"
    " (SELECT *, row_number() OVER (PARTITION BY source, stage ORDER BY"
    " CAST(after AS INTEGER) DESC,"
    " CAST(substr(after, instr(after, '-') + 1) AS INTEGER) DESC) AS place FROM lost)"
    " WHERE place > ?)"
)
_LAST_CLIPS: Final = (
    "SELECT id, source, began_captured - clip_before_s,"
    f" last_captured + clip_after_s + iif(ended_by IS NULL, {OPEN_S}, 0.0) AS until, severity"
    " FROM episode, (SELECT max(began_captured) AS newest FROM episode WHERE source = ?1)"
    f" WHERE source = ?1 AND began_captured >= newest - {OPEN_S} AND clip_before_s NOTNULL"
    " AND until >= newest ORDER BY began_captured DESC LIMIT ?2"
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


def _take(
    database: sqlite3.Connection, entry: EventEntry | VisitEntry, kept_s: float
) -> Gap | None:
    stage = keys.EVENTS
    if isinstance(entry, VisitEntry):
        stage = keys.VISITS
    row = database.execute(
        "SELECT epoch, seq, frame_epoch, frame_seq, captured FROM stream"
        " WHERE source = ? AND stage = ?",
        (entry.source, stage),
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
            gap = Gap(entry.source, stage, frame, entry.position)
            database.execute(
                "INSERT OR IGNORE INTO lost VALUES (?, ?, ?, ?)",
                (gap.source, gap.stage, str(gap.after), str(gap.before)),
            )
        frame = entry.position
    if isinstance(entry, VisitEntry):
        times = [visit.last.captured for visit in entry.visits]
        captured = max(times, default=captured)
        for visit in entry.visits:
            _take_visit(database, visit, kept_s)
    else:
        times = [change.told.captured for change in entry.changes.changes]
        captured = entry.captured or max(times, default=captured)
        _take_changes(database, entry, captured, kept_s)
    database.execute(
        "INSERT OR REPLACE INTO stream VALUES (?, ?, ?, ?, ?, ?, ?)",
        (entry.source, stage, *entry.position, *frame, captured),
    )
    return gap


def _take_changes(
    database: sqlite3.Connection, entry: EventEntry, captured: float, kept_s: float
) -> None:
    for change in entry.changes.changes:
        _take_change(database, change, kept_s)
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
    "feature", "feature_model", "sounds",
)  # fmt: skip
_ADD_VISIT: Final = _insert("visits", (*VISIT_COLUMNS, "kept"), "ON CONFLICT DO NOTHING")


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
        "kept": kept_s,
    }
    for name in ("path", "colours", "sounds"):
        values[name] = msgspec.json.encode(values[name]).decode()
    row = {name: values[name] for name in (*VISIT_COLUMNS, "kept")}
    added = database.execute(_ADD_VISIT, row)
    if added.rowcount:
        add_searched(database, added.lastrowid, visit)
