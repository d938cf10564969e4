"""Error replies of a primary without its replicas, of one that becomes a replica, and of servers
that are no store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.store.hop import attach_command, load_library
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.store.worker_connections import Link
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
