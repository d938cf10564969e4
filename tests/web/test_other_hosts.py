"""Hosts of a fleet that have what this one lacks: which one answers, and how long that may take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request

from framegate.pipeline.web.fleet.forward import Forwarder, OtherHost
from framegate.pipeline.web.limits import Refusal
from framegate.pipeline.web.recordings.other_hosts import ASKED_AT_ONCE, first_response

HAS_IT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LACKS_IT = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
SILENT = b""
SOON_S = 0.05  # until the next host is asked
LONG_S = 600.0  # no test waits for it

Found = tuple[str, list[str]]


class Hosts:
    """Servers that give each request the same reply, or none.

    asked   numbers of the servers that were asked, in order
    heads   heads of their requests, in the same order
    closed  numbers of the silent servers whose connection was closed
    """

    def __init__(self, replies: Sequence[bytes]) -> None:
        self._replies = replies
        self.asked: list[int] = []
        self.heads: list[str] = []
        self.closed: list[int] = []

    async def open(self, stack: contextlib.AsyncExitStack) -> list[OtherHost]:
        """Start the servers until `stack` closes."""
        hosts = []
        for number, reply in enumerate(self._replies):
            answer = self._server(number, reply)
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            hosts.append(OtherHost(f"s{number}", f"host{number}", f"127.0.0.1:{port}"))
        return hosts

    def _server(
        self, number: int, reply: bytes
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked.append(number)
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if reply == SILENT:
                await reader.read()
                self.closed.append(number)
            writer.write(reply)
            writer.close()

        return answer


def found(hosts: Hosts, within_s: float = LONG_S, next_s: float = SOON_S) -> Found:
    """The slot that answered ("": none), and the reasons of those that did not."""

    async def look() -> Found:
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
        request = Request({**scope, "query_string": b"", "server": ("here", 80)})
        forwarder = Forwarder()
        answered = []

        async def ask(at: OtherHost) -> object:
            response = await forwarder.answer(request, at)
            answered.append((response, at.slot))
            return response

        async with contextlib.AsyncExitStack() as stack:
            there = await hosts.open(stack)
            response, refusals = await first_response(ask, there, within_s, next_s)  # type: ignore[arg-type]
            if response is not None:
                response.close()
            slots = [slot for each, slot in answered if each is response]
            silent = [number for number in hosts.asked if hosts._replies[number] == SILENT]
            async with asyncio.timeout(LONG_S):
                while len(hosts.closed) < len(silent):
                    await asyncio.sleep(0.01)
        assert all(isinstance(each, Refusal) for each in refusals)
        return "".join(slots), [f"{each.status} {each}" for each in refusals]

    return asyncio.run(look())


def test_hosts_are_asked_in_their_order_until_one_has_it() -> None:
    hosts = Hosts([LACKS_IT, HAS_IT, HAS_IT])
    assert found(hosts, next_s=LONG_S) == ("s1", [])
    assert hosts.asked == [0, 1], "the next host is asked only after a refusal"


def test_silent_hosts_do_not_delay_one_that_has_it_and_their_connections_are_closed() -> None:
    hosts = Hosts([SILENT, SILENT, HAS_IT])
    assert found(hosts) == ("s2", [])
    assert sorted(hosts.closed) == [0, 1]


def test_all_hosts_together_have_one_deadline_and_those_that_do_not_answer_are_named() -> None:
    hosts = Hosts([SILENT] * (ASKED_AT_ONCE + 2))
    slot, reasons = found(hosts, within_s=1.0, next_s=0.0)
    assert slot == ""
    assert len(reasons) == ASKED_AT_ONCE + 2, "also hosts that were not asked in time"
    assert len(hosts.asked) <= ASKED_AT_ONCE
    for number, reason in enumerate(reasons):
        assert reason.startswith(f"503 slot s{number} on host host{number} (http://127.0.0.1:")
        words = "does not answer within 1 s; try later"
        if number >= ASKED_AT_ONCE:
            words = "was not asked within 1 s; try later"
        assert reason.endswith(words)


def test_a_host_that_cannot_be_reached_is_named_and_the_next_is_asked_at_once() -> None:
    hosts = Hosts([LACKS_IT])

    async def look() -> tuple[object, list[Refusal]]:
        async with contextlib.AsyncExitStack() as stack:
            [there] = await hosts.open(stack)
            scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
            request = Request({**scope, "query_string": b"", "server": ("here", 80)})
            forwarder = Forwarder()
            gone = OtherHost("gone", "away", "127.0.0.1:1")
            return await first_response(
                lambda at: forwarder.answer(request, at), [gone, there], LONG_S, LONG_S
            )

    response, [refusal] = asyncio.run(look())
    assert response is None
    assert hosts.asked == [0]
    assert refusal.status == 503
    assert str(refusal).startswith("slot gone on host away (http://127.0.0.1:1) does not answer: ")


def test_the_header_host_of_a_caller_does_not_change_what_another_host_is_asked_for() -> None:
    hosts = Hosts([HAS_IT])

    async def look() -> None:
        headers = [(b"host", b"here/api/v1/config?")]
        scope = {"type": "http", "method": "GET", "path": "/a b", "headers": headers}
        request = Request({**scope, "query_string": b"at=1%2B2", "server": ("here", 80)})
        async with contextlib.AsyncExitStack() as stack:
            [there] = await hosts.open(stack)
            (await Forwarder().answer(request, there)).close()

    asyncio.run(look())
    assert hosts.heads[0].startswith("GET /a%20b?at=1%2B2 HTTP/1.1\r\n")


def test_no_host_gives_no_response() -> None:
    assert found(Hosts([])) == ("", [])
