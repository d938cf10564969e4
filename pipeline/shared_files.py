"""The shared memory of a run, the supervisor's side: made at first request, kept until the end.

States lie in the data folder, so that a run goes on as it would have after its supervisor was
killed, too; the system writes them to disk when it likes. Where the folder has no room they lie in
memory, as pixels do.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pipeline.control import Shared, SharedWanted
from pipeline.errors import FrameStoreFull
from pipeline.shared_file import make_shared_file, open_kept_file

log = logging.getLogger(__name__)

KEPT = ("state ", "rows ")  # names of state planes and rings


class SharedFiles:
    """Owns the descriptors, so that pixels and states outlive a killed worker."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: for what is to outlive the supervisor; None: nothing is."""
        self._folder = folder
        self._descriptors: dict[tuple[str, str], int] = {}

    def answer(self, wanted: SharedWanted) -> tuple[Shared, int | None]:
        """The reply to a worker's request, and the descriptor to send beside it."""
        key = (wanted.source, wanted.name)
        if key not in self._descriptors:
            what = f"the memory for {wanted.name}"
            try:
                self._descriptors[key] = self._make(wanted, what)
            except FrameStoreFull as error:
                return Shared(wanted.ask, str(error)), None
            except OSError as error:
                return Shared(wanted.ask, f"{what}: no shared memory: {error}"), None
        return Shared(wanted.ask), self._descriptors[key]

    def _make(self, wanted: SharedWanted, what: str) -> int:
        path = self._kept_at(wanted.source, wanted.name)
        if path is not None:
            try:
                return open_kept_file(path, wanted.nbytes)
            except OSError as error:
                log.warning("%s: %s: it will not outlive the supervisor", path, error.strerror)
        return make_shared_file(wanted.nbytes, what)

    def _kept_at(self, source: str, name: str) -> Path | None:
        if self._folder is None or not name.startswith(KEPT):
            return None
        return self._folder / f"{source}.{name.replace(' ', '-')}"

    def find(self, wanted: SharedWanted) -> tuple[Shared, int | None]:
        """The reply to somebody who only looks: nothing is made for him."""
        descriptor = self._descriptors.get((wanted.source, wanted.name))
        if descriptor is None or os.fstat(descriptor).st_size != wanted.nbytes:
            return Shared(wanted.ask, f"there is no {wanted.name} of it"), None
        return Shared(wanted.ask), descriptor

    def nbytes(self, source: str) -> int:
        """Bytes that a source has."""
        held = [file for key, file in self._descriptors.items() if key[0] == source]
        return sum(os.fstat(descriptor).st_size for descriptor in held)

    def drop(self, source: str) -> None:
        """Let go what a source has; who mapped it keeps it until it unmaps."""
        for key in [key for key in self._descriptors if key[0] == source]:
            os.close(self._descriptors.pop(key))
        if self._folder is not None:  # of an earlier run in this folder, too
            for path in self._folder.glob(f"{source}.*"):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let all go."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
