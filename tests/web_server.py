"""A real web server of the test's own, on a free port of the loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from tests.runs import wait_until


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
