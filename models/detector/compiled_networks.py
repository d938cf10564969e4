"""The folder in which this machine keeps compiled networks, so that a start does not compile them.

OpenVINO compiles a network of one input size in 0.7 s of CPU time, and reads the result in 0.2 s.
Its file, about 4 MB, is named by a digest of network and settings; a damaged file, or one of
another version, is compiled again. OpenVINO writes it in place, so one process at a time uses a
folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 256 << 20  # some 16 models at one size of pictures
_POLL_S: Final = 0.02


def compiled_folder(cache: Path, machine: str) -> Path | None:
    """Return the folder of the networks that are compiled for this machine.

    It removes the files that were not used for longest from the folders of all machines that share
    the cache, so that they have at most MOST_BYTES.

    cache    the user's cache
    machine  what decides how a network is compiled: the processor and what it can compute
    Returns None if the folder cannot be written; then networks are compiled at each start.
    """
    whole = cache / "compiled"
    folder = whole / hashlib.sha256(machine.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    _trim(whole)
    return folder


def _trim(whole: Path) -> None:
    used: list[tuple[float, int, Path]] = []
    for path in whole.glob("*/*.blob"):
        with suppress(OSError):  # another process removed it
            found = path.stat()
            used.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    total = 0
    for _, nbytes, path in sorted(used, reverse=True):
        total += nbytes
        if total > MOST_BYTES:
            with suppress(OSError):
                path.unlink()


@contextmanager
def locked(folder: Path, most_s: float = math.inf) -> Iterator[None]:
    """Lock a folder against all other processes, unless it cannot be opened.

    most_s  seconds after which the block runs without the lock: a process that is stopped while it
            has the lock may keep it for ever
    """
    with ExitStack() as stack:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, opened)
            _lock(opened, most_s)
        yield


def _lock(opened: int, most_s: float) -> None:
    until = time.monotonic() + most_s
    while time.monotonic() < until:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL_S)
        else:
            return
