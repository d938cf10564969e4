"""`--listen`: a second door to the embedded store, for one user who may only read results.

On its unix socket the store knows no users. Once it also listens on TCP, nobody enters by default:
the run itself comes as `owner` with a password made for this run, all others as `viewer`.
"""

from __future__ import annotations

import getpass
import ipaddress
import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from pipeline.errors import ConfigFaults

log = logging.getLogger(__name__)

OWNER, VIEWER = "owner", "viewer"
PASSWORD_ENV = "FRAMEGATE_LISTEN_PASSWORD"
LEAST_LENGTH = 8
ADDRESS_RULE = "allowed is HOST:PORT, such as 127.0.0.1:6379 or [::1]:6379, with a port up to 65535"

# What pipeline.client and plain reads need; no pattern command, none that shows another's doing.
VIEWER_RULE = (
    "resetkeys %R~fg:{*}:results %R~fg:sources %R~fg:identity resetchannels -@all "
    "+xread +xrange +xrevrange +xlen +xinfo|stream +get +hkeys +type +exists "
    "+multi +exec +discard +ping +select +client|setinfo +client|setname +client|id"
)
_MOST_REPLY = "64mb"  # of a reader that asks for more than it takes


@dataclass(frozen=True)
class Listener:
    """Where to listen, and for whom. Holds no password of the viewer, only its hash."""

    host: str
    port: int
    viewer_sha256: str = field(repr=False)
    owner_password: str = field(repr=False, default_factory=lambda: secrets.token_hex(32))

    def config(self) -> list[str]:
        """The lines of the server's configuration."""
        owner = sha256(self.owner_password.encode()).hexdigest()
        return [
            f"bind {self.host}",
            f"port {self.port}",
            f"client-output-buffer-limit normal {_MOST_REPLY} 0 0",
            "user default off",
            f"user {OWNER} on #{owner} allkeys allchannels allcommands",
            f"user {VIEWER} on #{self.viewer_sha256} {VIEWER_RULE}",
        ]

    @property
    def address(self) -> str:
        """HOST:PORT as it was given."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def announce(self) -> None:
        """Tell where it listens, and what that means."""
        log.info("results can be read at redis://%s by the user %s", self.address, VIEWER)
        if not _is_loopback(self.host):
            log.warning(
                "--listen %s: passwords and results go over the network in the clear, as the "
                "embedded store speaks no TLS; allowed in a network that you trust, else put a "
                "TLS proxy before it, or use a Redis of your own with rediss://",
                self.address,
            )


def address_fault(text: str) -> str | None:
    """Why this is not an address to listen on; None if it is."""
    return None if _parts(text) is not None else ADDRESS_RULE


def _parts(text: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([\w.-]+)):(\d{1,5})", text)
    if found is None or not 1 <= int(found[3]) <= 65535:
        return None
    return found[1] or found[2], int(found[3])


def open_listener(address: str, password_file: str | None) -> Listener:
    """Ask for the password and see that the port is free.

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
    """Host and port, if one can listen there; else ConfigFaults."""
    parts = _parts(address)
    if parts is None:
        raise ConfigFaults([f"--listen {address!r}: {ADDRESS_RULE}"])
    host, port = parts
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
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
