"""The accounts of the HTTP port: a role and a list of sources for each, in a file of hashes.

The file has no secret: of a token only its SHA-256, of a password only its Argon2id hash. It is
read again when it changes. `framegate account` writes it.
"""

from __future__ import annotations

import hmac
import logging
import os
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name

log = logging.getLogger(__name__)

Role = Literal["viewer", "reviewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Each role may do all that the roles before it may."""

MAX_ACCOUNTS: Final = 256
MAX_BYTES: Final = 256 << 10  # of the file
_HEX: Final = "0123456789abcdef"


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An account: a table `[NAME]` of the file.

    role      viewer: look. reviewer: also judge and mark. operator: also change rules, filters and
              profiles. admin: everything
    sources   names of the sources that it may see; left out: all
    token     SHA-256 of its token, 64 hexadecimal digits
    password  Argon2id hash of its password
    groups    groups of callers that a trusted proxy names; each of them gets this account
    """

    role: Role
    sources: tuple[str, ...] | None = None
    token: str = ""
    password: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    name     of its account; "": the token of the run, or a run that needs none
    role     its role
    sources  names of the sources that it may see; None: all
    """

    name: str
    role: Role
    sources: frozenset[str] | None = None

    def may(self, role: Role) -> bool:
        """Return whether the caller has this role, or one above it."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def sees(self, source: str) -> bool:
        """Return whether the caller may see a source."""
        return self.sources is None or source in self.sources

    def seen(self, sources: Iterable[str]) -> list[str]:
        """Return those sources that the caller may see, in the same order."""
        return [source for source in sources if self.sees(source)]


CALLER: Final = "framegate.caller"
"""Key of the caller in the scope of a request."""

OWNER: Final = Caller("", "admin")
"""The caller with the token of the run, or any caller of a run that needs none."""


def caller_of_account(name: str, account: Account) -> Caller:
    """Return the caller that uses an account."""
    sources = None
    if account.sources is not None:
        sources = frozenset(account.sources)
    return Caller(name, account.role, sources)


def digest_of(secret: bytes) -> str:
    """Return the SHA-256 of a token, in hexadecimal digits."""
    return sha256(secret).hexdigest()


def caller_with_token(accounts: Mapping[str, Account], digest: str) -> Caller | None:
    """Return the caller whose token has this digest; None if there is none. Constant time."""
    found = None
    for name, account in accounts.items():
        if account.token and hmac.compare_digest(account.token, digest):
            found = caller_of_account(name, account)
    return found


# -- The file.


def read_accounts(path: Path) -> dict[str, Account]:
    """Read the file of accounts. ConfigFaults."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigFaults([f"{path}: more than {MAX_BYTES} bytes"])
        return accounts_in(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{path}: {error}"]) from None


def accounts_in(text: str, path: Path) -> dict[str, Account]:
    """Return the accounts of a text. path: of the file, for messages. ConfigFaults."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigFaults([f"{path}: {error}"]) from None
    accounts = {}
    faults = []
    for name, table in tables.items():
        try:
            accounts[name] = _account(name, table)
        except ValueError as error:
            faults.append(f"{path}: [{name[:64]}]: {error}")
    if len(tables) > MAX_ACCOUNTS:
        faults.append(f"{path}: {len(tables)} accounts; at most {MAX_ACCOUNTS} are possible")
    if faults:
        raise ConfigFaults(faults)
    return accounts


def _account(name: str, table: Any) -> Account:
    """Return the account of a table. ValueError."""
    if not is_name(name):
        raise ValueError(f"not a name; a name is {NAME_RULE}")
    if isinstance(table, dict) and table.get("role") not in ROLES:
        role = str(table.get("role"))
        near = did_you_mean(role, ROLES)
        raise ValueError(f"role = {role!r}; allowed: {', '.join(ROLES)}{near}")
    try:
        account = msgspec.convert(table, Account)
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}; its keys: {', '.join(Account.__struct_fields__)}") from None
    if account.sources is not None:
        _check_sources(account.sources)
    is_digest = len(account.token) == 64 and set(account.token) <= set(_HEX)
    if account.token and not is_digest:
        raise ValueError("token must be a SHA-256, 64 hexadecimal digits, and not the token itself")
    if account.password and not account.password.startswith("$argon2id$"):
        raise ValueError("password must be an Argon2id hash, and not the password itself")
    return account


def _check_sources(sources: Collection[str]) -> None:
    if not sources:
        raise ValueError("sources = []; name a source, or leave `sources` out for all sources")
    for source in sources:
        if not is_name(source):
            raise ValueError(f"sources: {source[:64]!r} is not a name; a name is {NAME_RULE}")


class AccountFile:
    """The accounts of a file, read again when it changes. Any thread.

    is_faulty  whether the last read failed, so that the accounts are those of before
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: tuple[int, ...] | None = None
        self._accounts: dict[str, Account] = {}
        self.is_faulty = False

    def accounts(self) -> Mapping[str, Account]:
        """Return the accounts of the file.

        If it cannot be read, these are the accounts that this process read before, else none, and
        a warning is logged.
        """
        state = _state_of(self._path)
        if state != self._state:
            self._state = state
            try:
                self._accounts = read_accounts(self._path)
                self.is_faulty = False
            except ConfigFaults as faults:
                self.is_faulty = True
                log.warning("the accounts stay as they were: %s", "; ".join(faults.faults))
        return self._accounts


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Return numbers that differ after a change of the file; None if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
