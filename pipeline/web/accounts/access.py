"""Allow requests to the HTTP port by the host name they use, by their token and by their origin."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.system.process import cancelled
from framegate.pipeline.web.accounts.accounts import (
    CALLER,
    OWNER,
    ROLES,
    Account,
    AccountFile,
    Caller,
    caller_of_account,
    caller_with_token,
    digest_of,
)
from framegate.pipeline.web.accounts.sessions import CLIENT, IS_SECURE, Sessions
from framegate.pipeline.web.fleet.forward import FORWARDED
from framegate.pipeline.web.limits import HOSTS, Refusal, check_origin, refused
from framegate.pipeline.web.port import is_loopback

_PRIVATE: Final = (".local", ".lan", ".internal", ".home.arpa", ".localdomain")  # not in public DNS
LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
LOGIN: Final = ("/login", "/api/v1/login")  # need no caller
RECHECK_S: Final = 1.0  # between two checks of the caller of a request under way
OPEN: Final = ("/healthz", "/readyz")  # need no token: orchestrators ask, and no picture is shown


def guarded(
    app: ASGIApp,
    listening: socket.socket,
    token_sha256: str,
    origins: Sequence[str],
    accounts: AccountFile | None = None,
    sessions: Sessions | None = None,
    proxies: TrustedProxies | None = None,
) -> ASGIApp:
    """Return the application behind the checks of credentials, origin and host name.

    token_sha256  SHA-256 of the token of the run; empty: there is none
    origins       origins of other hosts' pages that may send requests
    accounts      None: there are none. Without accounts and a token, any caller is the owner
    sessions      the logins of browsers; None: there is no login page
    proxies       None: there are none

    On a loopback address only requests to this host's own names pass. Otherwise any web page could
    read the pictures through its reader's browser, under a name that resolves to 127.0.0.1. On
    other addresses the same is true without a token and accounts; there, requests pass that use an
    address or a name of a private network, which a stranger's page cannot have.
    """
    app = _FrontDoor(app, token_sha256, accounts, sessions, proxies or TrustedProxies())
    if origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET"],
            allow_headers=["Authorization", "Last-Event-ID"],
        )
    named = {_name_of(origin.partition("://")[2]) for origin in origins if origin != "*"}
    if "*" in origins:
        named.add("*")
    if is_loopback(listening):
        app = _OwnNames(app, {*LOCAL_NAMES, listening.getsockname()[0], *named}, is_strict=True)
    elif not token_sha256 and accounts is None:
        app = _OwnNames(app, named, is_strict=False)
    return app


class _OwnNames:
    """Middleware that refuses requests to other names than those of this host.

    names      allowed names and addresses; "*": all
    is_strict  False: all addresses, names without a dot and names of private networks are allowed,
               too
    """

    def __init__(self, app: ASGIApp, names: Collection[str], is_strict: bool) -> None:
        self._app = app
        self._names = names
        self._is_strict = is_strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            host = Headers(scope=scope).get("host", "")
            if not self._is_own(_name_of(host)):
                refusal = PlainTextResponse(_OTHER_NAME.format(redacted(host[:64])), 400)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_own(self, name: str) -> bool:
        if name in self._names or "*" in self._names:
            return True
        is_private = "." not in name or _is_address(name) or name.endswith(_PRIVATE)
        return is_private and not self._is_strict


def _name_of(host: str) -> str:
    """Return the name or address of the header Host, in small letters; "" if it has none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _FrontDoor:
    """Middleware that finds the caller of a request, and refuses it if the caller is unknown."""

    def __init__(
        self,
        app: ASGIApp,
        token_sha256: str,
        accounts: AccountFile | None,
        sessions: Sessions | None,
        proxies: TrustedProxies,
    ) -> None:
        self._app = app
        self._token_sha256 = token_sha256
        self._accounts = accounts
        self._sessions = sessions
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            headers = Headers(scope=scope)
            # In place: the connection looks at this scope.
            scope[CLIENT], scope[IS_SECURE] = self._proxies.client_of(scope, headers)
            scope[HOSTS] = self._proxies.hosts_of(scope, headers)
            try:
                caller = self._caller(scope, headers)
            except Refusal as error:
                await refused(error)(scope, receive, send)
                return
            if caller is not None:
                scope[CALLER] = caller
                if caller is not OWNER:  # the token of the run does not change
                    await self._while_same(caller, scope, headers, receive, send)
                    return
            elif scope["path"] not in LOGIN:
                await self._refusal(scope, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _while_same(
        self, caller: Caller, scope: Scope, headers: Headers, receive: Receive, send: Send
    ) -> None:
        """Serve a request until it is done, or until its credentials have another caller or none.

        So a stream ends soon after its account was removed or changed, or its session is over.
        """

        def is_same() -> bool:
            try:
                return self._caller(scope, headers) == caller
            except Refusal:
                return False

        permission = _Permission(is_same, receive, send)
        try:
            await self._app(scope, permission.receive, permission.send)
        finally:
            permission.close()
        if permission.is_over:
            await permission.end_response()

    def _caller(self, scope: Scope, headers: Headers) -> Caller | None:
        """Return the caller of a request; None if it is unknown. Refusal."""
        if not self._token_sha256 and self._accounts is None:
            return OWNER
        caller = self._caller_with_token(headers)
        if caller is not None or self._accounts is None:
            return caller
        if self._sessions is not None:
            caller = self._sessions.caller(
                cookie_parser(headers.get("cookie", "")).get(self._sessions.cookie, "")
            )
        if caller is None:
            caller = self._proxies.caller_of(scope, headers, self._accounts.accounts())
        # A browser sends a cookie also with the requests of other servers' pages. These cannot set
        # the header of a request that another host of a fleet checked and forwarded.
        is_change = scope["method"] not in ("GET", "HEAD") and FORWARDED not in headers
        if caller is not None and is_change:
            check_origin(headers.get("origin", ""), scope[HOSTS])
        return caller

    def _caller_with_token(self, headers: Headers) -> Caller | None:
        digest = digest_of(_token_of(headers))
        if self._token_sha256 and hmac.compare_digest(digest, self._token_sha256):
            return OWNER
        if self._accounts is None:
            return None
        return caller_with_token(self._accounts.accounts(), digest)

    def _refusal(self, scope: Scope, headers: Headers) -> Response:
        """Return the response to an unknown caller: of a browser, the way to the login page."""
        if self._sessions is None:
            return _REFUSAL
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            path = scope["path"].lstrip("/")
            login = "../" * path.count("/") + f"login?next={quote(path)}"
            return RedirectResponse(login, 303, {"Cache-Control": "no-store"})
        return _LOGIN_FIRST


class _Permission:
    """The permission of a request under way, which is checked again each RECHECK_S.

    To the application, its end looks like a client that disconnects.
    """

    def __init__(self, is_given: Callable[[], bool], receive: Receive, send: Send) -> None:
        self._is_given = is_given
        self._receive = receive
        self._send = send
        self._over = asyncio.Event()
        self._is_sending = False
        self._check = asyncio.get_running_loop().call_later(RECHECK_S, self._look)

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def close(self) -> None:
        """Check no more."""
        self._check.cancel()

    def _look(self) -> None:
        if self._is_given():
            self._check = asyncio.get_running_loop().call_later(RECHECK_S, self._look)
        else:
            self._over.set()

    async def receive(self) -> Message:
        """Return the next message of the client, or its end once the permission is over."""
        heard = asyncio.ensure_future(self._receive())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((heard, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled(heard, over)
        if self.is_over:
            return {"type": "http.disconnect"}
        return heard.result()

    async def send(self, message: Message) -> None:
        """Send a message, and note whether the response is incomplete."""
        await self._send(message)
        is_head = message["type"] == "http.response.start"
        self._is_sending = is_head or message.get("more_body", False)

    async def end_response(self) -> None:
        """End an incomplete response. One with a stated length breaks off."""
        if self._is_sending:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


_REFUSAL: Final = PlainTextResponse(
    "a token is needed: Authorization: Bearer TOKEN, or TOKEN as the password of any user\n",
    401,
    {"WWW-Authenticate": 'Basic realm="framegate", charset="UTF-8"', "Cache-Control": "no-store"},
)
_OTHER_NAME: Final = (
    "{!r} is no name of this host; use its address, or name the page in [http] origins\n"
)
_LOGIN_FIRST: Final = PlainTextResponse(
    "log in at /login, or send a token: Authorization: Bearer TOKEN\n",
    401,
    {"WWW-Authenticate": 'Bearer realm="framegate"', "Cache-Control": "no-store"},
)


@dataclass(frozen=True)
class TrustedProxies:
    """The proxies that log users in and name them in headers.

    networks  addresses of the proxies; their headers are believed, those of others are ignored
    user      header with the name of the user
    groups    header with the user's groups, with commas or | between
    """

    networks: tuple[str, ...] = ()
    user: str = "X-Forwarded-User"
    groups: str = "X-Forwarded-Groups"

    def _is_trusted(self, scope: Scope) -> bool:
        try:
            address = ipaddress.ip_address(_peer_of(scope))
        except ValueError:
            return False
        return any(address in ipaddress.ip_network(each) for each in self.networks)

    def client_of(self, scope: Scope, headers: Headers) -> tuple[str, bool]:
        """Return the address of the browser, and whether its connection is encrypted."""
        peer = _peer_of(scope)
        is_secure = scope.get("scheme") == "https"
        if self.networks and self._is_trusted(scope):
            # The last address is the one that the proxy saw; the client can write those before it.
            # Some proxies add it to the header of the client, others add a header of their own.
            forwarded = ",".join(headers.getlist("x-forwarded-for")) or peer
            peer = _plain_address(forwarded.rpartition(",")[2].strip())
            is_secure = headers.get("x-forwarded-proto", "") == "https"
        return peer, is_secure

    def hosts_of(self, scope: Scope, headers: Headers) -> list[str]:
        """Return the HOST:PORT of the request, and those by which its proxies were asked.

        No page can make a browser send the header of the proxies to another server.
        """
        hosts = [headers.get("host", "")]
        if self.networks and self._is_trusted(scope):
            forwarded = ",".join(headers.getlist("x-forwarded-host"))
            hosts += [host.strip() for host in forwarded.split(",")]
        return hosts

    def caller_of(
        self, scope: Scope, headers: Headers, accounts: Mapping[str, Account]
    ) -> Caller | None:
        """Return the caller that a proxy names; None if it names none. Refusal.

        Of the accounts with one of the user's groups, the one with the highest role counts, and
        of equal ones the first in the file.
        """
        if not self.networks or not self._is_trusted(scope) or not headers.get(self.user):
            return None
        groups = {each.strip() for each in re.split(r"[,|]", headers.get(self.groups, ""))}
        matching = [
            caller_of_account(name, account)
            for name, account in accounts.items()
            if groups.intersection(account.groups)
        ]
        if not matching:
            raise Refusal(
                403,
                f"the user {headers[self.user][:64]!r} has no group with an account; give one of "
                f"the groups in {self.groups} to an account: groups = [...]",
            )
        return max(matching, key=lambda caller: ROLES.index(caller.role))


def _peer_of(scope: Scope) -> str:
    """Return the address of the other end of a connection; "" if it is not known."""
    return _plain_address((scope.get("client") or ("",))[0])


def _plain_address(text: str) -> str:
    """Return an address; an IPv4 address as IPv4.

    A socket that listens at `[::]` sees it as `::ffff:192.0.2.1`. All of these are in one IPv6
    network, so that a stranger's failed logins would count for all browsers.
    """
    try:
        mapped = ipaddress.IPv6Address(text).ipv4_mapped
    except ValueError:
        return text
    if mapped is None:
        return text
    return str(mapped)


def _token_of(headers: Mapping[str, str]) -> bytes:
    """Return the bearer token or the password of a request; b"", never a token, without them."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip().encode()
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    return b""
