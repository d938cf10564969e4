"""A camera by aio-rtsp-toolkit: plays files for ever, over TCP only, without a password."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from aio_rtsp_toolkit import server

from tests.support.cameras.background import Background
from tests.support.cameras.faulty import LOOPBACK

server.logger = logging.getLogger("aio_rtsp_toolkit")  # its own writes every request to stdout
server.logger.setLevel(logging.CRITICAL)


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
