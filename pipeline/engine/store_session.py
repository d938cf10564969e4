"""Keep a worker's session with the store: reconnect with a growing pause while it is away."""

from __future__ import annotations

import logging
import os
import random
import time
from typing import Protocol

from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import Stop
from framegate.pipeline.store.worker_connections import Links, readable
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

SIGN_S = 1.0  # between signs of life; half of the smallest hung_s


class Loop(Protocol):
    """The work of a worker while it is connected.

    `serve` returns at an order, or when it needs new connections.
    """

    def serve(self, links: Links) -> None: ...
    def connected(self) -> bool:
        """Return whether the last session did any work."""
        ...


def run_connected(url: str, loop: Loop, line: ControlLine) -> None:
    """Serve until there is an order; each session starts from the positions in the store."""
    failures = 0
    while True:
        links = None
        try:
            links = Links(url, line.wake)
            loop.serve(links)
            if line.ordered is not None:
                return
            failures = 0
        except (StoreLost, StoreBusy) as error:
            # A store that accepts connections and fails before any work is done still counts as
            # away, so the pause grows.
            if links is not None and loop.connected():
                failures = 0
            failures += 1
            delay = Backoff().delay_s(failures, random.random())
            level = logging.DEBUG
            if failures in (1, 5) or failures % 20 == 0:
                level = logging.WARNING
            log.log(level, "%s; trying again in %.2f s", error, delay)
            if stopped_within(line, delay):
                return
        finally:
            if links is not None:
                links.close()


def stopped_within(line: ControlLine, seconds: float) -> bool:
    """Wait; return whether an order to stop came. An order to drain waits: it needs the store.

    A store that refuses writes may stay so for hours. The worker gives a sign of life each SIGN_S
    meanwhile, so that the supervisor does not take it for a hung one.
    """
    until = time.monotonic() + seconds
    while not isinstance(line.ordered, Stop):
        remaining = until - time.monotonic()
        if remaining <= 0:
            return False
        line.waits += 1
        if readable([line.wake], min(remaining, SIGN_S)):
            os.eventfd_read(line.wake)
    return True
