"""Blocks of sound in shared memory: what was put is read, what was replaced is not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from framegate.pipeline.contracts.errors import Fenced, FrameLost
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import SOUND_KEPT_S, SOUND_RATE, SoundBlock
from framegate.pipeline.shared_memory.frame_store import SoundStore, sound_store_bytes
from framegate.pipeline.shared_memory.mapping import make_shared_file

BLOCK = SOUND_RATE // 2
KEPT = round(SOUND_KEPT_S * 2)


@pytest.fixture
def both() -> Iterator[tuple[SoundStore, SoundStore]]:
    """The views of two processes."""
    descriptor = make_shared_file(sound_store_bytes(BLOCK), "the test")
    stores = SoundStore(descriptor, BLOCK), SoundStore(descriptor, BLOCK)
    os.close(descriptor)
    yield stores
    for store in stores:
        store.close()


def block(number: int, follows: bool = True) -> SoundBlock:
    return SoundBlock(number, number / 2 + 0.25, follows, bytes([number % 251]) * (4 * BLOCK))


def test_the_last_seconds_are_there_as_they_were_put(both: tuple[SoundStore, SoundStore]) -> None:
    writer, reader = both
    blocks = [block(n, follows=n % 3 > 0) for n in range(KEPT + 5)]
    for one in blocks:
        writer.put(7, one, token=1)
    assert [reader.read(Position(7, n)) for n in range(5, KEPT + 5)] == blocks[5:]
    for gone in (0, 4, KEPT + 5):
        with pytest.raises(FrameLost):
            reader.read(Position(7, gone))
    with pytest.raises(FrameLost):
        reader.read(Position(6, 10))


def test_an_older_token_writes_no_more(both: tuple[SoundStore, SoundStore]) -> None:
    writer, successor = both
    writer.put(1, block(0), token=1)
    successor.put(1, block(1), token=2)
    with pytest.raises(Fenced):
        writer.put(1, block(2), token=1)
