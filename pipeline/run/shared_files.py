"""The shared memory of a run: the supervisor makes it on request and frees it after its last use.

Frame stores are in memory. There is one for each picture size that still has frames in use; the
decoder reports these (FramesKept). Large states of stages are files in the data folder, so that
they survive the death of the supervisor; the kernel writes them to disk at any time. If the folder
has no room, they are in memory. A stage has one plane and one ring per source; a new size replaces
the old one, whose content belongs to an earlier epoch.

After a store has lost its last writes, freed memory may be needed again. Then a file is decoded
again, a camera's frame fails as `frame_lost`, and a stage without its state restarts as
`reanchored`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from framegate.pipeline.contracts.errors import FrameStoreFull
from framegate.pipeline.engine.control_messages import GetSharedMemory, SharedMemory
from framegate.pipeline.shared_memory.frame_store import copy_newest, retire_frame_store
from framegate.pipeline.shared_memory.mapping import make_shared_file, open_kept_file
from framegate.pipeline.system.retry import OUT_OF_MEANS

log = logging.getLogger(__name__)

KEPT = ("state ", "rows ")  # prefixes of the names of state planes and rings
FRAMES = "frames "  # prefix of the names of frame stores; others are of sound and of packets
MOST_PICTURES = 64  # last pictures of ended sources, one each


@dataclass(frozen=True, slots=True)
class _File:
    """A piece of shared memory. descriptor: None for a file in the data folder"""

    nbytes: int
    descriptor: int | None
    is_last_picture: bool = False


class SharedFiles:
    """The owner of all shared memory, so that it survives the death of a worker. One thread."""

    def __init__(self, folder: Path | None = None, pictures: int = MOST_PICTURES) -> None:
        """Prepare an empty owner.

        folder    for the states, which survive the supervisor; None: all are in memory
        pictures  number of ended sources whose last picture is kept for the live page
        """
        self._folder = folder
        self._pictures = pictures
        self._files: dict[str, dict[str, _File]] = {}  # by source and name
        self._ended: set[str] = set()

    def answer(self, wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:
        """Return the reply to a worker, and the descriptor to send with it and then close."""
        files = self._files.setdefault(wanted.source, {})
        file = files.get(wanted.name)
        if file is None or file.is_last_picture:
            if not wanted.make:
                return self.find(wanted)
            purpose = f"the memory for {wanted.name}"
            try:
                self._free_replaced(wanted.source, wanted.name)
                file = self._make(wanted, purpose)
            except FrameStoreFull as error:
                return SharedMemory(str(error)), None
            except OSError as error:
                return _failure(purpose, error), None
            files[wanted.name] = file
            self._ended.discard(wanted.source)
        return self._open(wanted, file)

    def find(self, wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:
        """Return a reply as `answer` does, without making memory."""
        file = self._files.get(wanted.source, {}).get(wanted.name)
        if file is None or (file.nbytes != wanted.nbytes and not file.is_last_picture):
            return SharedMemory(f"there is no {wanted.name} of it"), None
        return self._open(wanted, file)

    def _open(self, wanted: GetSharedMemory, file: _File) -> tuple[SharedMemory, int | None]:
        path = self._kept_at(wanted.source, wanted.name)
        try:
            if file.descriptor is not None:
                return SharedMemory(), os.dup(file.descriptor)
            assert path is not None
            return SharedMemory(), open_kept_file(path, file.nbytes)
        except OSError as error:
            return _failure(wanted.name, error), None

    def _make(self, wanted: GetSharedMemory, purpose: str) -> _File:
        path = self._kept_at(wanted.source, wanted.name)
        if path is not None:
            try:
                os.close(open_kept_file(path, wanted.nbytes))
                return _File(wanted.nbytes, None)
            except OSError as error:
                log.warning("%s: %s: it will not outlive the supervisor", path, error.strerror)
        return _File(wanted.nbytes, make_shared_file(wanted.nbytes, purpose))

    def _kept_at(self, source: str, name: str) -> Path | None:
        if self._folder is None or not name.startswith(KEPT):
            return None
        return self._folder / f"{source}.{name.replace(' ', '-')}"

    # -- freeing

    def keep_frames(self, source: str, names: Collection[str]) -> None:
        """Free the frame stores of a source except these."""
        for name in self._files.get(source, {}).keys() - set(names):
            if name.startswith(FRAMES):
                self._free(source, name)

    def end(self, source: str) -> None:
        """Free the memory of a source that is done, but keep its last picture in a file."""
        if source in self._ended:
            return
        last = None
        last_name = ""
        for name, file in self._files.get(source, {}).items():
            if name.startswith(FRAMES) and not file.is_last_picture:
                last = file
                last_name = name
        picture = None
        if last is not None:
            picture = self._last_picture(last)
        self.drop(source)
        self._files[source] = {}
        if picture is not None:
            self._files[source][last_name] = picture
        self._ended.add(source)
        with_picture = [name for name, files in self._files.items() if _is_picture(files)]
        for oldest in with_picture[: -self._pictures or None]:
            self.drop(oldest)
            self._ended.add(oldest)

    def _last_picture(self, frames: _File) -> _File | None:
        """Return an unnamed file with the last frame of a frame store; None if that fails."""
        folder = self._folder
        if folder is None or not self._pictures or frames.descriptor is None:
            return None

        def make(nbytes: int) -> int:
            folder.mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, nbytes)
                return os.dup(file.fileno())

        try:
            copy = copy_newest(frames.descriptor, make)
            if copy is None:
                return None
            return _File(os.fstat(copy).st_size, copy, True)
        except OSError as error:
            log.debug("no last picture is kept: %s", error)
            return None

    def drop(self, source: str) -> None:
        """Free all memory of a source, and remove its files."""
        for name in list(self._files.get(source, {})):
            self._free(source, name)
        self._files.pop(source, None)
        self._ended.discard(source)
        if self._folder is not None:  # also files of an earlier supervisor
            for path in self._folder.glob(f"{source}.*"):
                path.unlink(missing_ok=True)

    def _free_replaced(self, source: str, name: str) -> None:
        """Free the memory that `name` replaces: a last picture, or a state of another size."""
        kind = " ".join(name.split(" ")[:2]) + " "  # the name without its size
        for other, file in list(self._files[source].items()):
            if file.is_last_picture or (name.startswith(KEPT) and other.startswith(kind)):
                self._free(source, other)
        path = self._kept_at(source, name)
        if path is not None:  # also files of an earlier supervisor
            for replaced in path.parent.glob(f"{source}.{kind.replace(' ', '-')}*"):
                if replaced != path:
                    replaced.unlink(missing_ok=True)

    def _free(self, source: str, name: str) -> None:
        file = self._files[source].pop(name)
        if file.descriptor is not None:
            if not name.startswith(KEPT):
                retire_frame_store(file.descriptor)
            os.close(file.descriptor)
        path = self._kept_at(source, name)
        if path is not None:
            path.unlink(missing_ok=True)

    def nbytes(self, source: str) -> int:
        """Return the bytes of all shared memory of a source."""
        return sum(file.nbytes for file in self._files.get(source, {}).values())

    def picture_nbytes(self, source: str) -> int:
        """Return the bytes of the frame stores of a source, which grow with its picture."""
        files = self._files.get(source, {})
        return sum(file.nbytes for name, file in files.items() if name.startswith(FRAMES))

    def close(self) -> None:
        """Free all memory. The files in the data folder stay."""
        for files in self._files.values():
            for file in files.values():
                if file.descriptor is not None:
                    os.close(file.descriptor)
        self._files.clear()
        if self._folder is not None:
            with contextlib.suppress(OSError):  # it is not empty, or does not exist
                self._folder.rmdir()


def _is_picture(files: dict[str, _File]) -> bool:
    return any(file.is_last_picture for file in files.values())


def _failure(purpose: str, error: OSError) -> SharedMemory:
    may_try_again = error.errno in OUT_OF_MEANS
    return SharedMemory(f"{purpose}: no shared memory: {error}", may_try_again)
