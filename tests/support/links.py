"""A link between two sides: network namespaces joined by a veth pair where that is allowed.

What shapes it is the kernel's netem where there is one, else a proxy in user space; without
namespaces both sides are this host, and the proxy is between them. `kind` says which.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from tests.support.own_servers import free_port
from tests.support.runs import environment
from tests.support.shaping import Shape

Side = Literal["near", "far"]
NET = "10.213.77"  # of a private range; both ends are in namespaces of their own
ADDRESSES: dict[Side, str] = {"near": f"{NET}.1", "far": f"{NET}.2"}


@dataclass
class Link:
    """Two sides; near and far are what commands that run there begin with."""

    kind: str
    near: Sequence[str] = ()
    far: Sequence[str] = ()
    netem: tuple[tuple[Sequence[str], str], ...] = ()
    shape: Shape = field(default_factory=Shape)
    _proxies: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def expose(self, side: Side, to: str, host: str = "") -> str:
        """HOST:PORT by which the other side reaches what one side has at `to`.

        to    HOST:PORT there, or the path of a unix socket
        host  another address of this host than the loopback, if there are no sides
        """
        if self.near:
            host = ADDRESSES[side]
        at = f"{host or '127.0.0.1'}:{free_port()}"
        command = [*(self.near if side == "near" else self.far), sys.executable]
        proxy = subprocess.Popen(
            [*command, "-m", "tests.support.shaping", at, to],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        self._proxies.append(proxy)
        _hears(proxy, "ready")
        if not self.netem:
            _tell(proxy, self.shape)
        return at

    def take(self, shape: Shape) -> None:
        """It is like this from now on."""
        self.shape = shape
        for command, device in self.netem:
            loss = 1.0 if shape.is_cut else shape.loss
            words = f"qdisc replace dev {device} root netem delay {1000 * shape.delay_s}ms"
            words += f" rate {8 * shape.rate:.0f}bit loss {100 * loss}%"
            subprocess.run([*command, "tc", *words.split()], check=True)
        if not self.netem:
            for proxy in self._proxies:
                _tell(proxy, shape)

    def cut(self) -> None:
        """Let nothing through until another shape is taken."""
        self.take(replace(self.shape, is_cut=True))

    def close(self) -> None:
        """End the proxies."""
        for proxy in self._proxies:
            proxy.kill()
            proxy.communicate()


def _tell(proxy: subprocess.Popen[bytes], shape: Shape) -> None:
    assert proxy.stdin is not None
    proxy.stdin.write(shape.line())
    proxy.stdin.flush()
    _hears(proxy, "taken")


def _hears(proxy: subprocess.Popen[bytes], word: str) -> None:
    assert proxy.stdout is not None
    assert proxy.stdout.readline().decode().strip() == word


@contextmanager
def link() -> Iterator[Link]:
    """The best that this host allows; it is gone with the block."""
    with ExitStack() as stack:
        found = _namespaces(stack) or Link("loopback, shaped by a proxy in user space")
        stack.callback(found.close)
        yield found


def _namespaces(stack: ExitStack) -> Link | None:
    """Two of them and what joins them; None where they are not allowed."""
    tag = f"fg{os.getpid() % 100000}"
    near, far = f"{tag}-near", f"{tag}-far"
    ends = {"near": (near, f"{tag}n"), "far": (far, f"{tag}f")}
    try:
        for name in (near, far):
            _ip(f"netns add {name}")
            stack.callback(_gone, name)
        _ip(f"-n {near} link add {tag}n type veth peer name {tag}f netns {far}")
        for side, (name, device) in ends.items():
            _ip(f"-n {name} addr add {ADDRESSES[side]}/24 dev {device}")  # type: ignore[index]
            _ip(f"-n {name} link set {device} up")
            _ip(f"-n {name} link set lo up")
    except (OSError, subprocess.CalledProcessError):
        return None
    commands = [(("ip", "netns", "exec", name), device) for name, device in ends.values()]
    kind = "two network namespaces joined by a veth pair, shaped by "
    if _has_netem(commands):
        return Link(f"{kind}netem", commands[0][0], commands[1][0], tuple(commands))
    return Link(f"{kind}a proxy in user space", commands[0][0], commands[1][0])


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def _gone(name: str) -> None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        _ip(f"netns delete {name}")


def _has_netem(commands: Sequence[tuple[Sequence[str], str]]) -> bool:
    try:
        for command, device in commands:
            words = f"tc qdisc replace dev {device} root netem delay 0ms"
            subprocess.run([*command, *words.split()], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
