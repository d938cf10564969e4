"""A run that only says where its store is: what `-d DATA` needs of one."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from framegate.pipeline.run.rpc import StoreUrl, announced, control_socket


@contextmanager
def telling_its_store(folder: Path, url: str) -> Iterator[None]:
    """Announced and answering, as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        control_socket(folder) as at,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ear,
        announced(folder),
    ):
        ear.bind(at)
        ear.listen()
        thread = threading.Thread(target=_answer, args=(ear, url))
        thread.start()
        try:
            yield
        finally:
            ear.shutdown(socket.SHUT_RDWR)
            thread.join()
            os.unlink(at)


def _answer(ear: socket.socket, url: str) -> None:
    while True:
        try:
            line, _ = ear.accept()
        except OSError:
            return
        with line, line.makefile("rb") as questions:
            questions.readline()
            line.sendall(msgspec.json.encode(StoreUrl(url)) + b"\n")
