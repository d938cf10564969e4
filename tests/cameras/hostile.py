"""Cameras over HTTP that mean harm, or are broken so that it comes to the same."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import cv2
import numpy as np

from tests.cameras.faulty import LOOPBACK

FLOOD_BYTES: Final = 4 << 20
FLOOD_S: Final = 0.1
HUGE: Final = 16_000
_BOUNDARY: Final = b"b"
_HEAD: Final = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=" + _BOUNDARY
_KNOWN: Final = 5  # sound pictures before a bad one: the camera is taken for one

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
        b"--%b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (_BOUNDARY, size)
        + picture
        + b"\r\n"
    )


def claiming(picture: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header (SOF0)."""
    at = picture.index(b"\xff\xc0") + 5
    return picture[:at] + struct.pack(">HH", height, width) + picture[at + 4 :]


def _sound(pictures: int = _KNOWN) -> Iterator[Step]:
    yield _HEAD + b"\r\n\r\n", 0.0
    for number in range(pictures):
        yield part(jpeg(grey=number)), 0.03


def _flood() -> Iterator[Step]:
    zeros = bytes(FLOOD_BYTES)
    while True:
        yield zeros, FLOOD_S


def endless_picture() -> Iterator[Step]:
    """A picture of 2 GB, at 40 MB/s."""
    yield from _sound()
    yield part(b"\xff\xd8", 2_000_000_000), 0.0
    yield from _flood()


def no_boundary() -> Iterator[Step]:
    """A picture whose length is not told and whose end never comes."""
    yield from _sound()
    yield b"--" + _BOUNDARY + b"\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8", 0.0
    yield from _flood()


def huge_picture() -> Iterator[Step]:
    """Few bytes that say they are HUGE pixels a side, again and again."""
    yield from _sound()
    while True:
        yield part(claiming(jpeg(), HUGE, HUGE)), 0.1


def huge_at_once() -> Iterator[Step]:
    """The first picture already says so."""
    yield _HEAD + b"\r\n\r\n", 0.0
    while True:
        yield part(claiming(jpeg(), HUGE, HUGE)), 0.1


def changing_sizes() -> Iterator[Step]:
    """Each picture has another size, 30 a second."""
    yield _HEAD + b"\r\n\r\n", 0.0
    for number in itertools.count():
        width, height = 64 + 2 * (number % 30), 48 + 2 * (number // 30 % 30)
        yield part(jpeg(width, height, number % 200)), 1 / 30


def endless_headers() -> Iterator[Step]:
    """The answer's head goes on for ever."""
    yield b"HTTP/1.0 200 OK\r\n", 0.0
    lines = b"X-More: and more\r\n" * (FLOOD_BYTES // 18)
    while True:
        yield lines, FLOOD_S


def endless_line() -> Iterator[Step]:
    """The answer's head is one line that goes on for ever."""
    yield b"HTTP/1.0 200 OK\r\nX-More: ", 0.0
    letters = b"x" * FLOOD_BYTES
    while True:
        yield letters, FLOOD_S


def endless_part_headers() -> Iterator[Step]:
    """A part's head goes on for ever."""
    yield from _sound()
    yield b"--" + _BOUNDARY + b"\r\n", 0.0
    lines = b"X-More: and more\r\n" * (FLOOD_BYTES // 18)
    while True:
        yield lines, FLOOD_S


def garbage() -> Iterator[Step]:
    """Random bytes for ever, said to be a camera."""
    yield _HEAD + b"\r\n\r\n", 0.0
    yield from _random()


def nameless_garbage() -> Iterator[Step]:
    """Random bytes for ever, of no kind."""
    yield b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n", 0.0
    yield from _random()


def _random() -> Iterator[Step]:
    while True:
        yield os.urandom(FLOOD_BYTES), FLOOD_S


def trickle() -> Iterator[Step]:
    """A sound picture, a byte a second."""
    yield from _sound()
    for byte in part(jpeg()) * 1000:
        yield bytes([byte]), 1.0


def slow_loris() -> Iterator[Step]:
    """The answer's head, a byte a second."""
    for byte in _HEAD * 1000:
        yield bytes([byte]), 1.0


KINDS: Final[dict[str, Callable[[], Iterator[Step]]]] = {
    kind.__name__: kind
    for kind in (
        endless_picture,
        no_boundary,
        huge_picture,
        huge_at_once,
        changing_sizes,
        endless_headers,
        endless_line,
        endless_part_headers,
        garbage,
        nameless_garbage,
        trickle,
        slow_loris,
    )
}


class HostileCamera:
    """Does one kind of harm to whoever connects, until it is closed; a thread a connection.

    url       of the camera
    accepted  connections so far
    open      connections that are open now; most_open: at once so far
    sent      bytes so far
    """

    def __init__(self, kind: str) -> None:
        """kind: one of KINDS."""
        self._steps = KINDS[kind]
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.accepted = self.open = self.most_open = self.sent = 0
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}/cam.mjpg"
        self._accepting = threading.Thread(target=self._accept, name=f"hostile-{kind}", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Cut all connections and end."""
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(10)

    def __enter__(self) -> HostileCamera:
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
            self.most_open = max(self.open, self.most_open)
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
