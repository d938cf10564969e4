"""The pixels of the frames on their way: one shared-memory file for each (source, picture size).

Slot = frame number mod slots, where the frame number counts a source's frames over all epochs.
A slot's header says whose pixels it holds and how often it was written: an odd number is a write
in progress. A reader checks before and after use, so a torn or replaced frame is never taken
for the frame that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import FrameLost
from pipeline.records import Position
from pipeline.shared_file import map_shared

PAGE = 4096
_HEADER_WORDS = 8  # 64 bytes a slot: epoch, seq, writes, and room


def frame_store_bytes(slots: int, slot_bytes: int) -> int:
    """Size of the file for `slots` frames of `slot_bytes`."""
    return _data_start(slots) + slots * _page_up(slot_bytes)


class FrameStore:
    """One process's view. One writer a slot at a time; readers in any process and thread."""

    def __init__(self, descriptor: int, slots: int, slot_bytes: int) -> None:
        """Map the file of frame_store_bytes(slots, slot_bytes); the descriptor stays open."""
        self._map = map_shared(descriptor)
        self.slots = slots
        self.slot_bytes = slot_bytes
        whole = memoryview(self._map)
        self._headers = whole[PAGE : PAGE + 64 * slots].cast("Q")
        start, step = _data_start(slots), _page_up(slot_bytes)
        self._slots = [
            whole[start + i * step : start + i * step + slot_bytes] for i in range(slots)
        ]

    def holds(self, slot: int, position: Position) -> bool:
        """Whether the slot holds this frame, whole."""
        epoch, seq, writes = self._header(slot)
        return (epoch, seq) == position and writes % 2 == 0

    def _header(self, slot: int) -> tuple[int, int, int]:
        at = slot * _HEADER_WORDS
        return self._headers[at], self._headers[at + 1], self._headers[at + 2]

    @contextmanager
    def writing(self, slot: int, position: Position) -> Iterator[memoryview]:
        """The slot's bytes to fill; only after the block does it hold the frame."""
        at = slot * _HEADER_WORDS
        self._headers[at + 2] |= 1
        self._headers[at], self._headers[at + 1] = position
        yield self._slots[slot]
        self._headers[at + 2] += 1

    @contextmanager
    def reading(self, slot: int, position: Position) -> Iterator[memoryview]:
        """The frame's bytes, read-only. FrameLost if it is not there, or was replaced meanwhile."""
        epoch, seq, writes = self._header(slot)
        if (epoch, seq) != position or writes % 2:
            raise FrameLost(f"slot {slot} holds frame {epoch}-{seq}, not {position}")
        yield self._slots[slot].toreadonly()
        if self._header(slot) != (epoch, seq, writes):
            raise FrameLost(f"frame {position} was replaced in slot {slot} while it was read")

    def close(self) -> None:
        """Unmap. Views that callers still hold keep the memory until they go."""
        try:
            self._headers.release()
            for slot in self._slots:
                slot.release()
            self._map.close()
        except BufferError:
            pass  # an array still looks at it; the last one to go unmaps it


def _page_up(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE


def _data_start(slots: int) -> int:
    return PAGE + _page_up(64 * slots)
