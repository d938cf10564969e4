"""The HTTP port: bound by the supervisor, served by a process that lives while somebody looks.

Like socket activation: until the first connection there is nothing but a socket. The process ends
by itself when nobody asks any more, and its death harms nothing: the next connection starts one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import msgspec

from framegate.pipeline.contracts.errors import ConfigFaults, RequestRefused
from framegate.pipeline.contracts.spec import LogFormat
from framegate.pipeline.engine import control
from framegate.pipeline.engine.child_line import AnswerShared, ChildLine
from framegate.pipeline.engine.control import AnyRequest, GetStatus
from framegate.pipeline.system.ports import (
    HTTP_DEFAULT,
    HTTP_RULE,
    OFF,
    host_and_port,
    listening_at,
)
from framegate.pipeline.system.process import start_module
from framegate.pipeline.telemetry.run_status import RunStatus

log = logging.getLogger(__name__)

REST_S = 1.0
PATIENCE_S = 3.0
OTHER_HOST, OTHER_PORTS = "127.0.0.1", range(8687, 8787)  # where the default is taken
WAITING = 1024  # connections that the kernel keeps until accepted; beyond, a client waits 1 s or 3


class WebSpec(msgspec.Struct, frozen=True):
    """What the process is told.

    folder        of the run's data
    pictures      class that serves pictures, by its dotted path
    token_sha256  of the token that it asks for; empty: it asks for none
    origins       of pages of other hosts that may ask
    blur_faces    in pictures
    free_bytes    of the disk that clips leave free
    """

    store: str
    folder: str
    pictures: str
    log_level: str
    log_format: LogFormat
    token_sha256: str = ""
    origins: tuple[str, ...] = ()
    blur_faces: bool = False
    free_bytes: int = 0
    idle_s: float = 75.0  # above a minute: who scrapes once a minute does not start one each time


def bind(asked: str | None, kept: str = "") -> socket.socket | None:
    """Return a listening socket, or None if the port is off.

    Where no address is asked for, it is the one that the run had before (`kept`), or the default.
    If that is taken, it is another port of the loopback. ConfigFaults if the address that was asked
    for cannot be listened on.
    """
    if asked in OFF:
        return None
    parts = host_and_port(asked or kept or HTTP_DEFAULT)
    if parts is None:
        raise ConfigFaults([f"http.listen = {asked!r}: {HTTP_RULE}"])
    try:
        return listening_at(*parts, WAITING)
    except OSError as error:
        if asked is None:
            return _other()
        what = error.strerror or error
        raise ConfigFaults(
            [f"http.listen = {asked!r} (--http): {what}; take a free port, or off"]
        ) from None


def _other() -> socket.socket | None:
    """Return a socket at another port, which nobody takes for outgoing connections if possible."""
    for port in (*OTHER_PORTS, 0):
        with contextlib.suppress(OSError):
            return listening_at(OTHER_HOST, port, WAITING)
    return None


def address(listening: socket.socket) -> str:
    """HOST:PORT at which a program on this host reaches it."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def bound(asked: str | None, kept: str = "") -> Iterator[socket.socket | None]:
    """`bind` for the length of a block."""
    listening = bind(asked, kept)
    try:
        yield listening
    finally:
        if listening is not None:
            listening.close()


class HttpPort:
    """Serves the port while `serve` runs. Lives in the supervisor's event loop."""

    def __init__(
        self,
        listening: socket.socket,
        spec: WebSpec,
        status: Callable[[], Awaitable[RunStatus]],
        shared: AnswerShared,
    ) -> None:
        """status: how the run is; shared: memory that a source has already."""
        self._listening, self._spec = listening, spec
        self._status, self._shared = status, shared

    async def serve(self) -> None:
        """Start a process whenever somebody connects and there is none; for ever."""
        while True:
            await self._connection()
            try:
                code = await self._serve_with_a_process()
            except OSError as error:  # no memory, descriptor or process left for it now
                log.warning("the HTTP process cannot start: %s; trying again", error)
                code = None
            if code:
                log.warning("the HTTP process ended with code %d; another may start", code)
            if code != 0:
                await asyncio.sleep(REST_S)

    async def _connection(self) -> None:
        loop, somebody = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._listening.fileno(), somebody.set)
        try:
            await somebody.wait()
        finally:
            loop.remove_reader(self._listening.fileno())

    async def _serve_with_a_process(self) -> int:
        ours, theirs = control.make_pair()
        try:
            words = (str(theirs.fileno()), str(os.getpid()), str(self._listening.fileno()))
            descriptors = (theirs.fileno(), self._listening.fileno())
            process = await start_module("framegate.pipeline.web", *words, descriptors=descriptors)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        line = ChildLine(ours, lambda _: None, self._shared, self._answer)
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(msgspec.json.encode(self._spec))
                await process.stdin.drain()
            process.stdin.close()
            return await process.wait()
        finally:
            line.close()
            await _end(process)

    async def _answer(self, request: AnyRequest) -> RunStatus:
        if not isinstance(request, GetStatus):
            raise RequestRefused(f"the HTTP process may not ask for {type(request).__name__}")
        return await self._status()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it in time, or at once."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), PATIENCE_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
