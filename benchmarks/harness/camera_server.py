"""Videos of a folder as RTSP cameras, in a process of its own: FOLDER PORT.

Sender reports say when each frame was taken. A frame is sent at once, as a camera does that has
encoded it; the toolkit's own way is to spread its packets over the time up to the next one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aio_rtsp_toolkit import server

from framegate.pipeline.system.process import die_with_parent
from tests.support.cameras.toolkit import SteadySession

LOOPBACK = "127.0.0.1"
MOST_CAMERAS = 256


class CameraServer:
    """A camera server's process on a port that stays the same."""

    def __init__(self, folder: Path, before: Sequence[str] = ()) -> None:
        """before: what its command begins with, to run in a network namespace."""
        self._folder, self._before = folder, before
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [
            *self._before,
            sys.executable,
            "-m",
            "benchmarks.harness.camera_server",
            str(self._folder),
            str(self.port),
        ]
        # Ctrl-C is for who started it, and it ends with that one however that ends.
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()


class _PromptSession(SteadySession):
    """A viewer who is sent each frame whole when it is due."""

    async def _send_paced_rtp_payloads(self, *frame: Any) -> None:
        await super()._send_paced_rtp_payloads(*frame[:-1], 0.0)


async def _serve(folder: str, port: int) -> None:
    # Each viewer holds a thread of the loop's own pool, which has but a few.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_CAMERAS))
    await server.RtspServer(folder, LOOPBACK, port).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve `rtsp://127.0.0.1:PORT/FILE?play_count=0`, for ever."""
    folder, port = sys.argv[1:]
    server.RtspServerSession = _PromptSession
    server.logger = logging.getLogger("aio_rtsp_toolkit")  # its own writes requests to stdout
    server.logger.setLevel(logging.CRITICAL)
    asyncio.run(_serve(folder, int(port)))


if __name__ == "__main__":
    main()
