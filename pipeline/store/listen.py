"""`--listen`: a second door to the embedded store, for a user who may only read what stages give.

On its unix socket the store knows no users. Once there is a door, nobody enters by default: the run
itself comes as `owner` with a password made for this run, all others as `viewer`. The store itself
never listens on TCP: a thread of the supervisor does, and passes on what a bounded number of guests
say, so that the store's connections stay the run's whoever knocks.
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
LEAST_LENGTH = 8

# For reading results and what stages give; no pattern command, none that shows another's doing.
VIEWER_RULE = (
    "resetkeys %R~fg:{*}:results %R~fg:{*}:out:* %R~fg:sources %R~fg:identity resetchannels "
    "-@all "
    "+xread +xrange +xrevrange +xlen +xinfo|stream +get +hkeys +type +exists "
    "+multi +exec +discard +ping +select +client|setinfo +client|setname +client|id"
)
MOST_REPLY = "64mb"  # held for a reader that asks for more than it takes
MOST_HELD = "128mb"  # held for all readers; the run's own connections are never dropped for it

GUESTS = 64  # connections at once; a newcomer takes the place of the oldest that has not logged in
LOGIN_S = 5.0  # within which a guest must log in
LOGIN_BYTES = 16 << 10  # that a guest may send before
LINGER_S = 5.0  # for which an end may still take its last bytes
PACE_S = 0.005  # between two newcomers when there is no free place: a flood costs little CPU


@dataclass(frozen=True)
class Listener:
    """Where to listen, and for whom. Holds no password of the viewer, only its hash."""

    host: str
    port: int
    viewer_sha256: str = field(repr=False)
    owner_password: str = field(repr=False, default_factory=lambda: secrets.token_hex(32))

    def config(self) -> list[str]:
        """Return the lines of the server's configuration."""
        owner = sha256(self.owner_password.encode()).hexdigest()
        return [
            f"client-output-buffer-limit normal {MOST_REPLY} 0 0",
            f"maxmemory-clients {MOST_HELD}",
            "user default off",
            f"user {OWNER} on #{owner} allkeys allchannels allcommands",
            f"user {VIEWER} on #{self.viewer_sha256} {VIEWER_RULE}",
        ]

    @property
    def address(self) -> str:
        """HOST:PORT as it was given."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def announce(self) -> None:
        """Log where it listens, and what that means."""
        log.info("results can be read at redis://%s by the user %s", self.address, VIEWER)
        if not _is_loopback(self.host):
            log.warning(
                "--listen %s: passwords and results go over the network in the clear, as the "
                "embedded store speaks no TLS; allowed in a network that you trust, else put a "
                "TLS proxy before it, or use a Redis of your own with rediss://",
                self.address,
            )


def open_listener(address: str, password_file: str | None) -> Listener:
    """Return a listener once its password is read and its port was seen to be free.

    ConfigFaults if there is no password, it is too short, or the address cannot be listened on.
    """
    password = _password(password_file, os.environ, sys.stdin.isatty() and sys.stderr.isatty())
    os.environ.pop(PASSWORD_ENV, None)  # children need not inherit it
    return Listener(*check_free(address), sha256(password.encode()).hexdigest())


def _password(file: str | None, environment: Mapping[str, str], asks: bool) -> str:
    if file is not None:
        try:
            password, origin = Path(file).read_text().rstrip("\r\n"), f"the file {file}"
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigFaults([f"--listen-password-file {file}: {error}"]) from None
    elif PASSWORD_ENV in environment:
        password, origin = environment[PASSWORD_ENV], f"the variable {PASSWORD_ENV}"
    elif asks:
        password, origin = getpass.getpass(f"password for {VIEWER}: "), "the prompt"
    else:
        raise ConfigFaults(
            [
                f"--listen: it needs a password for its user {VIEWER}: in a file "
                f"(--listen-password-file FILE), in the variable {PASSWORD_ENV}, or typed at a "
                "terminal; never on the command line"
            ]
        )
    if len(password) < LEAST_LENGTH:
        what = f"the password in {origin} has {len(password)} characters"
        raise ConfigFaults([f"--listen: {what}; allowed are {LEAST_LENGTH} and more"])
    return password


def check_free(address: str) -> tuple[str, int]:
    """Return host and port, if one can listen there; else ConfigFaults."""
    parts = host_and_port(address)
    if parts is None or store_fault(address) is not None:
        raise ConfigFaults([f"--listen {address!r}: {STORE_RULE}"])
    try:
        listening_at(*parts).close()
    except OSError as error:
        raise ConfigFaults(
            [
                f"--listen {address}: {error.strerror or error}; allowed is an address of this "
                "host with a free port"
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
    """Listens, and relays bytes between guests and the store, in a thread of its own.

    The store alone says who may enter: it refuses whatever comes before a login.
    """

    name = "--listen"
    pace_s = PACE_S

    def __init__(self, listener: Listener, store: Path) -> None:
        """Listen at once; StoreRefused if that fails. store: its unix socket."""
        self._store = store
        self._guests: dict[_Guest, None] = {}  # in the order in which they came
        try:
            self._listening = listening_at(listener.host, listener.port)
        except OSError as error:
            raise StoreRefused(f"--listen {listener.address}: {error.strerror or error}") from error
        self._loop = asyncio.new_event_loop()
        self._closed = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send everybody away and listen no more."""
        with contextlib.suppress(RuntimeError):  # its loop is closed
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
                guest.send_away()
            await asyncio.sleep(0)

    @property
    def is_full(self) -> bool:
        """Return whether all places are taken."""
        return len(self._guests) >= GUESTS

    def make_room(self) -> bool:
        """End the oldest connection that has not logged in; return False if all have."""
        stranger = next((guest for guest in self._guests if not guest.known), None)
        if stranger is not None:
            stranger.send_away()
        return stranger is not None

    def refuse(self, caller: socket.socket) -> None:
        """Say in the store's protocol that there is no place."""
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
            guest.send_away()
            raise


class _Guest:
    """Both ends of one guest's connection. known: whether the store took the guest's login."""

    def __init__(self, guests: dict[_Guest, None]) -> None:
        self.known = False
        self.caller, self.store = _RelayEnd(self._said), _RelayEnd(self._answered)
        self.caller.other, self.store.other = self.store, self.caller
        self._guests = guests
        self._bytes_left = LOGIN_BYTES
        self._begun_line = b""
        self._time = asyncio.get_running_loop().call_later(LOGIN_S, self.send_away)
        guests[self] = None
        self.caller.when_gone = self.store.when_gone = self._end_gone

    def _said(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if not self.known and self._bytes_left < 0:
            self.send_away()

    def _answered(self, data: bytes) -> None:
        """See whether the guest is known: before, the store answers only RESET without an error."""
        if self.known:
            return
        *lines, self._begun_line = (self._begun_line + data).split(b"\r\n")
        if any(not line.startswith(b"-") and line != b"+RESET" for line in lines):
            self.known = True
            self._time.cancel()

    def _end_gone(self) -> None:
        """One end is gone: let the other take its last bytes."""
        if self not in self._guests:
            return
        self._time.cancel()
        if self.caller.is_gone and self.store.is_gone:
            del self._guests[self]
            return
        self._time = asyncio.get_running_loop().call_later(LINGER_S, self.send_away)
        self.caller.hang_up()
        self.store.hang_up()

    def send_away(self) -> None:
        """End both connections at once."""
        self._time.cancel()
        self._guests.pop(self, None)
        self.caller.break_off()
        self.store.break_off()


class _RelayEnd(asyncio.Protocol):
    """Relays what comes here to the other end, no faster than that takes it."""

    other: _RelayEnd
    when_gone: Callable[[], None]

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard
        self._transport: asyncio.Transport | None = None
        self.is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.is_gone or self.other.is_gone:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._heard(data)
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
        self.when_gone()

    def hang_up(self) -> None:
        """Close this end once what was relayed to it is sent."""
        if self._transport is not None:
            self._transport.close()

    def break_off(self) -> None:
        """Close this end at once, also one that is only to come."""
        if self._transport is not None:
            self._transport.abort()
        else:
            self.is_gone = True
