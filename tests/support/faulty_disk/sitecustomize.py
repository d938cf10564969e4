"""Makes the n-th write, fsync, rename, SQLite call or store command of a run fail.

Python imports this module at the start of each process whose PYTHONPATH has its folder, so that a
run and all its workers have it. `FRAMEGATE_FAULTS` is a `Plan` as JSON. Calls are counted over all
processes together; only those for files in the data folder, and for its store, count.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import socket
import sqlite3
import sys
from typing import Any, Final

RECORD: Final = 160  # bytes of a line about one call
SHORT: Final = "short"
BEFORE, AFTER = "before", "after"


class Plan:
    """The calls that fail.

    data    folder whose files, and whose store, are meant
    calls   folder for a file for each kind of call; each line in it is one call
    faults  kind -> (number of the call that fails, from 1; what it fails with)
    """

    def __init__(self, said: str) -> None:
        plan = json.loads(said)
        self.data = os.path.realpath(plan["data"]) + os.sep
        self._calls: str = plan["calls"]
        self._faults: dict[str, tuple[int, str]] = plan["faults"]

    def covers(self, path: Any) -> bool:
        """Return whether a path is in the data folder."""
        try:
            return os.path.realpath(os.fsdecode(path)).startswith(self.data)
        except (TypeError, ValueError):
            return False

    def covers_descriptor(self, descriptor: int) -> bool:
        """Return whether an open file is in the data folder."""
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}").startswith(self.data)
        except OSError:
            return False

    def due(self, kind: str, what: object) -> str | None:
        """Count a call, and return what it is to fail with; None: it is done as usual."""
        line = f"{os.path.basename(sys.argv[0] or '?')} {what} {_caller()}"
        file = _open(f"{self._calls}/{kind}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            _write(file, line[: RECORD - 1].ljust(RECORD - 1).encode("ascii", "replace") + b"\n")
            number = os.lseek(file, 0, os.SEEK_CUR) // RECORD
        finally:
            _close(file)
        at, error = self._faults.get(kind, (0, ""))
        return error if number == at else None


def _caller() -> str:
    """Return the line of Framegate that made the call."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/pipeline/" in file or "/stages/" in file:
            return f"{file.rpartition('/pipeline/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "-"


def _name(descriptor: int) -> str:
    return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))


def _error(name: str, path: object) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), os.fspath(path) if path is not None else None)  # type: ignore[call-overload,no-any-return]


_open, _write, _close = os.open, os.write, os.close
_fsync, _fdatasync = os.fsync, os.fdatasync
_rename, _replace = os.rename, os.replace
_io_open, _connect, _sendall = io.open, sqlite3.connect, socket.socket.sendall


def install(plan: Plan) -> None:
    """Put the faulty calls in the place of the right ones."""
    _install_files(plan)
    _install_descriptors(plan)
    _install_sqlite(plan)
    _install_store(plan)


def _install_files(plan: Plan) -> None:
    class File(io.FileIO):
        def write(self, data: Any, /) -> int:
            if not plan.covers_descriptor(self.fileno()):
                return super().write(data)
            fault = plan.due("write", _name(self.fileno()))
            if fault == SHORT:
                half = memoryview(data).cast("B")[: max(1, len(memoryview(data).cast("B")) // 2)]
                return super().write(half)
            if fault is not None:
                raise _error(fault, None)
            return super().write(data)

    def open_(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        covers = plan.covers_descriptor if isinstance(file, int) else plan.covers
        if not set(mode) & set("wax+") or not covers(file):
            return _io_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    builtins.open = io.open = open_  # type: ignore[assignment]
    io.FileIO = File  # type: ignore[misc]


def _install_descriptors(plan: Plan) -> None:
    def write(descriptor: int, data: Any) -> int:
        if plan.covers_descriptor(descriptor):
            fault = plan.due("write", _name(descriptor))
            if fault == SHORT:
                return _write(descriptor, bytes(data)[: max(1, len(data) // 2)])
            if fault is not None:
                raise _error(fault, None)
        return _write(descriptor, data)

    def synced(call: Any) -> Any:
        def sync(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            if plan.covers_descriptor(descriptor):
                fault = plan.due("fsync", _name(descriptor))
                if fault is not None:
                    raise _error("EIO" if fault == SHORT else fault, None)
            call(file)

        return sync

    def renamed(call: Any) -> Any:
        def rename(source: Any, target: Any, **more: Any) -> None:
            if plan.covers(target):
                fault = plan.due("rename", os.path.basename(os.fsdecode(target)))
                if fault is not None:
                    raise _error("EIO" if fault == SHORT else fault, source)
            call(source, target, **more)

        return rename

    os.write = write
    os.fsync, os.fdatasync = synced(_fsync), synced(_fdatasync)
    os.rename, os.replace = renamed(_rename), renamed(_replace)


def _install_sqlite(plan: Plan) -> None:
    class Connection(sqlite3.Connection):
        def _may_fail(self, said: str) -> None:
            if plan.due("sqlite", said.split("\n")[0][:40]) is not None:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error

        def execute(self, said: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
            self._may_fail(said)
            return super().execute(said, *values)

        def executemany(self, said: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
            self._may_fail(said)
            return super().executemany(said, *values)

        def executescript(self, said: str) -> sqlite3.Cursor:
            self._may_fail(said)
            return super().executescript(said)

    def connect(database: Any, *words: Any, **more: Any) -> sqlite3.Connection:
        place = os.fsdecode(database).removeprefix("file:").partition("?")[0]
        if plan.covers(place):
            more.setdefault("factory", Connection)
        return _connect(database, *words, **more)

    sqlite3.connect = sqlite3.dbapi2.connect = connect


def _install_store(plan: Plan) -> None:
    def sendall(self: socket.socket, data: Any, *flags: int) -> None:
        if self.family != socket.AF_UNIX or not _is_store(self.getpeername()):
            return _sendall(self, data, *flags)
        fault = plan.due("store", bytes(data)[:40].replace(b"\r\n", b" ").decode("latin-1"))
        if fault is None:
            return _sendall(self, data, *flags)
        if fault == AFTER:
            _sendall(self, data, *flags)
        self.shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    socket.socket.sendall = sendall  # type: ignore[method-assign,assignment]


def _is_store(peer: object) -> bool:
    return isinstance(peer, str) and peer.endswith(".sock") and not peer.endswith("control.sock")


if said := os.environ.get("FRAMEGATE_FAULTS"):
    install(Plan(said))
