"""Send commands to an active run over a socket in its data folder, and find active runs.

Only the run's user may connect, so URLs with passwords go over this socket and never through the
store. A command and its reply are a line of JSON each. The run's side is `rpc_server.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from framegate.pipeline.contracts.errors import ConfigFaults, Exit, FramegateError, RunRefused
from framegate.pipeline.contracts.live_config import ConfigRequest, EditableConfig
from framegate.pipeline.contracts.object_filters import FilterList, FilterRequest
from framegate.pipeline.contracts.queries import AskCounts, CacheCounts
from framegate.pipeline.run.folder import RunSource, runs_folder

SOCKET = "control.sock"
LINE = 1 << 20  # largest command, in bytes
ANSWER_S = 10.0


class Add(msgspec.Struct, frozen=True, tag=True):
    """Add these sources to the run."""

    sources: list[RunSource]
    take_over: bool = False


class Remove(msgspec.Struct, frozen=True, tag=True):
    """Finish the decoded frames of these sources, and remove them."""

    names: list[str]


class Use(msgspec.Struct, frozen=True, tag=True):
    """Use another model for these sources; an empty list means all."""

    model: str
    sources: list[str]


class RollBack(msgspec.Struct, frozen=True, tag=True):
    """Use the previous model for these sources; an empty list means all."""

    sources: list[str]


class GetSources(msgspec.Struct, frozen=True, tag=True):
    """Return the sources of the run as a SourceList."""


class GetStore(msgspec.Struct, frozen=True, tag=True):
    """Return the URL of the store as a StoreUrl."""


class GetHttpToken(msgspec.Struct, frozen=True, tag=True):
    """Return the access token of the HTTP port as an HttpToken."""


class GetCounts(msgspec.Struct, frozen=True, tag=True):
    """Return the counts of queries and cache look-ups as StageCounts."""


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """The reply to a command that was carried out."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The reply to a command that was not carried out: the reason, and the exit code."""

    message: str
    exit: int


class SourceList(msgspec.Struct, frozen=True, tag=True):
    """The sources of the run in the order of their addition.

    lost    names of those that another run took over
    parked  names of those that no worker serves, because their worker kept dying
    """

    sources: Sequence[RunSource]
    lost: frozenset[str] = frozenset()
    parked: frozenset[str] = frozenset()


class StoreUrl(msgspec.Struct, frozen=True, tag=True):
    """The store's URL, with its password.

    stages  names of the stages with outputs of their own; empty if other runs may use the store
    """

    url: str
    stages: tuple[str, ...] = ()


class HttpToken(msgspec.Struct, frozen=True, tag=True):
    """The access token of the HTTP port; "" if it needs none."""

    token: str


class StageCounts(msgspec.Struct, frozen=True, tag=True):
    """Counts of queries and cache look-ups by stage, over all processes of its workers.

    sinks  names of the sinks
    hears  names of the sources whose sound is recognised
    """

    asks: dict[str, AskCounts]
    cache: dict[str, CacheCounts]
    sinks: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()


class NoRun(ConfigFaults):
    """No run is active in a folder or on this host. An ended run may have results there."""

    def __init__(self, folder: Path | None, hint: str = "") -> None:
        fault = "no run is active on this host"
        if folder is not None:
            fault = f"no run is active in {folder} on this host"
        if hint:
            super().__init__([f"{fault}: {hint}"])
        else:
            super().__init__([f"{fault}; start one with framegate run"])


RunCommand = (
    Add
    | Remove
    | Use
    | RollBack
    | GetSources
    | GetStore
    | GetHttpToken
    | GetCounts
    | FilterRequest
    | ConfigRequest
)
RunReply = (
    Accepted
    | Refused
    | SourceList
    | StoreUrl
    | HttpToken
    | StageCounts
    | FilterList
    | EditableConfig
)

_replies: msgspec.json.Decoder[RunReply] = msgspec.json.Decoder(RunReply)


def ask(folder: Path, command: RunCommand, patience_s: float | None = None) -> RunReply:
    """Send a command to the run in a folder and return its reply.

    patience_s  longest wait in seconds; None: no limit
    NoRun if no run is active there; RunRefused if it refuses or does not reply.
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
    """Return the socket's path through /proc, which is short: paths of sockets have a limit."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


# -- Active runs on this host


class Running(msgspec.Struct, frozen=True):
    """An active run of this user.

    pid     process id of the supervisor; 0 if unknown
    folder  data folder
    http    HOST:PORT of the HTTP port; None if it is off
    """

    pid: int
    folder: str
    http: str | None = None

    @property
    def store(self) -> str:
        """Request the store's URL from the run; it may contain a password, so no file has it."""
        return self.store_url().url

    def store_url(self) -> StoreUrl:
        """Request the store's URL and the names of the stages from the run."""
        reply = ask(Path(self.folder), GetStore(), ANSWER_S)
        assert isinstance(reply, StoreUrl)
        return reply

    @property
    def http_token(self) -> str:
        """Request the access token of the HTTP port from the run; "" if it needs none."""
        reply = ask(Path(self.folder), GetHttpToken(), ANSWER_S)
        assert isinstance(reply, HttpToken)
        return reply.token


@contextmanager
def announced(folder: Path, http: str | None = None) -> Iterator[None]:
    """Let other commands find this run for the length of the block, if a file can be written."""
    running = runs_folder() / "running"
    # Containers that share a home folder have processes of the same id.
    name = f"{os.getpid()}-{secrets.token_hex(4)}.json"
    file = running / name
    descriptor = None
    with contextlib.suppress(OSError):
        running.mkdir(parents=True, exist_ok=True)
        # The file is locked before others see it: they remove one that no supervisor has locked.
        new = runs_folder() / f"{name}.new"
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run = Running(os.getpid(), str(folder.absolute()), http)
        os.write(descriptor, msgspec.json.encode(run))
        new.rename(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def runs_going_on() -> list[Running]:
    """Return this user's active runs, and remove the files of dead supervisors."""
    runs = []
    try:
        files = sorted((runs_folder() / "running").iterdir())
    except OSError:  # no run was started, or the home folder is that of another user
        files = []
    for file in files:
        try:
            if _is_locked(file):
                runs.append(msgspec.json.decode(file.read_bytes(), type=Running))
            else:
                file.unlink()
        except (OSError, msgspec.MsgspecError):
            continue
    return runs


def _is_locked(file: Path) -> bool:
    """Return whether the supervisor is alive. Unlike a process id, a lock cannot be reused."""
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def find_run(folder: Path | None) -> Running:
    """Return the active run in `folder`.

    Without a folder: the only active run, or the only one with its data folder in the current
    directory. NoRun; ConfigFaults if there are several.
    """
    runs = runs_going_on()
    if folder is not None:
        wanted = folder.resolve()  # it may be named by way of a link, or of ..
        runs = [run for run in runs if Path(run.folder).resolve() == wanted]
    elif len(runs) > 1:
        runs = _in_current_directory(runs) or runs
    if len(runs) == 1:
        return runs[0]
    if folder is not None and (folder / SOCKET).exists():  # a service with another home folder
        return Running(0, str(folder.absolute()))
    if not runs:
        raise NoRun(folder)
    listed = "\n".join(f"  -d {run.folder}" for run in runs)
    raise ConfigFaults([f"several runs are active; choose one with -d:\n{listed}"])


def _in_current_directory(runs: Sequence[Running]) -> list[Running]:
    here = Path.cwd()
    return [run for run in runs if here in (Path(run.folder), Path(run.folder).parent)]
