"""The packets of frames that were not decoded, so that an audit can decode them after all.

A store has as many slots as the frame store of its source. The packets of a group are in the slot
with the number of the frame after it, so they stay as long as the pixels of that frame: until all
reliable readers have read it. The supervisor makes, keeps and frees the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import GROUP_BYTES, DecodePackets, Form
from framegate.pipeline.contracts.spec import Polygon
from framegate.pipeline.shared_memory.frame_store import FrameStore, frame_store_bytes
from framegate.pipeline.shared_memory.masks import Masks

_LENGTH_BYTES: Final = 4
_SLOT_BYTES: Final = GROUP_BYTES + (64 << 10)  # a group and the masks of its source


class StoredGroup(msgspec.Struct, frozen=True, array_like=True):
    """The packets of a group as its source wrote them, and the privacy masks of their pictures."""

    packets: bytes
    masks: tuple[Polygon, ...] = ()

    def pixels_at(self, pts: float | None, form: Form, decode: DecodePackets) -> bytes:
        """Return the pixels of its frame at `pts` (seconds), with the masked parts blanked."""
        pixels = decode(self.packets, pts, form)
        Masks(self.masks).blank(memoryview(pixels), form)
        return bytes(pixels)


def packet_store_bytes(slots: int) -> int:
    """Return the size of the file for `slots` groups."""
    return frame_store_bytes(slots, _SLOT_BYTES)


class PacketStore:
    """One process's mapping of the packets of a source. One writer at a time; any reader."""

    def __init__(self, descriptor: int, slots: int) -> None:
        """Map the file of packet_store_bytes(slots); the descriptor stays open."""
        self._groups = FrameStore(descriptor, slots, _SLOT_BYTES)

    @property
    def retired(self) -> bool:
        """Return whether the store is retired."""
        return self._groups.retired

    def put(
        self, epoch: int, number: int, packets: bytes, masks: Sequence[Polygon], token: int
    ) -> None:
        """Store a group before frame `number` (as in records.Record). One that is too large is
        left out, and one that is there stays. Raise Fenced if the writer's token is later.
        """
        if self._groups.holds(number, Position(epoch, number)):  # a file is decoded again
            return
        content = msgspec.msgpack.encode(StoredGroup(packets, tuple(masks)))
        if len(content) > _SLOT_BYTES - _LENGTH_BYTES:
            return
        if not self._groups.is_writer(token):
            self._groups.become_writer(token)
        with self._groups.writing(number, Position(epoch, number)) as slot:
            slot[:_LENGTH_BYTES] = len(content).to_bytes(_LENGTH_BYTES, "little")
            slot[_LENGTH_BYTES : _LENGTH_BYTES + len(content)] = content

    def read(self, epoch: int, number: int) -> StoredGroup:
        """Return the group before frame `number`. Raise FrameLost, as of a frame, without it."""
        try:
            with self._groups.reading(number, Position(epoch, number)) as slot:
                end = _LENGTH_BYTES + int.from_bytes(slot[:_LENGTH_BYTES], "little")
                content = bytes(slot[_LENGTH_BYTES:end])
        except FrameLost as lost:
            raise FrameLost(f"the packets before frame {number}: {lost}", lost.final) from lost
        return msgspec.msgpack.decode(content, type=StoredGroup)

    def close(self) -> None:
        """Unmap the store."""
        self._groups.close()
