"""One hop alone: commit a frame and read the next one, in one write, input always there."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.records import VERSION, Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.hop import (
    FRAME,
    Command,
    Commit,
    CommitStatus,
    Entry,
    SourceHop,
    attach_command,
    hop_command,
    read_attached,
    read_replies,
)
from framegate.pipeline.store.worker_connections import Link

SOURCE, BEFORE, STAGE, RUN = "hop", "decode", "window", "bench"
_WARM_UP = 200


def hop_times_s(n: int) -> list[float]:
    """Seconds of each of n hops, against an embedded store of their own."""
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        embedded = EmbeddedStore(Path(folder), "everysec")
        embedded.start()
        try:
            embedded.settle()  # it starts with a sync at every write
            return _measure(embedded.url, n + _WARM_UP)[_WARM_UP:]
        finally:
            embedded.stop()


def _measure(url: str, n: int) -> list[float]:
    store = StoreAdmin(url)
    store.prepare()
    store.claim(SOURCE, RUN, RUN, take_over=False)
    store.close()
    link = Link(url)
    try:
        _fill(link, n)
        attached = read_attached(link.call(*attach_command(SOURCE, STAGE, RUN)))
        if isinstance(attached, CommitStatus):
            raise RuntimeError(f"the store answered {attached}")
        return _hops(link, attached.token, attached.position, n)
    finally:
        link.close()


def _fill(link: Link, n: int) -> None:
    """The input: n records as decode writes them."""
    for seq in range(n + 1):
        record = Record(VERSION, seq / 30, time.time(), time.monotonic(), seq, Form(640, 360))
        data = records.encode(record)
        link.call("XADD", keys.out(SOURCE, BEFORE), str(Position(1, seq)), "k", FRAME, "d", data)


def _hops(link: Link, token: bytes, previous: Position, n: int) -> list[float]:
    times = []
    data = b""
    stream = keys.out(SOURCE, BEFORE)
    for seq in range(n):
        at = Position(1, seq)
        read: Command = ("XREAD", "COUNT", "1", "BLOCK", "5000", "STREAMS", stream, str(at))
        start = time.perf_counter()
        link.send(hop_command([SourceHop(SOURCE, (_commit(token, previous, at, data),))]), read)
        (answer,) = read_replies(link.receive())
        ((_, ((_, fields),)),) = link.receive()
        data = fields[3]
        times.append(time.perf_counter() - start)
        if answer.status is not CommitStatus.OK:
            raise RuntimeError(f"hop {seq}: {answer}")
        previous = at
    return times


def _commit(token: bytes, previous: Position, at: Position, data: bytes) -> Commit:
    return Commit(
        stage=STAGE,
        out=keys.out(SOURCE, STAGE),
        token=token,
        previous=previous,
        last=at,
        entries=(Entry(at, FRAME, data),),
        fields=(("s", data),),
    )
