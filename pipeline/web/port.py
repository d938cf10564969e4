"""The HTTP port of a run: its address, its token, and the process that serves it on demand.

It works like socket activation: the supervisor binds the port, and the first connection starts the
HTTP process. That process ends when it is idle, and the next connection starts another; a crash
does not affect the run.

The process of a run imports this module, so it imports nothing of the HTTP server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import scrypt, sha256
from pathlib import Path
from typing import Final

import msgspec

from framegate.pipeline.contracts.errors import ConfigFaults, DataFolderRefused, RequestRefused
from framegate.pipeline.contracts.live_config import (
    ChangeConfig,
    ConfigRequest,
    EditableConfig,
    GetConfig,
    ReloadConfig,
    RestoreConfig,
)
from framegate.pipeline.contracts.object_filters import (
    AddFilter,
    FilterList,
    FilterRequest,
    GetFilters,
    RemoveFilter,
)
from framegate.pipeline.contracts.redaction import remember
from framegate.pipeline.contracts.spec import LogFormat
from framegate.pipeline.engine.child_line import AnswerShared, ChildLine, give_spec, start_child
from framegate.pipeline.engine.control_messages import (
    AnyRequest,
    GetStatus,
)
from framegate.pipeline.system.ports import (
    HTTP_DEFAULT,
    HTTP_RULE,
    OFF,
    host_and_port,
    listening_at,
)
from framegate.pipeline.system.process import exit_in_words
from framegate.pipeline.telemetry.run_status import RunStatus

log = logging.getLogger(__name__)

REST_S: Final = 1.0  # before the next start, after a process that failed; then twice as long
MOST_REST_S: Final = 60.0
SHORT_S: Final = 10.0  # a process that lived for less has failed to start
PATIENCE_S: Final = 3.0  # for the process to end after SIGTERM
OTHER_HOST: Final = "127.0.0.1"
OTHER_PORTS: Final = range(8687, 8787)  # tried if the default port is taken
WAITING: Final = 1024  # connections in the kernel's queue; beyond it, a client waits 1 s or 3 s
TOKEN_ENV: Final = "FRAMEGATE_HTTP_TOKEN"
TOKEN_OFF: Final = "off"
TOKEN_FILE: Final = "http.token"  # in the data folder
MIN_LENGTH: Final = 16  # of a token


class WebSpec(msgspec.Struct, frozen=True):
    """The settings of the HTTP process.

    store         URL of the store
    folder        folder of the run's data
    pictures      dotted path of the class that serves pictures
    token_sha256  SHA-256 of the token that requests need; empty: they need none
    origins       origins of other hosts' pages that may send requests
    blur_faces    whether pictures show blurred faces
    masked        sources with hidden areas
    free_bytes    bytes of the disk that clips leave free
    config        path of the configuration file; empty: the run has none
    accounts      path of the file of accounts; empty: the run has none
    slot          slot of a fleet that the run is; empty: it is none
    session_key   key of the signatures of sessions
    certificate   file of the certificate; empty: no TLS
    certificate_key  file of its key; empty: the same file
    proxies       addresses of the proxies that log users in
    proxy_user    header in which these name the user
    proxy_groups  header in which these name the user's groups
    stages        stages of the run with outputs of their own; empty: other runs use the store, too
    idle_s        seconds without a request after which the process ends
    """

    store: str
    folder: str
    pictures: str
    log_level: str
    log_format: LogFormat
    token_sha256: str = ""
    origins: tuple[str, ...] = ()
    blur_faces: bool = False
    masked: tuple[str, ...] = ()
    free_bytes: int = 0
    config: str = ""
    accounts: str = ""
    slot: str = ""
    session_key: str = ""
    certificate: str = ""
    certificate_key: str = ""
    proxies: tuple[str, ...] = ()
    proxy_user: str = ""
    proxy_groups: str = ""
    stages: tuple[str, ...] = ()
    idle_s: float = 75.0  # above a minute: a scrape each minute does not start a process each time


def bind(asked: str | None, kept: str = "") -> socket.socket | None:
    """Return a listening socket, or None if the port is off.

    asked  configured address; None: use that of the run before
    kept   address of the run before; empty: use the default

    If the address is taken and was not configured, the socket gets another port of the loopback.
    ConfigFaults if the configured address is invalid or cannot be bound.
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
        reason = error.strerror or error
        raise ConfigFaults(
            [f"http.listen = {asked!r} (--http): {reason}; take a free port, or off"]
        ) from None


def _other() -> socket.socket | None:
    """Return a socket at another port of the loopback.

    OTHER_PORTS come first: they are below the range that the kernel gives to outgoing connections.
    """
    for port in (*OTHER_PORTS, 0):
        with contextlib.suppress(OSError):
            return listening_at(OTHER_HOST, port, WAITING)
    return None


def address(listening: socket.socket) -> str:
    """Return the HOST:PORT at which a program of this host reaches the socket."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1"
        if listening.family == socket.AF_INET:
            host = "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{port}"


def outside_address(listening: socket.socket | None, own: str) -> str:
    """Return the HOST:PORT at which other hosts reach the socket; "" if they cannot.

    own  name or address of this host, for a socket that listens at all addresses
    """
    if listening is None or is_loopback(listening):
        return ""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = own
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{port}"


def is_loopback(listening: socket.socket) -> bool:
    """Return whether only programs of this host reach the socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


@contextmanager
def bound(asked: str | None, kept: str = "") -> Iterator[socket.socket | None]:
    """Bind the port as `bind` does, and close the socket when the block ends."""
    listening = bind(asked, kept)
    try:
        yield listening
    finally:
        if listening is not None:
            listening.close()


class HttpPort:
    """The supervisor's side of the port: at most one HTTP process serves it at a time."""

    def __init__(
        self,
        listening: socket.socket,
        spec: WebSpec,
        status: Callable[[], Awaitable[RunStatus]],
        filters: Callable[[FilterRequest], Awaitable[FilterList]],
        config: Callable[[ConfigRequest], Awaitable[EditableConfig]],
        shared: AnswerShared,
    ) -> None:
        """Keep the parts.

        status  returns the state of the run
        filters  answers requests about object filters
        config  answers requests about the configuration
        shared  answers requests for shared memory that a source has made
        """
        self._listening = listening
        self._spec = spec
        self._status = status
        self._filters = filters
        self._config = config
        self._shared = shared
        self._process: asyncio.subprocess.Process | None = None

    def mask(self, sources: tuple[str, ...]) -> None:
        """Hide areas of these sources from now on: the process ends, and the next one does so."""
        if sources == self._spec.masked:
            return
        self._spec = msgspec.structs.replace(self._spec, masked=sources)
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)  # requests under way have LEAVE_S

    async def serve(self) -> None:
        """Start a process for each connection that finds none, until cancelled.

        After processes that failed to start, for example because the certificate cannot be read,
        the pause before the next grows up to MOST_REST_S, and waiting connections are closed.
        """
        rest_s = REST_S
        while True:
            await self._connection()
            began_mono = time.monotonic()
            code = None
            try:
                code = await self._serve_with_a_process()
            except OSError as error:  # the host is out of memory, descriptors or processes
                log.warning("the HTTP process cannot start: %s; trying again", error)
            if code:
                log.warning("the HTTP process ended (%s); another may start", exit_in_words(code))
            if code == 0 or time.monotonic() - began_mono > SHORT_S:
                rest_s = REST_S
            if code != 0:
                if rest_s > REST_S:
                    self._turn_away()
                await asyncio.sleep(rest_s)
                rest_s = min(2.0 * rest_s, MOST_REST_S)

    def _turn_away(self) -> None:
        """Close the connections in the kernel's queue, which no process can serve."""
        for _ in range(WAITING):
            try:
                caller, _ = self._listening.accept()
            except OSError:  # none is left, or its client has gone
                return
            caller.close()

    async def _connection(self) -> None:
        """Wait until a connection is in the kernel's queue; the process accepts it."""
        loop = asyncio.get_running_loop()
        is_waiting = asyncio.Event()
        loop.add_reader(self._listening.fileno(), is_waiting.set)
        try:
            await is_waiting.wait()
        finally:
            loop.remove_reader(self._listening.fileno())

    async def _serve_with_a_process(self) -> int:
        ours, process = await start_child(
            "framegate.pipeline.web.server", descriptors=(self._listening.fileno(),)
        )
        self._process = process
        line = ChildLine(ours, lambda _: None, self._shared, self._answer)
        try:
            await give_spec(process, self._spec)
            return await process.wait()
        finally:
            line.close()
            await _end(process)
            self._process = None

    async def _answer(self, request: AnyRequest) -> RunStatus | FilterList | EditableConfig:
        if isinstance(request, GetFilters | AddFilter | RemoveFilter):
            return await self._filters(request)
        if isinstance(request, GetConfig | ChangeConfig | RestoreConfig | ReloadConfig):
            return await self._config(request)
        if not isinstance(request, GetStatus):
            raise RequestRefused(f"the HTTP process may not ask for {type(request).__name__}")
        return await self._status()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Send SIGTERM, and SIGKILL if the process still runs after PATIENCE_S."""
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


# -- The token.


@dataclass(frozen=True)
class AccessToken:
    """The token that a request must carry. place: the file or variable that contains it."""

    secret: str = field(repr=False)
    place: str

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the token. The HTTP process gets only this."""
        return sha256(self.secret.encode()).hexdigest()

    def session_key(self) -> str:
        """Return the key that signs sessions: a slow function of the token, as users choose some.

        A new token ends all sessions.
        """
        return scrypt(self.secret.encode(), salt=b"framegate sessions", n=1 << 14, r=8, p=1).hex()


def find_token(
    file: str | None, environment: MutableMapping[str, str], folder: Path, make: bool
) -> AccessToken | None:
    """Return the token from the file, else from the environment, else from the data folder.

    file         [http] token_file; None: not configured
    environment  FRAMEGATE_HTTP_TOKEN is removed from it, because children inherit the environment
    folder       the data folder
    make         whether to use the token of the data folder, which is made if it is missing

    None if requests need no token: the file or the variable is `off`, or there is neither and
    `make` is false. ConfigFaults, DataFolderRefused.
    """
    given = environment.pop(TOKEN_ENV, None)
    if file == TOKEN_OFF:
        return None
    if file is not None:
        try:
            return _checked(Path(file).read_text(encoding="utf-8").strip(), f"the file {file}")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigFaults([f"http.token_file = {file!r}: {error}"]) from None
    if given == TOKEN_OFF:
        return None
    if given is not None:
        return _checked(given.strip(), f"the variable {TOKEN_ENV}")
    if make:
        return _own(folder / TOKEN_FILE)
    return None


def _checked(secret: str, place: str) -> AccessToken:
    remember(secret)
    is_ascii = secret.isascii() and secret.isprintable()
    if len(secret) < MIN_LENGTH or not is_ascii:
        rule = f"it needs at least {MIN_LENGTH} printable ASCII characters"
        raise ConfigFaults([f"http: the token in {place} has {len(secret)} characters; {rule}"])
    return AccessToken(secret, place)


def _own(file: Path) -> AccessToken:
    """Return the token of the data folder. Make it if it is missing."""
    try:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as opened:
                opened.write(f"{secrets.token_urlsafe(32)}\n")
        return _checked(file.read_text(encoding="utf-8").strip(), f"the file {file}")
    except OSError as error:
        raise DataFolderRefused(f"{file}: {error}") from error
