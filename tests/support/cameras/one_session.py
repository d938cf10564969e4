"""An RTSP camera that allows one session, as many small cameras do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

from tests.support.cameras.faulty import LOOPBACK
from tests.support.cameras.rtp import (
    PlayedCamera,
    description,
    encoded,
    interleaved,
    payloads,
    rtp,
)

FPS = 10
HZ = 90_000
REFUSAL = b"RTSP/1.0 453 Not Enough Bandwidth\r\nCSeq: 1\r\n\r\n"


class OneSessionCamera(PlayedCamera):
    """Sends pictures for ever to the client that has its session, and refuses all others.

    sessions  sessions so far
    open      sessions now, as far as it has noticed
    refused   clients that came while another had the session
    """

    def __init__(self) -> None:
        self._pictures = encoded("h264", 6)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.sessions = self.open = self.refused = 0
        super().__init__(description("h264", self._pictures[0]), self._packets)
        self.url = f"rtsp://{LOOPBACK}:{self.port}/cam"

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        super().__exit__(*error)

    def _packets(self) -> Iterator[bytes]:
        number = picture = 0
        while not self._closing.wait(1 / FPS):
            pieces = payloads("h264", self._pictures[picture % len(self._pictures)])
            for piece in pieces:
                is_last = piece is pieces[-1]
                stamp = picture * HZ // FPS
                yield interleaved(0, rtp(number, stamp, is_last, piece))
                number += 1
            picture += 1

    def _serve(self, line: socket.socket) -> None:
        with self._lock:
            is_free = self.open == 0
            if is_free:
                self.open, self.sessions = 1, self.sessions + 1
            else:
                self.refused += 1
        if not is_free:
            with line, suppress(OSError):
                line.recv(4096)
                line.sendall(REFUSAL)
                line.shutdown(socket.SHUT_WR)
                while line.recv(4096):  # to close with unread bytes would reset the connection
                    pass
            return
        try:
            super()._serve(line)
        finally:
            with self._lock:
                self.open = 0
