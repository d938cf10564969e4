"""Keeps the embedded server up: starts it again when it ended, ends it when it hangs.

It hangs if it was asked and said nothing for so long. That it could not be asked, for want of a
descriptor say, is no silence of its; nor is any answer, that it takes no more connections for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import subprocess
import time

from framegate.pipeline.errors import OutOfMeans, StoreBusy, StoreLost, StoreRefused
from framegate.pipeline.process import apart
from framegate.pipeline.retry import Backoff
from framegate.pipeline.store.embedded import EmbeddedStore

log = logging.getLogger(__name__)

TICK_S = 5.0
STARTS = 5


class StoreWatch:
    """Watches over one embedded store. Lives in the event loop."""

    def __init__(self, embedded: EmbeddedStore, hung_s: float) -> None:
        """hung_s: how long it may be silent."""
        self._embedded = embedded
        self._hung_s = hung_s
        self._settling: asyncio.Task[None] | None = None

    async def keep(self) -> None:
        """Until cancelled; StoreRefused if it does not start again, or is killed each time."""
        while True:
            health = asyncio.create_task(self._kill_when_silent())
            try:
                await self._embedded.ended()
            finally:
                health.cancel()
            log.warning("the embedded store ended; starting it again")
            await self._start()
            await self._settle()

    async def _start(self) -> None:
        for left in reversed(range(STARTS)):
            await self._launch()
            try:
                await apart(self._embedded.wait_until_it_answers)
                return
            except StoreRefused:
                if not (left and self._embedded.was_killed):
                    raise
                log.warning("the embedded store was killed while it started; once more")

    async def _launch(self) -> None:
        failures = 0
        while True:
            try:
                self._embedded.launch()
                return
            except (OSError, subprocess.SubprocessError) as error:
                failures += 1
                level = logging.WARNING if failures in (1, 5) or failures % 20 == 0 else 10
                log.log(level, "the embedded store cannot be started: %s; trying again", error)
                await asyncio.sleep(Backoff(0.1).delay_s(failures, random.random()))

    async def _kill_when_silent(self) -> None:
        """Returns once it was killed."""
        silent_since: float | None = None
        told = False
        while True:
            await asyncio.sleep(min(TICK_S, self._hung_s / 4))
            asked = time.monotonic()
            try:
                self._embedded.cut_log()
                await apart(self._embedded.ping, self._hung_s / 2)
                silent_since = None
            except StoreBusy:
                silent_since = None
            except OutOfMeans as error:
                silent_since = None  # it may well speak
                log.log(logging.DEBUG if told else logging.WARNING, "%s: not asked", error)
                told = True
            except StoreLost:
                silent_since = silent_since or asked
            if silent_since is not None and time.monotonic() - silent_since >= self._hung_s:
                log.error("the embedded store is silent for %.0f s: killed", self._hung_s)
                self._embedded.kill()
                return

    def settle(self) -> None:
        """Workers have begun: from now on sync as configured."""
        self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        with contextlib.suppress(StoreLost, StoreBusy):
            await apart(self._embedded.settle)
