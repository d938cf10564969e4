"""The pixels of the frames on their way: one shared-memory file for each (source, picture size).

A frame's number, which counts a source's frames over all epochs, says which slot it lies in. A
slot's header says whose pixels it holds and how often it was written: an odd number is a write
in progress. It may also say that a frame's pixels will never come. A reader checks before and
after use, so a torn or replaced frame is never taken for the frame that was asked for. For that the
header's stores and the pixels' must be seen in their order: see mapping.barrier.

A store that nobody wants any more is *retired* by the supervisor: its memory is free at once,
whoever has it mapped, and who finds it marked so asks for another.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable
from typing import Final

from framegate.pipeline.contracts.errors import Fenced, FrameLost
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import SOUND_KEPT_S, SOUND_RATE, SoundBlock
from framegate.pipeline.shared_memory.mapping import free_pages, map_shared, usual_barrier

PAGE = 4096

# Words of the first page: who writes (a fencing token), whether it is retired, and how the rest is
# laid out, once somebody has written.
_WRITER, _RETIRED, _SLOTS, _SLOT_BYTES = range(4)
_HEAD_BYTES = 32
_HEADER_WORDS = 8  # 64 bytes a slot: epoch, seq, writes, whether lost, and room


def frame_store_bytes(slots: int, slot_bytes: int) -> int:
    """Size of the file for `slots` frames of `slot_bytes`."""
    return _data_start(slots) + slots * _page_up(slot_bytes)


def retire_frame_store(descriptor: int) -> None:
    """Let nobody find a frame in it any more, and free its memory, mapped or not."""
    whole = map_shared(descriptor)
    head = whole[:_HEAD_BYTES].cast("Q")
    head[_RETIRED] = 1
    end = _data_start(head[_SLOTS])
    # Headers before pixels: who reads a frame meanwhile sees after it that it was none.
    whole[PAGE:end] = bytes(end - PAGE)
    usual_barrier()()
    with contextlib.suppress(OSError):  # a file system without holes: it goes unmapped
        free_pages(whole, end)


def copy_newest(descriptor: int, make: Callable[[int], int]) -> int | None:
    """A frame store of one slot with the last frame of this one; None if it has no frame.

    make: a descriptor of a new file of so many bytes
    """
    store = FrameStore(descriptor, 0, 0)
    try:
        newest = store.newest()
        if newest is None:
            return None
        position, pixels = newest
        made = make(frame_store_bytes(1, store.slot_bytes))
        copy = FrameStore(made, 1, store.slot_bytes)
        copy.become_writer(0)
        with copy.writing(0, position) as slot:
            slot[:] = pixels
        pixels.release()
        copy.close()
        return made
    finally:
        store.close()


class FrameStore:
    """One process's view. One writer a slot at a time; readers in any process and thread."""

    def __init__(self, descriptor: int, slots: int, slot_bytes: int) -> None:
        """Map the file of frame_store_bytes(slots, slot_bytes); the descriptor stays open.

        Where the file itself says how many slots it has, that holds.
        """
        whole = map_shared(descriptor)
        self._in_order = usual_barrier()
        self._head = whole[:_HEAD_BYTES].cast("Q")
        if self._head[_SLOTS]:
            slots, slot_bytes = self._head[_SLOTS], self._head[_SLOT_BYTES]
        self.slots, self.slot_bytes = slots, slot_bytes
        self._headers = whole[PAGE : PAGE + 64 * slots].cast("Q")
        start, step = _data_start(slots), _page_up(slot_bytes)
        self._slots = [
            whole[start + i * step : start + i * step + slot_bytes] for i in range(slots)
        ]

    @property
    def retired(self) -> bool:
        """Return whether it is nobody's any more: ask for the one that took its place."""
        return bool(self._head[_RETIRED])

    def newest(self) -> tuple[Position, memoryview] | None:
        """The last frame that is there whole, and its bytes."""
        held = [
            (Position(*self._headers[at : at + 2]), slot)
            for slot, at in enumerate(range(0, _HEADER_WORDS * self.slots, _HEADER_WORDS))
            if self._headers[at] and self._headers[at + 2] % 2 == 0
        ]
        if not held:
            return None
        position, slot = max(held)
        return position, self._slots[slot].toreadonly()

    def _slot(self, number: int) -> int:
        """Where the frame of this number lies, and nowhere else."""
        return number % self.slots

    def holds(self, number: int, position: Position) -> bool:
        """Return whether this frame is there, whole."""
        return self._slot_holds(self._slot(number), position)

    def _slot_holds(self, slot: int, position: Position) -> bool:
        at = slot * _HEADER_WORDS
        held = (self._headers[at], self._headers[at + 1])
        return held == position and self._headers[at + 2] % 2 == 0

    def become_writer(self, token: int) -> None:
        """Write from now on under this fencing token; Fenced if a later one's holder writes."""
        if self._head[_WRITER] > token or self.retired:
            raise Fenced("another decoder took over and writes the pixels now")
        self._head[_WRITER] = token
        self._head[_SLOT_BYTES], self._head[_SLOTS] = self.slot_bytes, self.slots

    def is_writer(self, token: int) -> bool:
        """Return whether the holder of this token writes, and nobody with a later one."""
        return self._head[_WRITER] == token and not self.retired

    def give_up(self, number: int, position: Position) -> None:
        """Say that this frame's pixels will never come: whoever waits for them need not."""
        at = self._slot(number) * _HEADER_WORDS
        self._headers[at + 2] |= 1
        self._headers[at], self._headers[at + 1] = position
        self._headers[at + 3] = 1

    def writing(self, number: int, position: Position) -> SlotWrite:
        """The bytes of the frame's slot to fill; only after the block does it hold the frame."""
        slot = self._slot(number)
        at = slot * _HEADER_WORDS
        return SlotWrite(self._headers, at, position, self._slots[slot], self._in_order)

    def reading(self, number: int, position: Position) -> SlotRead:
        """The frame's bytes, read-only. FrameLost if it is not there, or was replaced meanwhile."""
        slot = self._slot(number)
        return SlotRead(self._headers, slot, position, self._slots[slot])

    def finding(self, position: Position) -> SlotRead:
        """The same for a reader who does not know the frame's number: looks into all slots."""
        for slot in range(self.slots):
            if self._slot_holds(slot, position):
                return SlotRead(self._headers, slot, position, self._slots[slot])
        raise FrameLost(f"no slot holds frame {position}")

    def close(self) -> None:
        """Unmap. Views that callers still hold keep the memory until they go."""
        for view in (self._head, self._headers, *self._slots):
            with contextlib.suppress(BufferError):  # an array looks at it; with that one it goes
                view.release()


class SlotWrite:
    """A slot while it is written: `with` it. An error leaves it without a frame.

    The writer's side of a sequence lock: the count of writes is odd from before the first byte
    until after the last.
    """

    __slots__ = ("_at", "_headers", "_in_order", "_pixels", "_position")

    def __init__(
        self,
        headers: memoryview,
        at: int,
        position: Position,
        pixels: memoryview,
        in_order: Callable[[], None],
    ) -> None:
        self._headers, self._at, self._position, self._pixels = headers, at, position, pixels
        self._in_order = in_order

    def __enter__(self) -> memoryview:
        headers, at = self._headers, self._at
        headers[at + 2] |= 1
        headers[at], headers[at + 1] = self._position
        headers[at + 3] = 0
        self._in_order()  # that it is written, before any of its pixels
        return self._pixels

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            return
        headers, at = self._headers, self._at
        self._in_order()  # all its pixels, before that it is whole
        if (headers[at], headers[at + 1]) == self._position:
            headers[at + 2] = (headers[at + 2] | 1) + 1  # even, whoever else wrote the same frame
        else:  # a successor wrote another frame here, and this one wrote over its pixels
            headers[at + 2] |= 1
            headers[at + 3] = 1


class SlotRead:
    """A slot while it is read: `with` it; FrameLost at either end.

    The reader's side of a sequence lock: it holds up no writer, so what was read counts only if
    the header is the same, and even, after it.
    """

    __slots__ = ("_headers", "_pixels", "_position", "_slot", "_writes")

    def __init__(
        self, headers: memoryview, slot: int, position: Position, pixels: memoryview
    ) -> None:
        self._headers, self._slot, self._position, self._pixels = headers, slot, position, pixels
        self._writes = 0

    def _header(self) -> tuple[int, int, int]:
        at = self._slot * _HEADER_WORDS
        return self._headers[at], self._headers[at + 1], self._headers[at + 2]

    def __enter__(self) -> memoryview:
        epoch, seq, self._writes = self._header()
        if (epoch, seq) != self._position or self._writes % 2:
            given_up = self._headers[self._slot * _HEADER_WORDS + 3] == 1
            lost = given_up and (epoch, seq) == self._position
            # Frames come in order: an older one in its place is a zombie's, and stays.
            lost = lost or (epoch > 0 and (epoch, seq) < self._position)
            what = f"slot {self._slot} holds frame {epoch}-{seq}, not {self._position}"
            raise FrameLost(f"{what}, for good" if lost else what, final=lost)
        return self._pixels.toreadonly()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._header() != (*self._position, self._writes):
            raise FrameLost(f"frame {self._position} was replaced in slot {self._slot} meanwhile")


def _page_up(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE


def _data_start(slots: int) -> int:
    return PAGE + _page_up(64 * slots)


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
