"""Write the changed parts of frames, and remove old files."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.recording.changed_parts import (
    FILE_BYTES,
    FOLDER,
    FRAMES,
    PART_BYTES,
    TIME_BYTES,
    TIMES_BYTES,
    known_sources,
    parts_files,
)
from framegate.pipeline.recording.retention import gives_way

log = logging.getLogger(__name__)

_BLOCK: Final = 512  # bytes, by which the system counts the size of sparse files
_NONE: Final = bytes(PART_BYTES)
_WRITTEN_S: Final = 3600.0  # a file is still in use if it was written within this
_GONE_S: Final = 7 * 86400.0  # a source without new frames for this gives way first


@dataclass(slots=True)
class _OpenFile:
    """The file that a source's frames go to. last: the last frame in it that has a time, or -1."""

    key: tuple[int, int, int, int]
    descriptor: int
    last: int


@dataclass(slots=True)
class ChangedPartsWriter:
    """The writer of the changed parts of a run's sources. A fault of the disk loses frames here,
    and disturbs nothing else. One thread.

    data       the data folder
    max_bytes  limit of disk space for all sources; see trim
    """

    data: Path
    max_bytes: int
    _open: dict[str, _OpenFile] = field(default_factory=dict)
    _failing: bool = False
    _untrimmed: int = FILE_BYTES  # bytes of files that were closed since the last trim
    _trimming: threading.Thread | None = None

    def keep(
        self,
        source: str,
        position: Position,
        captured: float,
        size: tuple[int, int],
        parts: bytes | None,
    ) -> None:
        """Store the changed parts of a compared frame.

        captured  UNIX seconds
        size      width and height of the picture in pixels
        parts     one bit for each of ROWS x COLUMNS parts, highest bit first; None: none changed
        """
        row = position.seq % FRAMES
        key = (position.epoch, position.seq - row, *size)
        try:
            file = self._open.get(source)
            if file is None or file.key != key:
                file = self._begin(source, key)
            # Pages of frames without changes stay holes, unless an earlier process wrote there.
            if parts is not None or row <= file.last:
                os.pwrite(file.descriptor, parts or _NONE, TIMES_BYTES + row * PART_BYTES)
            os.pwrite(file.descriptor, struct.pack("<d", captured), row * TIME_BYTES)
        except OSError as error:
            self._report(error)
        else:
            self._failing = False

    def _report(self, error: OSError) -> None:
        """Log a fault of the disk, the first of several only."""
        if not self._failing:
            log.warning("%s: changed parts are not stored: %s", self.data / FOLDER, error)
        self._failing = True

    def end(self, source: str) -> None:
        """Close the file of a source."""
        file = self._open.pop(source, None)
        if file is None:
            return
        try:
            self._untrimmed += os.fstat(file.descriptor).st_blocks * _BLOCK
            os.close(file.descriptor)
        except OSError as error:  # a network disk may refuse written bytes only here
            self._report(error)

    def close(self) -> None:
        """Close all files, and wait until old ones are removed."""
        for source in list(self._open):
            self.end(source)
        if self._trimming is not None:
            self._trimming.join()

    def _begin(self, source: str, key: tuple[int, int, int, int]) -> _OpenFile:
        self.end(source)
        epoch, first, width, height = key
        path = self.data / FOLDER / source / f"{epoch}-{first}-{width}x{height}.parts"
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._trim_beside(source, path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, FILE_BYTES)
            times = np.frombuffer(os.pread(descriptor, TIMES_BYTES, 0), "<f8")
        except BaseException:
            os.close(descriptor)
            raise
        stored = np.flatnonzero(times)
        last = -1
        if stored.size:
            last = int(stored[-1])
        file = self._open[source] = _OpenFile(key, descriptor, last)
        return file

    def _trim_beside(self, source: str, begun: Path) -> None:
        """Remove old files in a thread: with many files, it takes longer than a frame.

        A camera that reconnects often begins many small files. trim reads the sizes of all files,
        so it runs once per stored FILE_BYTES, and not for each frame while the disk is full.
        """
        is_busy = self._trimming is not None and self._trimming.is_alive()
        if is_busy or self._untrimmed < FILE_BYTES:
            return
        self._untrimmed = 0
        limit = self.max_bytes - FILE_BYTES
        trimming = threading.Thread(
            target=_trim_logged, args=(self.data, source, limit, begun), daemon=True
        )
        try:
            trimming.start()
        except RuntimeError as error:  # no thread is left
            log.warning("%s: old changed parts are not removed now: %s", self.data / FOLDER, error)
            return
        self._trimming = trimming


def _trim_logged(data: Path, source: str, max_bytes: int, begun: Path) -> None:
    try:
        trim(data, source, max_bytes, begun)
    except OSError as error:
        log.warning("%s: old files are not removed: %s", data / FOLDER, error)


def trim(data: Path, source: str, max_bytes: int, begun: Path | None = None) -> None:
    """Remove the oldest files until all files take at most `max_bytes` on the disk.

    source  the source that begins a file
    begun   that file, which stays and is not counted

    Sources without new frames for _GONE_S give way first, the longest ago first: they may be
    removed from the run. Then the source with the most bytes gives way, so a fast source takes no
    space from a slow one. A file that another process may write stays. Other processes may do the
    same at the same time.
    """
    now = time.time()
    holdings = {name: _HeldFiles.of(data, name, begun) for name in known_sources(data)}
    total = sum(holding.nbytes for holding in holdings.values())
    for name, holding in holdings.items():
        is_written = name != source and now - holding.written_s < _WRITTEN_S
        if is_written and holding.files:
            holding.files.pop()
    while total > max_bytes:
        removable = {name: each for name, each in holdings.items() if each.files}
        loser = _gone_longest(removable, source, now - _GONE_S)
        if loser is None:
            loser = gives_way({name: each.nbytes for name, each in removable.items()}, source, 0)
        if loser is None:
            return
        path, nbytes = holdings[loser].files.pop(0)
        holdings[loser].nbytes -= nbytes
        total -= nbytes
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        if not holdings[loser].files:
            with contextlib.suppress(OSError):  # it has other files, or was removed
                path.parent.rmdir()


@dataclass(slots=True)
class _HeldFiles:
    """The files of a source with their bytes on the disk, the oldest frames first.

    nbytes     bytes of all files
    written_s  when the newest file was last written, UNIX seconds; 0 without files
    """

    files: list[tuple[Path, int]]
    nbytes: int
    written_s: float

    @classmethod
    def of(cls, data: Path, source: str, begun: Path | None) -> _HeldFiles:
        files: list[tuple[Path, int]] = []
        written_s = 0.0
        for file in parts_files(data, source):
            if file.path == begun:
                continue
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                found = file.path.stat()
                files.append((file.path, found.st_blocks * _BLOCK))
                written_s = found.st_mtime
        return cls(files, sum(nbytes for _, nbytes in files), written_s)


def _gone_longest(holdings: Mapping[str, _HeldFiles], source: str, before_s: float) -> str | None:
    """Return the source without new frames since `before_s` that is gone longest; None: no such."""
    gone = {name: each.written_s for name, each in holdings.items() if each.written_s < before_s}
    gone.pop(source, None)
    return min(gone, key=lambda name: (gone[name], name), default=None)
