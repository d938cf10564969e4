"""Take the snapshot of a data folder: its files and its store.

Databases are read from copies, because opening the database of a killed process would finish its
last transaction in the folder. So are states, because they are mapped as writable.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Final

from framegate.pipeline.contracts.errors import DataFolderRefused
from framegate.pipeline.contracts.keys import EVENTS
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.stage import PlaneRef, RingRef
from framegate.pipeline.fsck.read_store import StateRef, read_store
from framegate.pipeline.fsck.snapshot import (
    EpisodeTables,
    FolderSnapshot,
    RecordedFile,
    RecordingFacts,
    SourceFacts,
    StateFacts,
)
from framegate.pipeline.recording.adopt_files import segment_of
from framegate.pipeline.recording.changed_parts import parts_faults
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER, NAME, PINS, RecordingLost, damage_of
from framegate.pipeline.recording.mp4_boxes import NotWhole, read_file
from framegate.pipeline.recording.recorder_states import OPEN, RecordingGap
from framegate.pipeline.review.event_database import FILE, open_to_read
from framegate.pipeline.review.projection import COLUMNS, VISIT_COLUMNS, Projection
from framegate.pipeline.run.folder import RunFile, read_run
from framegate.pipeline.shared_memory.state import StatePlane, StateRing

LEFTOVERS: Final = ("*.new", "promise.secret.*", "certificates/*.new", "models/*.new")
_SIDES: Final = ("", "-wal", "-journal")
_MP4: Final = ".mp4"


def read_folder(folder: Path, url: str, *, is_shared: bool = False) -> FolderSnapshot:
    """Read a data folder and its store. No process may write to them meanwhile.

    url        URL of the store
    is_shared  whether the store also has sources of other folders

    StoreLost, StoreBusy; DatabaseRefused if a newer Framegate wrote the episodes.
    """
    unreadable = parts_faults(folder)
    run = _run(folder, unreadable)
    names = None
    if is_shared and run is not None:
        names = [source.name for source in run.sources]
    store = read_store(url, names)
    with tempfile.TemporaryDirectory(prefix="framegate-fsck-") as temporary:
        copy = Path(temporary)
        episodes = _episodes(folder, copy, unreadable)
        is_missing = episodes is None and FILE not in unreadable
        if is_missing and any(source.events or source.visits for source in store.sources):
            episodes = EpisodeTables()
        recordings = _recordings(folder, copy, unreadable)
    read: Mapping[tuple[str, str], Position] = {}
    if episodes is not None:
        read = episodes.read
    return FolderSnapshot(
        now=time.time(),
        run=run,
        unreadable=unreadable,
        identity=store.identity,
        leftovers=tuple(sorted(str(path.relative_to(folder)) for path in leftovers(folder))),
        sources=store.sources,
        states=tuple(read_states(folder / "state", store.references)),
        streamed=streamed_tables(store.sources, read),
        episodes=episodes,
        recordings=recordings,
    )


def leftovers(folder: Path) -> list[Path]:
    """Return the files that an interrupted write left."""
    return list(chain.from_iterable(folder.glob(pattern) for pattern in LEFTOVERS))


def _run(folder: Path, unreadable: dict[str, str]) -> RunFile | None:
    try:
        run = read_run(folder)
    except DataFolderRefused as error:
        unreadable["run.json"] = str(error)
        return None
    if run is None:
        unreadable["run.json"] = "it does not exist"
    return run


# -- databases


def _copied(file: Path, copy: Path) -> Path:
    """Copy a database with its write-ahead log and its journal."""
    copy.mkdir(parents=True, exist_ok=True)
    for side in _SIDES:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{file}{side}", copy / f"{file.name}{side}")
    return copy / file.name


def _episodes(folder: Path, copy: Path, unreadable: dict[str, str]) -> EpisodeTables | None:
    if not (folder / FILE).exists():
        return None
    file = _copied(folder / FILE, copy)
    fault = damage_of(file)
    if fault is not None:
        unreadable[FILE] = fault
        return None
    try:
        with closing(open_to_read(file)) as database:
            return read_tables(database)
    except sqlite3.Error as error:
        unreadable[FILE] = str(error)
        return None


def read_tables(database: sqlite3.Connection) -> EpisodeTables:
    """Read the tables of a database of episodes. sqlite3.Error."""
    names = ", ".join(f'"{name}"' for name in COLUMNS)  # the columns that follow from the streams
    rows = database.execute(f"SELECT {names} FROM episode")
    episodes = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    names = ", ".join(VISIT_COLUMNS)
    rows = database.execute(f"SELECT {names} FROM visits")
    visits = [dict(zip(VISIT_COLUMNS, row, strict=True)) for row in rows]
    changes = database.execute("SELECT * FROM change").fetchall()
    read = database.execute("SELECT source, stage, epoch, seq FROM stream").fetchall()
    return EpisodeTables(
        episodes={row["id"]: row for row in episodes},
        changes={(row[0], row[1], row[2]): row[3:] for row in changes},
        read={(source, stage): Position(*place) for source, stage, *place in read},
        visits={row["id"]: row for row in visits},
    )


def streamed_tables(
    sources: Iterable[SourceFacts], read: Mapping[tuple[str, str], Position]
) -> EpisodeTables:
    """Return the tables that follow from the streams.

    An unreadable entry may be the end of any episode, so its source has no episodes here.

    read  the position up to which a stream was read, by source and stage
    """
    with closing(Projection(None)) as projection:
        for source in sources:
            for stage, told in source.told.items():
                if stage == EVENTS and not source.events_are_whole:
                    continue
                last = read.get((source.name, stage), START)
                projection.take(entry for entry in told.entries if entry.position <= last)
        return read_tables(projection.database)


# -- recordings


def _recordings(folder: Path, copy: Path, unreadable: dict[str, str]) -> RecordingFacts | None:
    recordings = folder / FOLDER
    if not recordings.is_dir():
        return None
    for name in (NAME, PINS):
        if (recordings / name).exists():
            file = _copied(recordings / name, copy / FOLDER)
            fault = damage_of(file)
            if fault is not None:
                unreadable[f"{FOLDER}/{name}"] = fault
                for side in _SIDES:
                    Path(f"{file}{side}").unlink(missing_ok=True)
    files = tuple(_file(recordings, path) for path in _paths(recordings))
    if f"{FOLDER}/{NAME}" in unreadable:
        return None
    try:
        with closing(Index(copy)) as index:
            counted = {each.source: (each.segments, each.nbytes) for each in index.recorded()}
            gaps: list[RecordingGap] = []
            for source in {file.source for file in files}:
                gaps += index.recorders.gaps(source, float("-inf"), float("inf"))
            rows = index.all_segments()
            return RecordingFacts(files, tuple(rows), tuple(index.pins()), tuple(gaps), counted)
    except RecordingLost as error:
        unreadable[f"{FOLDER}/{NAME}"] = str(error)
        return None


def _paths(recordings: Path) -> list[Path]:
    return sorted(
        path for path in recordings.glob("*/*/*/*") if path.name.endswith((_MP4, f"{_MP4}{OPEN}"))
    )


def _file(recordings: Path, path: Path) -> RecordedFile:
    name = str(path.relative_to(recordings))
    source = path.relative_to(recordings).parts[0]
    is_open = name.endswith(OPEN)
    nbytes = 0
    try:
        with open(path, "rb") as file:
            nbytes = os.fstat(file.fileno()).st_size
            contents = read_file(file)
    except (OSError, NotWhole) as error:
        return RecordedFile(name, source, nbytes, is_open, None, str(error))
    finished = path.with_name(path.name.removesuffix(OPEN))
    first, _ = contents.fragments[0]
    last, _ = contents.fragments[-1]
    shift = contents.info.shift_s
    decoded = (first.dts - shift, last.end - shift)
    segment = segment_of(contents, source, finished)
    return RecordedFile(name, source, nbytes, is_open, segment, decoded=decoded)


# -- state planes


def read_states(folder: Path, references: Iterable[StateRef]) -> Iterator[StateFacts]:
    """Compare the references to large state with the files that contain it.

    Sources that have ended, and states in memory, have no files; they are left out.
    """
    for source, stage, reference in references:
        kind = "rows"
        if isinstance(reference, PlaneRef):
            kind = "state"
        files: list[str] = []
        is_whole = False
        for file in sorted(folder.glob(f"{source}.{kind}-{stage}-*")):
            sizes = file.name.removeprefix(f"{source}.{kind}-{stage}-").split("-")
            if all(size.isdecimal() for size in sizes):
                files.append(f"state/{file.name}")
                is_whole |= _is_whole(file, [int(size) for size in sizes], reference)
        if files:  # one for each size that the state had
            yield StateFacts(source, stage, ", ".join(files), reference.position, is_whole)


def _is_whole(file: Path, sizes: list[int], reference: PlaneRef | RingRef) -> bool:
    try:
        content = file.read_bytes()
    except OSError:
        return False
    if not content:  # the disk was full when the file was made
        return False
    # The mapping needs write permission, which a checker may not have.
    with tempfile.TemporaryFile(prefix="framegate-fsck-") as copy:
        copy.write(content)
        copy.flush()
        try:
            if isinstance(reference, PlaneRef):
                return StatePlane(copy.fileno(), sizes[0]).read(reference) is not None
            return StateRing(copy.fileno(), sizes[0], sizes[1]).read(reference) is not None
        except (ValueError, IndexError):  # the file is shorter than the size in its name
            return False
