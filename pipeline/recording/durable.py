"""Files and folders that are on the disk, names included, once they are said to be; and tables
whose changes are there as a whole or not at all.

A file system may keep what was written in memory for half a minute, and a new name as long; a power
cut takes both. fsync of a file has its bytes on the disk, that of a folder the names in it.
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


def put(file: BinaryIO | io.FileIO, old: Path, new: Path) -> None:
    """Have a file, open to write, on the disk under another name. OSError."""
    file.flush()
    os.fsync(file.fileno())
    os.rename(old, new)
    sync_folder(new.parent)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, and those around it, as far as they are not there. OSError.

    mode: of the folder itself, of which the umask of this process takes its part
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode, exist_ok=True)
    sync_folder(folder.parent)


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write all of it into a file without a buffer, of which one call may take a part. OSError."""
    left = memoryview(data)
    while left:
        written = file.write(left)
        if not written:
            raise OSError(errno.EIO, "the disk took none of what was written")
        left = left[written:]


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk. OSError."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def newest_time(folder: Path, ending: str) -> float | None:
    """Return when the newest file below a folder was written whose name has an ending, UNIX seconds
    by the file system; None: there is no such file.
    """
    newest = None
    for file in folder.rglob(f"*{ending}"):
        with suppress(OSError):  # it was removed just now
            written = file.stat().st_mtime
            newest = written if newest is None else max(newest, written)
    return newest


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder if nothing is left in it, and those around it, up to the top."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All that is changed within, or nothing; another writer waits from the first read on.
    sqlite3.Error.

    database: opened with `isolation_level=None`
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
    except BaseException:
        with suppress(sqlite3.ProgrammingError):  # it was closed, as its file is damaged
            if database.in_transaction:  # SQLite itself takes back what fills a disk
                database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
