"""A heavy worker whose looks the test follows: `-m tests.support.heavy_process URL`.

A picture is not decoded: what it says decides. `hold` waits until the test pushes to `test:go`,
`die` kills the process, `damaged` is no picture; any other is seen, with its length as score.
Each look is pushed to `test:looked` when it begins.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from framegate.cli.fleet.worker import work
from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.heavy.batching import BatchLimits
from framegate.pipeline.heavy.queue import QueryMessage
from framegate.pipeline.heavy.worker import HeavyAsks
from framegate.pipeline.system.logs import set_up_logging
from tests.support.runs import environment

POLICY = "policy-of-the-test"


class ToldLooker:
    """Looks as the pictures say."""

    policy = POLICY
    precision = "int8"

    def __init__(self, url: str) -> None:
        self._url = url

    def look(self, asked: Sequence[QueryMessage]) -> list[Predictions | None]:
        return [self._look(one) for one in asked]

    def _look(self, asked: QueryMessage) -> Predictions | None:
        client: Any = redis.Redis.from_url(self._url, protocol=2)
        with client:
            client.rpush("test:looked", f"{os.getpid()} {asked.source} {asked.number}")
            if asked.picture == b"hold":
                # Each wait is shorter than the client's patience with the store.
                while client.blpop("test:go", 2) is None:
                    pass
        if asked.picture == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if asked.picture == b"damaged":
            return None
        width, height = float(asked.form.width), float(asked.form.height)
        return Predictions(
            ((0.0, 0.0, width, height),), (len(asked.picture) / 100,), (0,), ("test",)
        )


@contextmanager
def heavy_worker(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process; it ends with the block."""
    command = [sys.executable, "-m", "tests.support.heavy_process", url]
    process = subprocess.Popen(command, env=environment())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    set_up_logging("INFO", "heavy")
    try:
        sys.exit(work(HeavyAsks(sys.argv[1]), ToldLooker(sys.argv[1]), BatchLimits(4, 0.0)))
    except KeyboardInterrupt:
        sys.exit(130)
