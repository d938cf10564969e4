"""`--listen`: a TCP port of the embedded store for a user who may only read.

Without a port, the store has a unix socket and no users. With one, the default user is off: the run
logs in as `owner` with a password that is made for the run, all others as `viewer`. The store never
listens on TCP itself. A thread of the supervisor does, and relays the bytes of a limited number of
guests, so that guests cannot use up the store's connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import ipaddress
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from framegate.pipeline.contracts.errors import ConfigFaults, StoreRefused
from framegate.pipeline.system.ports import (
    STORE_RULE,
    admit_all,
    host_and_port,
    listening_at,
    store_fault,
)

log = logging.getLogger(__name__)

OWNER, VIEWER = "owner", "viewer"
PASSWORD_ENV = "FRAMEGATE_LISTEN_PASSWORD"
LEAST_LENGTH = 8  # of the password

# Reads of results and stage outputs; no command with a pattern, none that shows other connections.
VIEWER_RULE = (
    "resetkeys %R~fg:{*}:results %R~fg:{*}:out:* %R~fg:sources %R~fg:identity resetchannels "
    "-@all "
    "+xread +xrange +xrevrange +xlen +xinfo|stream +get +hkeys +type +exists "
    "+multi +exec +discard +ping +select +client|setinfo +client|setname +client|id"
)
MAX_REPLY = "64mb"  # unread replies of one connection
MAX_REPLIES = "128mb"  # of all connections; those of the run are exempt from eviction

GUESTS = 64  # connections; a new one replaces the oldest that has not logged in
LOGIN_S = 5.0  # within which a guest must log in
LOGIN_BYTES = 16 << 10  # that a guest may send before its login
LINGER_S = 5.0  # after the end of one side, for the last bytes to the other
PACE_S = 0.005  # between two new connections when all places are taken: bounds the CPU of a flood


@dataclass(frozen=True)
class Listener:
    """The address of the port and its users. Has only a hash of the viewer's password."""

    host: str
    port: int
    viewer_sha256: str = field(repr=False)
    owner_password: str = field(repr=False, default_factory=lambda: secrets.token_hex(32))

    def config(self) -> list[str]:
        """Return the lines of the server's configuration."""
        owner = sha256(self.owner_password.encode()).hexdigest()
        return [
            f"client-output-buffer-limit normal {MAX_REPLY} 0 0",
            f"maxmemory-clients {MAX_REPLIES}",
            "user default off",
            f"user {OWNER} on #{owner} allkeys allchannels allcommands",
            f"user {VIEWER} on #{self.viewer_sha256} {VIEWER_RULE}",
        ]

    @property
    def address(self) -> str:
        """Return HOST:PORT."""
        if ":" in self.host:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"

    def announce(self) -> None:
        """Log the address, with a warning if it can be reached from other hosts."""
        log.info("results can be read at redis://%s by the user %s", self.address, VIEWER)
        if not _is_loopback(self.host):
            log.warning(
                "--listen %s: passwords and results go over the network in the clear, because the "
                "embedded store has no TLS; use it only in a network that you trust, or put a TLS "
                "proxy in front of it, or use your own Redis server with rediss://",
                self.address,
            )


def open_listener(address: str, password_file: str | None) -> Listener:
    """Read the password, check that the port is free, and return a listener.

    Raises ConfigFaults if there is no password, it is too short, or the address is not usable.
    """
    password = _password(password_file, os.environ, sys.stdin.isatty() and sys.stderr.isatty())
    os.environ.pop(PASSWORD_ENV, None)  # children must not inherit it
    return Listener(*check_free(address), sha256(password.encode()).hexdigest())


def _password(file: str | None, environment: Mapping[str, str], asks: bool) -> str:
    if file is not None:
        origin = f"the file {file}"
        try:
            password = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigFaults([f"--listen-password-file {file}: {error}"]) from None
    elif PASSWORD_ENV in environment:
        origin = f"the variable {PASSWORD_ENV}"
        password = environment[PASSWORD_ENV]
    elif asks:
        origin = "the prompt"
        password = getpass.getpass(f"password for {VIEWER}: ")
    else:
        raise ConfigFaults(
            [
                f"--listen: it needs a password for its user {VIEWER}: in a file "
                f"(--listen-password-file FILE), in the variable {PASSWORD_ENV}, or typed at a "
                "terminal; never on the command line"
            ]
        )
    if len(password) < LEAST_LENGTH:
        raise ConfigFaults(
            [
                f"--listen: the password in {origin} has {len(password)} characters; "
                f"it must have at least {LEAST_LENGTH}"
            ]
        )
    return password


def check_free(address: str) -> tuple[str, int]:
    """Return host and port of a free address. Raise ConfigFaults for any other."""
    parts = host_and_port(address)
    if parts is None or store_fault(address) is not None:
        raise ConfigFaults([f"--listen {address!r}: {STORE_RULE}"])
    try:
        listening_at(*parts).close()
    except OSError as error:
        raise ConfigFaults(
            [
                f"--listen {address}: {error.strerror or error}; give an address of this host "
                "with a free port"
            ]
        ) from None
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """Listens and relays bytes between guests and the store, in a thread of its own.

    The store checks the logins: it refuses all commands before one.
    """

    name = "--listen"
    pace_s = PACE_S

    def __init__(self, listener: Listener, store: Path) -> None:
        """Start to listen. Raise StoreRefused if that fails. store: path of its unix socket"""
        self._store = store
        self._guests: dict[_Guest, None] = {}  # in the order of their connections
        try:
            self._listening = listening_at(listener.host, listener.port)
        except OSError as error:
            raise StoreRefused(f"--listen {listener.address}: {error.strerror or error}") from error
        self._loop = asyncio.new_event_loop()
        self._closed = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close all connections and stop to listen."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()

    def _work(self) -> None:
        with contextlib.closing(self._loop), self._listening:
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        admitting = asyncio.create_task(admit_all(self._listening, self))
        await self._closed.wait()
        admitting.cancel()
        await asyncio.gather(admitting, return_exceptions=True)
        while self._guests:
            for guest in list(self._guests):
                guest.disconnect()
            await asyncio.sleep(0)

    @property
    def is_full(self) -> bool:
        """Return whether all places are taken."""
        return len(self._guests) >= GUESTS

    def make_room(self) -> bool:
        """End the oldest connection that has not logged in; return False if all have."""
        for guest in self._guests:
            if not guest.is_logged_in:
                guest.disconnect()
                return True
        return False

    def refuse(self, caller: socket.socket) -> None:
        """Refuse a connection in the store's protocol, because all places are taken."""
        with caller, contextlib.suppress(OSError):
            caller.send(b"-ERR max number of clients reached\r\n")

    async def admit(self, caller: socket.socket) -> None:
        """Relay between a guest and the store."""
        guest = _Guest(self._guests)
        try:
            async with asyncio.timeout(LOGIN_S):
                await self._loop.create_unix_connection(lambda: guest.store, str(self._store))
            await self._loop.connect_accepted_socket(lambda: guest.caller, caller)
        except BaseException:
            caller.close()
            guest.disconnect()
            raise


class _Guest:
    """Both ends of a guest's connection.

    It is in `guests` until both ends are closed. A timer disconnects it if it does not log in, or
    if the second end does not close in time after the first.

    is_logged_in  the store has accepted the guest's login
    """

    def __init__(self, guests: dict[_Guest, None]) -> None:
        self.is_logged_in = False
        self.caller = _RelayEnd(self._count_request, self._close_other)
        self.store = _RelayEnd(self._watch_login, self._close_other)
        self.caller.other = self.store
        self.store.other = self.caller
        self._guests = guests
        self._bytes_left = LOGIN_BYTES
        self._partial_line = b""
        self._timer = asyncio.get_running_loop().call_later(LOGIN_S, self.disconnect)
        guests[self] = None

    def _count_request(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if not self.is_logged_in and self._bytes_left < 0:
            self.disconnect()

    def _watch_login(self, data: bytes) -> None:
        """Find the reply to a login: without one, the store replies only to RESET without error."""
        if self.is_logged_in:
            return
        *lines, self._partial_line = (self._partial_line + data).split(b"\r\n")
        if any(not line.startswith(b"-") and line != b"+RESET" for line in lines):
            self.is_logged_in = True
            self._timer.cancel()

    def _close_other(self) -> None:
        """Close the other end after its last bytes, or leave if both are closed."""
        if self not in self._guests:
            return
        self._timer.cancel()
        if self.caller.is_gone and self.store.is_gone:
            del self._guests[self]
            return
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.disconnect)
        self.caller.close()
        self.store.close()

    def disconnect(self) -> None:
        """Close both connections at once."""
        self._timer.cancel()
        self._guests.pop(self, None)
        self.caller.abort()
        self.store.abort()


class _RelayEnd(asyncio.Protocol):
    """Relays the bytes that it receives to the other end, no faster than that takes them."""

    other: _RelayEnd

    def __init__(self, on_data: Callable[[bytes], None], on_gone: Callable[[], None]) -> None:
        self._on_data = on_data
        self._on_gone = on_gone
        self._transport: asyncio.Transport | None = None
        self.is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.is_gone or self.other.is_gone:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._on_data(data)
        if self.other._transport is not None:
            self.other._transport.write(data)

    def pause_writing(self) -> None:
        if self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other._transport is not None:
            self.other._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self.is_gone = True
        self._on_gone()

    def close(self) -> None:
        """Close this end when its bytes are sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close this end at once, or as soon as it is connected."""
        if self._transport is not None:
            self._transport.abort()
        else:
            self.is_gone = True
