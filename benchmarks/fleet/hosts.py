"""Hosts on this machine: network and pid namespaces on a bridge, or processes on the loopback.

A host has one process that starts all others, its init: in namespaces all of them end with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.harness.process_tree import tree
from framegate.pipeline.system.process import die_with_parent
from tests.support.links import Link
from tests.support.runs import environment
from tests.support.shaping import Shape

NAMESPACES: Final = "network and pid namespaces on a bridge"
LOOPBACK: Final = "processes on the loopback, links cut by a proxy in user space"
_END_S: Final = 30.0
_FIRST_EXPOSED: Final = 100  # last byte of the address of what is exposed first
_NETS: Final = range(80, 180)  # third number of a network 10.213.N.0/24
_NOWHERE: Final = "02:00:00:00:00:01"  # an Ethernet address that no host has
_UNSHARE: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass
class Host:
    """A host with a link to the others.

    before   words before a command that runs on it
    cable    the bridge's end of its link; "": it has none, and a proxy is its link
    address  its address on the bridge; "" without one
    link     the proxies of a host without namespaces
    init     its first process; None if it is down
    """

    name: str
    before: Sequence[str] = ()
    cable: str = ""
    address: str = ""
    link: Link = field(default_factory=lambda: Link(LOOPBACK))
    init: subprocess.Popen[bytes] | None = None
    _lost: set[str] = field(default_factory=set)  # addresses that its packets do not reach

    def start(self, words: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        """Start its init. words: a Python program and its arguments"""
        with log.open("ab") as opened:
            self.init = subprocess.Popen(
                [*self.before, sys.executable, *words],
                env={**environment(), **env},
                stdin=subprocess.DEVNULL,
                stdout=opened,
                stderr=opened,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def pids(self) -> list[int]:
        """Return all processes of the host, from its init on."""
        if self.init is None:
            return []
        return sorted(tree(self.init.pid))

    def kill(self) -> None:
        """Kill all processes of the host at once, as a loss of power does."""
        if self.init is None:
            return
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.init.wait()
        self.init = None

    def stop(self, wait_s: float = _END_S) -> None:
        """End the init, which ends all others; kill what does not end in that time."""
        if self.init is None:
            return
        with contextlib.suppress(ProcessLookupError, StopIteration):
            os.kill(self._first(), signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.init.wait(wait_s)
        self.kill()

    def _first(self) -> int:
        """Return the first process of the host. In a pid namespace it is the child of `unshare`."""
        assert self.init is not None
        if not self.before:
            return self.init.pid
        parent = str(self.init.pid)
        return next(pid for pid, fields in tree(self.init.pid).items() if fields[1] == parent)

    def cut(self) -> None:
        """Let nothing through its link."""
        if self.cable:
            _ip(f"link set {self.cable} down")
        else:
            self.link.cut()

    def cut_from(self, at: str) -> None:
        """Let none of its packets reach one HOST:PORT's host; all others reach what they did.

        Without namespaces, its proxies are all that can be cut off, so this is `cut`.
        """
        if not self.cable:
            self.cut()
            return
        address = at.rpartition(":")[0]
        self._lost.add(address)
        self._ip(f"neigh replace {address} lladdr {_NOWHERE} dev eth0 nud permanent")

    def heal(self) -> None:
        """Let all through its link again."""
        if self.cable:
            for address in self._lost:
                self._ip(f"neigh del {address} dev eth0")
            self._lost.clear()
            _ip(f"link set {self.cable} up")
        else:
            self.link.take(Shape())

    def _ip(self, words: str) -> None:
        """Run `ip` in its network namespace, whose name is in `before`."""
        _ip(f"-n {self.before[3]} {words}")


class Hosts:
    """Some hosts, which reach what this process exposes."""

    def __init__(self, kind: str, hosts: Sequence[Host], bridge: str) -> None:
        """Keep them. bridge: the network device that joins them; "" without one"""
        self.kind = kind
        self.hosts = hosts
        self._link = Link(kind)
        self._bridge = bridge
        self._exposed = itertools.count(_FIRST_EXPOSED)

    def expose(self, to: str) -> dict[str, str]:
        """Return the HOST:PORT by which each host reaches `to`, by host.

        Each call gets an address of its own on the bridge, so that a host can be cut from it.

        to  HOST:PORT on the loopback, or the path of a unix socket
        """
        if not self._bridge:
            return {host.name: host.link.expose("near", to) for host in self.hosts}
        net = self.hosts[0].address.rpartition(".")[0]
        address = f"{net}.{next(self._exposed)}"
        _ip(f"addr add {address}/24 dev {self._bridge}")
        at = self._link.expose("near", to, address)
        return {host.name: at for host in self.hosts}

    def close(self) -> None:
        """End all processes of all hosts, and the proxies."""
        for host in self.hosts:
            host.stop()
            host.link.close()
        self._link.close()


@contextmanager
def hosts(names: Sequence[str]) -> Iterator[Hosts]:
    """Make hosts: the best kind that this machine allows. All is gone after the block."""
    with ExitStack() as stack:
        made = _namespaces(stack, names)
        if made is None:
            made = Hosts(LOOPBACK, [Host(name) for name in names], "")
        stack.callback(made.close)
        yield made


def _namespaces(stack: ExitStack, names: Sequence[str]) -> Hosts | None:
    """Return hosts on a bridge; None where they are not allowed."""
    made = []
    with ExitStack() as begun:
        free = _free_net(begun)
        tag, net = f"fg{free}", f"10.213.{free}"
        try:
            subprocess.run([*_UNSHARE, "true"], check=True, capture_output=True)
            _ip(f"link add {tag}b type bridge")
            begun.callback(_drop, f"link delete {tag}b")
            _ip(f"addr add {net}.1/24 dev {tag}b")
            _ip(f"link set {tag}b up")
            for number, name in enumerate(names):
                space, cable = f"{tag}-{name}", f"{tag}h{number}"
                _ip(f"netns add {space}")
                begun.callback(_drop, f"netns delete {space}")
                _ip(f"link add {cable} type veth peer name eth0 netns {space}")
                _ip(f"link set {cable} master {tag}b up")
                _ip(f"-n {space} addr add {net}.{10 + number}/24 dev eth0")
                _ip(f"-n {space} link set eth0 up")
                _ip(f"-n {space} link set lo up")
                before = ("ip", "netns", "exec", space, *_UNSHARE)
                made.append(Host(name, before, cable, f"{net}.{10 + number}"))
        except (OSError, subprocess.CalledProcessError):
            return None
        stack.push(begun.pop_all())
    return Hosts(NAMESPACES, made, f"{tag}b")


def _free_net(stack: ExitStack) -> int:
    """Return a number of _NETS whose network nothing else on this machine has until `stack` ends.

    Two bridges with one network would each get packets of the other's hosts. A socket with an
    abstract name keeps the number; a device that a killed process left keeps its number too, and
    the kernel ends devices some time after their namespace.
    """
    for number in random.sample(_NETS, len(_NETS)):
        kept = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            kept.bind(f"\0framegate-net-{number}")
            if not any(Path("/sys/class/net").glob(f"fg{number}[bh]*")):
                stack.callback(kept.close)
                return number
        kept.close()
    raise OSError(f"no free network from 10.213.{_NETS[0]} to 10.213.{_NETS[-1]}")


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def _drop(words: str) -> None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        _ip(words)
