"""Requests to other slots, and pictures of several slots in one response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing

import pytest
from starlette.requests import Request

from framegate.pipeline.web.fleet import fleet
from framegate.pipeline.web.fleet.fleet import whole_parts
from framegate.pipeline.web.fleet.forward import Forwarder, OtherHost
from framegate.pipeline.web.fleet.other_slots import joined
from framegate.pipeline.web.limits import Refusal

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


def test_a_part_of_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        all_of(lambda: whole_parts(some([b'{"bytes":-13}\n'])))


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


def exchanged(cookie: str, reply: bytes) -> tuple[str, int]:
    """Return what another host gets of a request with this cookie, and the status of the answer."""
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(reply)
        await writer.drain()
        writer.close()

    async def ask() -> int:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as there:
            port = there.sockets[0].getsockname()[1]
            headers = [(b"cookie", cookie.encode()), (b"accept", b"text/html")]
            scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers}
            request = Request({**scope, "query_string": b"", "server": ("here", 80)})
            try:
                response = await Forwarder().answer(
                    request, OtherHost("b", "there", f"127.0.0.1:{port}")
                )
            except Refusal as refusal:
                return refusal.status
            response.close()
            return response.status_code

    status = asyncio.run(ask())
    return heads[0], status


def test_another_host_gets_only_the_cookie_of_the_session() -> None:
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    head, status = exchanged("wiki=a-secret; framegate_0a1b2c3d=value; x=y", reply)
    assert status == 200
    assert "cookie: framegate_0a1b2c3d=value\r\n" in head
    assert "a-secret" not in head
    assert "cookie" not in exchanged("wiki=a-secret", reply)[0]


def test_live_pictures_take_no_place_of_other_requests() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n1")
        if b"/live" not in head:
            writer.write(b"2")
        await writer.drain()

    async def ask() -> int:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as there:
            at = OtherHost("b", "there", f"127.0.0.1:{there.sockets[0].getsockname()[1]}")
            scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
            request = Request({**scope, "query_string": b"", "server": ("here", 80)})
            forwarder = Forwarder(1)
            async with aclosing(forwarder.parts(request, at, "/live")) as pictures:
                assert await anext(pictures) == b"1"
                with pytest.raises(Refusal, match="1 live pictures of other hosts"):
                    await anext(forwarder.parts(request, at, "/live"))
                response = await forwarder.answer(request, at)
                response.close()
                return response.status_code

    assert asyncio.run(ask()) == 200


def test_the_login_page_of_another_host_is_no_answer() -> None:
    reply = b"HTTP/1.1 303 See Other\r\nlocation: login?next=x\r\ncontent-length: 0\r\n\r\n"
    assert exchanged("framegate_0a1b2c3d=value", reply)[1] == 502
