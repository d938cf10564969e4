"""Thumbnails of recordings: small pictures of key frames, made at the lowest priority, and cached.

A page that is scrubbed requests many of them, so each must cost little: one key frame is decoded,
and the newest ones stay in memory. The thread that makes them has the lowest priority of the host,
because recording and detection are more important.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.web.limits import NO_STORE, AtOnce, Refusal, refused, time_in
from framegate.pipeline.web.openapi import Operation, media, parameter
from framegate.pipeline.web.recordings.asked import is_fixed
from framegate.pipeline.web.recordings.other_hosts import OtherHosts

WIDTH: Final = 240  # pixels at most
MAX_CACHED_BYTES: Final = 16 << 20
MAX_WAITING: Final = 32  # requests that may wait for the thread, with the one in progress
_LOWEST: Final = 19  # niceness
_KEPT: Final = {"Cache-Control": "private, max-age=86400"}
_OF: Final = parameter("source", "A source's name", place="path")
_AT: Final = parameter("at", "Time of the picture: UNIX seconds, 2026-11-27T10:30, or 15m (ago)")
_TO: Final = parameter("to", "Latest time of the picture, if a key frame begins after `at`")

AsThumbnail = Callable[[Path, Segment, int], bytes]
"""as_thumbnail(folder, segment, width) returns the first key frame of a segment as a JPEG."""


class Thumbnails:
    """The thumbnails of a run's recordings. `close` ends its thread.

    One thread makes them, one after the other. The newest MAX_CACHED_BYTES of them stay in memory;
    one whose recording was removed is not shown any more.
    """

    def __init__(
        self, data: Path, as_thumbnail: AsThumbnail, max_cached_bytes: int = MAX_CACHED_BYTES
    ) -> None:
        """data: the run's folder."""
        self._data = data
        self._as_thumbnail = as_thumbnail
        self._max_cached_bytes = max_cached_bytes
        self._cached: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._waiting = AtOnce(MAX_WAITING, "thumbnails")
        self._thread = ThreadPoolExecutor(1, "thumbnails", initializer=_take_lowest_priority)

    def close(self) -> None:
        """End the thread after the thumbnail in progress."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def jpeg(self, source: str, at: float, until: float) -> bytes:
        """Return a thumbnail: see `Index.key_segment`. Refusal, FramegateError."""
        with self._waiting.taken():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._jpeg, source, at, until)

    def _jpeg(self, source: str, at: float, until: float) -> bytes:
        if not (self._data / FOLDER).is_dir():
            raise Refusal(404, "nothing is recorded; [record] sources = true records all cameras")
        with closing(Index(self._data)) as index:
            segment = index.key_segment(source, at, until)
            if segment is None:
                raise Refusal(404, "nothing was recorded at this time")
            if segment.path in self._cached:
                self._cached.move_to_end(segment.path)
                return self._cached[segment.path]
            jpeg = self._as_thumbnail(index.folder, segment, WIDTH)
        self._keep(segment.path, jpeg)
        return jpeg

    def _keep(self, path: str, jpeg: bytes) -> None:
        self._cached[path] = jpeg
        self._cached_bytes += len(jpeg)
        while self._cached_bytes > self._max_cached_bytes:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= len(oldest)


def _take_lowest_priority() -> None:
    """Give this thread, and those that its decoder starts, the lowest priority of the host."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)


def thumbnail_routes(thumbnails: Thumbnails, elsewhere: OtherHosts | None = None) -> list[Route]:
    """Return the route. elsewhere: the recordings of other hosts of a fleet"""

    async def thumbnail(request: Request) -> Response:
        """A small picture of a recording (240 pixels wide): the first key frame from `?at=` to
        `?to=`, or the last one before, as a JPEG. Files of a recording begin every 4 seconds, or at
        the next key frame. Thumbnails are made at the lowest priority, one after the other.
        """
        try:
            at = time_in(request.query_params, "at")
            if at is None:
                raise Refusal(400, "a thumbnail needs `at`, a time")
            until = time_in(request.query_params, "to")
            if until is None:
                until = at
            jpeg = await thumbnails.jpeg(request.path_params["source"], at, until)
        except Refusal as refusal:
            if elsewhere is None:
                return refused(refusal)
            return await elsewhere.answer(request, refusal)
        except FramegateError as error:
            return refused(error)
        headers = NO_STORE
        if is_fixed(request.query_params):
            headers = _KEPT
        return Response(jpeg, 200, headers, "image/jpeg")

    jpeg = media("image/jpeg", format="binary")
    path = "/api/v1/recordings/{source}/thumbnail.jpg"
    return [Operation(path, thumbnail, [_OF, _AT, _TO], gives=jpeg)]
