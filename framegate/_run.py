"""A pipeline inside a program: `run` starts a run as a child process and ends it with the block.

A run needs a process of its own: its supervisor handles signals, and workers and store must die
with it, which the kernel guarantees only for children of a main thread. Program and child use a
pair of sockets, one line of JSON per message. The program sends Wanted. The child sends Began when
results can arrive, and Ended at the end. The run ends when the program's side of the socket is
shut down; the kernel does that for a killed program. The child's side is _run_process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec

from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import WHOLE, Follower, Steps
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, RunEnded
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.system.process import TRACED

StrPath = str | os.PathLike[str]

DRAIN_S: Final = 30.0  # from the first SIGTERM, which drains the run, to the second
STOP_S: Final = 15.0  # from the second SIGTERM to SIGKILL
LATE_S: Final = 5.0  # the program waits this much longer, then kills the child itself
STORE_AWAY_S: Final = 60.0


class Wanted(msgspec.Struct, frozen=True):
    """The arguments of `run` as plain data, for the child."""

    named: list[str]
    tables: dict[str, Any]
    config: str | None
    folder: str
    is_temporary: bool
    resume: bool
    take_over: bool
    pace: Literal["realtime", "fast"] | None


class Began(msgspec.Struct, frozen=True, tag=True):
    """The run has begun: the URL of its store, and each source's last epoch before this run."""

    store: str
    past: dict[str, int]


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The run has ended: `faults` of a refused configuration, or the `message` of another error."""

    exit: int
    message: str = ""
    faults: list[str] = []


def run(
    sources: StrPath | Sequence[StrPath] | Mapping[str, StrPath | Mapping[str, Any]] = (),
    config: StrPath | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    folder: StrPath | None = None,
    resume: bool = False,
    take_over: bool = False,
    pace: Literal["realtime", "fast"] | None = None,
) -> Run:
    """Run sources through a pipeline while a `with` block lasts.

        with framegate.run({"gate": "rtsp://..."}, changes={"gate": {"mode": "off"}}) as running:
            for result in running:
                print(result.source, result.position, len(result.objects))

    sources    a list of paths, globs and URLs, or NAME=SOURCE, as on the command line; or a dict by
               name with a path or URL, or a table as `[sources.NAME]` in pipeline.toml. They are
               added to those of the configuration
    config     a pipeline.toml; default: ./pipeline.toml if it exists, otherwise the defaults
    changes    tables and keys that replace those of the configuration
    folder     the data folder; default: a temporary one, which is removed at the end
    resume     continue the run in `folder`
    take_over  take over sources that another run of the store owns
    pace       pace of files: by their time stamps, or as fast as possible

    The run starts when the block is entered. The module of your own stage is searched in the folder
    of the configuration file, then where the program itself imports from. No HTTP port is opened
    unless the configuration names one. Log lines go to standard error, from the level in `[log]`.
    `help(framegate.Run)` lists the errors.
    """
    if pace not in (None, "realtime", "fast"):
        raise ValueError(f'pace = {pace!r}: it must be "realtime", "fast" or None')
    if resume and folder is None:
        raise ValueError("resume = True: give the folder of the run to continue")
    named: list[str] = []
    tables = dict(changes or {})
    if isinstance(sources, Mapping):
        entries = {name: _table(entry) for name, entry in sources.items()}
        tables["sources"] = {**tables.get("sources", {}), **entries}
    elif isinstance(sources, str | os.PathLike):
        named = [os.fspath(sources)]
    else:
        named = [os.fspath(source) for source in sources]
    path = None if config is None else os.fspath(config)
    wanted = Wanted(named, tables, path, "", folder is None, resume, take_over, pace)
    return Run(wanted, folder)


def _table(entry: StrPath | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(entry, Mapping):
        return dict(entry)
    return {"url": os.fspath(entry)}


class Run:
    """A run of this program: a context manager, and an iterator over results inside its block.

    Entering starts the run and returns when results can arrive. Leaving the block, also by an
    exception, finishes decoded frames and ends all processes. The run also ends with the program,
    even if the program is killed.

    The iteration yields each result of this run once, in order per source. It stops when every
    source that the run began with has ended; a camera never ends. A reader that is more than
    `store.results_keep` results behind gets ResultsTrimmed and may iterate again. Other readers use
    `subscribe(running.store, ...)`, also in other threads, processes and with asyncio.

    store    URL of the run's store, inside the block
    folder   its data folder
    sources  names of the sources that it began with
    exit     exit code, once it has ended: Exit.SOURCE_FAILED if a source ended with a fault, or the
             run continued without a stage that failed

    Fails   entering: ConfigFaults with all faults of configuration and sources; RunEnded if the run
            does not start for another reason. Iterating: ResultsTrimmed; RunEnded if the run
            ended unexpectedly; StoreLost if your own store was away for a minute
    Thread  one thread at a time
    """

    def __init__(self, wanted: Wanted, folder: StrPath | None) -> None:
        """Use `run`. folder: None for a temporary one."""
        self._wanted = wanted
        self._is_temporary = folder is None
        self.store = ""
        self.folder = Path()
        if folder is not None:
            self.folder = Path(folder).absolute()
        self.sources: tuple[str, ...] = ()
        self.exit: Exit | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._results: Subscription[Result] | None = None

    def __enter__(self) -> Self:
        if self._process is not None:
            raise RuntimeError("a Run is entered once: call framegate.run again")
        if self._is_temporary:
            self.folder = Path(tempfile.mkdtemp(prefix="framegate-"))
        try:
            self._start()
            began = self._receive()
            if not isinstance(began, Began):
                raise self._failure(began)
        except BaseException:
            self._end()
            raise
        self.store = began.store
        self.sources = tuple(began.past)
        follower = _RunFollower(began.past, self._check)
        self._results = Subscription(Reader(self.store, follower, STORE_AWAY_S))
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        if self._results is None or self.exit is not None:
            raise RuntimeError("a Run gives results in its `with` block only")
        return next(self._results)

    @property
    def ends(self) -> dict[str, End]:
        """Return the end of each source that has ended, as far as iterated; `fault` states why."""
        if self._results is None:
            return {}
        return self._results.ends

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        path = os.pathsep.join(place for place in sys.path if place)
        words = [str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "framegate._run_process", *words],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **TRACED, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C goes to the program alone, whose block then ends
            )
        wanted = msgspec.structs.replace(self._wanted, folder=str(self.folder))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            ours.sendall(msgspec.json.encode(wanted, enc_hook=os.fspath) + b"\n")

    def _receive(self) -> Began | Ended:
        """Return the child's next message; Ended without a message if it ends before that."""
        assert self._socket is not None
        assert self._process is not None
        line = bytearray()
        while not line.endswith(b"\n"):
            received = self._socket.recv(65536)
            if not received:
                return Ended(_exit_of(self._process.wait()))
            line += received
        return msgspec.json.decode(line, type=Began | Ended)

    def _failure(self, ended: Ended) -> ConfigFaults | RunEnded:
        if ended.faults:
            return ConfigFaults(ended.faults)
        code = Exit(ended.exit)
        why = ended.message or f"exit code {int(code)}; its log states the reason"
        event = "the run has ended"
        if not self.store:
            event = "the run did not start"
        return RunEnded(f"{event}: {why}", code)

    def _check(self) -> None:
        """Raise RunEnded if the run has ended by itself."""
        assert self._process is not None
        if self._process.poll() is not None:
            ended = self._receive()
            assert isinstance(ended, Ended)
            raise self._failure(ended)

    def _end(self) -> None:
        """Drain the run, wait for its end, and remove its process, socket and temporary folder."""
        if self._results is not None:
            self._results.close()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        try:
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(DRAIN_S + STOP_S + LATE_S)
        finally:
            if self._process is not None:
                if self._process.poll() is None:
                    self._process.kill()  # its workers and its store die with it
                self.exit = _exit_of(self._process.wait())
            if self._socket is not None:
                self._socket.close()
            if self._is_temporary:
                shutil.rmtree(self.folder, ignore_errors=True)


def _exit_of(code: int) -> Exit:
    """Return the exit code of a process; SOURCE_FAILED for a signal or an unknown code."""
    return Exit(code) if code in set(Exit) else Exit.SOURCE_FAILED


class _RunFollower(Follower):
    """Follows a run that may end by itself, after which a plain follower would wait forever."""

    def __init__(self, past: Mapping[str, int], check: Callable[[], None]) -> None:
        """past: the last epoch of each source before the run; check raises if the run has ended."""
        start = {name: f"{epoch}-{WHOLE}" for name, epoch in past.items()}
        super().__init__(list(past), start, until_end=True)
        self._check = check

    def steps(self) -> Steps:
        """Follow for one round, at most a second."""
        self._check()
        yield from super().steps()
