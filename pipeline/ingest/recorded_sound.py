"""The sound of a camera's recorded stream, for the frames of the stream that is decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from framegate.pipeline.contracts.source import SOUND_MOST_S, SoundBlock


class RecordedSound:
    """Blocks that wait for a frame of their time, oldest first. The caller locks.

    Each connection of the recorded stream has a clock and block numbers of its own. Here all blocks
    are numbered on, and their times are on the clock of the frames. Each epoch of the frames has a
    clock of its own, so blocks on the clock of another epoch are dropped.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, SoundBlock]] = deque()  # with the epoch of their times
        self._n_dropped = 0
        self._number = 0

    def put(self, blocks: Iterable[SoundBlock], offset_s: float, epoch: int) -> None:
        """Append blocks. The oldest are dropped beyond what a frame may carry.

        offset_s, epoch  seconds to add to their times, and the epoch in which this is right; see
                         Alignment
        """
        for block in blocks:
            begins_s = block.begins_s + offset_s
            renumbered = block._replace(number=self._number, begins_s=begins_s)
            self._waiting.append((epoch, renumbered))
            self._number += 1
            if len(self._waiting) * block.seconds > SOUND_MOST_S:
                self._waiting.popleft()
                self._n_dropped += 1

    def take(self, until_s: float | None, epoch: int) -> tuple[SoundBlock, ...]:
        """Return the blocks that ended by this time of this epoch's frames; None: all blocks."""
        taken: list[SoundBlock] = []
        while self._waiting:
            block_epoch, first = self._waiting[0]
            is_of_epoch = block_epoch == epoch
            if is_of_epoch and until_s is not None and first.begins_s + first.seconds > until_s:
                break
            self._waiting.popleft()
            if is_of_epoch:
                taken.append(first)
            else:
                self._n_dropped += 1
        return tuple(taken)

    def take_dropped(self) -> int:
        """Return the number of blocks that were dropped since the last call."""
        n_dropped, self._n_dropped = self._n_dropped, 0
        return n_dropped
