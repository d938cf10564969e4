"""A real web server of the test's own, on a free port of the loopback."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from framegate.pipeline.system.ports import listening_at
from framegate.pipeline.web.accounts.accounts import CALLER, OWNER, Caller
from framegate.pipeline.web.connections import BoundedServer, RequestLimit
from framegate.pipeline.web.limits import LIMITS, WebLimits
from tests.support.runs import DEADLINE_S, wait_until


@contextmanager
def serving(
    routes: list[Route], limits: WebLimits = LIMITS, caller: Caller = OWNER
) -> Iterator[int]:
    """A server with these routes, as the HTTP process serves them to a caller; its port."""
    inner = RequestLimit(Starlette(routes=routes), limits.requests)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALLER] = caller
        await inner(scope, receive, send)

    with serving_app(app, listening_at("127.0.0.1", 0), limits) as port:
        yield port


@contextmanager
def serving_app(
    app: ASGIApp, listening: socket.socket, limits: WebLimits = LIMITS, **settings: Any
) -> Iterator[int]:
    """A server with this application; its port."""
    running = BoundedServer(app, limits, timeout_graceful_shutdown=0, **settings)
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    wait_until("the server listens", lambda: running.started)
    try:
        yield listening.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join()


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()


def opened(port: int, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """An answer that is still to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", path)
    return connection, connection.getresponse()


def get(port: int, path: str) -> Answer:
    connection, answer = opened(port, path)
    content = answer.read()
    connection.close()
    return Answer(answer.status, answer.headers, content)
