"""Files that several processes map. The supervisor makes them and passes on their descriptors.

Files in shared memory have no name (O_TMPFILE). The kernel frees them with the last process that
has them open or mapped, so a kill leaves nothing behind, and the successor of a killed worker gets
the same bytes. Files in the run's data folder outlive the supervisor.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import platform
import weakref
from collections.abc import Callable
from pathlib import Path

from framegate.pipeline.contracts.errors import FrameStoreFull, MachineRefused

FOLDER = "/dev/shm"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value

_IN_ORDER = ("x86_64", "AMD64")  # these CPUs show stores to other CPUs in the order of the program
_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "arm64": 283, "riscv64": 283}
_BARRIER, _REGISTER = 1 << 1, 1 << 2  # MEMBARRIER_CMD_(REGISTER_)GLOBAL_EXPEDITED


def barrier(machine: str = "", everywhere: bool = False) -> Callable[[], None]:
    """Return a function that a writer calls between two stores that must be seen in their order.

    After it, no process sees a later store before an earlier one. If the CPU does not guarantee
    that, the kernel passes all processes that share memory here through a barrier (membarrier(2),
    a few microseconds), so readers need no barrier of their own. Raises MachineRefused if the
    kernel cannot.

    everywhere  use the kernel's barrier on any CPU
    """
    machine = machine or platform.machine()
    if machine in _IN_ORDER and not everywhere:
        return lambda: None
    call = _libc.syscall
    number = _MEMBARRIER.get(machine)
    if number is None or call(number, _REGISTER, 0, 0) != 0:
        raise MachineRefused(
            f"this machine ({machine}) does not order memory writes for other processes, and the "
            "kernel offers no membarrier, so frames could be torn; use x86-64, or arm64 with Linux "
            "4.16 or later in a container that allows membarrier"
        )
    return lambda: call(number, _BARRIER, 0, 0)


usual_barrier = functools.cache(barrier)
"""Return this process's barrier; registers the process once."""


def make_shared_file(nbytes: int, what: str, folder: str = FOLDER) -> int:
    """Return a descriptor of a new zeroed file of `nbytes` with reserved memory.

    Raises FrameStoreFull, with the needed and the free bytes, if there is no room.
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
    """Return a descriptor of the file at `path`, created or enlarged to `nbytes` reserved bytes.

    Raises OSError if there is no room.
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
