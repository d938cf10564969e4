"""The sound of a camera's recorded stream, for the frames of the stream that is decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from framegate.pipeline.contracts.source import SOUND_MOST_S, SoundBlock


class RecordedSound:
    """Blocks that wait for a frame of their time, oldest first. The caller locks.

    Each connection of the recorded stream has a clock and block numbers of its own. Here all blocks
    are numbered on, and their times are on the clock of the frames.
    """

    def __init__(self) -> None:
        self._waiting: deque[SoundBlock] = deque()
        self._number = 0

    def put(self, blocks: Iterable[SoundBlock], offset_s: float) -> None:
        """Append blocks. The oldest are dropped beyond what a frame may carry.

        offset_s  seconds to add to their times, see Alignment
        """
        for block in blocks:
            begins_s = block.begins_s + offset_s
            self._waiting.append(block._replace(number=self._number, begins_s=begins_s))
            self._number += 1
            if len(self._waiting) * block.seconds > SOUND_MOST_S:
                self._waiting.popleft()

    def take(self, until_s: float | None) -> tuple[SoundBlock, ...]:
        """Return the blocks that ended by this time of the frames; None: all blocks."""
        taken: list[SoundBlock] = []
        while self._waiting:
            first = self._waiting[0]
            if until_s is not None and first.begins_s + first.seconds > until_s:
                break
            taken.append(self._waiting.popleft())
        return tuple(taken)
