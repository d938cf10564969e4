"""Files that are mapped by several processes: made by the supervisor, handed over as descriptors.

Those in shared memory have no name (O_TMPFILE), so nothing is left over whoever is killed: the
kernel frees them with the last process that holds them, and a killed worker's successor gets the
same bytes. Those in the run's data folder outlive the supervisor, too.
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

_IN_ORDER = ("x86_64", "AMD64")  # a CPU of these shows one's stores to others as they were made
_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "arm64": 283, "riscv64": 283}
_BARRIER, _REGISTER = 1 << 1, 1 << 2  # MEMBARRIER_CMD_(REGISTER_)GLOBAL_EXPEDITED


def barrier(machine: str = "", everywhere: bool = False) -> Callable[[], None]:
    """What a writer calls so that no process sees a later store of his before an earlier one, or
    takes what it read after that for what was there before.

    Where the CPU does not see to that, the kernel makes all processes that share memory here pass
    a barrier (membarrier(2), some microseconds), so that readers need none of their own.
    MachineRefused where it cannot. everywhere: have the kernel do it on any CPU
    """
    machine = machine or platform.machine()
    if machine in _IN_ORDER and not everywhere:
        return lambda: None
    call = _libc.syscall
    number = _MEMBARRIER.get(machine)
    if number is None or call(number, _REGISTER, 0, 0) != 0:
        raise MachineRefused(
            f"{machine} does not order what is written for other processes, and the kernel offers "
            "no membarrier (Linux 4.16 or later, allowed by the container): a frame might be read "
            "torn; allowed are x86-64, and arm64 with such a kernel"
        )
    return lambda: call(number, _BARRIER, 0, 0)


usual_barrier = functools.cache(barrier)
"""The same for this process, which is registered once."""


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


def map_shared(descriptor: int) -> memoryview:
    """The whole file, shared, to read and write, until the last view of it goes. The descriptor
    stays the caller's, and is not needed any more: mmap.mmap would hold another for as long.
    """
    size = os.fstat(descriptor).st_size
    prot, shared = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED
    at = _libc.mmap(None, size, prot, shared, descriptor, 0)
    if at == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    held = (ctypes.c_ubyte * size).from_address(at)
    # Not at exit: threads may still be at work in it, and the process's end unmaps it anyway.
    weakref.finalize(held, _libc.munmap, at, size).atexit = False
    return memoryview(held).cast("B")


def free_pages(mapped: memoryview, start: int) -> None:
    """Give the memory behind a mapping back from `start` on, whoever else has it mapped: it reads
    as zeros then. OSError where the file system cannot do that.
    """
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    if start < len(mapped):
        at = ctypes.addressof(ctypes.c_ubyte.from_buffer(mapped, start))
        if _libc.madvise(at, len(mapped) - start, mmap.MADV_REMOVE) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
