"""Pictures of several slots in one response: whole parts, in any order, until a source moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import pytest

from framegate.pipeline.web import fleet
from framegate.pipeline.web.fleet import whole_parts
from framegate.pipeline.web.other_slots import joined

PARTS = [
    b'{"source":"north","position":"1-1","bytes":5}\n\xff\xd8\n\n\n',
    b'{"source":"south","position":"1-1","bytes":0}\n',
    b'{"source":"north","position":"1-2","bytes":3}\n{"}',
]


async def some(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def all_of(stream: Callable[[], AsyncIterator[bytes]]) -> list[bytes]:
    async def read() -> list[bytes]:
        return [part async for part in stream()]

    return asyncio.run(read())


@pytest.mark.parametrize("size", [1, 2, 7, 50, 1000])
def test_parts_are_whole_whatever_the_pieces(size: int) -> None:
    body = b"".join(PARTS)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert all_of(lambda: whole_parts(some(pieces))) == PARTS
    assert all_of(lambda: whole_parts(some([body[:-1]]))) == PARTS[:-1]


@pytest.mark.parametrize("pieces", [[b'{"bytes":101}\n'], [b"x"] * 102])
def test_a_part_that_is_too_large_is_refused(
    pieces: Sequence[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "PART_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        all_of(lambda: whole_parts(some(pieces)))


def test_streams_are_joined_until_all_end_or_a_source_has_moved() -> None:
    async def never() -> bool:
        return False

    shown: list[bytes] = []

    async def has_moved() -> bool:
        return len(shown) > 2

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"c"
            await asyncio.sleep(0)

    both = all_of(lambda: joined([some([b"a1", b"a2"]), some([b"b1"])], never, 60.0))
    assert sorted(both) == [b"a1", b"a2", b"b1"]
    assert both.index(b"a1") < both.index(b"a2")

    async def look() -> None:
        async for part in joined([endless(), endless()], has_moved, 0.01):
            shown.append(part)

    asyncio.run(look())
    assert set(shown) == {b"c"}
    assert all_of(lambda: joined([], never, 60.0)) == []
