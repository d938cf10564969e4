"""A process that plays the videos of a folder as RTSP cameras: FOLDER PORT, until it is killed."""

from __future__ import annotations

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

from aio_rtsp_toolkit import server

LOOPBACK = "127.0.0.1"
MOST_CAMERAS = 256


async def _serve(folder: str, port: int) -> None:
    # Each viewer holds a thread of the loop's own pool, which has but a few.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_CAMERAS))
    await server.RtspServer(folder, LOOPBACK, port).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve `rtsp://127.0.0.1:PORT/FILE?play_count=0`, for ever."""
    server.logger = logging.getLogger("aio_rtsp_toolkit")  # its own writes requests to stdout
    server.logger.setLevel(logging.CRITICAL)
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))


if __name__ == "__main__":
    main()
