"""The end of a run: its exit code, and the waits for it."""

from __future__ import annotations

import asyncio
import logging

from framegate.pipeline.contracts.errors import Exit

log = logging.getLogger(__name__)


class RunEnding:
    """The exit code of a run. All methods run in the event loop.

    code  None while the run is active
    """

    def __init__(self) -> None:
        self.code: Exit | None = None
        self._ended = asyncio.Event()
        self._failed = asyncio.Event()

    def end(self, code: Exit) -> None:
        """End the run with this code. A later code is ignored unless it is STOPPED_TWICE."""
        if self.code is None or code is Exit.STOPPED_TWICE:
            self.code = code
        self._ended.set()
        if self.code is not Exit.DONE:
            self._failed.set()

    def fail(self, message: str) -> None:
        """Log an error and end the run with it."""
        log.error("%s", message)
        self.end(Exit.SOURCE_FAILED)

    def fell(self, task: asyncio.Task[None]) -> None:
        """End the run if a task ended with an error. A callback for `add_done_callback`."""
        if not task.cancelled() and task.exception() is not None:
            self.end(Exit.SOURCE_FAILED)

    async def wait(self) -> None:
        """Wait until the run has an exit code."""
        await self._ended.wait()

    async def failed(self) -> None:
        """Wait until the run has an exit code other than DONE."""
        await self._failed.wait()
