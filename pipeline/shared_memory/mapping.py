"""Files that several processes map. The supervisor makes them and passes on their descriptors
(`run/shared_files`, which also frees them).

Files in shared memory have no name (O_TMPFILE). The kernel frees them with the last process that
has them open or mapped, so a kill leaves nothing behind, and the successor of a killed worker gets
the same bytes. Files in the run's data folder outlive the supervisor.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from pathlib import Path

from framegate.pipeline.contracts.errors import FrameStoreFull

FOLDER = "/dev/shm"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value


def make_shared_file(nbytes: int, what: str, folder: str = FOLDER) -> int:
    """Return a descriptor of a new zeroed file of `nbytes` with reserved memory.

    Raises FrameStoreFull, with the needed and the free bytes, if there is no room.
    """
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _reserve(descriptor, nbytes)
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


def _reserve(descriptor: int, nbytes: int) -> None:
    """Reserve the first `nbytes` of a file. OSError, with ENOSPC if there is no room.

    What cannot fit is refused first: the system call would take all that is free before it fails,
    and other writers would find a full disk meanwhile.
    """
    disk = os.fstatvfs(descriptor)
    held = os.fstat(descriptor).st_size
    has_limit = disk.f_blocks > 0  # a tmpfs without a limit has no blocks
    if has_limit and nbytes - held > disk.f_bfree * disk.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.posix_fallocate(descriptor, 0, nbytes)


def open_kept_file(path: Path, nbytes: int) -> int:
    """Return a descriptor of the file at `path`, created or enlarged to `nbytes` reserved bytes.

    Raises OSError if there is no room.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _reserve(descriptor, nbytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def free_bytes(folder: str = FOLDER) -> int:
    """Return the free bytes of the shared-memory file system."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def map_shared(descriptor: int) -> memoryview:
    """Map the whole file, shared, readable and writable, until its last view is released.

    The caller may close the descriptor. mmap.mmap is not used because it keeps a duplicate of the
    descriptor open for as long as the mapping exists.
    """
    size = os.fstat(descriptor).st_size
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    at = _libc.mmap(None, size, prot, mmap.MAP_SHARED, descriptor, 0)
    if at == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    array = (ctypes.c_ubyte * size).from_address(at)
    # Not at exit: threads may still use the memory, and the end of the process unmaps it.
    weakref.finalize(array, _libc.munmap, at, size).atexit = False
    return memoryview(array).cast("B")


def free_pages(mapped: memoryview, start: int) -> None:
    """Free the memory of a mapped file from offset `start` on, for all processes that map it.

    It reads as zeros afterwards. Raises OSError if the file system has no holes.
    """
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    if start < len(mapped):
        at = ctypes.addressof(ctypes.c_ubyte.from_buffer(mapped, start))
        if _libc.madvise(at, len(mapped) - start, mmap.MADV_REMOVE) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
