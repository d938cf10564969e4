"""Allow requests to the HTTP port by the host name they use, by their token and by their origin."""

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

from framegate.pipeline.web.port import is_loopback

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1", "[::1]")
OPEN: Final = ("/healthz", "/readyz")  # need no token: orchestrators ask, and no picture is shown


def guarded(
    app: ASGIApp, listening: socket.socket, token_sha256: str, origins: Sequence[str]
) -> ASGIApp:
    """Return the application behind the checks of token, origin and host name.

    token_sha256  SHA-256 of the token; empty: requests need none
    origins       origins of other hosts' pages that may send requests

    On a loopback address only requests to this host's own names pass. Otherwise any web page could
    read the pictures through its reader's browser, under a name that resolves to 127.0.0.1.
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
    """Middleware that answers 401 to a request without the token."""

    def __init__(self, app: ASGIApp, token_sha256: str) -> None:
        self._app = app
        self._token_sha256 = token_sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            digest = sha256(_token_of(Headers(scope=scope))).hexdigest()
            if not hmac.compare_digest(digest, self._token_sha256):
                await _REFUSAL(scope, receive, send)
                return
        await self._app(scope, receive, send)


_REFUSAL: Final = PlainTextResponse(
    "a token is needed: Authorization: Bearer TOKEN, or TOKEN as the password of any user\n",
    401,
    {"WWW-Authenticate": 'Basic realm="framegate", charset="UTF-8"', "Cache-Control": "no-store"},
)


def _token_of(headers: Mapping[str, str]) -> bytes:
    """Return the bearer token or the password of a request; b"", never a token, without them."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip().encode()
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    return b""
