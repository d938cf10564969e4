"""Debian's redis-server and valkey-server as somebody runs them: with TLS, users and databases.

Everything of theirs lies in the test's folder; passwords and certificates are made for the test.
"""

from __future__ import annotations

import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import trustme

from framegate.pipeline.store.redis_client import ACL_RULE
from tests.support.runs import DEADLINE_S

PROGRAMS = ["redis-server", "valkey-server"]
ADMIN = "admin"
USER = "framegate"


def needs(program: str) -> Any:
    """A parameter that is skipped where the program is not installed. One server shows most; that
    the others do the same is a long test.
    """
    absent = shutil.which(program) is None
    reason = f"{program} is not installed (Debian: apt-get install {program})"
    marks = [pytest.mark.skipif(absent, reason=reason)]
    if program != PROGRAMS[0]:
        marks.append(pytest.mark.long)
    return pytest.param(program, marks=marks, id=program)


def free_port() -> int:
    """Return a loopback port that nobody listens on, and that no other test takes before this
    process ends.

    A server gets its port as a number and binds it later, and some servers stop and come back. The
    kernel could give the port away meanwhile, so the port lies below those that the kernel chooses
    from. A socket with an abstract name keeps it from the other test processes of this machine.
    """
    first = _first_port_of_the_kernel()
    for port in random.sample(range(first // 2, first), k=first // 2):
        kept = socket.socket(socket.AF_UNIX)
        try:
            kept.bind(f"\0framegate-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:  # another test has it, or any process listens there
            kept.close()
            continue
        _kept.append(kept)
        return port
    raise AssertionError(f"no free port from {first // 2} to {first}")


_kept: list[socket.socket] = []  # open until this process ends


def _first_port_of_the_kernel() -> int:
    """Return the first port that Linux may choose for who asks for none."""
    return int(
        Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8").split()[0]
    )


class Certificates:
    """A CA with a certificate for the server and one for its client, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        for name, who in (("server", "localhost"), ("client", "framegate")):
            issued = authority.issue_cert(who)
            issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
            issued.private_key_pem.write_to_path(folder / f"{name}.key")
        self.server, self.server_key = folder / "server.pem", folder / "server.key"
        self.client, self.client_key = folder / "client.pem", folder / "client.key"


@dataclass
class OwnServer:
    """A running server. Nobody enters without a login; USER may do what Framegate needs."""

    folder: Path
    certificates: Certificates
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: f"p@:/?#%{secrets.token_hex(8)}")
    admin_password: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def socket(self) -> Path:
        return self.folder / "own.sock"

    @property
    def login(self) -> str:
        """USER:PASSWORD as it stands in a URL."""
        return f"{USER}:{quote(self.password, safe='')}"

    def url(self, scheme: str, database: int = 0) -> str:
        """URL for USER, without TLS files."""
        if scheme == "unix":
            return f"unix://{self.login}@{self.socket}?db={database}"
        port = self.tls_port if scheme == "rediss" else self.port
        return f"{scheme}://{self.login}@localhost:{port}/{database}"

    def admin(self, database: int = 0) -> Any:
        """A client that may do anything."""
        return redis.Redis.from_url(self.admin_url(database), protocol=2)

    def admin_url(self, database: int = 0) -> str:
        return f"unix://{ADMIN}:{self.admin_password}@{self.socket}?db={database}"

    def config(self, client_certificates: str, rule: str) -> str:
        certificates = self.certificates
        return f"""
bind 127.0.0.1
port {self.port}
tls-port {self.tls_port}
tls-cert-file {certificates.server}
tls-key-file {certificates.server_key}
tls-ca-cert-file {certificates.ca}
tls-auth-clients {client_certificates}
unixsocket {self.socket}
dir {self.folder}
logfile {self.folder / "own.log"}
save ""
appendonly yes
user default off
user {ADMIN} on >{self.admin_password} allkeys allchannels allcommands
user {USER} on >{self.password} {rule}
"""


@contextmanager
def own_server(
    program: str, folder: Path, client_certificates: str = "no", rule: str = ACL_RULE
) -> Iterator[OwnServer]:
    """Start it and wait until it answers; it ends with the block.

    client_certificates  no, optional or yes
    rule                 what USER may do
    """
    folder.mkdir()
    server = OwnServer(folder, Certificates(folder / "certificates"))
    process = subprocess.Popen(
        [program, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdin is not None
        process.stdin.write(server.config(client_certificates, rule).encode())
        process.stdin.close()
        _wait_until_it_answers(server, process)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait_until_it_answers(server: OwnServer, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            with server.admin() as client:
                client.ping()
                return
        except redis.ConnectionError:
            log = server.folder / "own.log"
            said = log.read_text(encoding="utf-8") if log.exists() else ""
            assert process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.01)
