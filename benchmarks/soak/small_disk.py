"""A disk of the data folder's own that others fill twice, and what was recorded on it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.recording.index import Index

SIZE_MB: Final = 1_500
FULL_S: Final = 15.0
_STEP: Final = 1 << 20


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a tmpfs of SIZE_MB on the folder, if this user may; gives whether it did."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=0700", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


class Ballast:
    """Takes all room of a disk at each of some times, and gives it back FULL_S later.

    fills  how often it was full
    times  UNIX seconds at which it was full, rising
    """

    def __init__(self, folder: Path, times: Iterable[float], full_s: float = FULL_S) -> None:
        """times: seconds from the start, rising."""
        self._path = folder / "ballast"
        self._due = list(times)
        self._full_s = full_s
        self._until: float | None = None
        self.fills = 0
        self.times: list[float] = []

    def step(self, elapsed: float) -> None:
        """Fill or free the disk, if it is time to."""
        if self._until is not None:
            self.times.append(time.time())
            if elapsed >= self._until:
                self.free()
            else:
                self._fill()  # also the room that retention has made meanwhile
        elif self._due and elapsed >= self._due[0]:
            del self._due[0]
            self._until = elapsed + self._full_s
            self.fills += 1
            self._fill()

    def free(self) -> None:
        """Give the room back."""
        self._until = None
        self._path.unlink(missing_ok=True)

    def _fill(self) -> None:
        with self._path.open("ab") as ballast:
            room = os.statvfs(self._path).f_bavail * os.statvfs(self._path).f_frsize
            size = os.fstat(ballast.fileno()).st_size
            while room > 0:
                with suppress(OSError):
                    os.posix_fallocate(ballast.fileno(), size, room)
                    return
                room -= _STEP


class Recorded:
    """Follows which recorded files a data folder has acknowledged by a row of its index.

    A file is lost if its row was seen and file or row is gone at the end, and retention did not
    remove it for want of room.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._seen: dict[str, set[str]] = {}

    def sample(self, sources: Iterable[str]) -> None:
        """Note what there is now; nothing where the index cannot be read at this moment."""
        with suppress(FramegateError, OSError), closing(Index(self._data, makes=False)) as index:
            for source in sources:
                self._seen.setdefault(source, set()).update(index.written(source).keys())

    @property
    def files(self) -> int:
        """Files that were acknowledged so far."""
        return sum(len(paths) for paths in self._seen.values())

    def lost(self) -> dict[str, int]:
        """Count the lost files of each source that has some."""
        with closing(Index(self._data, makes=False)) as index:
            removed: dict[str, int] = {}
            for trim in index.trims():
                if trim.cause != "age":  # nothing here is old enough
                    removed[trim.source] = removed.get(trim.source, 0) + trim.segments
            lost = {}
            for source, seen in self._seen.items():
                rows = index.written(source).keys()
                there = {path for path in rows if (index.folder / path).is_file()}
                n_missing = len(seen - there) - removed.get(source, 0)
                n_dangling = len(rows - there)
                if n_missing > 0 or n_dangling:
                    lost[source] = max(n_missing, n_dangling)
        return lost
