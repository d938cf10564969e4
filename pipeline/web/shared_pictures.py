"""The pictures that viewers watch: encoded once for all of them, and only while there are any.

Viewers pull: nothing runs for a source that nobody asks for, and one that is slow asks less often
and gets what is newest then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from framegate.pipeline.errors import FramegateError
from framegate.pipeline.records import START, Position
from framegate.pipeline.web.last_frames import LastFrame, LastFrames

log = logging.getLogger(__name__)

T = TypeVar("T")
Encode = Callable[[LastFrame], bytes]


@dataclass(frozen=True, slots=True)
class Shown:
    """The picture of a source that viewers get."""

    source: str
    position: Position
    jpeg: bytes


class SharedPictures:
    """The newest picture of each source. One event loop; the work is done in a thread beside it.

    fps  pictures a second of a source at most, whatever the number of its viewers
    """

    def __init__(self, frames: LastFrames, encode: Encode, fps: float) -> None:
        self._frames = frames
        self._encode = encode
        self._period_s = 1 / fps
        self._shown: dict[str, Shown] = {}
        self._looked_mono: dict[str, float] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # One thread: viewers take at most one core from the pipeline.
        self._thread = ThreadPoolExecutor(1, "pictures")

    async def newest(self, source: str) -> Shown | None:
        """The newest picture, looked for if the last look is a period ago; None without any."""
        async with self._turns[source]:
            now = time.monotonic()
            if now - self._looked_mono.get(source, -math.inf) >= self._period_s:
                self._looked_mono[source] = now
                await self.in_turn(partial(self._look, source))
        return self._shown.get(source)

    def keep(self, sources: Collection[str]) -> None:
        """Forget the others: a source that is added again may be another camera."""
        for gone in self._shown.keys() - set(sources):
            del self._shown[gone]

    async def in_turn(self, work: Callable[[], T]) -> T:
        """Do it in the thread that does all work on pictures."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _look(self, source: str) -> None:
        shown = self._shown.get(source)
        try:
            frame = self._frames.newest(source, shown.position if shown else START)
            if frame is not None:
                self._shown[source] = Shown(source, frame.result.position, self._encode(frame))
        except FramegateError as error:  # the store is away, pixels are gone: the next look tells
            log.debug("source %s: no picture: %s", source, error)
            self._shown.pop(source, None)

    async def stream(
        self, sources: Sequence[str], fps: float, gone: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[Shown]:
        """New pictures of the sources, each at most `fps` times a second, until gone() says so."""
        sent: dict[str, Position] = {}
        while not await gone():
            began = time.monotonic()
            for source in sources:
                shown = await self.newest(source)
                if shown is not None and shown.position != sent.get(source):
                    sent[source] = shown.position
                    yield shown
            await asyncio.sleep(max(0.0, began + 1 / fps - time.monotonic()))
