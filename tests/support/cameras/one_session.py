"""An RTSP camera that allows one session, as many small cameras do."""

from __future__ import annotations

import socket
import threading
import time
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

    Each picture is stamped with the time at which it is sent: on a busy machine, pictures come less
    often than FPS, and a client would take stamps at an even pace for a growing delay.

    sessions  sessions so far
    open      sessions now, as far as it has noticed
    refused   clients that came while another had the session
    began, ended  when each session did, by the monotonic clock
    """

    def __init__(self) -> None:
        self._pictures = encoded("h264", 6)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.sessions = self.open = self.refused = 0
        self.began: list[float] = []
        self.ended: list[float] = []
        super().__init__(description("h264", self._pictures[0]), self._packets)
        self.url = f"rtsp://{LOOPBACK}:{self.port}/cam"

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        super().__exit__(*error)

    def _packets(self) -> Iterator[bytes]:
        number = picture = 0
        began = time.monotonic()
        while not self._closing.wait(1 / FPS):
            stamp = round((time.monotonic() - began) * HZ)
            pieces = payloads("h264", self._pictures[picture % len(self._pictures)])
            for piece in pieces:
                is_last = piece is pieces[-1]
                yield interleaved(0, rtp(number, stamp, is_last, piece))
                number += 1
            picture += 1

    def _serve(self, line: socket.socket) -> None:
        with self._lock:
            is_free = self.open == 0
            if is_free:
                self.open, self.sessions = 1, self.sessions + 1
                self.began.append(time.monotonic())
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
                self.ended.append(time.monotonic())
