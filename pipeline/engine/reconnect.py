"""Stay connected to the store: a session after the other, with a pause where the store is away."""

from __future__ import annotations

import logging
import os
import random
import time
from typing import Protocol

from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.engine.control import ControlLine, Stop
from framegate.pipeline.store.connection import readable
from framegate.pipeline.store.links import Links
from framegate.pipeline.system.retry import Backoff

log = logging.getLogger(__name__)

SIGN_S = 1.0  # between signs of life; half of the least hung_s


class Loop(Protocol):
    """A loop's work while connected; returns to end, or to begin again on new connections."""

    def serve(self, links: Links) -> None: ...
    def connected(self) -> bool:
        """Return whether anything was done since it connected."""
        ...


def run_connected(url: str, loop: Loop, line: ControlLine) -> None:
    """Serve until the work ends; on every (re)connect it starts from what the store says."""
    failures = 0
    while True:
        links = None
        try:
            links = Links(url)
            loop.serve(links)
            if line.ordered is not None:
                return
            failures = 0
        except (StoreLost, StoreBusy) as error:
            # A store that is reached, and fails each time before anything is done, is not back.
            failures = 1 if links is not None and loop.connected() else failures + 1
            delay = Backoff().delay_s(failures, random.random())
            level = logging.WARNING if failures in (1, 5) or failures % 20 == 0 else logging.DEBUG
            log.log(level, "%s; trying again in %.2f s", error, delay)
            if stopped_within(line, delay):
                return
        finally:
            if links is not None:
                links.close()


def stopped_within(line: ControlLine, seconds: float) -> bool:
    """Wait; return whether an order to stop came meanwhile. A drain needs the store: it waits, too.

    A store that answers and takes no writes may stay so for hours: a worker that waits for it says
    each SIGN_S that it lives.
    """
    until = time.monotonic() + seconds
    while not isinstance(line.ordered, Stop) and (left := until - time.monotonic()) > 0:
        line.waits += 1
        if readable([line.wake], min(left, SIGN_S)):
            os.eventfd_read(line.wake)
    return isinstance(line.ordered, Stop)
