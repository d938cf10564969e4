"""What a browser gets: the live page, snapshots, and streams of pictures.

/                         the page
/snapshot/NAME.jpg        what was seen last; ?plain=1 without boxes, ?width=640 at most so wide.
                          Its headers say when that was (Last-Modified), how many seconds ago
                          (X-Framegate-Age), and X-Framegate-State: lost, say, if the source has
                          a fault
/stream/NAME.mjpg         multipart MJPEG, for players and <img>
/live?sources=A,B         pictures of many sources in one response, for the page: a browser has
                          few connections to a host. Each part is a line of JSON (source,
                          position, bytes) and the JPEG
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from framegate.pipeline.errors import FramegateError, FrameLost, StoreBusy, StoreLost
from framegate.pipeline.web.http_answers import AGE, FRESH, STATE, not_now, says, unknown
from framegate.pipeline.web.last_frames import LastFrame, LastFrames
from framegate.pipeline.web.shared_pictures import SharedPictures, Shown

FPS = 10.0
WIDTH = 960  # of the pictures in streams
LIVE_BUDGET = 60.0  # pictures a second in one response of /live
WIDEST = 16384
CHECK_S = 5.0

_BOUNDARY = "framegate"

Sources = Callable[[], Mapping[str, str]]


class AsJpeg(Protocol):
    """Draws and encodes a frame; see framegate.stages.draw.pictures.as_jpeg."""

    def __call__(self, frame: LastFrame, boxes: bool = True, width: int | None = None) -> bytes: ...


def picture_routes(frames: LastFrames, as_jpeg: AsJpeg, sources: Sources) -> list[Route]:
    """The routes; nothing is read, opened or encoded before a request.

    sources  the run's, each with why there may be no picture of it yet; may block some ms
    """
    shared = SharedPictures(frames, lambda frame: as_jpeg(frame, width=WIDTH), FPS)

    async def now() -> Mapping[str, str]:
        known = await run_in_threadpool(sources)
        shared.keep(known)
        return known

    async def snapshot(request: Request) -> Response:
        known = await now()
        return await shared.in_turn(partial(_snapshot, request, frames, as_jpeg, known))

    async def stream(request: Request) -> Response:
        known = await now()
        name = request.path_params["source"]
        if name not in known:
            return unknown([name], known)
        shown = shared.stream([name], FPS, _gone(request, [name], now))
        return _streaming(_multipart(shown), f"multipart/x-mixed-replace; boundary={_BOUNDARY}")

    async def live(request: Request) -> Response:
        known = await now()
        asked = request.query_params.get("sources", "").split(",")
        names = sorted(known.keys() & asked)  # one may have been removed while the page asks
        if not names:
            return unknown(asked, known)
        fps = min(FPS, LIVE_BUDGET / len(names))
        shown = shared.stream(names, fps, _gone(request, names, now))
        return _streaming(_lines(shown), "application/octet-stream")

    return [
        Route("/", _page),
        Route("/snapshot/{source}.jpg", snapshot),
        Route("/stream/{source}.mjpg", stream),
        Route("/live", live),
    ]


def _gone(
    request: Request, names: list[str], sources: Callable[[], Awaitable[Mapping[str, str]]]
) -> Callable[[], Awaitable[bool]]:
    """Whether the viewer went, or all that it watches was removed from the run."""
    checked_mono = time.monotonic()

    async def gone() -> bool:
        nonlocal checked_mono
        if time.monotonic() - checked_mono > CHECK_S:
            checked_mono = time.monotonic()
            try:
                known = await sources()
            except FramegateError:
                return True
            if not known.keys() & names:
                return True
        return await request.is_disconnected()

    return gone


def _page(request: Request) -> Response:  # noqa: ARG001
    html = Path(__file__).with_name("page.html").read_text()
    return HTMLResponse(html, headers={**FRESH, "Content-Security-Policy": _only_itself(html)})


def _only_itself(html: str) -> str:
    """What the page may do: run its own script and style, and ask only where it came from."""
    script, style = (_hash_of(tag, html) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )


def _hash_of(tag: str, html: str) -> str:
    inside = html.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


def _snapshot(
    request: Request, frames: LastFrames, as_jpeg: AsJpeg, known: Mapping[str, str]
) -> Response:
    name = request.path_params["source"]
    if name not in known:
        return unknown([name], known)
    try:
        width = _width(request.query_params.get("width"))
    except ValueError as error:
        return says(400, str(error))
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


def _width(asked: str | None) -> int | None:
    """Pixels; ValueError says what is allowed."""
    if not asked:
        return None
    if not (asked.isascii() and asked.isdecimal() and 16 <= int(asked[:9]) <= WIDEST):
        raise ValueError(f"width: {asked[:20]!r}; allowed: 16 to {WIDEST} pixels")
    return int(asked)


def _streaming(parts: AsyncIterator[bytes], kind: str) -> Response:
    return StreamingResponse(parts, headers={**FRESH, "X-Accel-Buffering": "no"}, media_type=kind)


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
