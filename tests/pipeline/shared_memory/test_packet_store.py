"""Packets of undecoded frames in shared memory: they are read until their slot is used again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from framegate.pipeline.contracts.errors import Fenced, FrameLost
from framegate.pipeline.contracts.source import GROUP_BYTES, Form
from framegate.pipeline.shared_memory.mapping import make_shared_file
from framegate.pipeline.shared_memory.packet_store import PacketStore, packet_store_bytes

SLOTS = 3
MASKS = (((0.0, 0.0), (0.5, 0.0), (0.0, 0.5)),)


@pytest.fixture
def both() -> Iterator[tuple[PacketStore, PacketStore]]:
    """The views of two processes."""
    descriptor = make_shared_file(packet_store_bytes(SLOTS), "the test")
    stores = PacketStore(descriptor, SLOTS), PacketStore(descriptor, SLOTS)
    os.close(descriptor)
    yield stores
    for store in stores:
        store.close()


def test_a_group_is_there_with_its_masks_until_its_slot_is_used(
    both: tuple[PacketStore, PacketStore],
) -> None:
    writer, reader = both
    whole = os.urandom(GROUP_BYTES)
    for number in range(1, 5):
        writer.put(2, number, whole[number:], MASKS, token=1)
    for number in (2, 3, 4):
        group = reader.read(2, number)
        assert (group.packets, group.masks) == (whole[number:], MASKS)
    # A decoder that starts again writes the packets before frame 1 again, but not those behind an
    # older frame.
    for epoch, number, is_final in ((2, 1, False), (1, 2, False), (2, 5, True)):
        with pytest.raises(FrameLost) as lost:
            reader.read(epoch, number)
        assert lost.value.final == is_final


def test_a_frame_of_a_group_is_blank_where_its_source_is_masked(
    both: tuple[PacketStore, PacketStore],
) -> None:
    """As in the frame store: the left half of a frame of 4 x 2 pixels."""
    writer, reader = both
    left = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    writer.put(1, 3, b"packets", [left], token=1)

    def decode(packets: bytes, pts: float | None, form: Form) -> bytearray:
        assert (packets, pts) == (b"packets", 0.5)
        return bytearray([200] * form.nbytes)

    pixels = reader.read(1, 3).pixels_at(0.5, Form(4, 2), decode)
    assert list(pixels) == [16, 16, 200, 200, 16, 16, 200, 200, 128, 200, 128, 200]


def test_a_group_above_the_limit_is_left_out(both: tuple[PacketStore, PacketStore]) -> None:
    writer, reader = both
    writer.put(1, 0, bytes(2 * GROUP_BYTES), (), token=1)
    with pytest.raises(FrameLost):
        reader.read(1, 0)


def test_a_group_that_is_there_is_not_written_again(both: tuple[PacketStore, PacketStore]) -> None:
    """A reader may be at it, while the decoder of a file starts again."""
    writer, reader = both
    writer.put(1, 2, b"packets", (), token=1)
    writer.put(1, 2, b"others", (), token=2)
    assert reader.read(1, 2).packets == b"packets"


def test_an_older_token_writes_no_more(both: tuple[PacketStore, PacketStore]) -> None:
    writer, successor = both
    writer.put(1, 0, b"a", (), token=1)
    successor.put(1, 1, b"b", (), token=2)
    with pytest.raises(Fenced):
        writer.put(1, 2, b"c", (), token=1)
