"""Cameras over HTTP that mean harm, or are broken so that it comes to the same."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

from tests.support.cameras.scripted import BOUNDARY, HEAD, ScriptedCamera, Step, jpeg, part

FLOOD_BYTES: Final = 4 << 20
FLOOD_S: Final = 0.1
HUGE: Final = 16_000
_KNOWN: Final = 5  # sound pictures before a bad one: the camera is taken for one


def claiming(picture: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header (SOF0)."""
    at = picture.index(b"\xff\xc0") + 5
    return picture[:at] + struct.pack(">HH", height, width) + picture[at + 4 :]


def _sound(pictures: int = _KNOWN) -> Iterator[Step]:
    yield HEAD + b"\r\n\r\n", 0.0
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
    yield b"--" + BOUNDARY + b"\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8", 0.0
    yield from _flood()


def huge_picture() -> Iterator[Step]:
    """Few bytes that say they are HUGE pixels a side, again and again."""
    yield from _sound()
    while True:
        yield part(claiming(jpeg(), HUGE, HUGE)), 0.1


def huge_at_once() -> Iterator[Step]:
    """The first picture already says so."""
    yield HEAD + b"\r\n\r\n", 0.0
    while True:
        yield part(claiming(jpeg(), HUGE, HUGE)), 0.1


def changing_sizes() -> Iterator[Step]:
    """Each picture has another size, 30 a second."""
    yield HEAD + b"\r\n\r\n", 0.0
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
    yield b"--" + BOUNDARY + b"\r\n", 0.0
    lines = b"X-More: and more\r\n" * (FLOOD_BYTES // 18)
    while True:
        yield lines, FLOOD_S


def garbage() -> Iterator[Step]:
    """Random bytes for ever, said to be a camera."""
    yield HEAD + b"\r\n\r\n", 0.0
    yield from _random()


def nameless_garbage() -> Iterator[Step]:
    """Random bytes for ever, of no kind."""
    yield b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n", 0.0
    yield from _random()


def broadcast() -> Iterator[Step]:
    """The description of a broadcast, to be waited for elsewhere."""
    yield b"HTTP/1.0 200 OK\r\nContent-Type: application/sdp\r\n\r\n", 0.0
    yield b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n", 0.0
    yield b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", 0.0


def list_of_places() -> Iterator[Step]:
    """Names of files to be read one after the other."""
    yield b"HTTP/1.0 200 OK\r\n\r\nffconcat version 1.0\nfile 'a.mp4'\n", 0.0


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
    for byte in HEAD * 1000:
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
        broadcast,
        list_of_places,
        trickle,
        slow_loris,
    )
}


class HostileCamera(ScriptedCamera):
    """Does one kind of harm to whoever connects."""

    def __init__(self, kind: str) -> None:
        """kind: one of KINDS."""
        super().__init__(KINDS[kind])
