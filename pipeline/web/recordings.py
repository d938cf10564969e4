"""/api/v1/recordings: what was recorded of the run's sources: HLS for players, clips, pictures."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from framegate.pipeline.client.when import moment
from framegate.pipeline.contracts.errors import FramegateError, did_you_mean
from framegate.pipeline.recording.index import (
    Index,
    Pin,
    RecordedPlace,
    RecordedSource,
    RecordedStretch,
    Segment,
    Trim,
)
from framegate.pipeline.recording.playlist import parts, playlist
from framegate.pipeline.recording.recorders import RecordingGap
from framegate.pipeline.recording.tables import FOLDER
from framegate.pipeline.system.machine import free_bytes
from framegate.pipeline.web.limits import (
    LIMITS,
    AtOnce,
    Refusal,
    WebLimits,
    refused,
    while_connected,
    whole_number,
)
from framegate.pipeline.web.openapi import FROM, TO, Operation, media, parameter

LONGEST_CLIP_S: Final = 3600.0
LONGEST_LIST_S: Final = 86400.0
MOST_EPOCH: Final = 2**62  # above those of all stores
_NEAR_S: Final = 0.5  # by which the clocks of a frame and of a recording may differ
PICTURE_S: Final = 10.0  # for which a picture waits for those before it
_WIDTH: Final = 320
_CLIP: Final = ".clip-"
_NO_STORE: Final = {"Cache-Control": "no-store"}
_FOR_EVER: Final = {"Cache-Control": "private, max-age=86400, immutable"}
_MP4: Final = "video/mp4"

WriteClip = Callable[..., None]
"""write_clip(folder, segments, path, begin_s, seconds): see stages.decode.clip."""
AsPicture = Callable[[Path, RecordedPlace, int], bytes]
"""as_picture(folder, place, width): a JPEG; see stages.draw.pictures."""


_OF: Final = parameter("source", "A source's name", place="path")
_DIGEST: Final = parameter("digest", "Digest of the init part", place="path")
_SEGMENT: Final = (
    parameter("epoch", "Epoch of the segment", {"type": "integer"}, place="path"),
    parameter("day", "Day of the segment, such as 2026-11-27", place="path"),
    parameter("name", "Name of the segment", place="path"),
)
_PART: Final = parameter("part", "Which part", {"type": "integer", "minimum": 1, "default": 1})
_VIDEO: Final = media(_MP4, format="binary")
_AT: Final = parameter("at", "When it was taken: UNIX seconds, 2026-11-27T10:30, or 15m (ago)")
_FRAME: Final = (
    parameter("epoch", "Epoch of a result: its picture, if it was recorded", {"type": "integer"}),
    parameter("pts", "Time stamp of the same result", {"type": "number"}),
)
_WIDE: Final = parameter(
    "width",
    "Pixels across, at most",
    {"type": "integer", "minimum": 16, "maximum": 1920, "default": _WIDTH},
)
_JPEG: Final = media("image/jpeg", format="binary")
_PLAYLIST: Final = "application/vnd.apple.mpegurl"


class RecordedTime(msgspec.Struct, frozen=True):
    """What there is of a source's time.

    source     its name
    stretches  that were recorded without a gap
    gaps       of which packets came that were not recorded, and why
    pins       what episodes have clips of
    trimmed    what was removed, by cause
    """

    source: str
    stretches: list[RecordedStretch]
    gaps: list[RecordingGap]
    pins: list[Pin]
    trimmed: list[Trim]


def recording_routes(
    data: Path,
    write_clip: WriteClip,
    as_picture: AsPicture | None = None,
    limits: WebLimits = LIMITS,
    free_bytes: int = 0,
) -> list[Route]:
    """The routes.

    data        the run's folder
    as_picture  None where there are no pictures
    free_bytes  of the disk that clips leave free, as recordings do
    """
    clips = Clips(data, write_clip, limits.clips, free_bytes)
    asked = _Recordings(data, clips, as_picture)
    base, one = "/api/v1/recordings", "/api/v1/recordings/{source}"
    init_name = one + "/init/{digest}.mp4"
    media_name = one + "/{epoch:int}/{day}/{name}.m4s"
    listed, pictured = _answered(asked.playlist), _answered(asked.picture)
    return [
        Operation(base, _answered(asked.sources), gives=list[RecordedSource]),
        Operation(one, _answered(asked.of_source), [_OF, FROM, TO], gives=RecordedTime),
        Operation(f"{one}/playlist.m3u8", listed, [_OF, FROM, TO], gives=media(_PLAYLIST)),
        Operation(f"{one}/clip.mp4", asked.clip, [_OF, FROM, TO, _PART], gives=_VIDEO),
        Operation(f"{one}/picture.jpg", pictured, [_OF, *_FRAME, _AT, _WIDE], gives=_JPEG),
        Operation(init_name, _answered(asked.init), [_OF, _DIGEST], gives=_VIDEO),
        Operation(media_name, _answered(asked.segment), [_OF, *_SEGMENT], gives=_VIDEO),
    ]


def _answered(make: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await run_in_threadpool(make, request)
        except (Refusal, FramegateError) as error:
            return refused(error)

    answer.__doc__ = make.__doc__
    return answer


class _Recordings:
    """What there is of the recordings in a run's folder. Any thread."""

    def __init__(self, data: Path, clips: Clips, as_picture: AsPicture | None) -> None:
        self._data, self._clips = data, clips
        self._as_picture, self._turn = as_picture, threading.Lock()

    def sources(self, request: Request) -> Response:  # noqa: ARG002
        """What is recorded of each source: from when to when, how long, bytes, sound."""
        if not (self._data / FOLDER).is_dir():
            return _json([])
        with closing(Index(self._data)) as index:
            return _json(index.recorded())

    def of_source(self, request: Request) -> Response:
        """What there is of a source's time: stretches, gaps, clips, and what was removed;
        `?from=` and `?to=`.
        """
        with _index(self._data) as index:
            source, since, until = _asked(request, index)
            return _json(
                RecordedTime(
                    source=source,
                    stretches=index.stretches(source, since, until),
                    gaps=index.recorders.gaps(source, since, until),
                    pins=[p for p in index.pins(source) if p.since < until and p.until > since],
                    trimmed=[trim for trim in index.trims() if trim.source == source],
                )
            )

    def playlist(self, request: Request) -> Response:
        """An HLS playlist, of a day at most; `?from=` and `?to=`: without a `to` in the past it
        goes on.
        """
        with _index(self._data) as index:
            source, since, until = _asked(request, index)
            now = time.time()
            since = max(since, min(until, now) - LONGEST_LIST_S)
            segments = _between(index, source, since, until)
        text = playlist(segments, _init_name, _media_name, goes_on=until >= now)
        return Response(text, 200, _NO_STORE, _PLAYLIST)

    def picture(self, request: Request) -> Response:
        """What was seen `?at=` a time, or in the frame of `?epoch=` and `?pts=`, as a JPEG of
        `?width=` 320 pixels at most.
        """
        if self._as_picture is None:
            raise Refusal(503, "this run serves no pictures")
        width = whole_number(request.query_params, "width", _WIDTH, 16, 1920)
        with _index(self._data) as index:
            place = _place(request, index)
            if not self._turn.acquire(timeout=PICTURE_S):  # one by one: it is work for a core
                raise Refusal(503, "many pictures are asked for; try again in a second")
            try:
                jpeg = self._as_picture(index.folder, place, width)
            finally:
                self._turn.release()
        return Response(jpeg, 200, _FOR_EVER, "image/jpeg")

    def segment(self, request: Request) -> Response:
        """A segment, as playlists name it."""
        path = request.path_params
        name = f"{path['source']}/{path['epoch']}/{path['day']}/{path['name']}.mp4"
        with _index(self._data) as index:
            found = index.segment(name)
            if found is None:
                raise Refusal(404, "there is no such segment, or not any more")
            return Response(_read(index, found, found.head, -1), 200, _FOR_EVER, _MP4)

    def init(self, request: Request) -> Response:
        """An init part, as playlists name it."""
        with _index(self._data) as index:
            path = request.path_params
            found = index.with_init(path["source"], path["digest"])
            if found is None:
                raise Refusal(404, "there is no such init part, or not any more")
            return Response(_read(index, found, 0, found.head), 200, _FOR_EVER, _MP4)

    async def clip(self, request: Request) -> Response:
        """A range as one MP4; `?from=`, `?to=`, an hour at most, and `?part=2` where the camera
        changed what it sends: the header Framegate-Parts says how many there are.
        """
        try:
            with contextlib.ExitStack() as held:
                held.enter_context(self._clips.at_once.taken())
                path, n_parts = await run_in_threadpool(self._clips.write, request, held)
                kept = held.pop_all()
        except (Refusal, FramegateError) as error:
            return refused(error)
        name = f"{request.path_params['source']}.mp4"
        return _ClipAnswer(path, name, {**_NO_STORE, "Framegate-Parts": str(n_parts)}, kept)


class _ClipAnswer(FileResponse):
    """A clip that is sent. Its file and its place go when that is over, however it ends."""

    def __init__(
        self, path: Path, name: str, headers: dict[str, str], held: contextlib.ExitStack
    ) -> None:
        super().__init__(path, 200, headers, _MP4, None, name, content_disposition_type="inline")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await while_connected(super().__call__(scope, receive, send), receive)


class Clips:
    """Makes clips, a few at a time, beside the recordings; they go when they were sent.

    at_once  its places, each held until its clip was sent
    """

    def __init__(self, data: Path, write_clip: WriteClip, most: int, free_bytes: int) -> None:
        self._data, self._write, self._free_bytes = data, write_clip, free_bytes
        self.at_once = AtOnce(most, "clips")
        self._coming_bytes = 0  # of the clips that are being written
        self._lock = threading.Lock()
        for left in (data / FOLDER).glob(f"{_CLIP}*"):  # of a process that was killed
            left.unlink(missing_ok=True)

    def write(self, request: Request, held: contextlib.ExitStack) -> tuple[Path, int]:
        """Make the clip that is asked for; return its file, which goes with `held`, and how many
        parts there are. Refusal, ClipFailed.
        """
        with _index(self._data) as index:
            source, since, until = _asked(request, index)
            if "from" not in request.query_params or until - since > LONGEST_CLIP_S:
                raise Refusal(400, "a clip needs from, and to within an hour of it")
            made = parts(_between(index, source, since, until))
            number = whole_number(request.query_params, "part", 1, 1, len(made))
            part = made[number - 1]
            begin_s = max(0.0, since - part[0].captured)
            seconds = until - max(since, part[0].captured)
            with self._room(sum(one.nbytes for one in part)):
                file, name = tempfile.mkstemp(".mp4", _CLIP, index.folder)
                held.callback(Path(name).unlink, missing_ok=True)
                os.close(file)
                self._write(index.folder, part, Path(name), begin_s, seconds)
        return Path(name), len(made)

    @contextmanager
    def _room(self, nbytes: int) -> Iterator[None]:
        """Set bytes of the disk aside while a clip is written, so that no recording has to go."""
        with self._lock:
            left = free_bytes(self._data) - self._coming_bytes - nbytes
            if left < self._free_bytes:
                raise Refusal(
                    503,
                    f"the disk has no room for a clip of {nbytes} bytes: {self._free_bytes} are to "
                    "stay free ([record] free_bytes); ask for a shorter one",
                )
            self._coming_bytes += nbytes
        try:
            yield
        finally:
            with self._lock:
                self._coming_bytes -= nbytes


@contextmanager
def _index(data: Path) -> Iterator[Index]:
    if not (data / FOLDER).is_dir():
        raise Refusal(404, "nothing is recorded; [record] sources = true records all cameras")
    with closing(Index(data)) as index:
        yield index


def _asked(request: Request, index: Index) -> tuple[str, float, float]:
    """Source and time of a request; without a time all there is."""
    source = _known(request, index)
    first = next(one.since for one in index.recorded() if one.source == source)
    since = _moment("from", request.query_params.get("from"), first)
    until = _moment("to", request.query_params.get("to"), math.inf)
    if since >= until:
        raise Refusal(400, "from, to: it ends before it begins")
    return source, since, until


def _known(request: Request, index: Index) -> str:
    """The source of a request. Refusal where nothing is recorded of it."""
    source: str = request.path_params["source"]
    recorded = [one.source for one in index.recorded()]
    if source not in recorded:
        near = did_you_mean(source[:32], recorded)
        raise Refusal(404, f"nothing is recorded of {source[:32]!r}{near}")
    return source


def _place(request: Request, index: Index) -> RecordedPlace:
    """Where the picture lies that is asked for: by its frame, else by its time."""
    source, asked = _known(request, index), request.query_params
    if "epoch" in asked and "pts" in asked:
        epoch = whole_number(asked, "epoch", 0, 0, MOST_EPOCH)
        try:
            place = index.place(source, epoch, float(asked["pts"]))
        except ValueError:
            raise Refusal(400, f"pts: {asked['pts'][:20]!r}; allowed is a number") from None
        if place is not None:
            return place
    at = _moment("at", asked.get("at"), math.nan)
    if math.isnan(at) and "pts" in asked:
        raise Refusal(404, "that frame was not recorded")
    if math.isnan(at):
        raise Refusal(400, "a picture needs at, when it was taken, or epoch and pts of a result")
    near = _between(index, source, at - _NEAR_S, at + _NEAR_S)
    one = next((one for one in reversed(near) if one.captured <= at), near[0])
    share = (at - one.captured) / max(one.captured_end - one.captured, 1e-3)
    return RecordedPlace(one, one.seconds * min(max(share, 0.0), 1.0))


def _moment(what: str, text: str | None, default: float) -> float:
    if not text:
        return default
    try:
        read = moment(text, time.time())
    except ValueError as error:
        raise Refusal(400, f"{what}: {error}") from None
    if not isinstance(read, float):
        raise Refusal(400, f"{what}: {text[:40]!r}: a position; allowed is a time")
    return read


def _between(index: Index, source: str, since: float, until: float) -> Sequence[Segment]:
    found = index.between(source, since, until)
    if not found:
        raise Refusal(404, "nothing was recorded then")
    return found


def _read(index: Index, one: Segment, begin: int, size: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), open(index.folder / one.path, "rb") as file:
        file.seek(begin)
        return file.read(size)
    raise Refusal(404, "it was removed just now")


def _init_name(one: Segment) -> str:
    return f"init/{one.init}.mp4"


def _media_name(one: Segment) -> str:
    return one.path.partition("/")[2].removesuffix(".mp4") + ".m4s"


def _json(said: Any) -> Response:
    return Response(msgspec.json.encode(said), 200, _NO_STORE, "application/json")
