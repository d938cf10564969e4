"""What a browser gets: the live page, snapshots, streams, maps; encoded once for all.

Viewers pull: nothing runs for a source that nobody asks for, and one that is slow asks less often
and gets what is newest then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import (
    FramegateError,
    FrameLost,
    StoreBusy,
    StoreLost,
    did_you_mean,
)
from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.contracts.results import GateView, Result
from framegate.pipeline.web.frames import LastFrame, LastFrames
from framegate.pipeline.web.limits import LIMITS, AtOnce, Refusal, Streamed, whole_number
from framegate.pipeline.web.pages import page

log = logging.getLogger(__name__)

T = TypeVar("T")
EncodeFrame = Callable[[LastFrame], bytes]


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

    def __init__(self, frames: LastFrames, encode: EncodeFrame, fps: float) -> None:
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


# -- What is answered where there is no picture or map to give: plain text that says why.


FRESH: Final = {"Cache-Control": "no-store"}
AGE: Final = "X-Framegate-Age"  # of a picture: seconds since it was published
STATE: Final = "X-Framegate-State"  # of its source, where that has a fault


def says(status: int, text: str, headers: Mapping[str, str] = FRESH) -> Response:
    """A line of text, never kept."""
    return PlainTextResponse(f"{text}\n", status, {**FRESH, **headers})


def unknown(names: list[str], known: Mapping[str, str]) -> Response:
    """There are no such sources; these there are."""
    asked = ", ".join(name[:32] or "without a name" for name in names)
    there = f"there are: {', '.join(sorted(known))}" if known else "the run has none"
    near = did_you_mean(names[0], known) if names else ""
    return says(404, f"no source {asked}; {there}{near}")


def not_now(why: str) -> Response:
    """It may be there in a second."""
    return says(503, why, {"Retry-After": "1"})


# -- What a browser gets: the live page, snapshots, and streams of pictures. /
# the page /snapshot/NAME.jpg        what was seen last; ?plain=1 without boxes, ?width=640 at
# most so wide. Its headers say when that was (Last-Modified), how many seconds ago
# (X-Framegate-Age), and X-Framegate-State: lost, say, if the source has a fault /stream/NAME.mjpg
# multipart MJPEG, for players and <img> /live?sources=A,B         pictures of many sources in one
# response, for the page: a browser has few connections to a host. Each part is a line of JSON
# (source, position, bytes) and the JPEG


FPS = 10.0
WIDTH = 960  # of the pictures in streams
LIVE_BUDGET = 60.0  # pictures a second in one response of /live
WIDEST = 16384
CHECK_S = 5.0

_BOUNDARY = "framegate"

SourceStates = Callable[[], Mapping[str, str]]
EncodeStream = Callable[[AsyncIterator[Shown]], AsyncIterator[bytes]]


class AsJpeg(Protocol):
    """Draws and encodes a frame; see framegate.stages.draw.pictures.as_jpeg."""

    def __call__(self, frame: LastFrame, boxes: bool = True, width: int | None = None) -> bytes: ...


def picture_routes(
    frames: LastFrames, as_jpeg: AsJpeg, sources: SourceStates, streams: AtOnce | None = None
) -> list[Route]:
    """The routes; nothing is read, opened or encoded before a request.

    sources  the run's, each with why there may be no picture of it yet; may block some ms
    streams  the places of streams, of events too
    """
    places = streams or AtOnce(LIMITS.streams, "streams")
    shared = SharedPictures(frames, lambda frame: as_jpeg(frame, width=WIDTH), FPS)

    async def now() -> Mapping[str, str]:
        known = await run_in_threadpool(sources)
        shared.keep(known)
        return known

    async def snapshot(request: Request) -> Response:
        """The last frame of a source as a JPEG; `?plain=1`: without boxes; `?width=640`: at most.

        Its headers Last-Modified, X-Framegate-Age (seconds) and X-Framegate-State state its age
        and whether the source has a fault.
        """
        known = await now()
        return await shared.in_turn(partial(_snapshot, request, frames, as_jpeg, known))

    async def stream(request: Request) -> Response:
        """A source as multipart MJPEG, for players and `<img>`: 10 pictures a second at most."""
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        return await streamed([request.path_params["source"]], _multipart, kind)

    async def live(request: Request) -> Response:
        """Pictures of many sources (`?sources=A,B`) in one response, for the live page."""
        asked = request.query_params.get("sources", "").split(",")
        return await streamed(asked, _lines, "application/octet-stream")

    async def streamed(asked: list[str], encode: EncodeStream, kind: str) -> Response:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(places.taken())
            except Refusal as error:
                return not_now(str(error))
            known = await now()
            names = sorted(known.keys() & asked)  # one may have been removed while the page asks
            if not names:
                return unknown(asked, known)
            fps = min(FPS, LIVE_BUDGET / len(names))
            shown = shared.stream(names, fps, _gone(names, now))
            return Streamed(encode(shown), kind, held.pop_all())

    return [
        page(
            "/", "page.html", "The live page: pictures, latency, objects and drops of each source."
        ),
        Route("/snapshot/{source}.jpg", snapshot),
        Route("/stream/{source}.mjpg", stream),
        Route("/live", live),
    ]


def _gone(
    names: list[str], sources: Callable[[], Awaitable[Mapping[str, str]]]
) -> Callable[[], Awaitable[bool]]:
    """Return a function that returns whether all these sources were removed from the run."""
    checked_mono = time.monotonic()

    async def gone() -> bool:
        nonlocal checked_mono
        if time.monotonic() - checked_mono > CHECK_S:
            checked_mono = time.monotonic()
            try:
                known = await sources()
            except FramegateError:
                return True
            return not known.keys() & names
        return False

    return gone


def _snapshot(
    request: Request, frames: LastFrames, as_jpeg: AsJpeg, known: Mapping[str, str]
) -> Response:
    name = request.path_params["source"]
    if name not in known:
        return unknown([name], known)
    try:
        width = whole_number(request.query_params, "width", 0, 16, WIDEST) or None
    except Refusal as error:
        return says(error.status, str(error))
    plain = request.query_params.get("plain", "0") not in ("", "0")
    try:
        frame = frames.newest(name)
    except (FrameLost, StoreLost, StoreBusy) as error:
        return not_now(str(error))
    if frame is None:
        return not_now(f"source {name}: no frame yet" + (known[name] and f"; {known[name]}"))
    seen = frame.result.published
    headers = {
        **FRESH,
        "X-Framegate-Position": str(frame.result.position),
        "Last-Modified": formatdate(seen, usegmt=True),
        AGE: f"{max(0.0, time.time() - seen):.1f}",
    }
    if known[name]:
        headers[STATE] = known[name].partition(":")[0]
    jpeg = as_jpeg(frame, not plain, width)
    return Response(jpeg, headers=headers, media_type="image/jpeg")


async def _multipart(pictures: AsyncIterator[Shown]) -> AsyncIterator[bytes]:
    border = f"--{_BOUNDARY}\r\n".encode()
    yield border
    async for shown in pictures:
        head = f"Content-Type: image/jpeg\r\nContent-Length: {len(shown.jpeg)}\r\n\r\n"
        # The next border comes at once: some browsers show a picture only when they see it.
        yield head.encode() + shown.jpeg + b"\r\n" + border


async def _lines(pictures: AsyncIterator[Shown]) -> AsyncIterator[bytes]:
    async for shown in pictures:
        head = {
            "source": shown.source,
            "position": str(shown.position),
            "bytes": len(shown.jpeg),
        }
        yield msgspec.json.encode(head) + b"\n" + shown.jpeg


# -- How small a change the gate sees in each tile of a source, as numbers and as a picture.
# /sensitivity/NAME.json    grey levels by tile, row by row /sensitivity/NAME.png     the same
# over the source's last picture


AsMap = Callable[[Result, LastFrame | None], bytes]


class Sensitivity(msgspec.Struct, frozen=True):
    """What the .json holds. It is of the frame `epoch`-`seq`, of `width` x `height` pixels.

    tile    side of a tile in these pixels; the last ones may reach over the border
    levels  rows of tiles: a change of a cell's mean brightness by so many grey levels (of 255) is
            looked at within two frames; 25.5 stands for that or more
    """

    source: str
    epoch: int
    seq: int
    width: int
    height: int
    tile: int
    levels: list[list[float]]


def sensitivity_routes(frames: LastFrames, as_map: AsMap, sources: SourceStates) -> list[Route]:
    """The routes. as_map: result with a map, and its frame if its pixels are there, to PNG."""

    def answer(request: Request, give: Callable[[Result, LastFrame | None], Response]) -> Response:
        name, known = request.path_params["source"], sources()
        if name not in known:
            return unknown([name], known)
        try:
            found = frames.last_map(name)
        except FramegateError as error:
            return not_now(str(error))
        if found is None:
            return not_now(
                f"source {name}: its last results do not contain it; run with --draw gate"
            )
        return give(*found)

    def numbers(request: Request) -> Response:
        """How small a change the gate sees in each tile, as JSON; needs `--draw gate`."""
        return answer(request, lambda result, _: _as_json(result))

    def picture(request: Request) -> Response:
        """The same over the source's last picture, as a PNG."""

        def give(result: Result, frame: LastFrame | None) -> Response:
            return Response(as_map(result, frame), 200, FRESH, "image/png")

        return answer(request, give)

    return [
        Route("/sensitivity/{source}.json", numbers),
        Route("/sensitivity/{source}.png", picture),
    ]


def _as_json(result: Result) -> Response:
    gate = result.gate
    told = Sensitivity(
        source=result.source,
        epoch=result.epoch,
        seq=result.seq,
        width=result.width,
        height=result.height,
        tile=gate.tile if gate else 0,
        levels=levels_of(gate) if gate else [],
    )
    return Response(msgspec.json.encode(told), 200, FRESH, "application/json")


def levels_of(gate: GateView) -> list[list[float]]:
    """Grey levels of each tile, row by row; no rows where the view has none."""
    tenths = gate.sensitivity
    starts = range(0, len(tenths), gate.columns)
    return [[tenth / 10 for tenth in tenths[start : start + gate.columns]] for start in starts]
