"""A stream that is recorded and not decoded, as a test plays it."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import SoundBlock
from tests.support.runs import DEADLINE_S

Played = tuple[int, int] | SourceFault | None


class PlayedStream:
    """One connection: it gives pictures of a size, nothing for a while (None), or a fault."""

    def __init__(self, pieces: queue.Queue[Played]) -> None:
        self.size: tuple[int, int] | None = None
        self.closed = False
        self.is_heard = False
        self.sound: list[SoundBlock] = []  # that it gives with its next piece, if it is heard
        self._pieces = pieces

    def __iter__(self) -> Iterator[bool]:
        while True:
            piece = self._pieces.get(timeout=DEADLINE_S)
            if isinstance(piece, SourceFault):
                raise piece
            self.size = piece or self.size
            yield piece is not None

    def take_sound(self) -> Sequence[SoundBlock]:
        if not self.is_heard:
            return ()
        taken, self.sound = self.sound, []
        return taken

    def abandon(self) -> None:
        self._pieces.put(SourceFault("the reader was cancelled", "closed"))

    def close(self) -> None:
        self.closed = True
