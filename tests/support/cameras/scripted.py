"""A camera over HTTP that does step by step what a test says, to each who connects."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import cv2
import numpy as np

from tests.support.cameras.faulty import LOOPBACK
from tests.support.runs import DEADLINE_S

BOUNDARY: Final = b"b"
HEAD: Final = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=" + BOUNDARY
HELD_S: Final = 3600.0

Step = tuple[bytes, float]
"""Bytes to send, and the seconds to wait after them."""


def jpeg(width: int = 64, height: int = 48, grey: int = 128) -> bytes:
    """A picture of one grey."""
    picture = np.full((height, width), grey, np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def part(picture: bytes, length: int | None = None) -> bytes:
    """A picture as a part of the answer; length: what its header says instead of the truth."""
    size = len(picture) if length is None else length
    return (
        b"--%b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (BOUNDARY, size)
        + picture
        + b"\r\n"
    )


def paced(pictures: int, fps: float) -> Iterator[Step]:
    """So many pictures at this rate; then the line is held and nothing more comes."""
    yield HEAD + b"\r\n\r\n", 0.0
    for number in range(pictures):
        yield part(jpeg(grey=number % 200)), 1 / fps
    yield b"", HELD_S


class ScriptedCamera:
    """Goes through the steps with each who connects, until it is closed; a thread a connection.

    url       of the camera
    accepted  connections so far
    open      connections that are open now, as far as it has noticed
    sent      bytes so far
    """

    def __init__(self, steps: Callable[[], Iterator[Step]], port: int = 0) -> None:
        """port: to listen on; 0: a free one."""
        self._steps = steps
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.accepted = self.open = self.sent = 0
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((LOOPBACK, port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}/cam.mjpg"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Cut all connections and end."""
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(DEADLINE_S)

    def __enter__(self) -> ScriptedCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = threading.Thread(target=self._serve, args=(line,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, line: socket.socket) -> None:
        with self._lock:
            self.accepted += 1
            self.open += 1
        line.settimeout(0.5)
        try:
            with line, suppress(OSError):
                line.recv(65536)
                for data, rest_s in self._steps():
                    if not self._send(line, data) or self._rest(line, rest_s):
                        return
        finally:
            with self._lock:
                self.open -= 1

    def _send(self, line: socket.socket, data: bytes) -> bool:
        """False once it is over; whoever does not read is waited for."""
        left = memoryview(data)
        while left and not self._over.is_set():
            with suppress(TimeoutError):
                n = line.send(left)
                self.sent += n
                left = left[n:]
        return not self._over.is_set()

    def _rest(self, line: socket.socket, seconds: float) -> bool:
        """Whether it is over, or the other end hung up meanwhile."""
        until = time.monotonic() + seconds
        line.settimeout(max(0.001, seconds))
        try:
            while (left := until - time.monotonic()) > 0 and not self._over.is_set():
                line.settimeout(left)
                if not line.recv(4096):
                    return True
        except TimeoutError:
            pass
        finally:
            line.settimeout(0.5)
        return self._over.is_set()
