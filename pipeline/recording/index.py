"""The index of a data folder's recordings: what there is of which time, what is pinned, what went.

A row is written after its file is on the disk; what the files say again (`rebuild`) is not lost
with it. What is pinned is told of each segment in the same transaction, so that what goes next is
one look-up. Everything here ages by the time at which it was written, in the index's kept time
(`system.clocks`); `captured` only finds pictures.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final, Literal

import msgspec

from framegate.pipeline.contracts.episodes import Change, Severity
from framegate.pipeline.recording.durable import newest_time, remove_empty
from framegate.pipeline.recording.recorders import SUFFIX, Recorders
from framegate.pipeline.recording.tables import (
    FOLDER,
    IndexTables,
    RecordingLost,
    repeat_if_replaced,
)
from framegate.pipeline.system.clocks import (
    HostClock,
    KeptTime,
    first_kept_time,
    kept_time,
    read_host_clock,
)

log = logging.getLogger(__name__)

Cause = Literal["age", "bytes", "space"]
_LEVELS: Final[dict[str, int]] = {"detection": 1, "alert": 2}
OPEN_S: Final = 86400.0  # for which the clip of an episode is kept on that goes on
_LOOK_BACK_S: Final = 600.0  # no segment is as long
_OVERLAPS: Final = "source = ? AND captured > ? AND captured < ? AND captured_end > ?"
_MARK: Final = (
    "UPDATE segment SET pinned = COALESCE((SELECT MAX(level) FROM pin WHERE "
    "pin.source = segment.source AND pin.since < segment.captured_end AND "
    "pin.until > segment.captured), 0)"
)
_SAME_S: Final = 0.5  # between two segments that follow one another: less is no gap


class Segment(msgspec.Struct, frozen=True):
    """A file of a recording, and what it holds.

    path      from the folder of recordings
    epoch     0: it was recorded before the store gave its connection one
    pts, pts_end  of its pictures, seconds on the source's clock
    shift_s   what the file's own times are ahead of the source's
    captured, captured_end  UNIX seconds
    head      bytes before its first fragment
    init      digest of its init part, hex: files of one init part follow one another in a player
    is_key    it begins with a picture that needs no other
    sound     there is sound in it
    pinned    0: by no episode, 1: by detections, 2: by an alert
    written   kept time of the index, UNIX seconds, at which it was finished; what is later than
        that, as infinity, stands for now
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
        """How long it plays."""
        return self.pts_end - self.pts

    def follows(self, before: Segment) -> bool:
        """Return whether it goes on where another ends, so that a player need not begin anew."""
        same = self.init == before.init and self.shift_s == before.shift_s
        return same and self.epoch == before.epoch and abs(self.pts - before.pts_end) < _SAME_S


class Pin(msgspec.Struct, frozen=True):
    """A range that is kept longer than the rest: the clip of an episode."""

    why: str
    source: str
    since: float
    until: float
    severity: Severity


class Trim(msgspec.Struct, frozen=True):
    """What of a source was removed for one cause, all together; the newest of it ended at `until`,
    UNIX seconds.
    """

    source: str
    cause: Cause
    until: float
    segments: int
    nbytes: int


class RecordedSource(msgspec.Struct, frozen=True):
    """What there is of a source. since, until: UNIX seconds; pinned_bytes: of `nbytes`."""

    source: str
    segments: int
    seconds: float
    nbytes: int
    pinned_bytes: int
    since: float
    until: float
    sound: bool


class RecordedStretch(msgspec.Struct, frozen=True):
    """A time that was recorded without a gap, UNIX seconds. sound: there is some in it."""

    since: float
    until: float
    sound: bool


class RecordedPlace(msgspec.Struct, frozen=True):
    """Where a picture lies: a segment, and the seconds from its begin."""

    segment: Segment
    offset_s: float


class Index:
    """The index of one data folder. One thread each; any number of them at once, in any process.

    folder     the folder of recordings
    recorders  what recorders say of themselves

    All may raise RecordingLost.
    """

    def __init__(
        self,
        data: Path,
        *,
        makes: bool = True,
        read_clock: Callable[[], HostClock] = read_host_clock,
    ) -> None:
        """makes: also where nothing was recorded yet; else ConfigFaults says so."""
        self._tables = IndexTables(data, makes=makes)
        self._read_clock = read_clock
        self.folder = self._tables.folder
        self.recorders = Recorders(self._tables, self.now)

    def close(self) -> None:
        """Close it."""
        self._tables.close()

    # -- what there is

    def add(self, segments: Iterable[Segment]) -> None:
        """Take in files that are on the disk; a path that is known already stays as it is."""
        self._begin_time()
        with self._tables.writing() as db:
            now = self._keep_time(db)
            for one in segments:
                row = (
                    *(one.path, one.source, one.epoch, one.pts, one.pts_end, one.shift_s),
                    *(one.captured, one.captured_end, one.nbytes, one.head, one.init),
                    *(int(one.is_key), int(one.sound), 0, min(one.written, now)),
                )
                db.execute(f"INSERT OR IGNORE INTO segment VALUES ({_marks(row)})", row)
                self._mark(db, one.source, one.captured, one.captured_end)

    def forget(self, paths: Iterable[str]) -> None:
        """Let go of rows whose files are gone."""
        with self._tables.writing() as db:
            db.executemany("DELETE FROM segment WHERE path = ?", [(path,) for path in paths])

    def paths(self, source: str) -> set[str]:
        """The files of a source that have a row."""
        return set(self.written(source))

    def written(self, source: str) -> dict[str, float]:
        """Return when each file of a source that has a row was written, by its path."""
        found = self._tables.rows("SELECT path, written FROM segment WHERE source = ?", (source,))
        return dict(found)

    @property
    def is_whole(self) -> bool:
        """Return whether each file has its row; an index that is being made again lacks some."""
        return self._tables.rows("SELECT is_whole FROM state") == [(1,)]

    @property
    def opened(self) -> int:
        """Return how often its files were opened: again, whenever others took their place."""
        return self._tables.opened

    def end_rebuild(self, opened: int) -> None:
        """Note that each file has its row.

        opened  as it was before the rows were added: in files that were opened later, rows are
                missing that were added before, and nothing is noted
        """
        with self._tables.writing() as db:
            if self._tables.opened == opened:
                db.execute("UPDATE state SET is_whole = 1")

    # -- the time by which all of it ages

    def now(self) -> float:
        """Return the kept time of the index, UNIX seconds."""
        return self._kept_time().kept_s

    def _kept_time(self) -> KeptTime:
        """Return the kept time. In an index that is made again, or of 0.2, it begins
        with the newest file, if this host's clock is further on: that may be wrong.
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
        return first if newest is None else first._replace(kept_s=min(first.kept_s, newest))

    def _begin_time(self) -> None:
        """Store the kept time if none is stored. That may look at all files, for which no other
        process should have to wait: so it is done before a transaction.
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
        """Segments with pictures of that time, UNIX seconds, in order; the first one begins with a
        key frame where there is one to begin with.
        """
        since = self._key_before(source, since)
        return self._segments(
            f"{_OVERLAPS} ORDER BY captured, pts", (source, since - _LOOK_BACK_S, until, since)
        )

    def segment(self, path: str) -> Segment | None:
        """The segment of that path."""
        return next(iter(self._segments("path = ?", (path,))), None)

    def with_init(self, source: str, init: str) -> Segment | None:
        """Some segment of a source with that init part."""
        where = "source = ? AND init = ? ORDER BY captured DESC LIMIT 1"
        return next(iter(self._segments(where, (source, init))), None)

    def place(self, source: str, epoch: int, pts: float) -> RecordedPlace | None:
        """Where the picture of a result lies, by its `epoch` and `pts`; None if it is not there."""
        where = "source = ? AND epoch = ? AND pts <= ? ORDER BY pts DESC LIMIT 1"
        for one in self._segments(where, (source, epoch, pts + 1e-6)):
            if pts < one.pts_end:
                return RecordedPlace(one, max(0.0, pts - one.pts))
        return None

    def last(self, source: str, epoch: int, sounding: bool = False) -> Segment | None:
        """The segment with which the recording of an epoch ends; or the last one with sound."""
        where = "source = ? AND epoch = ? AND sound >= ? ORDER BY pts DESC LIMIT 1"
        return next(iter(self._segments(where, (source, epoch, int(sounding)))), None)

    def recorded(self) -> list[RecordedSource]:
        """What there is of each source."""
        said = (
            "SELECT source, segments, seconds, bytes, pinned, (SELECT MIN(captured) FROM segment s "
            "WHERE s.source = kept.source), (SELECT captured_end FROM segment s WHERE s.source = "
            "kept.source ORDER BY captured DESC LIMIT 1), sounds > 0 FROM kept ORDER BY source"
        )
        rows = self._tables.rows(said)
        return msgspec.convert(
            [dict(zip(RecordedSource.__struct_fields__, row, strict=True)) for row in rows],
            list[RecordedSource],
            strict=False,
        )

    def nbytes(self) -> dict[str, int]:
        """Bytes of all files, by source."""
        return dict(self._tables.rows("SELECT source, bytes FROM kept"))

    def _key_before(self, source: str, since: float) -> float:
        """From when on pictures are needed to show what is there at `since`: from then, or from the
        last key frame before, where its segment does not begin with one.
        """
        at = "FROM segment WHERE source = ? AND captured <= ?"
        covers = (
            f"SELECT is_key {at} AND captured > ? AND captured_end > ? "
            "ORDER BY captured DESC LIMIT 1"
        )
        values = (source, since, since - _LOOK_BACK_S, since)
        found = self._tables.rows(covers, values)
        if not found or found[0][0]:
            return since
        said = f"SELECT MAX(captured) {at} AND is_key"
        ((key,),) = self._tables.rows(said, (source, since))
        return since if key is None else float(key)

    def _segments(self, where: str, values: Sequence[object]) -> list[Segment]:
        names = (
            "path, source, epoch, pts, pts_end, shift, captured, captured_end, bytes, head, init, "
            "is_key, sound, pinned, written"
        )
        rows = self._tables.rows(f"SELECT {names} FROM segment WHERE {where}", values)
        fields = Segment.__struct_fields__
        read = [dict(zip(fields, row, strict=True)) for row in rows]
        return msgspec.convert(read, list[Segment], strict=False)

    def recount(self) -> None:
        """Mark each row again by its pins, and add up what there is of each source.

        A row keeps the time at which it was written, which its file may not tell.
        """
        with self._tables.writing() as db:
            db.execute(_MARK)
            db.execute("DELETE FROM kept")
            db.execute(
                "INSERT INTO kept SELECT source, COUNT(*), SUM(pts_end - pts), SUM(bytes), "
                "SUM(iif(pinned, bytes, 0)), SUM(sound) FROM segment GROUP BY source"
            )

    # -- what is kept longer

    def pin(
        self, source: str, since: float, until: float, why: str, severity: Severity = "detection"
    ) -> None:
        """Keep a range, UNIX seconds, also one that is still to come. Again with the same `why`,
        say an episode's id, it is the range that is kept for that now.
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

    def pin_clip(self, change: Change) -> None:
        """Keep the clip of an episode, as far as it is known by this change of it."""
        if change.clip is None:
            return
        is_over = change.step == "end"
        until = change.last.captured + change.clip.after_s + (0.0 if is_over else OPEN_S)
        since = change.began.captured - change.clip.before_s
        self.pin(change.source, since, until, change.episode, change.severity)

    def unpin(self, why: str) -> None:
        """Keep a range no longer than others."""
        with self._tables.writing() as db:
            old = self._pinned(why)
            db.execute("DELETE FROM pin WHERE why = ?", (why,))
            if old is not None:
                self._mark(db, *old)

    def _pinned(self, why: str) -> tuple[str, float, float] | None:
        said = "SELECT source, since, until FROM pin WHERE why = ?"
        return next(iter(self._tables.rows(said, (why,))), None)

    def pins(self, source: str | None = None) -> list[Pin]:
        """What is pinned, of a source or all, by time."""
        names = {level: name for name, level in _LEVELS.items()}
        rows = self._tables.rows(
            "SELECT why, source, since, until, level FROM pin WHERE ? IS NULL OR source = ? "
            "ORDER BY since, why",
            (source, source),
        )
        return [Pin(why, of, a, b, names[level]) for why, of, a, b, level in rows]  # type: ignore[arg-type]

    def _mark(self, db: sqlite3.Connection, source: str, since: float, until: float) -> None:
        """Say of the segments of a time how they are pinned."""
        db.execute(f"{_MARK} WHERE {_OVERLAPS}", (source, since - _LOOK_BACK_S, until, since))

    # -- what went

    def stretches(self, source: str, since: float, until: float) -> list[RecordedStretch]:
        """When something of a source was recorded, within a time; in order."""
        found: list[RecordedStretch] = []
        for one in self.between(source, since, until):
            last = found[-1] if found else None
            if last is not None and abs(one.captured - last.until) < _SAME_S:
                sound = last.sound or one.sound
                found[-1] = RecordedStretch(last.since, max(last.until, one.captured_end), sound)
            else:
                found.append(RecordedStretch(one.captured, one.captured_end, one.sound))
        return found

    def trims(self) -> list[Trim]:
        """What was removed, and until when."""
        rows = self._tables.rows("SELECT source, cause, until, segments, bytes FROM trimmed")
        return [Trim(*row) for row in rows]

    def older(self, pinned: int, before: float, most: int) -> list[Segment]:
        """Return segments that are pinned just so and were written before a time; the oldest
        first.
        """
        where = "pinned = ? AND written < ? ORDER BY written, captured LIMIT ?"
        return self._segments(where, (pinned, before, most))

    def oldest(self, source: str) -> Segment | None:
        """Return what is to go first of a source: what no episode pins before what detections pin
        before what an alert pins, and of these what was written first.
        """
        for pinned in (0, *_LEVELS.values()):
            where = "source = ? AND pinned = ? ORDER BY written, captured LIMIT 1"
            for one in self._segments(where, (source, pinned)):
                return one
        return None

    def remove(self, segments: Sequence[Segment], cause: Cause) -> None:
        """Let go of segments: their rows go and the removal is told in one transaction, then the
        files go. A file that is left by a crash in between is found again, and goes again.
        """
        with self._tables.writing(durable=True) as db:
            for one in segments:
                gone = db.execute("DELETE FROM segment WHERE path = ?", (one.path,))
                if not gone.rowcount:  # another recorder removed it just now
                    continue
                db.execute(
                    "INSERT INTO trimmed VALUES (?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET "
                    "until = MAX(until, excluded.until), segments = segments + 1, "
                    "bytes = bytes + excluded.bytes",
                    (one.source, cause, one.captured_end, one.nbytes),
                )
            for source in {one.source for one in segments}:
                until = max(one.captured_end for one in segments if one.source == source)
                self._let_go(db, source, until)
        for one in segments:
            (self.folder / one.path).unlink(missing_ok=True)
        for folder in {(self.folder / one.path).parent for one in segments}:
            remove_empty(folder, self.folder)

    def _let_go(self, db: sqlite3.Connection, source: str, gone: float) -> None:
        """Forget pins and gaps of times before all that is left; without anything left, up to the
        end of what is gone.
        """
        said = "SELECT MIN(captured) FROM segment WHERE source = ?"
        ((first,),) = self._tables.rows(said, (source,))
        before = math.nextafter(gone, math.inf) if first is None else first
        db.execute("DELETE FROM pin WHERE source = ? AND until < ?", (source, before))
        self.recorders.forget(db, source, before)

    def forget_before(self, written: float) -> None:
        """Remove gaps that were noted before a time, and pins that cannot concern a file that was
        written since. This bounds them where no file is left with which they would go.
        """
        pins = (written - 2 * OPEN_S,)  # a pin may be set a day before its files are written
        said = "SELECT EXISTS (SELECT 1 FROM pin WHERE written < ?)"
        if self.recorders.has_before(written) or self._tables.rows(said, pins) == [(1,)]:
            with self._tables.writing() as db:
                self.recorders.forget_before(db, written)
                db.execute("DELETE FROM pin WHERE written < ?", pins)


def pin_clips(data: Path, changes: Sequence[Change]) -> list[Change]:
    """Keep the clips of episodes, as far as these changes tell of them; nothing where nothing is
    recorded. Repeating it does no harm.

    Returns the changes whose clips the index does not take now. That is logged and not raised:
    episodes are worth more than their clips.
    """
    waiting = [change for change in changes if change.clip is not None]
    if not waiting or not (data / FOLDER).is_dir():
        return []
    try:
        with closing(Index(data)) as index:
            while waiting:
                repeat_if_replaced(partial(index.pin_clip, waiting[0]))
                del waiting[0]
    except RecordingLost as error:
        log.warning("clips of %d changes of episodes are not pinned yet: %s", len(waiting), error)
    return waiting


def _marks(row: Sequence[object]) -> str:
    return ", ".join("?" * len(row))
