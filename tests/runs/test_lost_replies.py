"""Law 1: a hop whose reply was lost was done once, and is not done again."""

from __future__ import annotations

import json
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.hop import function
from tests.support.footage import bikes
from tests.support.runs import Run, check_accounts, published, said

pytestmark = pytest.mark.whole_run

FRAMES = 250
CUT_EVERY = 7
HOP = function("hop").encode()


class CuttingProxy(threading.Thread):
    """Stands between clients and the server; cuts a connection at every n-th hop.

    late: it forwards the hop, waits for the server's reply, and then closes both sides without
    handing the reply on: the server has written, the client cannot know. Otherwise it cuts before
    it forwards: the server has not written, the client cannot know that either.
    """

    def __init__(self, listen: Path, server: Path, late: bool) -> None:
        super().__init__(daemon=True)
        self._late = late
        self.cuts = 0
        self._hops = 0
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(listen))
        self._listener.listen(64)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._doomed: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stop_read, self._stop_write = os.pipe()
        self._selector.register(self._stop_read, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._stop_read:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._peers:
                    assert isinstance(key.fileobj, socket.socket)
                    self._forward(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._server))
        self._clients.add(client)
        for one, other in ((client, server), (server, client)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, one: socket.socket) -> None:
        try:
            data = one.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        other = self._peers[one]
        if not data or one in self._doomed:
            self.cuts += one in self._doomed
            self._drop(one)
            return
        if one in self._clients and HOP in data:
            self._hops += 1
            if self._hops % CUT_EVERY == 0 and not self._late:
                self.cuts += 1
                self._drop(one)
                return
            if self._hops % CUT_EVERY == 0:
                self._doomed.add(other)
        try:
            other.sendall(data)
        except OSError:
            self._drop(one)

    def _drop(self, one: socket.socket) -> None:
        for end in (one, self._peers[one]):
            del self._peers[end]
            self._selector.unregister(end)
            self._clients.discard(end)
            self._doomed.discard(end)
            end.close()

    def stop(self) -> None:
        os.write(self._stop_write, b"x")
        self.join()
        for end in [*self._peers, self._listener]:
            end.close()
        os.close(self._stop_read)
        os.close(self._stop_write)


@contextmanager
def proxied(folder: Path, late: bool) -> Iterator[tuple[EmbeddedStore, CuttingProxy, str]]:
    server = EmbeddedStore(folder / "server", "everysec")
    server.start()
    proxy = CuttingProxy(folder / "proxy.sock", server.socket, late)
    proxy.start()
    try:
        yield server, proxy, f"unix://{folder / 'proxy.sock'}"
    finally:
        proxy.stop()
        server.stop()


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(True, id="after the write"),
        pytest.param(False, id="before the write", marks=pytest.mark.long),
    ],
)
def test_connections_are_cut_at_hops(tmp_path: Path, late: bool) -> None:
    """Published once and printed once, whichever side of the write the connection breaks."""
    with proxied(tmp_path, late) as (server, proxy, url):
        names = ("one", "two")
        words = [f"{name}={bikes()}" for name in names]
        run = Run(tmp_path / "data", *words, "--store", url, "--json")
        assert run.wait() == 0, run.log.read_text(encoding="utf-8")
        assert proxy.cuts >= 10
        store = StoreAdmin(server.url)
        both = [published(server.url, name) for name in names]
        assert [line[1:] for line in said(both[0].results)] == [
            line[1:] for line in said(both[1].results)
        ]
        printed = [json.loads(line) for line in run.out.read_text(encoding="utf-8").splitlines()]
        for name, found in zip(names, both, strict=True):
            epoch = found.positions[0].epoch  # one that was asked for and not heard of is skipped
            assert found.positions == [Position(epoch, seq) for seq in range(FRAMES)]
            assert found.ended
            lines = [(r["epoch"], r["seq"]) for r in printed if r["source"] == name]
            assert lines == found.positions
            check_accounts(store.counters(name))
        store.close()
