"""Files, folders and table changes that survive a power cut.

A file system may keep written bytes and new names in memory for half a minute, and a power cut
loses both. fsync of a file syncs its bytes, that of a folder the names in it.
"""

from __future__ import annotations

import errno
import io
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from framegate.pipeline.system.replaced_file import sync_folder


def put(file: BinaryIO | io.FileIO, old: Path, new: Path) -> None:
    """Sync an open file and rename it durably. OSError."""
    file.flush()
    os.fsync(file.fileno())
    os.rename(old, new)
    sync_folder(new.parent)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Create a folder and its missing parents, durably. OSError.

    mode: of the folder itself, limited by the umask
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode, exist_ok=True)
    sync_folder(folder.parent)


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write all bytes to a file without a buffer, which may accept a part per call. OSError."""
    left = memoryview(data)
    while left:
        written = file.write(left)
        if not written:
            raise OSError(errno.EIO, "the disk accepted none of the written bytes")
        left = left[written:]


def newest_time(folder: Path, ending: str) -> float | None:
    """Return the time of the newest file below a folder whose name has an ending, UNIX seconds by
    the file system; None without such a file.
    """
    newest = None
    for file in folder.rglob(f"*{ending}"):
        with suppress(OSError):  # the file was removed just now
            written = file.stat().st_mtime
            newest = written if newest is None else max(newest, written)
    return newest


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder if it is empty, then its parents likewise, below `top`."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the block as one transaction, which blocks other writers from its begin. sqlite3.Error.

    database: opened with `isolation_level=None`
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
    except BaseException:
        with suppress(sqlite3.ProgrammingError):  # it was closed because its file is damaged
            if database.in_transaction:  # SQLite itself rolls back when the disk is full
                database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
