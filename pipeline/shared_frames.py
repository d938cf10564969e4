"""The frame stores of a run: made at first request, kept until the run ends."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipeline.control import Frames, FramesWanted
from pipeline.errors import FrameStoreFull
from pipeline.frame_store import frame_store_bytes
from pipeline.shared_file import make_shared_file
from pipeline.source import Form
from pipeline.spec import SourceSpec


class SharedFrames:
    """Owns the descriptors, so that pixels outlive a killed worker."""

    def __init__(self) -> None:
        self._descriptors: dict[tuple[str, Form], int] = {}
        self.nbytes = 0

    def answer(
        self, wanted: FramesWanted, sources: Mapping[str, SourceSpec]
    ) -> tuple[Frames, int | None]:
        """The reply to a worker's request, and the descriptor to send beside it."""
        slots = sources[wanted.source].slots
        key = (wanted.source, wanted.form)
        if key not in self._descriptors:
            nbytes = frame_store_bytes(slots, wanted.nbytes)
            what = f"source {wanted.source} ({wanted.form.width}x{wanted.form.height})"
            try:
                self._descriptors[key] = make_shared_file(nbytes, what)
            except FrameStoreFull as error:
                return Frames(wanted.ask, slots, str(error)), None
            except OSError as error:
                return Frames(wanted.ask, slots, f"{what}: no shared memory: {error}"), None
            self.nbytes += nbytes
        return Frames(wanted.ask, slots), self._descriptors[key]

    def close(self) -> None:
        """Let all go."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
