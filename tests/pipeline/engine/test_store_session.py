"""A worker whose store takes no writes waits for it, and is not taken for hung."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import redis

from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.child_line import ChildLine
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import (
    GetSharedMemory,
    Ping,
    Pong,
    SharedMemory,
    Stop,
)
from framegate.pipeline.engine.store_session import run_connected, stopped_within
from framegate.pipeline.store.worker_connections import Link, Links
from tests.pipeline.engine.test_control import until
from tests.support.servers import server


class Writes:
    """Work that is one write."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.tries = 0

    def serve(self, links: Links) -> None:  # noqa: ARG002
        self.tries += 1
        link = Link(self._url)
        try:
            link.call("SET", "a", "b")
        finally:
            link.close()

    def connected(self) -> bool:
        return False


def no_memory(wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:  # noqa: ARG001
    return SharedMemory("there is none"), None


def test_a_worker_that_waits_for_a_full_store_says_that_it_lives(tmp_path: Path) -> None:
    """Killing it would help nobody: the next would wait as well, and ten end the run."""

    async def wait(url: str) -> None:
        ours, theirs = control_messages.make_pair()
        child = ChildLine(ours, lambda _: None, no_memory)
        line, work, done = ControlLine(theirs), Writes(url), list[int]()
        waits = threading.Thread(target=run_connected, args=(url, work, line))
        waits.start()
        try:
            for tries in (2, 4, 6):
                await until(lambda tries=tries: work.tries >= tries)
                done.append((await child.ask(Ping(), Pong)).done)
        finally:
            child.tell(Stop())
            waits.join()
            child.close()
        assert sorted(set(done)) == done

    with server(tmp_path / "store") as store, redis.Redis.from_url(store.url) as client:
        client.config_set("maxmemory", 1)
        asyncio.run(wait(store.url))


def test_who_waits_for_long_says_so_each_second() -> None:
    ours, theirs = control_messages.make_pair()
    line = ControlLine(theirs)
    assert not stopped_within(line, 2.2)
    assert line.waits >= 3
    ours.close()
