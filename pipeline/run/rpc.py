"""Commands to a run that goes on, over a socket in its data folder; which runs there are.

Only the run's user may connect, so that URLs with passwords may go over it; they never go through
the store. One line of JSON each way: a command, and its reply. The run's side is rpc_server.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from framegate.pipeline.contracts.errors import ConfigFaults, Exit, FramegateError, RunRefused
from framegate.pipeline.contracts.queries import AskCounts, CacheCounts
from framegate.pipeline.run.folder import By, RunSource, runs_folder

SOCKET = "control.sock"
LINE = 1 << 20  # bytes of a command, at most
ANSWER_S = 10.0


class Add(msgspec.Struct, frozen=True, tag=True):
    """Serve these sources as well."""

    sources: list[RunSource]
    take_over: bool = False


class Remove(msgspec.Struct, frozen=True, tag=True):
    """Finish what is decoded of these sources, and let them go."""

    names: list[str]


class Use(msgspec.Struct, frozen=True, tag=True):
    """Serve these sources, all for none, by another model."""

    model: str
    sources: list[str]


class RollBack(msgspec.Struct, frozen=True, tag=True):
    """Serve these sources, all for none, by the model that they had before."""

    sources: list[str]


class GetSources(msgspec.Struct, frozen=True, tag=True):
    """Say which sources the run has; the reply is a SourceList."""


class GetStore(msgspec.Struct, frozen=True, tag=True):
    """Say where the store is; the reply is a StoreUrl."""


class GetHttpToken(msgspec.Struct, frozen=True, tag=True):
    """Say which token the HTTP port asks for; the reply is an HttpToken."""


class GetCounts(msgspec.Struct, frozen=True, tag=True):
    """Say what became of questions and of cache look-ups; the reply is StageCounts."""


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """The command is done."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The command is not done: why, and the exit code for the user."""

    message: str
    exit: int


class ListedSource(msgspec.Struct, frozen=True, tag=True):
    """One source. place: its path, or its URL without user, password and query.

    lost    another run took it over
    parked  its worker cannot live: nobody serves it
    model   that was chosen while the run went on
    """

    name: str
    place: str
    live: bool
    by: By
    removing: bool
    lost: bool
    model: str = ""
    parked: bool = False


class SourceList(msgspec.Struct, frozen=True, tag=True):
    """The sources of the run, in the order in which they came."""

    sources: list[ListedSource]


class StoreUrl(msgspec.Struct, frozen=True, tag=True):
    """The store's URL, with its password."""

    url: str


class HttpToken(msgspec.Struct, frozen=True, tag=True):
    """The token that the HTTP port asks for; empty: it asks for none."""

    token: str


class StageCounts(msgspec.Struct, frozen=True, tag=True):
    """What became of questions and of cache look-ups, by stage, over all its workers' lives; and
    what goes on beside its frames: its sinks, and the sources that it listens to.
    """

    asks: dict[str, AskCounts]
    cache: dict[str, CacheCounts]
    sinks: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()


class NoRun(ConfigFaults):
    """No run goes on where one was looked for; one that has ended may have left its results."""

    def __init__(self, folder: Path | None, why: str = "") -> None:
        where = "" if folder is None else f"in {folder} "
        rest = f": {why}" if why else "; start one, or give its store with --store"
        super().__init__([f"no run is active {where}on this host{rest}"])


RunCommand = Add | Remove | Use | RollBack | GetSources | GetStore | GetHttpToken | GetCounts
RunReply = Accepted | Refused | SourceList | StoreUrl | HttpToken | StageCounts

_replies: msgspec.json.Decoder[RunReply] = msgspec.json.Decoder(RunReply)


def ask(folder: Path, command: RunCommand, patience_s: float | None = None) -> RunReply:
    """Return the reply of the run in a folder. patience_s: seconds to wait, None: for ever.

    NoRun if none goes on there; RunRefused with its reason if it refuses, and if it does not reply.
    """
    try:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line,
            control_socket(folder) as at,
        ):
            line.settimeout(patience_s)
            line.connect(at)
            line.sendall(msgspec.json.encode(command) + b"\n")
            with line.makefile("rb") as lines:
                reply_line = lines.readline()
    except TimeoutError:
        raise RunRefused(f"the run in {folder} does not answer", Exit.SOURCE_FAILED) from None
    except OSError as error:
        raise NoRun(folder, error.strerror or str(error)) from None
    if not reply_line:
        raise RunRefused(f"the run in {folder} ended before it was done", Exit.SOURCE_FAILED)
    reply = _replies.decode(reply_line)
    if isinstance(reply, Refused):
        raise RunRefused(reply.message, Exit(reply.exit))
    return reply


def refusal(error: FramegateError) -> Refused:
    """Return an error as a reply."""
    return Refused(str(error), int(error.exit))


@contextmanager
def control_socket(folder: Path) -> Iterator[str]:
    """Give the socket's path, short enough for a socket whatever the folder's is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


# -- Which runs go on on this host, so that `watch` finds them by itself


class Running(msgspec.Struct, frozen=True):
    """A run that goes on: its supervisor (0: not known), data folder, HTTP port (HOST:PORT)."""

    pid: int
    folder: str
    http: str | None = None

    @property
    def store(self) -> str:
        """The store's URL, asked of the run: it may hold a password, and is written nowhere."""
        reply = ask(Path(self.folder), GetStore(), ANSWER_S)
        assert isinstance(reply, StoreUrl)
        return reply.url

    @property
    def http_token(self) -> str:
        """What its HTTP port asks for, "" for nothing; asked of the run as the store's URL is."""
        reply = ask(Path(self.folder), GetHttpToken(), ANSWER_S)
        assert isinstance(reply, HttpToken)
        return reply.token


@contextmanager
def announced(folder: Path, http: str | None = None) -> Iterator[None]:
    """Let other commands find this run while the block lasts, unless the host forbids it."""
    place = runs_folder() / "running"
    file = place / f"{os.getpid()}.json"
    descriptor = None
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run = Running(os.getpid(), str(folder.absolute()), http)
        os.write(descriptor, msgspec.json.encode(run))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def runs_going_on() -> list[Running]:
    """Return this user's runs whose supervisor lives; what dead ones left is removed."""
    found = []
    for file in sorted((runs_folder() / "running").glob("*.json")):
        try:
            if _is_locked(file):
                found.append(msgspec.json.decode(file.read_bytes(), type=Running))
            else:
                file.unlink()
        except (OSError, msgspec.MsgspecError):
            continue
    return found


def _is_locked(file: Path) -> bool:
    """Return whether the supervisor lives: the lock goes with it, while process ids come again."""
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def find_run(folder: Path | None) -> Running:
    """Return the run in `folder`. Without a folder: the only active run, or the only one with its
    data folder in the current directory. NoRun; ConfigFaults for several.
    """
    runs = runs_going_on()
    if folder is not None:
        runs = [run for run in runs if Path(run.folder) == folder.absolute()]
    elif len(runs) > 1:
        runs = _in_current_directory(runs) or runs
    if len(runs) == 1:
        return runs[0]
    if folder is not None and (folder / SOCKET).exists():  # of a service with another home
        return Running(0, str(folder.absolute()))
    if not runs:
        raise NoRun(folder)
    listed = "\n".join(f"  -d {run.folder}" for run in runs)
    raise ConfigFaults([f"several runs are active; choose one with -d:\n{listed}"])


def _in_current_directory(runs: Sequence[Running]) -> list[Running]:
    here = Path.cwd()
    return [run for run in runs if here in (Path(run.folder), Path(run.folder).parent)]
