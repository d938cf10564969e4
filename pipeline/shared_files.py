"""The shared memory of a run, the supervisor's side: made at first request, kept until the end."""

from __future__ import annotations

import os

from pipeline.control import Shared, SharedWanted
from pipeline.errors import FrameStoreFull
from pipeline.shared_file import make_shared_file


class SharedFiles:
    """Owns the descriptors, so that pixels and states outlive a killed worker."""

    def __init__(self) -> None:
        self._descriptors: dict[tuple[str, str], int] = {}

    def answer(self, wanted: SharedWanted) -> tuple[Shared, int | None]:
        """The reply to a worker's request, and the descriptor to send beside it."""
        key = (wanted.source, wanted.name)
        if key not in self._descriptors:
            what = f"the memory for {wanted.name}"
            try:
                self._descriptors[key] = make_shared_file(wanted.nbytes, what)
            except FrameStoreFull as error:
                return Shared(wanted.ask, str(error)), None
            except OSError as error:
                return Shared(wanted.ask, f"{what}: no shared memory: {error}"), None
        return Shared(wanted.ask), self._descriptors[key]

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

    def close(self) -> None:
        """Let all go."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
