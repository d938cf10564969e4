"""Hops per second of one primary on this machine: many sources, each with one hop per frame."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import hiredis

from benchmarks.harness.process_tree import usage
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.hop import (
    FRAME,
    Commit,
    CommitStatus,
    Entry,
    SourceHop,
    attach_command,
    hop_command,
    read_attached,
)
from framegate.pipeline.store.worker_connections import Link

SOURCES: Final = 64
STAGES: Final = ("decode", "detect", "escalate", "windows", "cache", "visits")  # in one worker
KEPT: Final = 100_000  # results of each source, as packaged
_RUN: Final = "bench"
_STATE: Final = b"s" * 100
_FOUND: Final = b"f" * 250
_RESULT: Final = b"r" * 400
_FIRST: Final = 1_000_000_000  # all positions have equally many digits
_PREVIOUS, _AT = 3_333_333_333, 7_777_777_777  # stand for positions in bytes that are made once


def hops_per_s(seconds: float) -> tuple[float, float]:
    """Return hops per second, and microseconds of the server's CPU for each.

    A hop has the commits and bytes of a frame with the packaged placement. Each source has its own
    connection, and half of them always have a hop under way, so the server never waits.
    """
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        embedded = EmbeddedStore(Path(folder), "everysec")
        embedded.start()
        try:
            embedded.settle()
            assert embedded.process is not None
            return _measure(embedded.url, embedded.process.pid, seconds)
        finally:
            embedded.stop()


def _measure(url: str, server: int, seconds: float) -> tuple[float, float]:
    names = [f"s{number}" for number in range(SOURCES)]
    store = StoreAdmin(url)
    store.prepare()
    for name in names:
        store.claim(name, _RUN, _RUN, take_over=False)
    store.close()
    link = Link(url)
    tokens = {name: _tokens(link, name) for name in names}
    for name, of in tokens.items():
        link.call(*hop_command([_hop(name, of, START, Position(1, _FIRST))]))
    link.close()
    path = unquote(urlsplit(url).path)
    sources = [_Stream(path, name, of) for name, of in tokens.items()]
    try:
        return _hop_in_turn(sources, server, seconds)
    finally:
        for source in sources:
            source.close()


def _hop_in_turn(sources: Sequence[_Stream], server: int, seconds: float) -> tuple[float, float]:
    """Send the hops of one half of the sources while the server works on those of the other."""
    one, other = sources[::2], sources[1::2]
    for source in one:
        source.send()
    before, began = usage(server), time.monotonic()
    hops = 0
    while time.monotonic() < began + seconds:
        for source in other:
            source.send()
        for source in one:
            source.receive()
        one, other = other, one
        hops += len(one)
    took, spent = time.monotonic() - began, usage(server).since(before)
    for source in one:
        source.receive()
    return hops / took, 1e6 * spent / hops


class _Stream:
    """The hops of a source on a connection of its own, frame by frame.

    Only the digits of positions differ between frames, so the bytes are made once: to make each hop
    again takes longer than the server needs for it.
    """

    def __init__(self, path: str, source: str, tokens: dict[str, bytes]) -> None:
        hop = _hop(source, tokens, Position(1, _PREVIOUS), Position(1, _AT))
        pack: Callable[[Any], bytes] = hiredis.pack_command
        self._bytes = pack(hop_command([hop]))
        self._number = _FIRST
        self._reader = hiredis.Reader()
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)

    def send(self) -> None:
        """Send the hop of the next frame."""
        previous, self._number = self._number, self._number + 1
        with_previous = self._bytes.replace(b"1-%d" % _PREVIOUS, b"1-%d" % previous)
        self._sock.sendall(with_previous.replace(b"1-%d" % _AT, b"1-%d" % self._number))

    def receive(self) -> None:
        """Receive its reply. RuntimeError if the hop is refused."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._sock.recv(65536))
        if reply[0][0] != b"OK":
            raise RuntimeError(f"a hop was answered with {reply}")

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def _tokens(link: Link, source: str) -> dict[str, bytes]:
    tokens = {}
    for stage in STAGES:
        attached = read_attached(link.call(*attach_command(source, stage, _RUN)))
        if isinstance(attached, CommitStatus):
            raise RuntimeError(f"the store answered {attached}")
        tokens[stage] = attached.token
    return tokens


def _hop(source: str, tokens: dict[str, bytes], previous: Position, at: Position) -> SourceHop:
    """Return the hop of a frame as the packaged placement makes it, with two entries."""
    stream_of = {"cache": keys.results(source)}
    entries_of = {"detect": (Entry(at, FRAME, _FOUND),), "cache": (Entry(at, FRAME, _RESULT),)}
    counts_of = {"cache": (("published", 1), ("looked:no:unchanged", 1), ("latency:7", 1))}
    commits = tuple(
        Commit(
            stage,
            stream_of.get(stage, keys.out(source, stage)),
            token,
            previous,
            at,
            entries_of.get(stage, ()),
            (("s", _STATE),),
            counts_of.get(stage, ()),
            keep=KEPT,
        )
        for stage, token in tokens.items()
    )
    return SourceHop(source, commits)
