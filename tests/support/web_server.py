"""A real web server of the test's own, on a free port of the loopback."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from tests.support.runs import DEADLINE_S, wait_until


@contextmanager
def serving(routes: list[Route]) -> Iterator[int]:
    """A server with these routes; its port."""
    config = uvicorn.Config(
        Starlette(routes=routes), port=0, log_level="error", timeout_graceful_shutdown=0
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    wait_until("the server listens", lambda: running.started)
    try:
        yield running.servers[0].sockets[0].getsockname()[1]
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
