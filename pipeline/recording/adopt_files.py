"""Add the files of recordings that have no row to the index.

This finishes files that a dead process left, and fills a lost index again. Nothing is deleted: a
file that cannot be read stays in its place, and is logged.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from framegate.pipeline.recording.durable import put
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.index_tables import repeat_if_replaced, source_folders
from framegate.pipeline.recording.mp4_boxes import FileContents, NotWhole, read_file
from framegate.pipeline.recording.recorder_states import OPEN, SUFFIX

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # rows of a transaction, which costs more than reading as many files


def adopt(index: Index, source: str) -> int:
    """Add a row for each file of a source that has none, and remove rows whose files are gone.

    Return the number of added files. Other processes wait for this one. OSError, RecordingLost.
    """
    with _turn(index.folder / source, waits=True):
        return _adopt(index, source)


def rebuild(index: Index) -> int:
    """Add a row for each file of any source that has none, and return the number of added files. A
    source that another process adopts now is left out. OSError, RecordingLost.
    """
    was_whole = index.is_whole
    opened = index.opened
    adopted = 0
    left_out = False
    for folder in source_folders(index.folder):
        with _turn(folder, waits=False) as has_turn:
            if has_turn:
                adopted += _adopt(index, folder.name)
            else:
                left_out = True
    if not left_out and not was_whole:
        index.end_rebuild(opened)
    return adopted


@contextmanager
def _turn(folder: Path, *, waits: bool) -> Iterator[bool]:
    """Prevent other processes from adopting the files of a source during a block.

    Yield False if another process does so now; with `waits`, wait for it instead. OSError.
    """
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # nothing was recorded of the source
        yield True
        return
    try:
        mode = fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB
        has_turn = True
        try:
            fcntl.flock(number, mode)
        except BlockingIOError:
            has_turn = False
        yield has_turn
    finally:
        os.close(number)


def _adopt(index: Index, source: str) -> int:
    return repeat_if_replaced(partial(_adopt_files, index, source))


def _adopt_files(index: Index, source: str) -> int:
    # Invariant: `latest` is the time of the file before. Files come in the order of their writing,
    # so a new row never is older than the row before it.
    known = index.written(source)
    present: set[str] = set()
    adopted: set[str] = set()
    # A whole index lacks only files of the last minutes. Their file times are of a clock that may
    # have stepped since, which could make them too old to keep.
    latest = math.inf if index.is_whole else -math.inf
    rows: list[Segment] = []
    for path in files_of(index.folder / source):
        name = str(path.relative_to(index.folder))
        present.add(name)
        if name in known:
            latest = max(latest, known[name])
            continue
        try:
            row = _finished(path, source, latest)
        except FileNotFoundError:
            continue  # it was finished or removed just now
        except (OSError, NotWhole) as error:
            log.warning("source %s: %s is left as it is: %s", source, path.name, error)
            continue
        if row is not None:
            rows.append(row)
            adopted.add(row.path)
            latest = row.written
        if len(rows) == _AT_ONCE:
            index.add(rows)
            rows = []
    if rows:
        index.add(rows)
    # Also the added ones: retention removes a row before its file, which may be adopted in between.
    doubtful = (known.keys() - present) | adopted
    gone = [path for path in doubtful if not (index.folder / path).exists()]
    if gone:
        index.forget(gone)
        log.warning("source %s: %d files of its recording are gone", source, len(gone))
    return len(adopted)


def adopt_file(index: Index, path: Path, source: str) -> None:
    """Add a file that was written just now; finish it first if it is open. A file that a process
    still writes is left alone. OSError, NotWhole, RecordingLost.
    """
    row = _finished(path, source, math.inf)
    if row is not None:
        repeat_if_replaced(partial(index.add, [row]))


def finish_left_files(index: Index) -> None:
    """Finish the last file of each source whose recorder has died, and add its row.

    For sources that another slot of a fleet serves now: here no recorder adopts their files. A file
    that a process still writes is left alone, and so is one that cannot be read. RecordingLost.
    """
    for state in index.recorders.states():
        if state.growing_file is None:
            continue
        path = index.folder / state.growing_file
        if path.exists():
            with suppress(OSError, NotWhole):
                adopt_file(index, path, state.source)


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the files of a source in the order of their writing, so that a rebuilt index begins
    with the oldest.
    """
    files = [path for path in folder.glob("*/*/*") if _is_ours(path)]
    yield from sorted(files, key=lambda path: (epoch_of(path), path.parts[-2:]))


def _is_ours(path: Path) -> bool:
    return path.name.endswith((SUFFIX, f"{SUFFIX}{OPEN}"))


def epoch_of(path: Path) -> int:
    """Return the epoch of a file, from its folder."""
    name = path.parts[-3]
    return int(name) if name.isdecimal() else 0


def _finished(path: Path, source: str, latest: float) -> Segment | None:
    """Finish a file if it is open, and return its row; None if a process still writes it.

    latest  when the file before it was written: this file is not older, even if this host's clock
            was wrong; infinity: it was written just now
    """
    is_open = path.name.endswith(OPEN)
    with open(path, "r+b", buffering=0) as file:
        if is_open:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        contents = read_file(file)
        written = max(latest, os.fstat(file.fileno()).st_mtime)
        if is_open:
            file.truncate(contents.nbytes)
            grown = path
            path = path.with_name(path.name.removesuffix(OPEN))
            put(file, grown, path)
    return msgspec.structs.replace(segment_of(contents, source, path), written=written)


def ends(path: Path) -> tuple[float, float | None]:
    """Return the ends of a file's pictures, in decoding time, and of its sound, seconds on the
    source's clock; None: no sound.
    """
    with open(path, "rb") as file:
        contents = read_file(file)
    shift = contents.info.shift_s
    sounds = [held.sound - shift for held, _ in contents.fragments if held.sound is not None]
    return contents.fragments[-1][0].end - shift, max(sounds, default=None)


def growing_segments(index: Index, source: str) -> list[Segment]:
    """Return the rows of the files of a source that are being written, as far as they are written.
    Their paths are those of the growing files.
    """
    rows = []
    growing = [each.growing_file for each in index.recorders.states() if each.source == source]
    for name in filter(None, growing):
        path = index.folder / name
        try:
            with open(path, "rb") as file:
                rows.append(segment_of(read_file(file), source, path))
        except (OSError, NotWhole):  # it was finished just now, or has no picture so far
            continue
    return rows


def init_digest(init: bytes) -> str:
    """Return the digest of an init part: a player can join files with the same one."""
    return hashlib.sha256(init).hexdigest()[:16]


def segment_of(contents: FileContents, source: str, path: Path) -> Segment:
    """Return the row of a file that was written just now, from its contents and its path."""
    first, captured = contents.fragments[0]
    last, captured_last = contents.fragments[-1]
    shift = contents.info.shift_s
    return Segment(
        path="/".join((source, *path.parts[-3:])),
        source=source,
        epoch=epoch_of(path),
        pts=round(first.pts - shift, 6),
        pts_end=round(max(held.pts_end for held, _ in contents.fragments) - shift, 6),
        shift_s=shift,
        captured=captured,
        captured_end=round(captured_last + last.end - last.dts, 6),
        nbytes=contents.nbytes,
        head=contents.head,
        init=init_digest(contents.init),
        is_key=first.is_key,
        sound=any(held.sound is not None for held, _ in contents.fragments),
    )
