"""Routes of pictures: the live page, snapshots, streams and sensitivity maps.

Viewers pull: a source without a viewer costs nothing, and a slow viewer gets fewer pictures, each
of them the newest. All viewers of a source share the encoded picture.
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
from framegate.pipeline.web.fleet.forward import OtherHost, is_forwarded
from framegate.pipeline.web.fleet.other_slots import OtherSlots, answered_by_its_slot, joined
from framegate.pipeline.web.limits import (
    JSON,
    LIMITS,
    NO_STORE,
    AtOnce,
    Refusal,
    Streamed,
    whole_number,
)
from framegate.pipeline.web.pages.pages import page
from framegate.pipeline.web.pictures.frames import LastFrame, LastFrames
from framegate.pipeline.web.route_table import caller_of

log = logging.getLogger(__name__)

T = TypeVar("T")
EncodeFrame = Callable[[LastFrame], bytes]


@dataclass(frozen=True, slots=True)
class Shown:
    """A source's newest picture, as viewers get it."""

    source: str
    position: Position
    jpeg: bytes


class SharedPictures:
    """The newest picture of each source. Use it in one event loop; a thread does the work.

    fps  pictures per second of a source at most, for all its viewers together
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
        """Return the newest picture, at most a period old; None if there is none."""
        # The lock makes all viewers of a source wait for the same picture.
        async with self._turns[source]:
            now = time.monotonic()
            if now - self._looked_mono.get(source, -math.inf) >= self._period_s:
                self._looked_mono[source] = now
                await self.in_turn(partial(self._look, source))
        return self._shown.get(source)

    def keep(self, sources: Collection[str]) -> None:
        """Forget all other sources: a removed source that is added again may be another camera."""
        for name in self._shown.keys() - set(sources):
            del self._shown[name]

    async def in_turn(self, work: Callable[[], T]) -> T:
        """Run `work` in the thread of pictures, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _look(self, source: str) -> None:
        shown = self._shown.get(source)
        seen = START
        if shown is not None:
            seen = shown.position
        try:
            frame = self._frames.newest(source, seen)
            if frame is not None:
                self._shown[source] = Shown(source, frame.result.position, self._encode(frame))
        except FramegateError as error:  # the store is lost or pixels are gone: try again later
            log.debug("source %s: no picture: %s", source, error)
            self._shown.pop(source, None)

    async def stream(
        self, sources: Sequence[str], fps: float, gone: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[Shown]:
        """Yield new pictures of the sources until `gone` returns True.

        fps  rounds through all sources per second, at most
        """
        sent: dict[str, Position] = {}
        while not await gone():
            began = time.monotonic()
            for source in sources:
                shown = await self.newest(source)
                if shown is not None and shown.position != sent.get(source):
                    sent[source] = shown.position
                    yield shown
            await asyncio.sleep(max(0.0, began + 1 / fps - time.monotonic()))


# -- Responses without a picture: a line of text with the reason.


AGE: Final = "X-Framegate-Age"  # header: seconds since the picture was published
STATE: Final = "X-Framegate-State"  # header: state of a source that has a fault


def _text(status: int, text: str, headers: Mapping[str, str] = NO_STORE) -> Response:
    return PlainTextResponse(f"{text}\n", status, {**NO_STORE, **headers})


def _unknown(names: list[str], known: Mapping[str, str]) -> Response:
    asked = ", ".join(name[:32] or "without a name" for name in names)
    existing = "the run has none"
    if known:
        existing = f"there are: {', '.join(sorted(known))}"
    return _text(404, f"no source {asked}; {existing}{did_you_mean(names[0], known)}")


def _not_now(reason: str) -> Response:
    """Return a response that asks the client to try again in a second."""
    return _text(503, reason, {"Retry-After": "1"})


# -- The live page, snapshots, and streams of pictures.
#
# /                     the live page
# /snapshot/NAME.jpg    the last frame; its headers have the time (Last-Modified), the age
#                       (X-Framegate-Age) and the state of a source with a fault (X-Framegate-State)
# /stream/NAME.mjpg     multipart MJPEG, for players and <img>
# /live?sources=A,B     pictures of many sources in one response, for the live page: a browser opens
#                       few connections to a host. Each part is a line of JSON (source, position,
#                       bytes) and the JPEG.


FPS: Final = 10.0
WIDTH: Final = 960  # of the pictures in streams
LIVE_BUDGET: Final = 60.0  # pictures per second in one response of /live
MAX_WIDTH: Final = 16384
CHECK_S: Final = 5.0  # between two checks whether the sources of a stream still exist

LIVE: Final = "application/octet-stream"

_BOUNDARY: Final = "framegate"

SourceStates = Callable[[], Mapping[str, str]]
GetNewest = Callable[[str], LastFrame | None]
EncodeStream = Callable[[AsyncIterator[Shown]], AsyncIterator[bytes]]


class AsJpeg(Protocol):
    """Draws and encodes a frame; see framegate.stages.draw.pictures.as_jpeg."""

    def __call__(self, frame: LastFrame, boxes: bool = True, width: int | None = None) -> bytes: ...


def picture_routes(
    frames: LastFrames,
    as_jpeg: AsJpeg,
    sources: SourceStates,
    streams: AtOnce | None = None,
    newest: GetNewest | None = None,
    elsewhere: OtherSlots | None = None,
) -> list[Route]:
    """Return the routes. They read, open and encode nothing before a request.

    sources  returns the run's sources, each with the reason why it may have no picture, or "";
             may block for some ms
    streams  limit of streams, shared with those of events
    newest   returns the frame of a snapshot; default: that of `frames`
    elsewhere  sources of other slots of a fleet
    """
    shared = SharedPictures(frames, lambda frame: as_jpeg(frame, width=WIDTH), FPS)
    places = streams or AtOnce(LIMITS.streams, "streams")
    viewers = _Viewers(shared, sources, places, elsewhere)

    async def snapshot(request: Request) -> Response:
        """The last frame of a source as a JPEG; `?plain=1`: without boxes; `?width=640`: at most.

        Its headers Last-Modified, X-Framegate-Age (seconds) and X-Framegate-State state its age
        and whether the source has a fault.
        """
        known = _seen(await viewers.known(), request)
        get_newest = newest or frames.newest
        return await shared.in_turn(partial(_snapshot, request, get_newest, as_jpeg, known))

    async def stream(request: Request) -> Response:
        """A source as multipart MJPEG, for players and `<img>`: 10 pictures a second at most."""
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        return await viewers.stream(request, [request.path_params["source"]], _multipart, kind)

    async def live(request: Request) -> Response:
        """Pictures of many sources (`?sources=A,B`) in one response, for the live page."""
        asked = request.query_params.get("sources", "").split(",")
        return await viewers.live(request, asked)

    return [
        page(
            "/",
            "pictures/page.html",
            "The live page: pictures, latency, objects and drops of each source.",
        ),
        Route("/snapshot/{source}.jpg", answered_by_its_slot(snapshot, elsewhere)),
        Route("/stream/{source}.mjpg", answered_by_its_slot(stream, elsewhere)),
        Route("/live", live),
    ]


@dataclass(frozen=True, slots=True)
class _Viewers:
    """The streams of pictures to viewers, each of one source or of several."""

    shared: SharedPictures
    sources: SourceStates
    places: AtOnce
    elsewhere: OtherSlots | None = None

    async def known(self) -> Mapping[str, str]:
        """Return the run's sources with their states, and forget pictures of all others."""
        known = await run_in_threadpool(self.sources)
        self.shared.keep(known)
        return known

    async def stream(
        self, request: Request, asked: list[str], encode: EncodeStream, kind: str
    ) -> Response:
        """Return a stream of the asked sources, or the reason why there is none.

        It ends when all these sources are removed.
        """
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self.places.taken())
            except Refusal as error:
                return _not_now(str(error))
            known = _seen(await self.known(), request)
            names = sorted(known.keys() & asked)  # the page may ask for sources just removed
            if not names:
                return _unknown(asked, known)
            fps = min(FPS, LIVE_BUDGET / len(names))
            shown = self.shared.stream(names, fps, _gone(names, self.known))
            return Streamed(encode(shown), kind, held.pop_all())

    async def live(self, request: Request, asked: list[str]) -> Response:
        """Return the pictures of the asked sources, also of other slots, or why there are none.

        With sources of other slots it ends when a source has moved, and the viewer asks again.
        """
        elsewhere = self.elsewhere
        by_port: dict[OtherHost, list[str]] = {}
        if elsewhere is not None and not is_forwarded(request):
            asked = caller_of(request).seen(asked)
            by_port = await run_in_threadpool(elsewhere.by_port, asked)
        if elsewhere is None or not by_port:
            return await self.stream(request, asked, _lines, LIVE)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self.places.taken())
            except Refusal as error:
                return _not_now(str(error))
            known = await self.known()
            own = sorted(known.keys() & asked)
            parts = [elsewhere.pictures(request, at, names) for at, names in by_port.items()]
            if own:
                fps = min(FPS, LIVE_BUDGET / len(own))
                parts.append(_lines(self.shared.stream(own, fps, _gone(own, self.known))))
            have_moved = partial(self._have_moved, asked, by_port, own)
            return Streamed(joined(parts, have_moved, CHECK_S), LIVE, held.pop_all())

    async def _have_moved(
        self, asked: Collection[str], by_port: Mapping[OtherHost, list[str]], own: list[str]
    ) -> bool:
        """Return whether other slots, or this one, serve these sources now."""
        assert self.elsewhere is not None
        known = await self.known()
        now = await run_in_threadpool(self.elsewhere.by_port, asked)
        return now != by_port or sorted(known.keys() & asked) != own


def _seen(known: Mapping[str, str], request: Request) -> dict[str, str]:
    """Return those sources that the caller of a request may see."""
    return {name: known[name] for name in caller_of(request).seen(known)}


def _gone(
    names: list[str], sources: Callable[[], Awaitable[Mapping[str, str]]]
) -> Callable[[], Awaitable[bool]]:
    """Return a function that returns whether all these sources were removed from the run.

    It reads the run's sources every CHECK_S.
    """
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
    request: Request, newest: GetNewest, as_jpeg: AsJpeg, known: Mapping[str, str]
) -> Response:
    name = request.path_params["source"]
    if name not in known:
        return _unknown([name], known)
    try:
        width = whole_number(request.query_params, "width", 0, 16, MAX_WIDTH) or None
    except Refusal as error:
        return _text(error.status, str(error))
    is_plain = request.query_params.get("plain", "0") not in ("", "0")
    try:
        frame = newest(name)
    except (FrameLost, StoreLost, StoreBusy) as error:
        return _not_now(str(error))
    if frame is None:
        reason = f"source {name}: no frame yet"
        if known[name]:
            reason += f"; {known[name]}"
        return _not_now(reason)
    published = frame.result.published
    age_s = max(0.0, time.time() - published)
    headers = {
        **NO_STORE,
        "X-Framegate-Position": str(frame.result.position),
        "Last-Modified": formatdate(published, usegmt=True),
        AGE: f"{age_s:.1f}",
    }
    if known[name]:
        headers[STATE] = known[name].partition(":")[0]
    jpeg = as_jpeg(frame, not is_plain, width)
    return Response(jpeg, headers=headers, media_type="image/jpeg")


async def _multipart(pictures: AsyncIterator[Shown]) -> AsyncIterator[bytes]:
    border = f"--{_BOUNDARY}\r\n".encode()
    yield border
    async for shown in pictures:
        head = f"Content-Type: image/jpeg\r\nContent-Length: {len(shown.jpeg)}\r\n\r\n"
        # The next border follows immediately: some browsers show a picture only after it.
        yield head.encode() + shown.jpeg + b"\r\n" + border


async def _lines(pictures: AsyncIterator[Shown]) -> AsyncIterator[bytes]:
    async for shown in pictures:
        head = {
            "source": shown.source,
            "position": str(shown.position),
            "bytes": len(shown.jpeg),
        }
        yield msgspec.json.encode(head) + b"\n" + shown.jpeg


# -- The sensitivity of the gate in each tile of a source.
#
# /sensitivity/NAME.json    grey levels by tile, row by row
# /sensitivity/NAME.png     the same over the source's last picture


AsMap = Callable[[Result, LastFrame | None], bytes]


class Sensitivity(msgspec.Struct, frozen=True):
    """The sensitivity of the gate at the frame `epoch`-`seq`, of `width` x `height` pixels as the
    network looks at it.

    tile    side of a tile in pixels; tiles of the last column and row may cross the border
    levels  rows of tiles; in each tile the smallest change of a cell's mean brightness, in grey
            levels of 255, that the detector looks at within two frames; 25.5 means at least that
    """

    source: str
    epoch: int
    seq: int
    width: int
    height: int
    tile: int
    levels: list[list[float]]


def sensitivity_routes(
    frames: LastFrames,
    as_map: AsMap,
    sources: SourceStates,
    elsewhere: OtherSlots | None = None,
) -> list[Route]:
    """Return the routes.

    as_map     encodes a result with a map as PNG; its frame is None if its pixels are gone
    elsewhere  sources of other slots of a fleet
    """

    def answer(request: Request, give: Callable[[Result, LastFrame | None], Response]) -> Response:
        name = request.path_params["source"]
        known = _seen(sources(), request)
        if name not in known:
            return _unknown([name], known)
        try:
            last = frames.last_map(name)
        except FramegateError as error:
            return _not_now(str(error))
        if last is None:
            return _not_now(f"source {name}: its last results contain no map; run with --draw gate")
        return give(*last)

    async def numbers(request: Request) -> Response:
        """How small a change the gate sees in each tile, as JSON; needs `--draw gate`."""
        return await run_in_threadpool(answer, request, lambda result, _: _map_response(result))

    async def picture(request: Request) -> Response:
        """The same over the source's last picture, as a PNG."""

        def give(result: Result, frame: LastFrame | None) -> Response:
            return Response(as_map(result, frame), 200, NO_STORE, "image/png")

        return await run_in_threadpool(answer, request, give)

    return [
        Route("/sensitivity/{source}.json", answered_by_its_slot(numbers, elsewhere)),
        Route("/sensitivity/{source}.png", answered_by_its_slot(picture, elsewhere)),
    ]


def _map_response(result: Result) -> Response:
    gate = result.gate
    assert gate is not None  # last_map returns results with a map only
    width, height = result.look_size
    sensitivity = Sensitivity(
        source=result.source,
        epoch=result.epoch,
        seq=result.seq,
        width=width,
        height=height,
        tile=gate.tile,
        levels=levels_of(gate),
    )
    return Response(msgspec.json.encode(sensitivity), 200, NO_STORE, JSON)


def levels_of(gate: GateView) -> list[list[float]]:
    """Return the grey levels of each tile, row by row; no rows if the view has no map."""
    tenths = gate.sensitivity
    starts = range(0, len(tenths), gate.columns)
    return [[tenth / 10 for tenth in tenths[start : start + gate.columns]] for start in starts]
