"""Replace a user's file: under a lock, at once, and with its owner, mode and attributes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LOCK_S: Final = 2.0  # a click waits so long for another program that has locked the file
_RETRY_S: Final = 0.02


@contextmanager
def locked(real: Path, *, is_made: bool = False) -> Iterator[None]:
    """Let no other Framegate change a file during the block.

    real     its path without links
    is_made  whether a missing file is made, empty, for its owner only

    BlockingIOError if another program has the lock for _LOCK_S; another OSError if the file cannot
    be opened.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    if is_made:
        flags |= os.O_CREAT
    until = time.monotonic() + _LOCK_S
    descriptor = -1
    while descriptor < 0:
        descriptor = os.open(real, flags, 0o600)
        try:
            _await_lock(descriptor, until)
            is_current = _is_file(real, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if not is_current:
            os.close(descriptor)  # it was replaced while we waited, so our lock is of the old
            descriptor = -1
    try:
        yield
    finally:
        os.close(descriptor)


def _is_file(real: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(real))
    except FileNotFoundError:
        return False


def _await_lock(descriptor: int, until: float) -> None:
    """Lock an open file. BlockingIOError if another program has the lock until then."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                reason = f"another program has locked it for {_LOCK_S:.0f} s"
                raise BlockingIOError(errno.EWOULDBLOCK, reason) from None
        except OSError:  # a file system without locks
            return
        time.sleep(_RETRY_S)


@contextmanager
def written(real: Path, data: bytes, place: Path | None = None) -> Iterator[Path]:
    """Return a durable file with this content, and the owner, mode and attributes of another one.

    place  path that the file will get; None: that of the other one

    It has a fixed name beside that path, so that killed processes leave one at most. OSError.
    """
    name = (place or real).name.removeprefix(".")
    new = real.with_name(f".{name}.framegate")
    new.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            _copy_metadata(real, file.fileno())
            os.fsync(file.fileno())
        yield new
    finally:
        new.unlink(missing_ok=True)


def _copy_metadata(real: Path, new: int) -> None:
    """Give an open file the owner, the mode and the attributes (such as ACLs) of another one."""
    status, own = os.stat(real), os.fstat(new)
    if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))
    wanted, present = _attributes(real), _attributes(new)
    for name in present.keys() - wanted.keys():
        os.removexattr(new, name)
    for name, value in wanted.items():
        if present.get(name) != value:
            os.setxattr(new, name, value)


def _attributes(file: Path | int) -> dict[str, bytes]:
    """Return the extended attributes of a file; none if the file system has none."""
    try:
        return {name: os.getxattr(file, name) for name in os.listxattr(file)}
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
