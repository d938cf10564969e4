"""Check a data folder from end to end, and rebuild the parts of it that follow from others.

`check_store` verifies that every frame is accounted for.

The index of recordings follows from the files, the database of episodes from the streams of the
store, and pins from episodes. A damaged database is moved aside, never removed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final, NamedTuple

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.fsck.check_folder import (
    check_folder,
    clips,
    row_is_right,
    strange_episodes,
    stray_pins,
    strayed_visits,
)
from framegate.pipeline.fsck.check_store import check_store
from framegate.pipeline.fsck.read_folder import leftovers, read_folder, streamed_tables
from framegate.pipeline.fsck.snapshot import (
    PARTS,
    Discrepancy,
    EpisodeTables,
    FolderPart,
    FolderSnapshot,
    RecordingFacts,
)
from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.durable import transaction
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import ASIDE, FOLDER, set_damaged_aside
from framegate.pipeline.review.event_database import FILE
from framegate.pipeline.review.projection import COLUMNS, VISIT_COLUMNS, Projection
from framegate.pipeline.review.visit_rows import restore_searched
from framegate.pipeline.run.ended import RunActive, open_ended, read_locked

# A verdict and its picture go with their episode.
_OF_EPISODE: Final = (
    ("change", "episode"),
    ("verdict", "episode"),
    ("picture", "owner"),
    ("episode", "id"),
)


class Checked(NamedTuple):
    """The result of a check. repaired: the findings that the repair removed."""

    snapshot: FolderSnapshot
    findings: list[Discrepancy]
    repaired: list[Discrepancy]

    @property
    def is_consistent(self) -> bool:
        """Return whether nothing contradicts anything else."""
        return all(finding.kind != "fault" for finding in self.findings)


def findings_of(snapshot: FolderSnapshot) -> list[Discrepancy]:
    """Return all that is inconsistent in a snapshot."""
    return [*check_store(snapshot), *check_folder(snapshot)]


def fsck(folder: Path, *, store: str | None = None, repairs: bool = False) -> Checked:
    """Check the data folder of a run that has ended or was killed.

    store    URL of the store of the run; None: the embedded one, in the folder
    repairs  rebuild what can be rebuilt; without it nothing in the folder changes

    ConfigFaults if no run was in the folder, if one uses it, or for repairs another reader;
    StoreLost, StoreBusy, StoreRefused.
    """
    try:
        with read_locked(folder) as lock, ExitStack() as close:
            url = store or close.enter_context(open_ended(folder)).url
            if repairs:
                _keep_others_out(folder, lock)
            return _checked(folder, url, repairs, is_shared=store is not None)
    except RunActive:
        raise ConfigFaults(
            [
                f"{folder}: a run uses this folder; fsck checks the folder of a run that has "
                "ended: stop the run first (Ctrl-C, or SIGTERM)"
            ]
        ) from None


def _checked(folder: Path, url: str, repairs: bool, *, is_shared: bool) -> Checked:
    snapshot = read_folder(folder, url, is_shared=is_shared)
    first_findings = findings_of(snapshot)
    findings = first_findings
    if repairs:
        for part in PARTS:
            if any(finding.part == part for finding in findings):
                _REPAIRS[part](folder, snapshot)
                snapshot = read_folder(folder, url, is_shared=is_shared)
                findings = findings_of(snapshot)
    repaired = [finding for finding in first_findings if finding not in findings]
    return Checked(snapshot, findings, repaired)


def _keep_others_out(folder: Path, lock: int) -> None:
    """Keep readers out of a folder that is about to change. ConfigFaults if there is one."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        fault = f"{folder}: another command reads this folder, and --repair changes it; end that "
        raise ConfigFaults([f"{fault}command first"]) from error


def _remove_leftovers(folder: Path, _: FolderSnapshot) -> None:
    for path in leftovers(folder):
        path.unlink(missing_ok=True)


def _move_aside(file: Path) -> None:
    """Rename a damaged database. It replaces one that was moved aside before."""
    for side in ("-wal", "-shm", "-journal", ""):
        with suppress(FileNotFoundError):
            os.replace(f"{file}{side}", f"{file}{ASIDE}{side}")


def _rebuild_index(folder: Path, snapshot: FolderSnapshot) -> None:
    set_damaged_aside(folder / FOLDER)
    with closing(Index(folder)) as index:
        if snapshot.recordings is not None:
            index.forget(_wrong_rows(snapshot.recordings))
        rebuild(index)
        index.recount()


def _wrong_rows(recordings: RecordingFacts) -> list[str]:
    """Return the paths of rows that differ from their files."""
    files = {file.path: file for file in recordings.files if not file.is_open}
    wrong = []
    for row in recordings.rows:
        file = files.get(row.path)
        if file is None or not row_is_right(row, file):
            wrong.append(row.path)
    return wrong


def _rebuild_episodes(folder: Path, snapshot: FolderSnapshot) -> None:
    if FILE in snapshot.unreadable:
        _move_aside(folder / FILE)
    with closing(Projection(folder / FILE)) as projection:
        if snapshot.episodes is not None:
            right = streamed_tables(snapshot.sources, snapshot.episodes.read)
            with transaction(projection.database) as database:
                _replace_rows(database, snapshot, right)
        for source in snapshot.sources:
            for told in source.told.values():
                projection.take(told.entries)


def _replace_rows(
    database: sqlite3.Connection, snapshot: FolderSnapshot, right: EpisodeTables
) -> None:
    """Make the rows of the database equal to those of the streams.

    Write episodes that differ, remove episodes that the streams do not have, and set read positions
    back that are after the end of a stream.
    """
    assert snapshot.episodes is not None
    stored = snapshot.episodes
    for episode in strange_episodes(snapshot):
        for table, column in _OF_EPISODE:
            database.execute(f"DELETE FROM {table} WHERE {column} = ?", (episode,))
    for episode, row in right.episodes.items():
        if (episode, "start", 0) in right.changes and stored.episodes.get(episode) != row:
            database.execute(_PUT_EPISODE, [row[name] for name in COLUMNS])
    for key, change in right.changes.items():
        if stored.changes.get(key) != change:
            marks = ", ".join("?" * (len(key) + len(change)))
            database.execute(f"INSERT OR REPLACE INTO change VALUES ({marks})", (*key, *change))
    for row in strayed_visits(snapshot).values():
        database.execute(_PUT_VISIT, [row[name] for name in VISIT_COLUMNS])
    restore_searched(database)
    for source in snapshot.sources:
        for stage, told in source.told.items():
            database.execute(
                "UPDATE stream SET epoch = ?2, seq = ?3, frame_epoch = min(frame_epoch, ?2) "
                "WHERE source = ?1 AND stage = ?4 AND (epoch, seq) > (?2, ?3)",
                (source.name, *told.stream.last, stage),
            )


_NAMES: Final = ", ".join(f'"{name}"' for name in COLUMNS)
_PUT_EPISODE: Final = (
    f"INSERT INTO episode ({_NAMES}, kept) VALUES ({', '.join('?' * len(COLUMNS))}, "
    "(SELECT kept FROM clock)) ON CONFLICT DO UPDATE SET "
    + ", ".join(f'"{name}" = excluded."{name}"' for name in COLUMNS)
)


_PUT_VISIT: Final = (
    f"INSERT OR REPLACE INTO visits ({', '.join(VISIT_COLUMNS)}, kept) "
    f"VALUES ({', '.join('?' * len(VISIT_COLUMNS))}, (SELECT kept FROM clock))"
)


def _rebuild_pins(folder: Path, snapshot: FolderSnapshot) -> None:
    set_damaged_aside(folder / FOLDER)
    with closing(Index(folder)) as index:
        for pin in stray_pins(snapshot):
            index.unpin(pin.why)
        for pin in clips(snapshot):
            index.pin(pin.source, pin.since, pin.until, pin.why, pin.severity)


_REPAIRS: Final[Mapping[FolderPart, Callable[[Path, FolderSnapshot], None]]] = {
    "leftovers": _remove_leftovers,
    "index": _rebuild_index,
    "episodes": _rebuild_episodes,
    "pins": _rebuild_pins,
}
