"""`framegate account`: add, list and remove the accounts of the HTTP port."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from framegate.cli.help import ending
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.system.replaced_file import locked, written
from framegate.pipeline.web.accounts.accounts import (
    ROLES,
    Account,
    accounts_in,
    digest_of,
    read_accounts,
)
from framegate.pipeline.web.accounts.sessions import hash_of_password

PASSWORD_ENV: Final = "FRAMEGATE_ACCOUNT_PASSWORD"
_DEFAULT: Final = "accounts.toml"


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "account",
        description="Add, list and remove accounts of the live page and the HTTP port. An account "
        "has a role and a list of sources. The file of accounts contains only hashes. A run reads "
        "it again when it changes.",
        epilog=ending(
            "framegate account add wall --sources door,yard",
            "framegate account add guard --role reviewer --password",
            "framegate account list",
            "framegate account remove wall",
            page="accounts",
        ),
    )
    verbs = command.add_subparsers(required=True, metavar="VERB")
    _register_add(verbs)
    _register_list(verbs)
    _register_remove(verbs)


def _register_add(verbs: Any) -> None:
    verb = verbs.add_parser(
        "add",
        help="add an account and print its new token, or ask for its password",
        description="Add an account. By default it gets a token for programs, which is printed "
        "once. With --password, it logs in on the page. With --groups, a trusted proxy logs its "
        "users in.",
        epilog=ending(
            "framegate account add wall --sources door,yard",
            "framegate account add guard --role reviewer --password",
            "framegate account add shift --role operator --groups cctv",
            page="accounts",
        ),
    )
    verb.set_defaults(command=_add)
    verb.add_argument("name", metavar="NAME", help="name of the account")
    verb.add_argument(
        "--role",
        choices=ROLES,
        default="viewer",
        help="viewer: look (default); reviewer: also judge and mark; operator: also change rules "
        "and filters; admin: everything",
    )
    verb.add_argument("--sources", metavar="A,B", help="sources that it may see (default: all)")
    verb.add_argument(
        "--password", action="store_true", help="ask for a password instead of making a token"
    )
    verb.add_argument(
        "--password-file",
        metavar="FILE",
        help=f"file with the password (default: {PASSWORD_ENV}, or a prompt)",
    )
    verb.add_argument("--groups", metavar="A,B", help="groups of users that a proxy logs in")
    _add_file(verb)


def _register_list(verbs: Any) -> None:
    verb = verbs.add_parser(
        "list",
        help="list the accounts",
        description="List the accounts: name, role, ways to log in, and sources.",
        epilog=ending("framegate account list", page="accounts"),
    )
    verb.set_defaults(command=_list)
    verb.add_argument("--json", action="store_true", help="print JSON")
    _add_file(verb)


def _register_remove(verbs: Any) -> None:
    verb = verbs.add_parser(
        "remove",
        help="remove an account, and end its sessions",
        description="Remove an account. Its token and its sessions are refused from now on.",
        epilog=ending("framegate account remove wall", page="accounts"),
    )
    verb.set_defaults(command=_remove)
    verb.add_argument("name", metavar="NAME", help="name of the account")
    _add_file(verb)


def _add_file(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--file",
        type=Path,
        default=Path(_DEFAULT),
        metavar="FILE",
        help=f"file of the accounts (default: ./{_DEFAULT})",
    )


def _add(parsed: argparse.Namespace) -> Exit:
    file: Path = parsed.file
    if not is_name(parsed.name):
        raise ConfigFaults([f"account {parsed.name[:64]!r}: a name is {NAME_RULE}"])
    _refuse_known(parsed.name, _text_of(file), file)  # before a person types a password
    token, lines = _new_account(parsed)
    table = "\n".join(lines) + "\n"
    accounts_in(table, file)
    with _opened(file, is_made=True) as real:
        text = _text_of(file)
        _refuse_known(parsed.name, text, file)
        before = ""
        if text:
            before = text.rstrip("\n") + "\n\n"
        _write(file, real, before + table)
    if token:
        print(token)
        print("this token is not shown again; the file has only its hash", file=sys.stderr)
    if not text:
        print(
            f"to use {file}, add to pipeline.toml, and start the run again:\n\n[http]\n"
            f'accounts_file = "{file}"',
            file=sys.stderr,
        )
    return Exit.DONE


def _refuse_known(name: str, text: str, file: Path) -> None:
    if name in accounts_in(text, file):
        raise ConfigFaults(
            [
                f"{file} has an account {name}; remove it first: "
                f"framegate account remove {name}{_option(file)}"
            ]
        )


def _new_account(parsed: argparse.Namespace) -> tuple[str, list[str]]:
    """Return the new token ("": it has none), and the lines of the account's table."""
    token, password = "", ""
    if parsed.password or parsed.password_file is not None:
        password = hash_of_password(_password(parsed.password_file))
    elif parsed.groups is None:
        token = secrets.token_urlsafe(32)
    lines = [f"[{parsed.name}]", f'role = "{parsed.role}"']
    for key in ("sources", "groups"):
        if getattr(parsed, key) is not None:
            names = [name.strip() for name in getattr(parsed, key).split(",") if name.strip()]
            lines.append(f"{key} = {msgspec.json.encode(names).decode()}")
    if token:
        lines.append(f'token = "{digest_of(token.encode())}"')
    if password:
        lines.append(f'password = "{password}"')
    return token, lines


def _password(file: str | None) -> str:
    if file is not None:
        try:
            return Path(file).read_text(encoding="utf-8").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigFaults([f"--password-file {file}: {error}"]) from None
    if PASSWORD_ENV in os.environ:
        return os.environ[PASSWORD_ENV]
    if not sys.stdin.isatty():
        raise ConfigFaults([f"no terminal to ask for the password; set {PASSWORD_ENV}"])
    password = getpass.getpass("password: ")
    if getpass.getpass("again: ") != password:
        raise ConfigFaults(["the two passwords differ; nothing was changed"])
    return password


def _list(parsed: argparse.Namespace) -> Exit:
    accounts = read_accounts(parsed.file)
    if parsed.json:
        shown = [{"name": name, **_public(account)} for name, account in accounts.items()]
        print(msgspec.json.encode(shown).decode())
        return Exit.DONE
    for name, account in accounts.items():
        sources = "all sources"
        if account.sources is not None:
            sources = ", ".join(account.sources)
        print(f"{name:<16} {account.role:<9} {_ways(account):<15} {sources}")
    if not accounts:
        print("there are no accounts; add one: framegate account add NAME")
    return Exit.DONE


def _public(account: Account) -> dict[str, Any]:
    return {"role": account.role, "sources": account.sources, "login": _ways(account)}


def _ways(account: Account) -> str:
    ways = [way for way in ("token", "password", "groups") if getattr(account, way)]
    return ", ".join(ways) or "none"


def _remove(parsed: argparse.Namespace) -> Exit:
    with _opened(parsed.file, is_made=False) as real:
        text = _text_of(parsed.file)
        known = accounts_in(text, parsed.file)
        if parsed.name not in known:
            near = did_you_mean(parsed.name, known)
            raise ConfigFaults([f"{parsed.file} has no account {parsed.name[:64]}{near}"])
        # The comments directly above the next table belong to that one.
        next_table = r"(?:[ \t]*(?:#[^\n]*)?\n)*\["
        table = rf"^\[{parsed.name}\][^\n]*(?:\n(?!{next_table})[^\n]*)*\n?(?:[ \t]*\n)*"
        left = re.sub(table, "", text, flags=re.MULTILINE)
        if parsed.name in accounts_in(left, parsed.file):
            fault = f"{parsed.file}: [{parsed.name}] is written unusually; edit the file"
            raise ConfigFaults([fault])
        _write(parsed.file, real, left)
    return Exit.DONE


def _text_of(file: Path) -> str:
    """Return the text of the file; "" if it is missing."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{file}: {error}"]) from None


@contextmanager
def _opened(file: Path, *, is_made: bool) -> Iterator[Path]:
    """Let no other command change the file during the block; yield it without links. ConfigFaults.

    is_made: whether a missing file is made
    """
    real = Path(os.path.realpath(file))  # a link stays
    try:
        with locked(real, is_made=is_made):
            yield real
    except OSError as error:
        raise ConfigFaults([f"{file}: {error.strerror or error}"]) from None


def _write(file: Path, real: Path, text: str) -> None:
    """Replace the opened file at once. ConfigFaults; OSError."""
    accounts_in(text, file)
    with written(real, text.encode()) as new:
        os.replace(new, real)


def _option(file: Path) -> str:
    if str(file) == _DEFAULT:
        return ""
    return f" --file {file}"
