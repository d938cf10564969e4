"""A camera by aio-rtsp-toolkit: plays files for ever, over TCP only, without a password."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

from aio_rtsp_toolkit import server

from tests.support.cameras.background import Background
from tests.support.cameras.faulty import LOOPBACK

_SENDER_REPORT = 200  # RFC 3550, 6.4.1
_NTP_ERA_S = 2_208_988_800  # from 1900 to 1970

server.logger = logging.getLogger("aio_rtsp_toolkit")  # its own writes every request to stdout
server.logger.setLevel(logging.CRITICAL)


class SteadySession(server.RtspServerSession):
    """Sends each packet of a file once, with the same clock, however busy the machine is.

    The toolkit's own session puts a packet into its queue again after 50 ms if it has not learned
    by then that the packet is there: that doubles packets. And its reports say when a packet was
    sent, so that a late packet makes all times after it leap. A camera's say when it was taken.
    """

    _began: float | None = None  # UNIX seconds at which the media began

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

    async def _send_interleaved_frame(self, channel: int, payload: bytes) -> None:
        for track in self.track_states.values():
            if channel == track.rtcp_channel and payload[1] == _SENDER_REPORT:
                (stamp,) = struct.unpack_from("!I", payload, 16)
                media_s = stamp / track.info.clock_rate
                if self._began is None:
                    self._began = time.time() - media_s
                taken = self._began + media_s + _NTP_ERA_S
                ntp = struct.pack("!II", int(taken), int(taken % 1 * (1 << 32)))
                payload = payload[:8] + ntp + payload[16:]
        await super()._send_interleaved_frame(channel, payload)


server.RtspServerSession = SteadySession


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
