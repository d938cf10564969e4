"""The token of the HTTP port: where it comes from, and at which addresses it is needed.

The process of a run needs this, and nothing of what the HTTP process is made of.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from framegate.pipeline.contracts.errors import ConfigFaults, DataFolderRefused
from framegate.pipeline.contracts.redaction import remember

TOKEN_ENV: Final = "FRAMEGATE_HTTP_TOKEN"
OFF: Final = "off"
TOKEN_FILE: Final = "http.token"  # in the data folder
LEAST_LENGTH: Final = 16


@dataclass(frozen=True)
class AccessToken:
    """The token that a request must carry. place: where people find it."""

    secret: str = field(repr=False)
    place: str

    @property
    def digest(self) -> str:
        """Return its SHA-256, which is all that the HTTP process gets."""
        return sha256(self.secret.encode()).hexdigest()


def find_token(
    file: str | None, environment: MutableMapping[str, str], folder: Path, make: bool
) -> AccessToken | None:
    """Return the token: from a file, else the environment, else one of the data folder's own.

    make  that one, if there is no other

    None where none is asked for: of what only this host's users reach, or where file or variable
    say `off`. The variable is taken out of the environment, which children inherit. ConfigFaults,
    DataFolderRefused.
    """
    given = environment.pop(TOKEN_ENV, None)
    if (given if file is None else file) == OFF:
        return None
    if file is not None:
        try:
            return _checked(Path(file).read_text().strip(), f"the file {file}")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigFaults([f"http.token_file = {file!r}: {error}"]) from None
    if given is not None:
        return _checked(given.strip(), f"the variable {TOKEN_ENV}")
    return _own(folder / TOKEN_FILE) if make else None


def _checked(secret: str, place: str) -> AccessToken:
    remember(secret)
    if len(secret) < LEAST_LENGTH or not (secret.isascii() and secret.isprintable()):
        what = f"the token in {place} has {len(secret)} characters"
        raise ConfigFaults([f"http: {what}; allowed are {LEAST_LENGTH} and more, of ASCII"])
    return AccessToken(secret, place)


def _own(file: Path) -> AccessToken:
    """Return what the folder has, or make it."""
    try:
        with contextlib.suppress(FileExistsError):
            made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(made, "w") as opened:
                opened.write(f"{secrets.token_urlsafe(32)}\n")
        return _checked(file.read_text().strip(), f"the file {file}")
    except OSError as error:
        raise DataFolderRefused(f"{file}: {error}") from error


def is_loopback(listening: socket.socket) -> bool:
    """Return whether only programs of this host reach it."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
