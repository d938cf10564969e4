"""The index of a data folder's recordings: the files of each time, their pins, and their removals.

Invariants:

- A row is written after its file is on the disk. Rows can be read again from the files (`rebuild`).
- Pins, and the `pinned` column of the segments that they overlap, change in one transaction, so the
  next file to remove is found by one look-up.
- Everything here ages by the time at which it was written, in the index's kept time
  (`system.clocks`). `captured` only locates pictures.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from framegate.pipeline.contracts.episodes import Change, Severity
from framegate.pipeline.recording.durable import newest_time, remove_empty
from framegate.pipeline.recording.index_tables import (
    IndexTables,
)
from framegate.pipeline.recording.recorder_states import SUFFIX, Recorders
from framegate.pipeline.system.clocks import (
    HostClock,
    KeptTime,
    first_kept_time,
    kept_time,
    read_host_clock,
)

Cause = Literal["age", "bytes", "space"]
_LEVELS: Final[dict[str, int]] = {"detection": 1, "alert": 2}
OPEN_S: Final = 86400.0  # how long the clip of an open episode is kept after its last change
_LOOK_BACK_S: Final = 600.0  # more than the length of any segment
_MARK: Final = (
    "UPDATE segment SET pinned = COALESCE((SELECT MAX(level) FROM pin WHERE "
    "pin.source = segment.source AND pin.since < segment.captured_end AND "
    "pin.until > segment.captured), 0)"
)
_OVERLAPS: Final = "source = ? AND captured > ? AND captured < ? AND captured_end > ?"
SAME_S: Final = 0.5  # a shorter pause between two segments is not a gap


class Segment(msgspec.Struct, frozen=True):
    """A file of a recording.

    path      relative to the folder of recordings
    epoch     0: it was recorded before the store gave its connection one
    pts, pts_end  of its pictures, seconds on the source's clock
    shift_s   the file's times minus the source's
    captured, captured_end  UNIX seconds
    head      bytes before its first fragment
    init      digest of its init part, hex: a player can join files with the same one
    is_key    its first picture needs no other
    sound     it has sound
    pinned    0: by no episode, 1: by detections, 2: by an alert
    written   kept time of the index, UNIX seconds, at which it was finished; a later time, also
        infinity, means now
    """

    path: str
    source: str
    epoch: int
    pts: float
    pts_end: float
    shift_s: float
    captured: float
    captured_end: float
    nbytes: int
    head: int
    init: str
    is_key: bool
    sound: bool
    pinned: int = 0
    written: float = math.inf

    @property
    def seconds(self) -> float:
        """Return how long it plays."""
        return self.pts_end - self.pts

    def follows(self, before: Segment) -> bool:
        """Return whether a player can continue with it after `before` without a restart."""
        same = self.init == before.init and self.shift_s == before.shift_s
        return same and self.epoch == before.epoch and abs(self.pts - before.pts_end) < SAME_S


class Pin(msgspec.Struct, frozen=True):
    """A range that is kept longer than others: the clip of an episode."""

    why: str
    source: str
    since: float
    until: float
    severity: Severity


class Trim(msgspec.Struct, frozen=True):
    """All removals of a source for one cause; the newest removed file ended at `until`, UNIX
    seconds.
    """

    source: str
    cause: Cause
    until: float
    segments: int
    nbytes: int


class RecordedSource(msgspec.Struct, frozen=True):
    """The recordings of a source. since, until: UNIX seconds; pinned_bytes: part of `nbytes`."""

    source: str
    segments: int
    seconds: float
    nbytes: int
    pinned_bytes: int
    since: float
    until: float
    sound: bool


class RecordedPlace(msgspec.Struct, frozen=True):
    """The place of a picture: a segment, and the seconds from its begin."""

    segment: Segment
    offset_s: float


class Index:
    """The index of one data folder. Each has one thread; processes may open any number at once.

    folder     the folder of recordings
    recorders  the states and gaps that recorders report

    All methods may raise RecordingLost.
    """

    def __init__(
        self,
        data: Path,
        *,
        makes: bool = True,
        read_clock: Callable[[], HostClock] = read_host_clock,
    ) -> None:
        """makes: create a missing index; otherwise raise ConfigFaults."""
        self._tables = IndexTables(data, makes=makes)
        self._read_clock = read_clock
        self.folder = self._tables.folder
        self.recorders = Recorders(self._tables, self.now)

    def close(self) -> None:
        """Close the files."""
        self._tables.close()

    # -- segments

    def add(self, segments: Iterable[Segment]) -> None:
        """Add files that are on the disk; a known path keeps its row."""
        self._begin_time()
        with self._tables.writing() as db:
            now = self._keep_time(db)
            for segment in segments:
                columns = {
                    **msgspec.structs.asdict(segment),
                    "is_key": int(segment.is_key),
                    "sound": int(segment.sound),
                    "pinned": 0,
                    "written": min(segment.written, now),
                }
                marks = ", ".join("?" * len(columns))
                db.execute(
                    f"INSERT OR IGNORE INTO segment VALUES ({marks})", tuple(columns.values())
                )
                # By path: a file of one picture has no duration, so no range contains it.
                db.execute(f"{_MARK} WHERE path = ?", (segment.path,))

    def forget(self, paths: Iterable[str]) -> None:
        """Remove rows whose files are gone."""
        with self._tables.writing() as db:
            db.executemany("DELETE FROM segment WHERE path = ?", [(path,) for path in paths])

    def written(self, source: str) -> dict[str, float]:
        """Return when each file of a source that has a row was written, by its path."""
        query = "SELECT path, written FROM segment WHERE source = ?"
        return dict(self._tables.rows(query, (source,)))

    @property
    def is_whole(self) -> bool:
        """Return whether each file has its row; an index that is being rebuilt lacks some."""
        return self._tables.rows("SELECT is_whole FROM state") == [(1,)]

    @property
    def opened(self) -> int:
        """Return how often its files were opened: once, and again after each replacement."""
        return self._tables.opened

    def end_rebuild(self, opened: int) -> None:
        """Note that each file has its row.

        opened  the value before the rows were added. If the files were replaced since, rows that
                were added before are missing, and nothing is noted
        """
        with self._tables.writing() as db:
            if self._tables.opened == opened:
                db.execute("UPDATE state SET is_whole = 1")

    # -- the kept time

    def now(self) -> float:
        """Return the kept time of the index, UNIX seconds."""
        return self._kept_time().kept_s

    def _kept_time(self) -> KeptTime:
        """Return the kept time. In an index that is rebuilt, or of 0.2, it begins with the newest
        file if this host's clock, which may be wrong, is later.
        """
        now = self._read_clock()
        stored = self._tables.rows("SELECT wall_s, up_s, boot, kept_s FROM clock")
        if stored:
            *host, kept_s = stored[0]
            return kept_time(KeptTime(HostClock(*host), kept_s), now)
        ((newest,),) = self._tables.rows("SELECT MAX(written) FROM segment")
        if not self.is_whole:
            newest = newest_time(self.folder, SUFFIX)
        first = first_kept_time(now)
        if newest is None:
            return first
        return first._replace(kept_s=min(first.kept_s, newest))

    def _begin_time(self) -> None:
        """Store the kept time if none is stored. That may look at all files, so it is done before
        a transaction, for which other processes would wait.
        """
        if self._tables.rows("SELECT EXISTS (SELECT 1 FROM clock)") == [(0,)]:
            row = self._kept_time()
            with self._tables.writing() as db:
                db.execute("INSERT OR IGNORE INTO clock VALUES (1, ?, ?, ?, ?)", (*row[0], row[1]))

    def _keep_time(self, db: sqlite3.Connection) -> float:
        """Store the kept time, in a transaction, and return it."""
        host, kept_s = self._kept_time()
        db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?, ?)", (*host, kept_s))
        return kept_s

    def all_segments(self) -> list[Segment]:
        """Return every segment, by path."""
        return self._segments("TRUE ORDER BY path", ())

    def between(self, source: str, since: float, until: float) -> list[Segment]:
        """Return segments with pictures of a time, UNIX seconds, in order. The first one begins
        with a key frame if there is one before.
        """
        since = self._key_before(source, since)
        return self._segments(
            f"{_OVERLAPS} ORDER BY captured, pts", (source, since - _LOOK_BACK_S, until, since)
        )

    def within(self, source: str, since: float, until: float) -> list[Segment]:
        """Return the segments that lie within a range, UNIX seconds, in order."""
        found = self.between(source, since, until)
        return [each for each in found if each.captured >= since and each.captured_end <= until]

    def segment(self, path: str) -> Segment | None:
        """Return the segment of a path."""
        return next(iter(self._segments("path = ?", (path,))), None)

    def number(self, segment: Segment) -> int:
        """Return how many segments of its source precede a segment, counting the removed ones. So
        the number of a segment stays while older ones are removed.
        """
        query = (
            "SELECT (SELECT COUNT(*) FROM segment WHERE source = ? AND (captured, pts) < (?, ?)) "
            "+ (SELECT COALESCE(SUM(segments), 0) FROM trimmed WHERE source = ?)"
        )
        values = (segment.source, segment.captured, segment.pts, segment.source)
        ((number,),) = self._tables.rows(query, values)
        return int(number)

    def with_init(self, source: str, init: str) -> Segment | None:
        """Return a segment of a source with this init part."""
        where = "source = ? AND init = ? ORDER BY captured DESC LIMIT 1"
        return next(iter(self._segments(where, (source, init))), None)

    def place(self, source: str, epoch: int, pts: float) -> RecordedPlace | None:
        """Return the place of a result's picture, by its `epoch` and `pts`; None if it is gone."""
        where = "source = ? AND epoch = ? AND pts <= ? ORDER BY pts DESC LIMIT 1"
        for segment in self._segments(where, (source, epoch, pts + 1e-6)):
            if pts < segment.pts_end:
                return RecordedPlace(segment, max(0.0, pts - segment.pts))
        return None

    def key_segment(self, source: str, at: float, until: float) -> Segment | None:
        """Return the first segment that begins with a key frame from `at` to `until`, UNIX seconds;
        without one, the last one before, if the time from its begin to `at` is a minute at most.
        """
        where = "source = ? AND is_key AND captured {} ORDER BY captured {} LIMIT 1"
        after = where.format("BETWEEN ? AND ?", "ASC")
        before = where.format("BETWEEN ? - 60.0 AND ?", "DESC")
        for query, values in ((after, (at, until)), (before, (at, at))):
            for segment in self._segments(query, (source, *values)):
                return segment
        return None

    def last(self, source: str, epoch: int, sounding: bool = False) -> Segment | None:
        """Return the last segment of an epoch; with `sounding`, the last one with sound."""
        where = "source = ? AND epoch = ? AND sound >= ? ORDER BY pts DESC LIMIT 1"
        return next(iter(self._segments(where, (source, epoch, int(sounding)))), None)

    def recorded(self) -> list[RecordedSource]:
        """Return the recordings of each source."""
        query = (
            "SELECT source, segments, seconds, bytes, pinned, (SELECT MIN(captured) FROM segment s "
            "WHERE s.source = kept.source), (SELECT captured_end FROM segment s WHERE s.source = "
            "kept.source ORDER BY captured DESC LIMIT 1), sounds > 0 FROM kept ORDER BY source"
        )
        rows = self._tables.rows(query)
        return msgspec.convert(
            [dict(zip(RecordedSource.__struct_fields__, row, strict=True)) for row in rows],
            list[RecordedSource],
            strict=False,
        )

    def nbytes(self) -> dict[str, int]:
        """Return the bytes of all files, by source."""
        return dict(self._tables.rows("SELECT source, bytes FROM kept"))

    def _key_before(self, source: str, since: float) -> float:
        """Return the time from which pictures are needed to show the one at `since`: the last key
        frame before, if the segment of that time does not begin with one.
        """
        at = "FROM segment WHERE source = ? AND captured <= ?"
        covers = (
            f"SELECT is_key {at} AND captured > ? AND captured_end > ? "
            "ORDER BY captured DESC LIMIT 1"
        )
        values = (source, since, since - _LOOK_BACK_S, since)
        covering = self._tables.rows(covers, values)
        if not covering or covering[0][0]:
            return since
        query = f"SELECT MAX(captured) {at} AND is_key"
        ((key,),) = self._tables.rows(query, (source, since))
        return since if key is None else float(key)

    def _segments(self, where: str, values: Sequence[object]) -> list[Segment]:
        names = (
            "path, source, epoch, pts, pts_end, shift, captured, captured_end, bytes, head, init, "
            "is_key, sound, pinned, written"
        )
        rows = self._tables.rows(f"SELECT {names} FROM segment WHERE {where}", values)
        fields = Segment.__struct_fields__
        named = [dict(zip(fields, row, strict=True)) for row in rows]
        return msgspec.convert(named, list[Segment], strict=False)

    def recount(self) -> None:
        """Compute the marks of all rows and the sums of all sources again.

        A row keeps the time at which it was written, which its file may not show.
        """
        with self._tables.writing() as db:
            db.execute(_MARK)
            db.execute("DELETE FROM kept")
            db.execute(
                "INSERT INTO kept SELECT source, COUNT(*), SUM(pts_end - pts), SUM(bytes), "
                "SUM(iif(pinned, bytes, 0)), SUM(sound) FROM segment GROUP BY source"
            )

    # -- pins

    def pin(
        self, source: str, since: float, until: float, why: str, severity: Severity = "detection"
    ) -> None:
        """Keep a range, UNIX seconds, which may be in the future. A second call with the same
        `why`, for example an episode's id, replaces the range.
        """
        self._begin_time()
        with self._tables.writing() as db:
            since = self._key_before(source, since)
            old = self._pinned(why)
            row = (why, source, since, until, _LEVELS[severity], self._keep_time(db))
            db.execute("INSERT OR REPLACE INTO pin VALUES (?, ?, ?, ?, ?, ?)", row)
            if old is not None:
                self._mark(db, *old)
            self._mark(db, source, since, until)

    def has_part(self, pin: Pin) -> bool:
        """Return whether a finished file has a part of the range of a pin."""
        query = f"SELECT EXISTS (SELECT 1 FROM segment WHERE {_OVERLAPS})"
        span = (pin.source, pin.since - _LOOK_BACK_S, pin.until, pin.since)
        return self._tables.rows(query, span) == [(1,)]

    def unpin(self, why: str) -> None:
        """Remove a pin."""
        with self._tables.writing() as db:
            old = self._pinned(why)
            db.execute("DELETE FROM pin WHERE why = ?", (why,))
            if old is not None:
                self._mark(db, *old)

    def _pinned(self, why: str) -> tuple[str, float, float] | None:
        query = "SELECT source, since, until FROM pin WHERE why = ?"
        return next(iter(self._tables.rows(query, (why,))), None)

    def pins(self, source: str | None = None) -> list[Pin]:
        """Return the pins of a source, or all, by time."""
        names = {level: name for name, level in _LEVELS.items()}
        rows = self._tables.rows(
            "SELECT why, source, since, until, level FROM pin WHERE ? IS NULL OR source = ? "
            "ORDER BY since, why",
            (source, source),
        )
        return [Pin(why, of, a, b, names[level]) for why, of, a, b, level in rows]  # type: ignore[arg-type]

    def _mark(self, db: sqlite3.Connection, source: str, since: float, until: float) -> None:
        """Update `pinned` of the segments of a time."""
        db.execute(f"{_MARK} WHERE {_OVERLAPS}", (source, since - _LOOK_BACK_S, until, since))

    # -- removals

    def trims(self) -> list[Trim]:
        """Return the removals of each source and cause."""
        rows = self._tables.rows("SELECT source, cause, until, segments, bytes FROM trimmed")
        return [Trim(*row) for row in rows]

    def older(self, pinned: int, before: float, limit: int) -> list[Segment]:
        """Return segments with this value of `pinned` written before a time, oldest first."""
        where = "pinned = ? AND written < ? ORDER BY written, captured LIMIT ?"
        return self._segments(where, (pinned, before, limit))

    def oldest(self, source: str) -> Segment | None:
        """Return the segment of a source to remove first: unpinned before pinned by detections
        before pinned by alerts, and of each the oldest.
        """
        where = "source = ? AND pinned = ? ORDER BY written, captured LIMIT 1"
        for pinned in (0, *_LEVELS.values()):
            for segment in self._segments(where, (source, pinned)):
                return segment
        return None

    def remove(self, segments: Sequence[Segment], cause: Cause) -> None:
        """Remove segments: rows first, with a note of the removal in the same transaction, then the
        files. A file that a crash leaves is adopted, and removed again.
        """
        ends: dict[str, float] = {}
        with self._tables.writing(durable=True) as db:
            for segment in segments:
                source = segment.source
                ends[source] = max(ends.get(source, -math.inf), segment.captured_end)
                deleted = db.execute("DELETE FROM segment WHERE path = ?", (segment.path,))
                if not deleted.rowcount:  # another recorder removed it just now
                    continue
                db.execute(
                    "INSERT INTO trimmed VALUES (?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET "
                    "until = MAX(until, excluded.until), segments = segments + 1, "
                    "bytes = bytes + excluded.bytes",
                    (source, cause, segment.captured_end, segment.nbytes),
                )
            for source, end in ends.items():
                self._forget_until(db, source, end)
        for segment in segments:
            (self.folder / segment.path).unlink(missing_ok=True)
        for folder in {(self.folder / segment.path).parent for segment in segments}:
            remove_empty(folder, self.folder)

    def _forget_until(self, db: sqlite3.Connection, source: str, removed: float) -> None:
        """Remove pins and gaps before the first segment that is left; without any, those up to the
        end of the removed ones.
        """
        query = "SELECT MIN(captured) FROM segment WHERE source = ?"
        ((first,),) = self._tables.rows(query, (source,))
        before = math.nextafter(removed, math.inf) if first is None else first
        db.execute("DELETE FROM pin WHERE source = ? AND until < ?", (source, before))
        self.recorders.forget(db, source, before)

    def forget_before(self, written: float) -> None:
        """Remove gaps that were noted before a time, and pins that cannot apply to files written
        since. This bounds both where no file is left whose removal would remove them.
        """
        pins = (written - 2 * OPEN_S,)  # a pin may be set a day before its files are written
        query = "SELECT EXISTS (SELECT 1 FROM pin WHERE written < ?)"
        if self.recorders.has_before(written) or self._tables.rows(query, pins) == [(1,)]:
            with self._tables.writing() as db:
                self.recorders.forget_before(db, written)
                db.execute("DELETE FROM pin WHERE written < ?", pins)


def clip_pins(changes: Iterable[Change]) -> list[Pin]:
    """Return the pins of the clips of episodes, as these changes define them, in their order."""
    pins = []
    for change in changes:
        if change.clip is not None:
            since = change.began.captured - change.clip.before_s
            until = change.last.captured + change.clip.after_s
            if change.step != "end":
                until += OPEN_S
            pins.append(Pin(change.episode, change.source, since, until, change.severity))
    return pins
