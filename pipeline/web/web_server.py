"""The server of the HTTP process: quiet while nobody asks, and gone after a while of that."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import time

import h11
import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

LEAVE_S = 1  # for requests under way when it is to end
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")


class IdleCount:
    """Counts open requests, and since when there are none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._since_mono = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
            self._since_mono = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds without an open request."""
        return 0.0 if self._open else time.monotonic() - self._since_mono


class _OwnFaults(logging.Filter):
    """Lets through what is wrong with us: not that somebody speaks no HTTP, or breaks off."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        spoke_none = record.getMessage() == "Invalid HTTP request received."
        return not (spoke_none or isinstance(error, h11.ProtocolError))


class QuietServer(uvicorn.Server):
    """uvicorn without its ten ticks a second. It ends on SIGTERM, and when nobody asks any more."""

    def __init__(self, app: ASGIApp, idle_s: float) -> None:
        self._requests, self._idle_s = IdleCount(app), idle_s
        logging.getLogger("uvicorn.error").addFilter(_OwnFaults())
        super().__init__(
            uvicorn.Config(
                self._requests,
                http="h11",
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                date_header=False,
                timeout_graceful_shutdown=LEAVE_S,
            )
        )

    async def main_loop(self) -> None:
        """Wait for the end."""
        ordered = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ordered.set)
        while not ordered.is_set() and (rest_s := self._idle_s - self._requests.idle_s) > 0:
            try:
                await asyncio.wait_for(ordered.wait(), rest_s)
            except TimeoutError:
                continue


def guarded(app: ASGIApp, listening: socket.socket) -> ASGIApp:
    """The app; at an address of this host only, under this host's own names only.

    Else any web page could read the pictures in its reader's browser, by a name of its own that
    leads to 127.0.0.1.
    """
    host = listening.getsockname()[0]
    if not ipaddress.ip_address(host).is_loopback:
        return app
    return TrustedHostMiddleware(app, [*LOCAL_NAMES, host], www_redirect=False)
