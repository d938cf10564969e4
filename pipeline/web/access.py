"""Allow requests to the HTTP port by the host name they use, by their token and by their origin."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from framegate.pipeline.web.accounts import OWNER, AccountFile, Caller, caller_with_token, digest_of
from framegate.pipeline.web.port import is_loopback
from framegate.pipeline.web.route_table import CALLER

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1", "[::1]")
OPEN: Final = ("/healthz", "/readyz")  # need no token: orchestrators ask, and no picture is shown


def guarded(
    app: ASGIApp,
    listening: socket.socket,
    token_sha256: str,
    origins: Sequence[str],
    accounts: AccountFile | None = None,
) -> ASGIApp:
    """Return the application behind the checks of credentials, origin and host name.

    token_sha256  SHA-256 of the token of the run; empty: there is none
    origins       origins of other hosts' pages that may send requests
    accounts      None: there are none. Without accounts and a token, any caller is the owner

    On a loopback address only requests to this host's own names pass. Otherwise any web page could
    read the pictures through its reader's browser, under a name that resolves to 127.0.0.1.
    """
    app = _FrontDoor(app, token_sha256, accounts)
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


class _FrontDoor:
    """Middleware that finds the caller of a request, and answers 401 if it is unknown."""

    def __init__(self, app: ASGIApp, token_sha256: str, accounts: AccountFile | None) -> None:
        self._app = app
        self._token_sha256 = token_sha256
        self._accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            caller = self._caller(Headers(scope=scope))
            if caller is None:
                await _REFUSAL(scope, receive, send)
                return
            scope[CALLER] = caller  # in place: the connection looks at this scope
        await self._app(scope, receive, send)

    def _caller(self, headers: Mapping[str, str]) -> Caller | None:
        if not self._token_sha256 and self._accounts is None:
            return OWNER
        digest = digest_of(_token_of(headers))
        if self._token_sha256 and hmac.compare_digest(digest, self._token_sha256):
            return OWNER
        if self._accounts is None:
            return None
        return caller_with_token(self._accounts.accounts(), digest)


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
