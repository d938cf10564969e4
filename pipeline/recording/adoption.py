"""Adds the files of recordings that have no row to the index.

This finishes files that a dead process left, and fills an index again that was lost. Nothing is
deleted: a file that cannot be read stays where it is, and is logged.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from framegate.pipeline.recording.boxes import FileContents, NotWhole, read_file
from framegate.pipeline.recording.durable import put
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.recorders import OPEN, SUFFIX
from framegate.pipeline.recording.tables import repeat_if_replaced

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # rows of a transaction, which costs more than to read as many files


def adopt(index: Index, source: str) -> int:
    """Add a row for each file of a source that has none, and remove rows whose files are gone.

    Returns how many files were added. One process at a time does so; the next one waits.
    RecordingLost.
    """
    with _turn(index.folder / source, waits=True):
        return _adopt(index, source)


def rebuild(index: Index) -> int:
    """Add a row for each file of any source that has none. A source that another process is looking
    at is left to that one. Returns how many files were added. RecordingLost.
    """
    was_whole, opened = index.is_whole, index.opened
    adopted, left_out = 0, False
    for folder in sorted(each for each in index.folder.iterdir() if each.is_dir()):
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
    """Keep others from adopting the files of a source for the length of a block.

    Gives False if another process does so now, which is only waited for if `waits`.
    """
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # nothing was recorded of it
        yield True
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        has_turn = True
    except BlockingIOError:
        has_turn = False
    try:
        yield has_turn
    finally:
        os.close(number)


def _adopt(index: Index, source: str) -> int:
    return repeat_if_replaced(partial(_adopt_files, index, source))


def _adopt_files(index: Index, source: str) -> int:
    known = index.written(source)
    there: set[str] = set()
    adopted: set[str] = set()
    # A whole index lacks only files of the last minutes. Their own times are those of a clock that
    # may have stepped since, by which they might be too old to stay.
    latest = math.inf if index.is_whole else -math.inf
    rows: list[Segment] = []
    for path in files_of(index.folder / source):
        name = str(path.relative_to(index.folder))
        there.add(name)
        if name in known:
            latest = max(latest, known[name])
            continue
        try:
            one = _finished(path, source, latest)
        except FileNotFoundError:
            continue  # it was finished or removed just now
        except (OSError, NotWhole) as error:
            log.warning("source %s: %s is left as it is: %s", source, path.name, error)
            continue
        if one is not None:
            rows.append(one)
            adopted.add(one.path)
            latest = one.written
        if len(rows) == _AT_ONCE:
            index.add(rows)
            rows = []
    if rows:
        index.add(rows)
    # Also of those just added: retention removes a row before its file, which was found in between.
    doubtful = (known.keys() - there) | adopted
    gone = [path for path in doubtful if not (index.folder / path).exists()]
    if gone:
        index.forget(gone)
        log.warning("source %s: %d files of its recording are gone", source, len(gone))
    return len(adopted)


def adopt_file(index: Index, path: Path, source: str) -> None:
    """Add a file that was written just now; finish it first if it was left open. A file that a
    process writes stays as it is. OSError, NotWhole, RecordingLost.
    """
    one = _finished(path, source, math.inf)
    if one is not None:
        repeat_if_replaced(partial(index.add, [one]))


def files_of(folder: Path) -> Iterator[Path]:
    """Yield the files of a source in the order in which they were written, so that an index that is
    made again begins with the oldest.
    """
    found = [path for path in folder.glob("*/*/*") if _is_ours(path)]
    yield from sorted(found, key=lambda path: (epoch_of(path), path.parts[-2:]))


def _is_ours(path: Path) -> bool:
    return path.name.endswith((SUFFIX, f"{SUFFIX}{OPEN}"))


def epoch_of(path: Path) -> int:
    """Return the epoch that a file was recorded in, by the folder where it lies."""
    name = path.parts[-3]
    return int(name) if name.isdecimal() else 0


def _finished(path: Path, source: str, latest: float) -> Segment | None:
    """Finish a file if it was left open, and return its row; None if a process writes it.

    latest  when the file before it was written: this one is not older, whatever this host's clock
            showed when it was written; infinity: it was written just now
    """
    is_open = path.name.endswith(OPEN)
    with open(path, "r+b", buffering=0) as file:
        if is_open:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        held = read_file(file)
        written = max(latest, os.fstat(file.fileno()).st_mtime)
        if is_open:
            file.truncate(held.nbytes)
            grown, path = path, path.with_name(path.name.removesuffix(OPEN))
            put(file, grown, path)
    return msgspec.structs.replace(segment_of(held, source, path), written=written)


def ends(path: Path) -> tuple[float, float | None]:
    """Return up to where a file holds pictures and sound, on the source's clock; None: no sound."""
    with open(path, "rb") as file:
        held = read_file(file)
    shift = held.said.shift_s
    heard = [one.sound - shift for one, _ in held.fragments if one.sound is not None]
    return held.fragments[-1][0].end - shift, max(heard, default=None)


def init_digest(init: bytes) -> str:
    """Return the name of an init part: files of the same one follow one another in a player."""
    return hashlib.sha256(init).hexdigest()[:16]


def segment_of(held: FileContents, source: str, path: Path) -> Segment:
    """Return the row of a file, by its contents and its place, as one that was written just now."""
    (first, captured), (last, captured_last) = held.fragments[0], held.fragments[-1]
    shift = held.said.shift_s
    return Segment(
        path="/".join((source, *path.parts[-3:])),
        source=source,
        epoch=epoch_of(path),
        pts=round(first.pts - shift, 6),
        pts_end=round(max(one.pts_end for one, _ in held.fragments) - shift, 6),
        shift_s=shift,
        captured=captured,
        captured_end=round(captured_last + last.end - last.dts, 6),
        nbytes=held.nbytes,
        head=held.head,
        init=init_digest(held.init),
        is_key=first.is_key,
        sound=any(one.sound is not None for one, _ in held.fragments),
    )
