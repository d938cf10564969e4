"""The shared memory of a run, the supervisor's side: made when it is asked for, freed when nobody
wants it any more.

Frame stores are in shared memory, one for each picture size whose frames are still wanted: the
decoder says which these are (FramesKept). States lie in the data folder, so that a run goes on as
it would have after its supervisor was killed, too; the system writes them to disk when it likes.
Where the folder has no room they lie in memory, as pixels do. A stage has one plane and one ring a
source: of another size, the one before goes, as what it held was of another epoch.

A store that is set back may want again what went: a file's pixels are decoded again, a camera's
frame is `frame_lost`, and a state that is not there is `reanchored`.
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
from framegate.pipeline.engine.control import GetSharedMemory, SharedMemory
from framegate.pipeline.shared_memory.frame_store import copy_newest, retire_frame_store
from framegate.pipeline.shared_memory.mapping import make_shared_file, open_kept_file
from framegate.pipeline.system.retry import OUT_OF_MEANS

log = logging.getLogger(__name__)

KEPT = ("state ", "rows ")  # names of state planes and rings
FRAMES = "frames "  # of frame stores; there is sound, too
MOST_PICTURES = 64  # of sources that ended, one each


@dataclass(frozen=True, slots=True)
class _File:
    """descriptor: None where it lies in the data folder, and is opened when somebody wants it."""

    nbytes: int
    descriptor: int | None
    is_last_picture: bool = False


class SharedFiles:
    """Owns what is shared, so that pixels and states outlive a killed worker. One thread."""

    def __init__(self, folder: Path | None = None, pictures: int = MOST_PICTURES) -> None:
        """folder: for what is to outlive the supervisor; None: nothing is.

        pictures: sources that ended and whose last picture is kept, for whoever looks at them
        """
        self._folder, self._pictures = folder, pictures
        self._files: dict[str, dict[str, _File]] = {}
        self._ended: set[str] = set()

    def answer(self, wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:
        """Return the reply to a worker, and the descriptor to send beside it and then close."""
        files = self._files.setdefault(wanted.source, {})
        file = files.get(wanted.name)
        if file is None or file.is_last_picture:
            if not wanted.make:
                return self.find(wanted)
            what = f"the memory for {wanted.name}"
            try:
                self._let_former_go(wanted.source, wanted.name)
                file = files[wanted.name] = self._make(wanted, what)
                self._ended.discard(wanted.source)
            except FrameStoreFull as error:
                return SharedMemory(str(error)), None
            except OSError as error:
                return _lacking(what, error), None
        return self._opened(wanted, file)

    def find(self, wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:
        """As `answer`, for a reader: nothing is made for it."""
        file = self._files.get(wanted.source, {}).get(wanted.name)
        if file is None or (file.nbytes != wanted.nbytes and not file.is_last_picture):
            return SharedMemory(f"there is no {wanted.name} of it"), None
        return self._opened(wanted, file)

    def _opened(self, wanted: GetSharedMemory, file: _File) -> tuple[SharedMemory, int | None]:
        path = self._kept_at(wanted.source, wanted.name)
        try:
            if file.descriptor is not None:
                return SharedMemory(), os.dup(file.descriptor)
            assert path is not None
            return SharedMemory(), open_kept_file(path, file.nbytes)
        except OSError as error:
            return _lacking(wanted.name, error), None

    def _make(self, wanted: GetSharedMemory, what: str) -> _File:
        path = self._kept_at(wanted.source, wanted.name)
        if path is not None:
            try:
                os.close(open_kept_file(path, wanted.nbytes))
                return _File(wanted.nbytes, None)
            except OSError as error:
                log.warning("%s: %s: it will not outlive the supervisor", path, error.strerror)
        return _File(wanted.nbytes, make_shared_file(wanted.nbytes, what))

    def _kept_at(self, source: str, name: str) -> Path | None:
        if self._folder is None or not name.startswith(KEPT):
            return None
        return self._folder / f"{source}.{name.replace(' ', '-')}"

    # -- letting go

    def keep_frames(self, source: str, names: Collection[str]) -> None:
        """Free the frame stores of a source but these, as nobody wants the others any more."""
        for name in self._files.get(source, {}).keys() - set(names):
            if name.startswith(FRAMES):
                self._let_go(source, name)

    def end(self, source: str) -> None:
        """Free what a source has, as all of it is done; its last picture goes to the disk."""
        if source in self._ended:
            return  # nothing was made for it since
        files = self._files.get(source, {})
        frames = [n for n, f in files.items() if n.startswith(FRAMES) and not f.is_last_picture]
        picture = {name: last for name in frames[-1:] if (last := self._last_picture(files[name]))}
        self.drop(source)
        self._files[source] = picture
        self._ended.add(source)
        held = [at for at, files in self._files.items() if _is_picture(files)]
        for oldest in held[: -self._pictures or None]:
            self.drop(oldest)
            self._ended.add(oldest)

    def _last_picture(self, frames: _File) -> _File | None:
        """Make a file with the last frame alone; it has no name, so that nothing is left of it."""
        folder = self._folder
        if folder is None or not self._pictures or frames.descriptor is None:
            return None

        def make(nbytes: int) -> int:
            folder.mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, nbytes)
                return os.dup(file.fileno())

        try:
            made = copy_newest(frames.descriptor, make)
            return None if made is None else _File(os.fstat(made).st_size, made, True)
        except OSError as error:
            log.debug("no last picture is kept: %s", error)
            return None

    def drop(self, source: str) -> None:
        """Free all that a source has."""
        for name in list(self._files.get(source, {})):
            self._let_go(source, name)
        self._files.pop(source, None)
        self._ended.discard(source)
        if self._folder is not None:  # of an earlier run in this folder, too
            for path in self._folder.glob(f"{source}.*"):
                path.unlink(missing_ok=True)

    def _let_former_go(self, source: str, name: str) -> None:
        """Free what `name` takes the place of: a last picture, or a state of another size."""
        kind = " ".join(name.split(" ")[:2]) + " "  # state, and whose: no size
        for other, file in list(self._files[source].items()):
            if file.is_last_picture or (name.startswith(KEPT) and other.startswith(kind)):
                self._let_go(source, other)
        path = self._kept_at(source, name)
        if path is not None:  # of an earlier supervisor, too
            for former in path.parent.glob(f"{source}.{kind.replace(' ', '-')}*"):
                if former != path:
                    former.unlink(missing_ok=True)

    def _let_go(self, source: str, name: str) -> None:
        file = self._files[source].pop(name)
        if file.descriptor is not None:
            if not name.startswith(KEPT):
                retire_frame_store(file.descriptor)
            os.close(file.descriptor)
        path = self._kept_at(source, name)
        if path is not None:
            path.unlink(missing_ok=True)

    # -- all of it

    def nbytes(self, source: str) -> int:
        """Return how many bytes a source has."""
        return sum(file.nbytes for file in self._files.get(source, {}).values())

    def close(self) -> None:
        """Free all but what is to outlive the supervisor."""
        for files in self._files.values():
            for file in files.values():
                if file.descriptor is not None:
                    os.close(file.descriptor)
        self._files.clear()
        if self._folder is not None:
            with contextlib.suppress(OSError):  # there is something in it, or it never was
                self._folder.rmdir()


def _is_picture(files: dict[str, _File]) -> bool:
    return any(file.is_last_picture for file in files.values())


def _lacking(what: str, error: OSError) -> SharedMemory:
    again = error.errno in OUT_OF_MEANS
    return SharedMemory(f"{what}: no shared memory: {error}", again)
