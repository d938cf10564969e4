"""Error replies of a primary without its replicas, of one that becomes a replica, and of servers
that are no store.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme

from framegate.pipeline.contracts.errors import StoreBusy, StoreLost, StoreRefused
from framegate.pipeline.store.hop import attach_command, load_library
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.store.worker_connections import Link
from tests.support.own_servers import Certificates
from tests.support.replicated import Server
from tests.support.runs import wait_until

Write = Callable[[Any], Any]
ATTACH = attach_command("cam", "decode", "run-1")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    primary, replica = Server(tmp_path, "a"), Server(tmp_path, "b")
    primary.start()
    replica.start()
    try:
        load_library(primary.client)
        replica.follow(primary)
        yield primary, replica
    finally:
        primary.kill()
        replica.kill()


def url_of(server: Server) -> str:
    return f"unix://{server.socket}"


def over_pipeline(client: Any, transaction: bool) -> Any:
    pipe = client.pipeline(transaction=transaction)
    pipe.set("fg:x", 1)
    return pipe.execute()


WRITES: list[Write] = [
    lambda client: client.set("fg:x", 1),
    lambda client: client.execute_command(*ATTACH),
    lambda client: over_pipeline(client, transaction=False),
    lambda client: over_pipeline(client, transaction=True),
]


def refuse_writes_for_now(server: Server, words: str) -> None:
    """Check that each write to a server raises StoreBusy, over redis-py and on the hot path."""
    url = url_of(server)
    for write in WRITES:
        refused = pytest.raises(StoreBusy, match=words)
        with closing(connect(url)) as client, refused, store_errors(url):
            write(client)
    link = Link(url)
    with pytest.raises(StoreBusy, match=words):
        link.call(*ATTACH)
    link.close()


def test_a_primary_whose_replicas_are_away_takes_no_writes_for_now(
    pair: tuple[Server, Server],
) -> None:
    primary, replica = pair
    primary.client.config_set("min-replicas-to-write", 1)
    replica.kill()
    wait_until("it is gone", lambda: not primary.client.info()["connected_slaves"])
    refuse_writes_for_now(primary, "NOREPLICAS")


def test_a_primary_that_becomes_a_replica_takes_no_writes_for_now(
    pair: tuple[Server, Server],
) -> None:
    primary, replica = pair
    url = url_of(primary)
    reading, waiting = Link(url), Link(url)
    reading.send(("XREAD", "BLOCK", "0", "STREAMS", "fg:x", "0"))
    waiting.send(("WAIT", "2", "0"))

    def read() -> None:
        with store_errors(url), closing(connect(url, 60.0)) as client:
            client.xread({"fg:x": "0"}, block=60_000)

    with ThreadPoolExecutor() as threads:
        over_redis_py = threads.submit(read)
        wait_until("all wait", lambda: primary.client.info()["blocked_clients"] == 3)
        replica.client.replicaof("NO", "ONE")
        primary.client.replicaof("127.0.0.1", replica.port)
        for receive in (reading.receive, waiting.receive, over_redis_py.result):
            with pytest.raises(StoreBusy, match="UNBLOCKED"):
                receive()
    refuse_writes_for_now(primary, "read only replica")
    late = Link(url)
    with pytest.raises(StoreBusy, match="cannot be used with replica instances"):
        late.call("WAIT", "1", "0")
    for link in (reading, waiting, late):
        link.close()


def test_a_web_server_is_no_store() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://127.0.0.1:{server.server_port}"
        lost = pytest.raises(StoreLost, match="cannot be reached: Protocol error")
        with lost, store_errors(url), connect(url) as client:
            client.ping()
        server.shutdown()


@contextmanager
def tls_front(context: ssl.SSLContext | None, breaks: int | None = None) -> Iterator[int]:
    """Yield the port of a proxy whose store is away; it resets or closes connections.

    context  None: no handshake is ever answered
    breaks   so many connections are reset before one gets a handshake
    """

    def serve() -> None:
        n = 0
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                n += 1
                if breaks is not None and n <= breaks:  # a close with these options is a reset
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                elif context is not None:
                    with contextlib.suppress(OSError):
                        connection = context.wrap_socket(connection, server_side=True)
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def is_lost(url: str, words: str) -> None:
    """Check that a store counts as away, not as one that refuses for good."""
    with pytest.raises(StoreLost, match=words):
        connect(url)


def test_a_proxy_that_breaks_handshakes_off_has_lost_its_store() -> None:
    with tls_front(None) as port:
        is_lost(f"rediss://127.0.0.1:{port}", "EOF occurred|reset by peer")


def test_a_reset_is_not_taken_for_a_missing_client_certificate(tmp_path: Path) -> None:
    files = Certificates(tmp_path / "certificates")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    context.load_verify_locations(files.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with tls_front(context, breaks=2) as port:  # a connect of redis-py has two attempts
        url = f"rediss://localhost:{port}?ssl_ca_certs={files.ca}"
        is_lost(
            f"{url}&ssl_certfile={files.client}&ssl_keyfile={files.client_key}", "reset by peer"
        )
    without = pytest.raises(StoreRefused, match="wants a client certificate that it trusts: ")
    with tls_front(context, breaks=2) as port, without:
        connect(f"rediss://localhost:{port}?ssl_ca_certs={files.ca}")


def test_a_store_with_an_expired_certificate_is_away(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    past = datetime.datetime(2020, 1, 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(
        "localhost", not_before=past, not_after=past + datetime.timedelta(days=1)
    ).configure_cert(context)
    with tls_front(context) as port:
        is_lost(f"rediss://localhost:{port}?ssl_ca_certs={tmp_path}/ca.pem", "has expired")
