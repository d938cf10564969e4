"""Sessions of browsers: a signed cookie after a login with the password or token of an account.

No session is stored. The cookie names its account and is bound to the account's secret, so a new
password or token ends its sessions, as does the removal of the account. The key of the signature
comes from the token of the run: hosts of a fleet with one token and one file of accounts accept
each other's sessions.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections import OrderedDict, deque
from hashlib import sha256
from typing import Any, Final

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.web.accounts import (
    Account,
    AccountFile,
    Caller,
    caller_of_account,
    digest_of,
)

SESSION_S: Final = 12 * 3600  # for which a login is valid
WINDOW_S: Final = 60.0
MAX_FAILURES: Final = 5  # of an address in WINDOW_S
MAX_ALL_FAILURES: Final = 30  # of all addresses in WINDOW_S
MAX_ADDRESSES: Final = 1024  # that are remembered
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

_MISSING: Final = (
    "passwords need argon2-cffi and itsdangerous: pip install argon2-cffi itsdangerous"
)


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


class Sessions:
    """The logins of a port. `login` may take 0.2 s and 64 MiB: call it in one thread at a time."""

    def __init__(self, key: str, token_sha256: str, accounts: AccountFile) -> None:
        """key: of the signatures. token_sha256: of the token of the run"""
        from itsdangerous import URLSafeTimedSerializer

        self._hasher = _hasher()
        self._signer = URLSafeTimedSerializer(key, "framegate session")
        self._token_sha256 = token_sha256
        self._accounts = accounts
        self._failures = Failures()
        self._unknown = self._hasher.hash("the password of no account")
        self.cookie = f"{COOKIE}{sha256(key.encode()).hexdigest()[:8]}"

    def login(self, name: str, secret: str, address: str) -> str:
        """Return the value of the cookie for the password or token of an account. LoginFailed.

        address  of the client
        """
        wait_s = self._failures.wait_s(address, time.monotonic())
        if wait_s > 0:
            raise LoginFailed(f"too many logins failed; try again in {wait_s:.0f} s", wait_s)
        bound_to = self._verified(name, secret[: MAX_PASSWORD + 1])
        if bound_to is None:
            self._failures.add(address, time.monotonic())
            raise LoginFailed("the name or the password is wrong")
        value: str = self._signer.dumps([name, _mark_of(bound_to)])
        return value

    def _verified(self, name: str, secret: str) -> str | None:
        """Return the stored form of a secret that is right, or None.

        A password is compared for an unknown name too: the time does not show which names exist.
        """
        digest = digest_of(secret.encode())
        account = self._accounts.accounts().get(name, Account("viewer"))
        if account.token and hmac.compare_digest(account.token, digest):
            return account.token
        if name == OWNER_NAME and hmac.compare_digest(self._token_sha256, digest):
            return self._token_sha256
        from argon2.exceptions import Argon2Error, InvalidHashError

        try:
            self._hasher.verify(account.password or self._unknown, secret)
        except (Argon2Error, InvalidHashError):
            return None
        return account.password or None

    def caller(self, value: str) -> Caller | None:
        """Return the caller with a cookie of this value; None if it is not valid, or not now."""
        from itsdangerous import BadData

        if not value or len(value) > MAX_COOKIE:
            return None
        try:
            name, mark = self._signer.loads(value, max_age=SESSION_S)
        except (BadData, ValueError, TypeError):
            return None
        account = self._accounts.accounts().get(name)
        if account is not None:
            for secret in (account.password, account.token):
                if secret and hmac.compare_digest(_mark_of(secret), mark):
                    return caller_of_account(name, account)
        if name == OWNER_NAME and hmac.compare_digest(_mark_of(self._token_sha256), mark):
            return Caller(OWNER_NAME, "admin")
        return None


def _mark_of(stored: str) -> str:
    """Return a short digest of a stored hash, by which a cookie is bound to it."""
    return sha256(f"session {stored}".encode()).hexdigest()[:16]


class Failures:
    """The failed logins of the last WINDOW_S by address. Of an IPv6 address, its /64 counts."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=MAX_ALL_FAILURES)

    def wait_s(self, address: str, now_mono: float) -> float:
        """Return the seconds after which the address may try again; 0: at once."""
        own = self._of.get(_block_of(address), deque())
        waits = [
            _wait_s(own, MAX_FAILURES, now_mono),
            _wait_s(self._all, MAX_ALL_FAILURES, now_mono),
        ]
        return max(waits)

    def add(self, address: str, now_mono: float) -> None:
        """Count a failed login."""
        block = _block_of(address)
        self._of.setdefault(block, deque(maxlen=MAX_FAILURES)).append(now_mono)
        self._of.move_to_end(block)
        self._all.append(now_mono)
        if len(self._of) > MAX_ADDRESSES:
            self._of.popitem(last=False)


def _wait_s(failures: deque[float], most: int, now_mono: float) -> float:
    if len(failures) < most:
        return 0.0
    return max(0.0, failures[0] + WINDOW_S - now_mono)


def _block_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def session_cookie(sessions: Sessions, value: str, is_secure: bool) -> str:
    """Return the header that sets the cookie; an empty value removes it."""
    age_s = SESSION_S
    if not value:
        age_s = 0
    header = f"{sessions.cookie}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax"
    if is_secure:
        header += "; Secure"
    return header
