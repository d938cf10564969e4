"""The pixels of frames between decoder and stages: a shared file for each source and picture size.

The number of a frame, which counts the source's frames over all epochs, selects its slot. The
slot's header has the frame's position and a count of writes, which is odd during a write (a
sequence lock). It also marks a frame whose pixels are lost for good. A reader checks the header
before and after it uses the pixels, so it never takes a torn or replaced frame for the right one.
This needs an order: other processes must see the stores to header and pixels in the order of the
program, which `barrier` provides.

The supervisor *retires* a store that is no longer used. Its memory is free at once, although
processes have it mapped; a process that sees the mark asks for another store.

A sound store keeps blocks of samples in the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import platform
import struct
from collections.abc import Callable
from typing import Final

from framegate.pipeline.contracts.errors import Fenced, FrameLost, MachineRefused
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import SOUND_KEPT_S, SOUND_RATE, SoundBlock
from framegate.pipeline.shared_memory.mapping import free_pages, map_shared

PAGE = 4096

# Words of the first page: the writer's fencing token, whether the store is retired, the layout of
# the rest, which the first writer sets, and the monotonic milliseconds until which a reader wants
# each frame.
_WRITER, _RETIRED, _SLOTS, _SLOT_BYTES, _WANTED_MS = range(5)
_HEAD_BYTES = 40
# A slot's header: epoch, seq, count of writes, whether the frame is lost, number of the frame;
# padded to a cache line.
_HEADER_WORDS = 8

_IN_ORDER = ("x86_64", "AMD64")  # these CPUs show stores to other CPUs in the order of the program
_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "arm64": 283, "riscv64": 283}
_BARRIER, _REGISTER = 1 << 1, 1 << 2  # MEMBARRIER_CMD_(REGISTER_)GLOBAL_EXPEDITED


def barrier(machine: str = "", everywhere: bool = False) -> Callable[[], None]:
    """Return a function that a writer calls between two stores that must be seen in their order.

    After it, no process sees a later store before an earlier one. If the CPU does not guarantee
    that, the kernel passes all processes that share memory here through a barrier (membarrier(2),
    a few microseconds), so readers need no barrier of their own. Raises MachineRefused if the
    kernel cannot.

    everywhere  use the kernel's barrier on any CPU
    """
    machine = machine or platform.machine()
    if machine in _IN_ORDER and not everywhere:
        return lambda: None
    call = ctypes.CDLL(None, use_errno=True).syscall
    number = _MEMBARRIER.get(machine)
    if number is None or call(number, _REGISTER, 0, 0) != 0:
        raise MachineRefused(
            f"this machine ({machine}) does not order memory writes for other processes, and the "
            "kernel offers no membarrier, so frames could be torn; use x86-64, or arm64 with Linux "
            "4.16 or later in a container that allows membarrier"
        )
    return lambda: call(number, _BARRIER, 0, 0)


usual_barrier = functools.cache(barrier)
"""Return this process's barrier; registers the process once."""


def frame_store_bytes(slots: int, slot_bytes: int) -> int:
    """Return the size of the file for `slots` frames of `slot_bytes`."""
    return _data_start(slots) + slots * _page_up(slot_bytes)


def retire_frame_store(descriptor: int) -> None:
    """Mark a store as retired, remove its frames and free its memory, even where it is mapped."""
    whole = map_shared(descriptor)
    head = whole[:_HEAD_BYTES].cast("Q")
    head[_RETIRED] = 1
    end = _data_start(head[_SLOTS])
    # Headers before pixels: a reader of a frame sees afterwards that the frame is gone.
    whole[PAGE:end] = bytes(end - PAGE)
    usual_barrier()()
    with contextlib.suppress(OSError):  # no holes in this file system: unmapping frees the memory
        free_pages(whole, end)


def copy_newest(descriptor: int, make: Callable[[int], int]) -> int | None:
    """Return a frame store of one slot with the newest frame; None if there is no frame.

    make  returns a descriptor of a new file of the given size in bytes
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
    """One process's mapping of a frame store.

    One writer for a slot at a time; readers in any process and thread.
    """

    def __init__(self, descriptor: int, slots: int, slot_bytes: int) -> None:
        """Map the file of frame_store_bytes(slots, slot_bytes); the descriptor stays open.

        A layout in the file, which its first writer sets, replaces the arguments.
        """
        whole = map_shared(descriptor)
        self._in_order = usual_barrier()
        self._head = whole[:_HEAD_BYTES].cast("Q")
        if self._head[_SLOTS]:
            slots = self._head[_SLOTS]
            slot_bytes = self._head[_SLOT_BYTES]
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._headers = whole[PAGE : PAGE + 64 * slots].cast("Q")
        start = _data_start(slots)
        self._slots: list[memoryview] = []
        for _ in range(slots):
            self._slots.append(whole[start : start + slot_bytes])
            start += _page_up(slot_bytes)

    @property
    def retired(self) -> bool:
        """Return whether the store is retired; then ask the supervisor for its replacement."""
        return bool(self._head[_RETIRED])

    def want(self, until_s: float) -> None:
        """Ask a decoder that decodes lazily for all frames until a monotonic time. Any process."""
        self._head[_WANTED_MS] = max(self._head[_WANTED_MS], int(until_s * 1000))

    def is_wanted(self, now_s: float) -> bool:
        """Return whether a reader wants all frames now, monotonic seconds."""
        return now_s * 1000 < self._head[_WANTED_MS]

    def newest(self) -> tuple[Position, memoryview] | None:
        """Return the last complete frame and its bytes; None if there is no frame."""
        complete = []
        for slot in range(self.slots):
            at = slot * _HEADER_WORDS
            if self._headers[at] and self._headers[at + 2] % 2 == 0:
                complete.append((Position(*self._headers[at : at + 2]), slot))
        if not complete:
            return None
        position, slot = max(complete)
        return position, self._slots[slot].toreadonly()

    def holds(self, number: int, position: Position) -> bool:
        """Return whether a frame is complete in its slot."""
        return self._slot_holds(number % self.slots, position)

    def is_settled(self, number: int) -> bool:
        """Return whether a frame is complete in its slot, or lost for good."""
        at = number % self.slots * _HEADER_WORDS
        is_there = self._headers[at] > 0 and self._headers[at + 4] == number
        return is_there and (self._headers[at + 2] % 2 == 0 or self._headers[at + 3] == 1)

    def _slot_holds(self, slot: int, position: Position) -> bool:
        at = slot * _HEADER_WORDS
        in_slot = (self._headers[at], self._headers[at + 1])
        return in_slot == position and self._headers[at + 2] % 2 == 0

    def become_writer(self, token: int) -> None:
        """Write from now on under this fencing token. Raise Fenced if the writer's is later."""
        if self._head[_WRITER] > token or self.retired:
            raise Fenced("another decoder took over and writes the pixels now")
        self._head[_WRITER] = token
        self._head[_SLOT_BYTES] = self.slot_bytes
        self._head[_SLOTS] = self.slots  # last: a reader takes the layout once this is not 0

    def is_writer(self, token: int) -> bool:
        """Return whether this token is the writer's and the store is in use."""
        return self._head[_WRITER] == token and not self.retired

    def give_up(self, number: int, position: Position) -> None:
        """Mark a frame's pixels as lost for good, so that no reader waits for them."""
        at = number % self.slots * _HEADER_WORDS
        self._headers[at + 2] |= 1
        self._headers[at], self._headers[at + 1] = position
        self._headers[at + 4] = number
        self._headers[at + 3] = 1

    def writing(self, number: int, position: Position) -> SlotWrite:
        """Return a context with the bytes of the frame's slot; its end completes the frame."""
        slot = number % self.slots
        at = slot * _HEADER_WORDS
        return SlotWrite(self._headers, at, number, position, self._slots[slot], self._in_order)

    def reading(self, number: int, position: Position) -> SlotRead:
        """Return a context with the frame's bytes, read-only.

        It raises FrameLost at its begin if the frame is not complete in its slot, at its end if the
        frame was replaced meanwhile.
        """
        slot = number % self.slots
        return SlotRead(self._headers, slot, position, self._slots[slot])

    def finding(self, position: Position) -> SlotRead:
        """Return the same context for a frame of unknown number; looks at all slots.

        Raises FrameLost at once if no slot has the frame.
        """
        for slot in range(self.slots):
            if self._slot_holds(slot, position):
                return SlotRead(self._headers, slot, position, self._slots[slot])
        raise FrameLost(f"no slot holds frame {position}")

    def close(self) -> None:
        """Unmap. Views that callers keep delay this until they are released."""
        for view in (self._head, self._headers, *self._slots):
            with contextlib.suppress(BufferError):  # an array uses the view and releases it later
                view.release()


class SlotWrite:
    """A context that writes a slot. An error in it leaves the slot without a frame.

    The writer's side of a sequence lock: the count of writes is odd from before the first byte to
    after the last.
    """

    __slots__ = ("_at", "_headers", "_in_order", "_number", "_pixels", "_position")

    def __init__(
        self,
        headers: memoryview,
        at: int,
        number: int,
        position: Position,
        pixels: memoryview,
        in_order: Callable[[], None],
    ) -> None:
        self._headers = headers
        self._at = at
        self._number = number
        self._position = position
        self._pixels = pixels
        self._in_order = in_order

    def __enter__(self) -> memoryview:
        headers = self._headers
        at = self._at
        headers[at + 2] |= 1
        headers[at], headers[at + 1] = self._position
        headers[at + 3] = 0
        headers[at + 4] = self._number
        self._in_order()  # readers see the odd count before the first new pixel
        return self._pixels

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            return
        headers = self._headers
        at = self._at
        self._in_order()  # readers see all pixels before the even count
        if (headers[at], headers[at + 1]) == self._position:
            # Even, also if a successor wrote the same frame meanwhile: the pixels are the same.
            headers[at + 2] = (headers[at + 2] | 1) + 1
        else:  # a successor wrote another frame here, and this write damaged its pixels
            headers[at + 2] |= 1
            headers[at + 3] = 1


class SlotRead:
    """A context that reads a slot; FrameLost at its begin or end.

    The reader's side of a sequence lock: it delays no writer, so the pixels are valid only if the
    count of writes is even before and the same afterwards.
    """

    __slots__ = ("_headers", "_pixels", "_position", "_slot", "_writes")

    def __init__(
        self, headers: memoryview, slot: int, position: Position, pixels: memoryview
    ) -> None:
        self._headers = headers
        self._slot = slot
        self._position = position
        self._pixels = pixels
        self._writes = 0

    def _header(self) -> tuple[int, int, int]:
        at = self._slot * _HEADER_WORDS
        return self._headers[at], self._headers[at + 1], self._headers[at + 2]

    def __enter__(self) -> memoryview:
        epoch, seq, self._writes = self._header()
        if (epoch, seq) != self._position or self._writes % 2:
            given_up = self._headers[self._slot * _HEADER_WORDS + 3] == 1
            is_marked = given_up and (epoch, seq) == self._position
            # Frames are written in order. An older frame in the slot was written by a decoder that
            # was replaced, after this frame; no writer will replace it.
            is_overwritten = epoch > 0 and (epoch, seq) < self._position
            is_final = is_marked or is_overwritten
            what = f"slot {self._slot} has frame {epoch}-{seq}, not {self._position} complete"
            if is_final:
                what += ", which is lost for good"
            raise FrameLost(what, final=is_final)
        return self._pixels.toreadonly()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._header() != (*self._position, self._writes):
            raise FrameLost(f"frame {self._position} was replaced in slot {self._slot} meanwhile")


def _page_up(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE


def _data_start(slots: int) -> int:
    return PAGE + _page_up(64 * slots)


_HEADER: Final = struct.Struct("<d?7x")  # begins_s, follows of a SoundBlock
_SAMPLE_BYTES: Final = 4
_MIN_BLOCKS: Final = 8


def sound_store_bytes(block: int) -> int:
    """Return the size of the file for blocks of `block` samples."""
    return frame_store_bytes(_slots(block), _block_bytes(block))


class SoundStore:
    """One process's mapping of the last SOUND_KEPT_S seconds of a source's sound.

    One writer at a time; readers in any process and thread.
    """

    def __init__(self, descriptor: int, block: int) -> None:
        """Map the file of sound_store_bytes(block); the descriptor stays open."""
        self._blocks = FrameStore(descriptor, _slots(block), _block_bytes(block))

    @property
    def retired(self) -> bool:
        """Return whether the store is retired."""
        return self._blocks.retired

    def put(self, epoch: int, block: SoundBlock, token: int) -> None:
        """Replace the oldest block by this one. Raise Fenced if the writer's token is later."""
        position = Position(epoch, block.number)
        if not self._blocks.is_writer(token):
            self._blocks.become_writer(token)
        if self._blocks.holds(block.number, position):  # a file is decoded again
            return
        with self._blocks.writing(block.number, position) as slot:
            _HEADER.pack_into(slot, 0, block.begins_s, block.follows)
            slot[_HEADER.size :] = block.samples

    def read(self, position: Position) -> SoundBlock:
        """Return the block at <epoch>-<number>. Raise FrameLost if it is missing or replaced."""
        with self._blocks.reading(position.seq, position) as slot:
            begins_s, follows = _HEADER.unpack_from(slot, 0)
            return SoundBlock(position.seq, begins_s, follows, bytes(slot[_HEADER.size :]))

    def close(self) -> None:
        """Unmap the store."""
        self._blocks.close()


def _slots(block: int) -> int:
    return max(_MIN_BLOCKS, math.ceil(SOUND_KEPT_S * SOUND_RATE / block))


def _block_bytes(block: int) -> int:
    return _HEADER.size + _SAMPLE_BYTES * block
