"""Who may ask the HTTP port: by which name of this host, with which token, from whose pages."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import socket
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from framegate.pipeline.web.token import is_loopback

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1", "[::1]")
OPEN: Final = ("/healthz", "/readyz")  # for who starts and stops it; they tell of no picture


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
