"""Who may ask the HTTP port: by which name of this host, with which token, from whose pages."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from framegate.pipeline.errors import ConfigFaults, DataFolderRefused
from framegate.pipeline.redaction import remember

TOKEN_ENV: Final = "FRAMEGATE_HTTP_TOKEN"
OFF: Final = "off"
TOKEN_FILE: Final = "http.token"  # in the data folder
LEAST_LENGTH: Final = 16
LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1", "[::1]")
OPEN: Final = ("/healthz", "/readyz")  # for who starts and stops it; they tell of no picture


@dataclass(frozen=True)
class AccessToken:
    """What who asks must show. place: where people find it."""

    secret: str = field(repr=False)
    place: str

    @property
    def digest(self) -> str:
        """Its SHA-256, by which the HTTP process knows it."""
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
    """Whether only this host's own programs reach it."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def guarded(
    app: ASGIApp, listening: socket.socket, token_sha256: str, origins: Sequence[str]
) -> ASGIApp:
    """The app, for those who may ask.

    At an address of this host it is asked under this host's own names only: else any web page could
    read the pictures in its reader's browser, by a name of its own that leads to 127.0.0.1.
    """
    if token_sha256:
        app = _TokenDoor(app, token_sha256)
    if origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET"],
            allow_headers=["Authorization", "Last-Event-ID"],
        )
    if is_loopback(listening):
        names = [*LOCAL_NAMES, listening.getsockname()[0]]
        app = TrustedHostMiddleware(app, names, www_redirect=False)
    return app


class _TokenDoor:
    """Lets in who shows the token: as `Authorization: Bearer`, or as a login's password."""

    def __init__(self, app: ASGIApp, token_sha256: str) -> None:
        self._app, self._wanted = app, token_sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or answer 401."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            shown = sha256(_shown(Headers(scope=scope))).hexdigest()
            if not hmac.compare_digest(shown, self._wanted):
                await _REFUSAL(scope, receive, send)
                return
        await self._app(scope, receive, send)


_REFUSAL: Final = PlainTextResponse(
    "a token is needed: Authorization: Bearer TOKEN, or TOKEN as the password of any user\n",
    401,
    {"WWW-Authenticate": 'Basic realm="framegate", charset="UTF-8"', "Cache-Control": "no-store"},
)


def _shown(headers: Mapping[str, str]) -> bytes:
    """What who asks shows as a token; nothing is never one."""
    scheme, _, said = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return said.strip().encode()
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(said.strip(), validate=True).partition(b":")[2]
    return b""
