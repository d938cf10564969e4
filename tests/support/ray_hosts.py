"""A head and hosts of a fleet on Ray, on this machine, with a Redis that asks for a password."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.fleet.hosts import Host, Hosts, hosts
from benchmarks.harness.process_tree import tree
from framegate.pipeline.store.redis_client import ACL_RULE
from tests.support.commands import user_folder
from tests.support.fleets import Fleet
from tests.support.own_servers import OwnServer, free_port, own_server
from tests.support.runs import wait_until

_IPV4 = 0x0800  # type of its packets
_HEADER = 20  # bytes
HEAD = "head"
HEAD_UP_S = 900.0  # on a busy machine, Ray gives its own start up after a minute, again and again
_SHOWN = 20_000  # characters of the log of a head that does not come up
RULE = f"{ACL_RULE} ~RAY* ~DUMMY"
TOKEN = "a-token-of-the-test-alone"
# As systemd does: a head or host that ends is started again.
AGAIN = "import subprocess as s, sys, time\nwhile True: s.run(sys.argv[1:]); time.sleep(1)"


class RayFleet(Fleet):
    """A head, and hosts of slots.

    kind   of hosts: namespaces, or processes on the loopback
    names  of the hosts of slots
    """

    def __init__(self, folder: Path, server: OwnServer, made: Hosts) -> None:
        super().__init__(folder, server.url("redis"), "")
        self.kind = made.kind
        self.server = server
        self.hosts: Mapping[str, Host] = {host.name: host for host in made.hosts}
        self.names = [name for name in self.hosts if name != HEAD]
        # The path of a socket of Ray has at most 107 bytes.
        self.ray = Path(tempfile.mkdtemp(prefix="fgr", dir="/tmp"))
        self.stack.callback(shutil.rmtree, self.ray, ignore_errors=True)
        self._stores = made.expose(f"127.0.0.1:{server.port}")
        head = self.hosts[HEAD]
        self.address = f"127.0.0.1:{free_port()}"
        if head.cable:
            self.address = f"{head.address}:6380"
        (folder / "token").write_text(TOKEN, encoding="utf-8")

    def _env(self, name: str, **more: str) -> dict[str, str]:
        state = str(self.folder / name / "state")
        return {"RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), "RAY_TMPDIR": str(self.ray),
                "XDG_STATE_HOME": state, **more}  # fmt: skip

    def store_at(self, name: str) -> str:
        """The HOST:PORT by which a host reaches the store."""
        return self._stores[name]

    def url_at(self, name: str) -> str:
        """The URL by which a host reaches the store."""
        return f"redis://{self.server.login}@{self._stores[name]}"

    def start_head(self, *more: str) -> None:
        """Start the head, and wait until it has the actors of the plan. more: options"""
        kept = self.log(HEAD).count("Ray keeps")
        self.begin_head(*more)
        try:
            wait_until(
                "Ray keeps the slots", lambda: self.log(HEAD).count("Ray keeps") > kept, HEAD_UP_S
            )
        except AssertionError:
            print(self.log(HEAD)[-_SHOWN:])
            raise

    def begin_head(self, *more: str) -> None:
        """Start the head. more: options"""
        self._begin(HEAD, "head", *more, STORE=self.url_at(HEAD))

    def start_host(self, name: str, *options: str, **variables: str) -> None:
        """Start a host of slots. variables: of the file that its slots read"""
        folder = self.folder / name
        if not folder.exists():
            user_folder(folder)
        lines = {"STORE": self.url_at(name), **variables}
        secrets = "".join(f"{key}='{value}'\n" for key, value in lines.items())
        (folder / "secrets.env").write_text(secrets, encoding="utf-8")
        more = ("-d", str(folder), "--env-file", str(folder / "secrets.env"))
        run = f"-c {folder / 'pipeline.toml'} --http off"
        self._begin(name, "join", *more, *options, "--options", run)

    def _begin(self, name: str, action: str, *more: str, **env: str) -> None:
        words = ("-m", "framegate.cli", "fleet", action, self.address, "--store", "env:STORE")
        command = ("-c", AGAIN, sys.executable, *words, *more)
        self.hosts[name].start(command, self.folder / f"{name}.log", self._env(name, **env))

    def log(self, name: str) -> str:
        """The log of the head or of a host."""
        path = self.folder / f"{name}.log"
        if not path.exists():
            return ""
        return path.read_text(encoding="utf-8", errors="replace")

    def slots(self, name: str) -> dict[str, int]:
        """The process of each slot that is up on a host."""
        found = {}
        for pid in self.hosts[name].pids():
            words = _words(pid)
            if "--slot" in words and "serve" in words[2]:
                found[words[words.index("--slot") + 1]] = pid
        return found

    def host_of(self, slot: str) -> str:
        """The host on which a slot is up; "" if it is up on none."""
        return next((name for name in self.names if slot in self.slots(name)), "")

    def raylets(self, name: str) -> list[int]:
        """The process of Ray that starts the actors of a host; none if it takes no slots."""
        return [pid for pid in self.hosts[name].pids() if "/raylet" in _words(pid)[0]]

    def below(self, *processes: int) -> list[int]:
        """These processes and all that they started."""
        return [pid for process in processes for pid in tree(process)]

    def runs(self, source: str) -> bool:
        """Whether a run owns a source."""
        return bool(self.reader.client.hget(f"fg:{{{source}}}:own", "run"))

    def seen(self) -> str:
        """All that others can see: command lines, all keys, and all logs, also those of Ray."""
        places = [*Path("/proc").glob("[0-9]*/cmdline"), *self.ray.rglob("*")]
        places += [path for path in self.folder.rglob("*.log") if "server" not in path.parts]
        shown = []
        for path in places:
            with suppress(OSError):
                if path.is_file():
                    shown.append(path.read_bytes())
        with self.server.admin() as client:
            shown += [client.dump(key) for key in client.keys("*")]
        return b"\n".join(shown).decode(errors="replace")


def _words(pid: int) -> list[str]:
    """The command line of a process; a single empty word if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:
        return [""]


@contextmanager
def ray_fleet(
    folder: Path, program: str, names: Sequence[str] = ("one", "two")
) -> Iterator[RayFleet]:
    """A store and the hosts of a fleet, which are not started.

    program  of the store
    names    of the hosts of slots
    """
    with (
        own_server(program, folder / "server", rule=RULE) as server,
        hosts((HEAD, *names)) as made,
    ):
        opened = RayFleet(folder, server, made)
        try:
            yield opened
        finally:
            for host in made.hosts:
                host.kill()
            opened.close()


@contextmanager
def strays(at: RayFleet) -> Iterator[list[str]]:
    """Addresses outside of the hosts to which they send packets during the block.

    Each host gets a route to the outside for that. Empty on the loopback, which has no outside.
    """
    found: list[str] = []
    if not at.hosts[HEAD].cable:
        yield found
        return
    net = ipaddress.ip_network(f"{at.address.partition(':')[0]}/24", strict=False)
    for host in at.hosts.values():
        route = ("ip", "route", "add", "default", "via", str(net[1]))
        subprocess.run([*host.before[:4], *route], check=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_IPV4)) as wire:
        wire.settimeout(0.2)
        ends = threading.Event()
        watcher = threading.Thread(target=_watch, args=(wire, net, found, ends))
        watcher.start()
        try:
            yield found
        finally:
            ends.set()
            watcher.join()


def _watch(
    wire: socket.socket, net: ipaddress.IPv4Network, found: list[str], ends: threading.Event
) -> None:
    while not ends.is_set():
        with suppress(TimeoutError):
            header = wire.recv(_HEADER)
            source, to = (ipaddress.ip_address(header[at : at + 4]) for at in (12, 16))
            if source in net and to not in net and not to.is_multicast:
                found.append(str(to))
