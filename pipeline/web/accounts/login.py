"""The login page, and the routes by which a browser logs in and out."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.web.accounts.accounts import AccountFile, Role
from framegate.pipeline.web.accounts.sessions import (
    CLIENT,
    IS_SECURE,
    KnownBrowser,
    LoginCookies,
    LoginFailed,
    Sessions,
    block_of,
    known_cookie,
    session_cookie,
)
from framegate.pipeline.web.limits import JSON, NO_STORE, AtOnce, Refusal, posted, refused
from framegate.pipeline.web.openapi import Operation
from framegate.pipeline.web.pages.pages import page
from framegate.pipeline.web.port import WebSpec
from framegate.pipeline.web.route_table import caller_of

log = logging.getLogger(__name__)

MAX_BYTES: Final = 8 << 10  # of a login
MAX_LOGINS: Final = 32  # at once, of unknown browsers
MAX_OF_NETWORK: Final = 4  # at once, of one address
MAX_KNOWN: Final = 8  # at once, of known browsers
BODY_S: Final = 5.0  # that a client may take to send its login


class LoginSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The login of a user.

    name      name of the account; admin: also the token of the run
    password  password of the account, or its token
    """

    name: str
    password: str


class LogoutSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wish to log out."""


class OwnAccount(msgspec.Struct, frozen=True):
    """The account of the caller.

    name     its name; empty: the token of the run, or a run that needs none
    role     its role
    sources  names of the sources that it may see; null: all
    """

    name: str
    role: Role
    sources: list[str] | None


def accounts_of(spec: WebSpec) -> tuple[AccountFile | None, Sessions | None]:
    """Return the accounts, and the sessions of browsers; None without accounts or packages."""
    if not spec.accounts:
        return None, None
    accounts = AccountFile(Path(spec.accounts))
    try:
        return accounts, Sessions(spec.session_key, spec.token_sha256, accounts)
    except ConfigFaults as faults:
        log.warning("there is no login page: %s", "; ".join(faults.faults))
        return accounts, None


def login_routes(sessions: Sessions | None) -> list[Route]:
    """Return the routes. sessions: None if the run has no accounts"""
    logins = AtOnce(MAX_LOGINS, "logins", MAX_OF_NETWORK)
    known_logins = AtOnce(MAX_KNOWN, "logins of known browsers")
    turn = asyncio.Lock()  # a hash takes 64 MiB and a core

    async def account(request: Request) -> Response:
        """The account of the caller: name, role and sources."""
        caller = caller_of(request)
        sources = None
        if caller.sources is not None:
            sources = sorted(caller.sources)
        own = OwnAccount(caller.name, caller.role, sources)
        return Response(msgspec.json.encode(own), 200, NO_STORE, JSON)

    async def login(request: Request) -> Response:
        """Log in with the password or the token of an account; sets a cookie for 12 hours."""
        address = request.scope.get(CLIENT, "")
        browser = _known_browser(request, sessions)
        places = logins.taken(block_of(address, 48))
        if browser is not None:
            places = known_logins.taken()
        try:
            with places:  # also while the body is read: this route needs no token
                said = await posted(request, LoginSaid, MAX_BYTES, BODY_S)
                async with turn:
                    made = await run_in_threadpool(_login, sessions, said, address, browser)
        except Refusal as error:
            return refused(error)
        response = _with_cookie(request, sessions, made.session)
        if sessions is not None:
            cookie = known_cookie(sessions, made.known, _is_secure(request))
            response.headers.append("Set-Cookie", cookie)
        return response

    async def logout(request: Request) -> Response:
        """Log out: removes the cookie."""
        try:
            await posted(request, LogoutSaid, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        return _with_cookie(request, sessions, "")

    return [
        Operation("/api/v1/account", account, gives=OwnAccount),
        Operation("/api/v1/login", login, gives=LogoutSaid, body=LoginSaid),
        Operation("/api/v1/logout", logout, gives=LogoutSaid, body=LogoutSaid),
        page("/login", "accounts/login.html", "The page to log in and out."),
    ]


def _known_browser(request: Request, sessions: Sessions | None) -> KnownBrowser | None:
    if sessions is None:
        return None
    return sessions.known_browser(request.cookies.get(sessions.known_cookie, ""))


def _login(
    sessions: Sessions | None, said: LoginSaid, address: str, browser: KnownBrowser | None
) -> LoginCookies:
    """Return the cookies. Refusal."""
    if sessions is None:
        raise Refusal(404, "this run has no accounts; [http] accounts_file names their file")
    try:
        return sessions.login(said.name, said.password, address, browser)
    except LoginFailed as error:
        status = 403
        if error.wait_s:
            status = 429
        raise Refusal(status, str(error)) from None


def _with_cookie(request: Request, sessions: Sessions | None, value: str) -> Response:
    headers = dict(NO_STORE)
    if sessions is not None:
        headers["Set-Cookie"] = session_cookie(sessions, value, _is_secure(request))
    return Response(b"{}", 200, headers, JSON)


def _is_secure(request: Request) -> bool:
    return bool(request.scope.get(IS_SECURE, False))
