"""One asyncio loop in a thread, where the servers of a test live."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Runs coroutines for a test that does not wait in a loop itself.

    Thread  `run` from any thread but the loop's own
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # The toolkit's server reads each connection's file in a thread of this pool.
        self.loop.set_default_executor(ThreadPoolExecutor(64, "camera-files"))
        self._thread = threading.Thread(target=self.loop.run_forever, name="cameras")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for what it gives or raises."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120.0)

    def close(self) -> None:
        """Cancel what is left and end the thread."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self.loop.shutdown_default_executor()
