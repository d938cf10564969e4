"""The port speaks TLS with a certificate, which may change while it serves."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.system.ports import listening_at
from framegate.pipeline.system.process import cancelled
from framegate.pipeline.web.accounts.accounts import AccountFile
from framegate.pipeline.web.limits import WebLimits
from framegate.pipeline.web.port import HttpPort, WebSpec
from framegate.pipeline.web.server import QuietServer, are_sound
from framegate.pipeline.web.tls import PortCertificate
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.web_server import serving_app


def scheme(request: Request) -> Response:
    return PlainTextResponse(request.scope["scheme"])


def write(files: Path, authority: trustme.CA) -> None:
    """Replace the certificate and its key, each at once, as certbot does."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    for name, blob in (
        ("cert.pem", issued.cert_chain_pems[0]),
        ("key.pem", issued.private_key_pem),
    ):
        blob.write_to_path(str(files / "new"))
        os.replace(files / "new", files / name)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    write(tmp_path, made)
    return made


LIMITS = WebLimits(connections=8, requests=6, ask_s=DEADLINE_S)


@pytest.fixture
def port(tmp_path: Path, authority: trustme.CA) -> Iterator[int]:
    del authority
    certificate = PortCertificate(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    app = Starlette(routes=[Route("/", scheme)])
    listening = listening_at("127.0.0.1", 0)
    with serving_app(app, listening, LIMITS, certificate=certificate) as number:
        yield number


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_other_hosts_need_tls_and_this_host_may_use_both(port: int, authority: trustme.CA) -> None:
    url = f"https://localhost:{port}/"
    assert httpx.get(url, verify=trusting(authority)).text == "https"
    assert httpx.get(f"http://127.0.0.1:{port}/").text == "http"
    # From another address, which is how another host looks.
    with socket.create_connection(
        ("127.0.0.1", port), DEADLINE_S, source_address=("127.0.0.2", 0)
    ) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in read_all(plain)
    with (
        socket.create_connection(
            ("127.0.0.1", port), DEADLINE_S, source_address=("127.0.0.2", 0)
        ) as raw,
        trusting(authority).wrap_socket(raw, server_hostname="localhost") as other,
    ):
        other.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert read_all(other).endswith(b"https")


def read_all(connection: socket.socket) -> bytes:
    read = b""
    try:
        while part := connection.recv(4096):
            read += part
    except OSError:  # it was closed without a goodbye
        pass
    return read


def test_a_changed_certificate_is_used_and_a_faulty_one_is_not(
    port: int, tmp_path: Path, authority: trustme.CA
) -> None:
    url = f"https://localhost:{port}/"
    (tmp_path / "cert.pem").write_text("no certificate", encoding="utf-8")
    assert httpx.get(url, verify=trusting(authority)).text == "https"
    other = trustme.CA()
    write(tmp_path, other)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, verify=trusting(authority))
    assert httpx.get(url, verify=trusting(other)).text == "https"


def test_clients_that_send_nothing_take_no_place_of_others(
    port: int, authority: trustme.CA
) -> None:
    with ExitStack() as stack:
        for _ in range(3 * LIMITS.connections):
            silent = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
            stack.enter_context(silent)

        def is_served() -> bool:
            try:
                return (
                    httpx.get(f"https://localhost:{port}/", verify=trusting(authority)).text
                    == "https"
                )
            except httpx.HTTPError:  # its place went to one of the silent ones
                return False

        wait_until("a client with a handshake is served", is_served)


def test_files_that_are_no_certificate_are_refused(tmp_path: Path, authority: trustme.CA) -> None:
    with pytest.raises(ConfigFaults, match=r"http.tls_certificate = .*No such file"):
        PortCertificate(str(tmp_path / "none.pem"))
    (tmp_path / "text.pem").write_text("text", encoding="utf-8")
    with pytest.raises(ConfigFaults, match="needed: certificate and key, PEM"):
        PortCertificate(str(tmp_path / "text.pem"))
    authority.issue_cert("other.example").private_key_pem.write_to_path(str(tmp_path / "k.pem"))
    with pytest.raises(ConfigFaults, match=r"tls_key = .*k\.pem"):
        PortCertificate(str(tmp_path / "cert.pem"), str(tmp_path / "k.pem"))


def test_a_process_with_the_files_of_before_does_not_end_when_it_is_idle(
    tmp_path: Path, authority: trustme.CA
) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text("[guard]\nrole = 'viewer'\n", encoding="utf-8")
    accounts = AccountFile(file)
    assert list(accounts.accounts()) == ["guard"]
    certificate = PortCertificate(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    (tmp_path / "key.pem").unlink()
    looks = []

    def may_rest() -> bool:
        looks.append(are_sound(accounts, certificate))
        if len(looks) == 1:
            write(tmp_path, authority)
            file.write_text("[guard", encoding="utf-8")
        elif len(looks) == 2:
            assert list(accounts.accounts()) == ["guard"]
            file.write_text("[guard]\nrole = 'admin'\n", encoding="utf-8")
        return looks[-1]

    with listening_at("127.0.0.1", 0) as listening:
        server = QuietServer(Starlette(), idle_s=0.01, may_rest=may_rest)
        asyncio.run(server.serve([listening]))
    assert looks == [False, False, True]
    assert accounts.accounts()["guard"].role == "admin"


def test_connections_are_closed_while_the_port_has_no_certificate(tmp_path: Path) -> None:
    async def unasked(*_: object) -> Any:
        raise AssertionError

    async def answer() -> bytes:
        with listening_at("127.0.0.1", 0) as listening:
            files = (str(tmp_path), "", "WARNING", "text")
            spec = WebSpec("redis://127.0.0.1:1", *files, certificate=str(tmp_path / "none.pem"))
            port = HttpPort(listening, spec, unasked, unasked, unasked, cast(Any, unasked))
            serving = asyncio.create_task(port.serve())
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            try:
                return await asyncio.wait_for(reader.read(), DEADLINE_S)
            finally:
                writer.close()
                await cancelled(serving)

    assert asyncio.run(answer()) == b""
