"""Clips of recordings: written for a request, sent, and removed; bounded in number and bytes."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.playlist import parts
from framegate.pipeline.system.machine import free_bytes
from framegate.pipeline.web.limits import AtOnce, Refusal, time_in, while_connected, whole_number
from framegate.pipeline.web.recordings.asked import index_of, segments_between, source_and_span

LONGEST_CLIP_S: Final = 3600.0
_CLIP: Final = ".clip-"
_MP4: Final = "video/mp4"

WriteClip = Callable[..., None]
"""write_clip(folder, segments, path, begin_s, seconds): see stages.decode.clip."""


def clip_name(request: Request) -> str:
    """Return the name under which a browser saves a clip, as `framegate recordings export` does."""
    since = time_in(request.query_params, "from") or 0.0
    name = (
        f"{request.path_params['source']}-{time.strftime('%Y%m%dT%H%M%S', time.localtime(since))}"
    )
    part = request.query_params.get("part", "1")
    if part != "1":
        name += f"-{part}"
    return f"{name}.mp4"


class ClipAnswer(FileResponse):
    """A response that sends a clip. When it ends, its file is removed and its place is free."""

    def __init__(
        self, path: Path, name: str, headers: dict[str, str], held: contextlib.ExitStack
    ) -> None:
        super().__init__(path, 200, headers, _MP4, None, name, content_disposition_type="inline")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await while_connected(super().__call__(scope, receive, send), receive)


class Clips:
    """A maker of clips, which it writes into the folder of recordings until they are sent.

    at_once  the limit of clips; each counts from its request until it is sent
    """

    def __init__(self, data: Path, write_clip: WriteClip, max_clips: int, free_bytes: int) -> None:
        self._data = data
        self._write = write_clip
        self._free_bytes = free_bytes
        self.at_once = AtOnce(max_clips, "clips")
        self._reserved_bytes = 0  # for clips that are being written
        self._lock = threading.Lock()
        for clip in (data / FOLDER).glob(f"{_CLIP}*"):  # left by a process that was killed
            clip.unlink(missing_ok=True)

    def write(self, request: Request, held: contextlib.ExitStack) -> tuple[Path, int]:
        """Write the requested clip. Return its file and the number of parts.

        Closing `held` removes the file. Refusal, ClipFailed.
        """
        with index_of(self._data) as index:
            source, since, until = source_and_span(request, index)
            if "from" not in request.query_params or until - since > LONGEST_CLIP_S:
                raise Refusal(400, "a clip needs `from`, and a `to` at most an hour later")
            made = parts(segments_between(index, source, since, until))
            number = whole_number(request.query_params, "part", 1, 1, len(made))
            part = made[number - 1]
            begin_s = max(0.0, since - part[0].captured)
            seconds = until - max(since, part[0].captured)
            with self._room(sum(segment.nbytes for segment in part)):
                file, name = tempfile.mkstemp(".mp4", _CLIP, index.folder)
                held.callback(Path(name).unlink, missing_ok=True)
                os.close(file)
                self._write(index.folder, part, Path(name), begin_s, seconds)
        return Path(name), len(made)

    @contextmanager
    def _room(self, nbytes: int) -> Iterator[None]:
        """Reserve bytes of the disk while a clip is written, so that it displaces no recording."""
        with self._lock:
            left_bytes = free_bytes(self._data) - self._reserved_bytes - nbytes
            if left_bytes < self._free_bytes:
                raise Refusal(
                    503,
                    f"the disk has no room for a clip of {nbytes} bytes: {self._free_bytes} must "
                    "stay free ([record] free_bytes); request a shorter clip",
                )
            self._reserved_bytes += nbytes
        try:
            yield
        finally:
            with self._lock:
                self._reserved_bytes -= nbytes
