"""Run a user's SQL on the database of episodes: it only reads, within limits of time and memory."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any, Final

from framegate.pipeline.contracts.errors import ConfigFaults

SQL_S: Final = 10.0
SQL_BYTES: Final = 16 << 20  # of one value
STEPS: Final = 20_000  # of SQLite's virtual machine between two checks of the time

_ALLOWED: Final = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
}  # fmt: skip
_REFUSED: Final = {"load_extension", "fts3_tokenizer", "writefile", "edit"}


def guard(database: sqlite3.Connection, limit_s: float = SQL_S) -> None:
    """Restrict a connection: from now on it only reads, and only for `limit_s` seconds.

    Other statements, and later ones, raise sqlite3.Error.
    """
    due_mono = time.monotonic() + limit_s
    database.set_authorizer(_authorize)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, SQL_BYTES)
    database.set_progress_handler(lambda: time.monotonic() > due_mono, STEPS)


def rows(
    database: sqlite3.Connection, sql: str, limit_s: float = SQL_S
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Run a SELECT. Return the names of its columns, and an iterator of its rows.

    ConfigFaults, also from the iterator: the statement is not a single SELECT, has a fault, or
    takes longer than `limit_s`.
    """
    guard(database, limit_s)
    with _sql_faults(limit_s):
        cursor = database.execute(sql)
        if cursor.description is None:
            raise ConfigFaults(["--sql: the statement is empty; allowed is one SELECT"])
    return [column[0] for column in cursor.description], _rows_of(cursor, limit_s)


def _rows_of(cursor: sqlite3.Cursor, limit_s: float) -> Iterator[tuple[Any, ...]]:
    with _sql_faults(limit_s):
        yield from cursor


def _authorize(action: int, _: str | None, name: str | None, *__: str | None) -> int:
    is_refused_function = action == sqlite3.SQLITE_FUNCTION and name in _REFUSED
    if action in _ALLOWED and not is_refused_function:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


@contextlib.contextmanager
def _sql_faults(limit_s: float) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = str(error)
        if reason == "interrupted":
            reason = f"the statement takes longer than {limit_s:g} s"
        elif reason == "not authorized":
            reason = "the statement does more than read; allowed is one SELECT"
        raise ConfigFaults([f"--sql: {reason}"]) from error
