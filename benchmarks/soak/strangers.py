"""Strangers at the HTTP port: connections that say nothing, and how long health takes meanwhile."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Final

IDLE: Final = 1_400
LATE_S: Final = 1.0
_PROBE_EVERY_S: Final = 1.0
_PROBE_WAITS_S: Final = 30.0
_AT_ONCE: Final = 200


class Strangers:
    """Keeps IDLE silent connections to a port, and asks /healthz each second beside them.

    A connection that the port closes is opened again within about a second.

    worst_s   longest time that an answer of /healthz took; _PROBE_WAITS_S where none came
    probes    answers that were waited for
    late      of these, such as took longer than LATE_S
    opened    connections that were opened
    most_open connections that were open at once, at most
    """

    def __init__(self, host: str, port: int, idle: int = IDLE) -> None:
        self._address = (host, port)
        self._idle = idle
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._crowd, name="strangers"),
            threading.Thread(target=self._probe, name="health"),
        ]
        self.worst_s = 0.0
        self.probes = 0
        self.late = 0
        self.opened = 0
        self.most_open = 0

    def __enter__(self) -> Strangers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _crowd(self) -> None:
        """Hold the connections; look once a second which were closed."""
        held: dict[int, socket.socket] = {}
        poller = select.poll()
        while not self._over.wait(1.0):
            for descriptor, _ in poller.poll(0):
                self._look_at(poller, held, descriptor)
            for _ in range(min(_AT_ONCE, self._idle - len(held))):
                self._open_one(poller, held)
            self.most_open = max(self.most_open, len(held))
        for connection in held.values():
            connection.close()

    def _open_one(self, poller: select.poll, held: dict[int, socket.socket]) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.connect(self._address)
        held[connection.fileno()] = connection
        poller.register(connection, select.POLLIN)
        self.opened += 1

    def _look_at(
        self, poller: select.poll, held: dict[int, socket.socket], descriptor: int
    ) -> None:
        """Drop a connection that the port has closed; what it sends before is of no interest."""
        try:
            is_open = bool(held[descriptor].recv(4096))
        except BlockingIOError:
            is_open = True
        except OSError:
            is_open = False
        if not is_open:
            poller.unregister(descriptor)
            held.pop(descriptor).close()

    def _probe(self) -> None:
        while not self._over.wait(_PROBE_EVERY_S):
            began = time.monotonic()
            connection = HTTPConnection(*self._address, timeout=_PROBE_WAITS_S)
            try:
                connection.request("GET", "/healthz")
                connection.getresponse().read()
                took_s = time.monotonic() - began
            except (OSError, HTTPException):
                took_s = _PROBE_WAITS_S
            finally:
                connection.close()
            self.probes += 1
            self.late += took_s > LATE_S
            self.worst_s = max(self.worst_s, took_s)
