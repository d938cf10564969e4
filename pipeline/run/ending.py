"""How a run ends: the first word stands, but a second Ctrl-C."""

from __future__ import annotations

import asyncio
import logging

from framegate.pipeline.contracts.errors import Exit

log = logging.getLogger(__name__)


class RunEnding:
    """The exit code of a run, once it has one. Lives in the event loop."""

    def __init__(self) -> None:
        self.code: Exit | None = None
        self._came, self._failed = asyncio.Event(), asyncio.Event()

    def end(self, code: Exit) -> None:
        """End the run with this code."""
        if self.code is None or code is Exit.STOPPED_TWICE:
            self.code = code
        self._came.set()
        if self.code is not Exit.DONE:
            self._failed.set()

    def fail(self, message: str) -> None:
        """End: something that the run needs has broken."""
        log.error("%s", message)
        self.end(Exit.SOURCE_FAILED)

    def fell(self, task: asyncio.Task[None]) -> None:
        """Callback of a task that must not end with an error: then the run ends."""
        if not task.cancelled() and task.exception() is not None:
            self.end(Exit.SOURCE_FAILED)

    async def wait(self) -> None:
        """Wait until the run has an exit code."""
        await self._came.wait()

    async def failed(self) -> None:
        """Wait until the run has an exit code that says that it is not done."""
        await self._failed.wait()
