"""Sessions of browsers: a signed cookie after a login with the password or token of an account.

No session is stored. The cookie names its account and is bound to the account's secret, so a new
password or token ends its sessions, as does the removal of the account. The key of the signature
comes from the token of the run: hosts of a fleet with one token and one file of accounts accept
each other's sessions.

A login leaves a second cookie, by which the browser is known afterwards. The limits of failed
logins then count it by itself, so strangers who guess passwords cannot lock it out.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.web.accounts.accounts import (
    Account,
    AccountFile,
    Caller,
    caller_of_account,
    digest_of,
)

SESSION_S: Final = 12 * 3600  # for which a login is valid
KNOWN_S: Final = 400 * 24 * 3600  # for which a browser is known after a login
WINDOW_S: Final = 60.0
MAX_FAILURES: Final = 5  # in WINDOW_S: of an address, or of a known browser
MAX_NETWORK_FAILURES: Final = 20  # in WINDOW_S: of an IPv6 network of a customer, a /48
MAX_ACCOUNT_FAILURES: Final = 30  # in WINDOW_S: of all unknown browsers, for one account
MAX_COUNTED: Final = 4096  # addresses, networks, browsers and accounts that are remembered
MAX_PASSWORD: Final = 1024  # characters
MAX_COOKIE: Final = 512
COOKIE: Final = "framegate_"  # first part of the name of the cookie
MIN_PASSWORD: Final = 10
CLIENT: Final = "framegate.client"
"""Key in the scope of a request: the address of the browser."""
IS_SECURE: Final = "framegate.is_secure"
"""Key in the scope of a request: whether the connection of the browser is encrypted."""
OWNER_NAME: Final = "admin"
"""The name of the run's own token at the login; an account may have this name too."""

_MISSING: Final = "logins need argon2-cffi and itsdangerous: pip install argon2-cffi itsdangerous"


def hash_of_password(password: str) -> str:
    """Return the Argon2id hash of a password. ConfigFaults if it is too short, or no package."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise ConfigFaults(
            [f"the password has {len(password)} characters; it needs {MIN_PASSWORD} or more"]
        )
    hashed: str = _hasher().hash(password)
    return hashed


def check_packages() -> None:
    """Raise ConfigFaults if a package for logins is missing."""
    _hasher()


def _hasher() -> Any:
    try:
        import argon2
        import itsdangerous  # noqa: F401
    except ImportError:
        raise ConfigFaults([_MISSING]) from None
    return argon2.PasswordHasher()  # of RFC 9106: 64 MiB, three passes


class LoginFailed(Exception):
    """A login that failed. wait_s: seconds after which another can be tried; 0: at once"""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class LoginCookies:
    """A login that succeeded, as the values of two cookies.

    session  of the session
    known    by which the browser is known from now on
    """

    session: str
    known: str


@dataclass(frozen=True)
class KnownBrowser:
    """A browser that has logged in before. account: to which; id: its own"""

    account: str
    id: str


class Sessions:
    """The logins of a port. `login` may take 0.2 s and 64 MiB: call it in one thread at a time."""

    def __init__(self, key: str, token_sha256: str, accounts: AccountFile) -> None:
        """Raise ConfigFaults if a package for logins is missing.

        key           of the signatures
        token_sha256  of the token of the run
        """
        self._hasher = _hasher()
        from itsdangerous import URLSafeTimedSerializer

        self._signer = URLSafeTimedSerializer(key, "framegate session")
        self._known_signer = URLSafeTimedSerializer(key, "framegate known browser")
        self._token_sha256 = token_sha256
        self._accounts = accounts
        self._failures = Failures()
        self._unknown = self._hasher.hash("the password of no account")
        self.cookie = f"{COOKIE}{sha256(key.encode()).hexdigest()[:8]}"
        self.known_cookie = f"{self.cookie}_known"

    def login(
        self, name: str, secret: str, address: str, browser: KnownBrowser | None = None
    ) -> LoginCookies:
        """Return the cookies for the password or token of an account. LoginFailed.

        address  of the client
        browser  the client, if it is known
        """
        if browser is not None and browser.account != name:
            browser = None
        secret = secret[: MAX_PASSWORD + 1]
        # A token cannot be guessed, so its owner need not wait for those who guess passwords.
        bound_to = self._with_token(name, secret)
        if bound_to is None:
            limits = limits_of(name, address, browser)
            wait_s = self._failures.wait_s(limits, time.monotonic())
            if wait_s > 0:
                raise LoginFailed(f"too many logins failed; try again in {wait_s:.0f} s", wait_s)
            bound_to = self._with_password(name, secret)
            if bound_to is None:
                self._failures.add(limits, time.monotonic())
                raise LoginFailed("the name or the password is wrong")
        mark = _mark_of(bound_to)
        id_ = secrets.token_urlsafe(9)
        if browser is not None:
            id_ = browser.id
        session: str = self._signer.dumps([name, mark])
        known: str = self._known_signer.dumps([name, mark, id_])
        return LoginCookies(session, known)

    def _with_token(self, name: str, secret: str) -> str | None:
        """Return the stored form of a token that is right, or None."""
        digest = digest_of(secret.encode())
        account = self._accounts.accounts().get(name)
        if account is not None and account.token and hmac.compare_digest(account.token, digest):
            return account.token
        if name == OWNER_NAME and hmac.compare_digest(self._token_sha256, digest):
            return self._token_sha256
        return None

    def _with_password(self, name: str, secret: str) -> str | None:
        """Return the stored form of a password that is right, or None.

        A password is compared for an unknown name too: the time does not show which names exist.
        """
        from argon2.exceptions import Argon2Error, InvalidHashError

        account = self._accounts.accounts().get(name, Account("viewer"))
        try:
            self._hasher.verify(account.password or self._unknown, secret)
        except (Argon2Error, InvalidHashError):
            return None
        return account.password or None

    def known_browser(self, value: str) -> KnownBrowser | None:
        """Return the browser with a cookie of this value; None if it is not valid, or not now."""
        found = _signed_in(self._known_signer, value, KNOWN_S)
        if found is None or len(found) != 3:
            return None
        name, mark, id_ = found
        if self._caller_with(name, mark) is None:
            return None
        return KnownBrowser(name, id_)

    def caller(self, value: str) -> Caller | None:
        """Return the caller with a cookie of this value; None if it is not valid, or not now."""
        found = _signed_in(self._signer, value, SESSION_S)
        if found is None or len(found) != 2:
            return None
        name, mark = found
        return self._caller_with(name, mark)

    def _caller_with(self, name: str, mark: str) -> Caller | None:
        """Return the caller with a secret of this mark; None if there is none."""
        account = self._accounts.accounts().get(name)
        if account is not None:
            for secret in (account.password, account.token):
                if secret and hmac.compare_digest(_mark_of(secret), mark):
                    return caller_of_account(name, account)
        if name == OWNER_NAME and hmac.compare_digest(_mark_of(self._token_sha256), mark):
            return Caller(OWNER_NAME, "admin")
        return None


def _signed_in(signer: Any, value: str, age_s: int) -> list[str] | None:
    """Return the signed words of a cookie; None if it is not valid, or older than `age_s`."""
    from itsdangerous import BadData

    if not value or len(value) > MAX_COOKIE:
        return None
    try:
        return [str(word) for word in signer.loads(value, max_age=age_s)]
    except (BadData, ValueError, TypeError):
        return None


def _mark_of(stored: str) -> str:
    """Return a short digest of a stored hash, by which a cookie is bound to it."""
    return sha256(f"session {stored}".encode()).hexdigest()[:16]


def limits_of(name: str, address: str, browser: KnownBrowser | None) -> dict[str, int]:
    """Return what a login counts for, and how many of them may fail in WINDOW_S.

    name     of the account that it names
    address  of the client
    browser  the client, if it is known for this account: it counts by itself
    """
    if browser is not None:
        return {f"browser {browser.id}": MAX_FAILURES}
    limits = {
        f"address {block_of(address, 64)}": MAX_FAILURES,
        f"account {name[:64]}": MAX_ACCOUNT_FAILURES,
    }
    if ":" in address:
        limits[f"network {block_of(address, 48)}"] = MAX_NETWORK_FAILURES
    return limits


class Failures:
    """The failed logins of the last WINDOW_S, by what they count for."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, limits: Mapping[str, int], now_mono: float) -> float:
        """Return the seconds after which such a login may be tried; 0: at once."""
        waits = [0.0]
        for counted, most in limits.items():
            failures = self._of.get(counted)
            if failures is not None and len(failures) >= most:
                waits.append(failures[0] + WINDOW_S - now_mono)
        return max(waits)

    def add(self, limits: Mapping[str, int], now_mono: float) -> None:
        """Count a failed login."""
        for counted, most in limits.items():
            self._of.setdefault(counted, deque(maxlen=most)).append(now_mono)
            self._of.move_to_end(counted)
        while len(self._of) > MAX_COUNTED:
            self._of.popitem(last=False)


def block_of(address: str, bits: int) -> str:
    """Return the network of an IPv6 address with this number of bits; another one as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, bits), strict=False))
    return address


def session_cookie(sessions: Sessions, value: str, is_secure: bool) -> str:
    """Return the header that sets the cookie of a session; an empty value removes it."""
    age_s = SESSION_S
    if not value:
        age_s = 0
    return _cookie(sessions.cookie, value, age_s, is_secure)


def known_cookie(sessions: Sessions, value: str, is_secure: bool) -> str:
    """Return the header that sets the cookie of a known browser."""
    return _cookie(sessions.known_cookie, value, KNOWN_S, is_secure)


def _cookie(name: str, value: str, age_s: int, is_secure: bool) -> str:
    header = f"{name}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax"
    if is_secure:
        header += "; Secure"
    return header
