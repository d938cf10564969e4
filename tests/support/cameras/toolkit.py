"""A camera by aio-rtsp-toolkit: plays files for ever, over TCP only, without a password."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from pathlib import Path
from typing import Any

from aio_rtsp_toolkit import server

from tests.support.cameras.background import Background
from tests.support.cameras.faulty import LOOPBACK

server.logger = logging.getLogger("aio_rtsp_toolkit")  # its own writes every request to stdout
server.logger.setLevel(logging.CRITICAL)


class _OnceSession(server.RtspServerSession):
    """Sends each packet of a file once.

    The toolkit's own session puts a packet into its queue again after 50 ms if it has not learned
    by then that the packet is there. On a busy machine that doubles packets.
    """

    def _threadsafe_queue_put(
        self,
        loop: asyncio.AbstractEventLoop,
        queue: asyncio.Queue[Any],
        item: Any,
        stop_event: threading.Event,
    ) -> bool:
        put = asyncio.run_coroutine_threadsafe(queue.put(item), loop)
        while not stop_event.is_set():
            try:
                put.result(timeout=0.05)
            except concurrent.futures.TimeoutError:
                continue
            except Exception:
                return False
            return True
        put.cancel()
        return False


server.RtspServerSession = _OnceSession


class ToolkitCamera:
    """Serves the H.264 and HEVC files (.mkv, .mp4) of a folder; `path` gives the place of one."""

    def __init__(self, background: Background, folder: Path) -> None:
        self._background = background
        self._server = server.RtspServer(os.fspath(folder), LOOPBACK, 0)
        background.run(self._server.start())
        listener = self._server._server
        assert listener is not None
        self.port: int = listener.sockets[0].getsockname()[1]

    @staticmethod
    def path(name: str, times: int = 0) -> str:
        """Path and query that plays a file so often; 0: for ever."""
        return f"/{name}?play_count={times}"

    def close(self) -> None:
        """End it and all its connections."""
        self._background.run(self._server.close())
