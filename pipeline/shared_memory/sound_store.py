"""The last seconds of a source's sound: a frame store whose frames are blocks of sound."""

from __future__ import annotations

import math
import struct
from typing import Final

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import SOUND_KEPT_S, SOUND_RATE, SoundBlock
from framegate.pipeline.shared_memory.frame_store import FrameStore, frame_store_bytes

_HEADER: Final = struct.Struct("<d?7x")  # when it begins, whether it follows
_SAMPLE_BYTES: Final = 4
_LEAST: Final = 8  # blocks


def sound_store_bytes(block: int) -> int:
    """Size of the file for blocks of so many samples."""
    return frame_store_bytes(_slots(block), _block_bytes(block))


class SoundStore:
    """One process's view. One writer at a time; readers in any process and thread."""

    def __init__(self, descriptor: int, block: int) -> None:
        """Map the file of sound_store_bytes(block); the descriptor stays open."""
        self._blocks = FrameStore(descriptor, _slots(block), _block_bytes(block))

    @property
    def retired(self) -> bool:
        """Return whether it is nobody's any more."""
        return self._blocks.retired

    def put(self, epoch: int, block: SoundBlock, token: int) -> None:
        """Keep a block, in place of the oldest. Fenced if a later token's holder writes."""
        position = Position(epoch, block.number)
        if not self._blocks.is_writer(token):
            self._blocks.become_writer(token)
        if self._blocks.holds(block.number, position):  # a file's that is decoded again
            return
        with self._blocks.writing(block.number, position) as slot:
            _HEADER.pack_into(slot, 0, block.begins_s, block.follows)
            slot[_HEADER.size :] = block.samples

    def read(self, position: Position) -> SoundBlock:
        """Return the block at <epoch>-<number>; FrameLost if it is not there, or was replaced."""
        with self._blocks.reading(position.seq, position) as slot:
            begins_s, follows = _HEADER.unpack_from(slot, 0)
            return SoundBlock(position.seq, begins_s, follows, bytes(slot[_HEADER.size :]))

    def close(self) -> None:
        """Unmap."""
        self._blocks.close()


def _slots(block: int) -> int:
    return max(_LEAST, math.ceil(SOUND_KEPT_S * SOUND_RATE / block))


def _block_bytes(block: int) -> int:
    return _HEADER.size + _SAMPLE_BYTES * block
