"""Files that are mapped by several processes: made by the supervisor, handed over as descriptors.

Those in shared memory have no name (O_TMPFILE), so nothing is left over whoever is killed: the
kernel frees them with the last process that holds them, and a killed worker's successor gets the
same bytes. Those in the run's data folder outlive the supervisor, too.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from pipeline.errors import FrameStoreFull

FOLDER = "/dev/shm"


def make_shared_file(nbytes: int, what: str, folder: str = FOLDER) -> int:
    """A descriptor of a new zeroed file of `nbytes`, its memory reserved.

    FrameStoreFull, with what is needed and what is free, where it does not fit.
    """
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.ENOSPC:
            raise
        free = free_bytes(folder)
        raise FrameStoreFull(
            f"{what} needs {nbytes / 2**20:.1f} MiB of shared memory, {folder} has "
            f"{free / 2**20:.1f} MiB free: enlarge it (a container's shm size), lower the credit, "
            "or run fewer sources at once"
        ) from error
    return descriptor


def open_kept_file(path: Path, nbytes: int) -> int:
    """A descriptor of the file at `path`, made or enlarged to `nbytes`, with room for all of them.

    OSError where there is none.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, nbytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def free_bytes(folder: str = FOLDER) -> int:
    """What is free in the shared-memory file system, bytes."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def map_shared(descriptor: int) -> mmap.mmap:
    """Map the whole file, shared, for reading and writing. The descriptor stays the caller's."""
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
