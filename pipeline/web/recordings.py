"""/api/v1/recordings: the recordings of the run's sources as HLS playlists, clips and pictures."""

from __future__ import annotations

import contextlib
import logging
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
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from framegate.pipeline.contracts.errors import FramegateError, did_you_mean
from framegate.pipeline.contracts.keys import is_name
from framegate.pipeline.fleet.recording_places import (
    RecordingPlace,
    overlapping,
    own_key,
    places_of,
)
from framegate.pipeline.recording.index import (
    Index,
    Pin,
    RecordedPlace,
    RecordedSource,
    Segment,
    Trim,
)
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.playlist import RecordedStretch, parts, playlist, stretches
from framegate.pipeline.recording.recorder_states import RecordingGap
from framegate.pipeline.review.kept_pictures import WIDTH
from framegate.pipeline.system.machine import free_bytes
from framegate.pipeline.web.forward import Forwarder, OtherHost, is_forwarded
from framegate.pipeline.web.limits import (
    LIMITS,
    AtOnce,
    Refusal,
    WebLimits,
    refused,
    time_in,
    while_connected,
    whole_number,
)
from framegate.pipeline.web.openapi import FROM, TO, Operation, media, parameter
from framegate.pipeline.web.pages import page
from framegate.pipeline.web.recorded_pictures import RecordedPictures
from framegate.pipeline.web.route_table import caller_of, check_seen, source_of_id

log = logging.getLogger(__name__)

LONGEST_CLIP_S: Final = 3600.0
LONGEST_LIST_S: Final = 86400.0
MAX_EPOCH: Final = 2**62  # above the epochs of all stores
_NEAR_S: Final = 0.5  # by which the clocks of a frame and of a recording may differ
_CLIP: Final = ".clip-"
_NO_STORE: Final = {"Cache-Control": "no-store"}
_IMMUTABLE: Final = {"Cache-Control": "private, max-age=86400, immutable"}
_MP4: Final = "video/mp4"

WriteClip = Callable[..., None]
"""write_clip(folder, segments, path, begin_s, seconds): see stages.decode.clip."""

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
    {"type": "integer", "minimum": 16, "maximum": 1920, "default": WIDTH},
)
_OWNER: Final = parameter("of", "Id of the judged episode or marked visit that it shows")
_JPEG: Final = media("image/jpeg", format="binary")
_PLAYLIST: Final = "application/vnd.apple.mpegurl"


class RecordedTime(msgspec.Struct, frozen=True):
    """The recordings of a source in a span of time.

    source     name of the source
    stretches  times that were recorded without a gap
    gaps       times whose packets were received but not recorded, with the reasons
    pins       times that clips of episodes keep
    trimmed    recordings that were removed, by cause
    elsewhere  other hosts of the fleet with recordings of this time
    """

    source: str
    stretches: list[RecordedStretch]
    gaps: list[RecordingGap]
    pins: list[Pin]
    trimmed: list[Trim]
    elsewhere: list[RecordingPlace]


def recording_routes(
    data: Path,
    write_clip: WriteClip,
    pictures: RecordedPictures | None = None,
    limits: WebLimits = LIMITS,
    free_bytes: int = 0,
    elsewhere: OtherHosts | None = None,
) -> list[Route]:
    """Return the routes.

    data        the run's folder
    pictures    None if the run serves no pictures
    free_bytes  bytes of the disk that clips leave free, as recordings do
    elsewhere   the recordings of other hosts of a fleet
    """
    elsewhere = elsewhere or OtherHosts("", data, Forwarder())
    clips = Clips(data, write_clip, limits.clips, free_bytes)
    api = _Recordings(data, clips, pictures, elsewhere)
    base = "/api/v1/recordings"
    source = base + "/{source}"
    init_name = source + "/init/{digest}.mp4"
    media_name = source + "/{epoch:int}/{day}/{name}.m4s"
    listed = _answered(api.playlist, elsewhere)
    pictured = _answered(api.picture, elsewhere)
    described = _answered(api.of_source, elsewhere)
    init = _answered(api.init, elsewhere)
    segment = _answered(api.segment, elsewhere)
    return [
        Operation(base, _answered(api.sources), gives=list[RecordedSource]),
        Operation(source, described, [_OF, FROM, TO], gives=RecordedTime),
        Operation(f"{source}/playlist.m3u8", listed, [_OF, FROM, TO], gives=media(_PLAYLIST)),
        Operation(f"{source}/clip.mp4", api.clip, [_OF, FROM, TO, _PART], gives=_VIDEO),
        Operation(
            f"{source}/picture.jpg", pictured, [_OF, *_FRAME, _AT, _WIDE, _OWNER], gives=_JPEG
        ),
        Operation(init_name, init, [_OF, _DIGEST], gives=_VIDEO),
        Operation(media_name, segment, [_OF, *_SEGMENT], gives=_VIDEO),
        page("/recordings", "recordings.html", "The page to look through recordings."),
    ]


class OtherHosts:
    """The recordings of other hosts of a fleet, as its store names them. Any thread."""

    def __init__(self, store: str, data: Path, forwarder: Forwarder) -> None:
        """Keep the parts.

        store      URL of the store; "": there is no fleet
        data       the run's folder, which is left out
        forwarder  sends requests to other hosts
        """
        self._forwarder = forwarder
        self._store = store
        self._own = own_key(data)

    def places(self, source: str, since: float, until: float) -> list[RecordingPlace]:
        """Return the places with recordings of a time; none if the store does not answer."""
        places: list[RecordingPlace] = []
        if self._store and is_name(source):
            with contextlib.suppress(FramegateError):
                places = places_of(self._store, source)
        return overlapping(places, self._own, since, until)

    async def answer(self, request: Request, refusal: Refusal) -> Response:
        """Return the response of the host that has what this one lacks, or the refusal.

        The hosts with recordings of the requested time are asked in turn, until one has it.
        """
        if is_forwarded(request):
            return refused(refusal)
        refusal = await run_in_threadpool(self.named, request, refusal)
        for place in refusal.places:
            if place.http:
                at = OtherHost(place.slot, place.host, place.http)
                try:
                    response = await self._forwarder.answer(request, at, places=refusal.places)
                except Refusal as error:
                    refusal = error
                    continue
                if response.status_code != 404:
                    return response
                response.close()
        return refused(refusal)

    def named(self, request: Request, refusal: Refusal) -> Refusal:
        """Return the refusal of a request; a 404 names the hosts that have the requested time."""
        if refusal.status != 404:
            return refusal
        try:
            span = _asked_span(request.query_params)
        except Refusal:  # a time that cannot be read, of a request that does not need it
            return refusal
        places = self.places(request.path_params["source"], *span)
        if not places:
            return refusal
        listed = "; ".join(place.words for place in places)
        return Refusal(404, f"{refusal}; another host has recordings: {listed}", places)


def _asked_span(query: QueryParams) -> tuple[float, float]:
    """Return the time that a request is about. What it leaves out is unbounded. Refusal."""
    at = time_in(query, "at")
    if at is not None:
        return at - _NEAR_S, at + _NEAR_S
    since, until = time_in(query, "from"), time_in(query, "to")
    if since is None:
        since = -math.inf
    if until is None:
        until = math.inf
    return since, until


def _answered(
    make: Callable[[Request], Response], elsewhere: OtherHosts | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of a function for a thread. elsewhere: answer instead of a 404"""

    async def answer(request: Request) -> Response:
        try:
            return await run_in_threadpool(make, request)
        except Refusal as refusal:
            if elsewhere is None:
                return refused(refusal)
            return await elsewhere.answer(request, refusal)
        except FramegateError as error:
            return refused(error)

    answer.__doc__ = make.__doc__
    return answer


class _Recordings:
    """The endpoints for the recordings in a run's folder. Any thread."""

    def __init__(
        self, data: Path, clips: Clips, pictures: RecordedPictures | None, elsewhere: OtherHosts
    ) -> None:
        self._data = data
        self._clips = clips
        self._pictures = pictures
        self._elsewhere = elsewhere

    def sources(self, request: Request) -> Response:
        """Recordings of each source: first and last time, duration, bytes, sound."""
        if not (self._data / FOLDER).is_dir():
            return _json([])
        with closing(Index(self._data)) as index:
            caller = caller_of(request)
            return _json([each for each in index.recorded() if caller.sees(each.source)])

    def of_source(self, request: Request) -> Response:
        """Recorded times, gaps, clips and removed recordings of a source, and the hosts of a fleet
        with more of it; `?from=` and `?to=`.
        """
        with _index(self._data) as index:
            source, since, until = _source_and_span(request, index)
            return _json(
                RecordedTime(
                    source=source,
                    stretches=stretches(index.between(source, since, until)),
                    gaps=index.recorders.gaps(source, since, until),
                    pins=[p for p in index.pins(source) if p.since < until and p.until > since],
                    trimmed=[trim for trim in index.trims() if trim.source == source],
                    elsewhere=self._elsewhere.places(source, *_asked_span(request.query_params)),
                )
            )

    def playlist(self, request: Request) -> Response:
        """An HLS playlist, of a day at most; `?from=` and `?to=`. It is a live playlist unless `to`
        is in the past.
        """
        with _index(self._data) as index:
            source, since, until = _source_and_span(request, index)
            now = time.time()
            since = max(since, min(until, now) - LONGEST_LIST_S)
            segments = _between(index, source, since, until)
        text = playlist(segments, _init_name, _media_name, goes_on=until >= now)
        return Response(text, 200, _NO_STORE, _PLAYLIST)

    def picture(self, request: Request) -> Response:
        """The picture `?at=` a time, or of the frame with `?epoch=` and `?pts=`, as a JPEG that is
        at most `?width=` pixels wide (320). If it is not recorded any more: the one that was kept
        for the judged episode or marked visit `?of=`.
        """
        if self._pictures is None:
            raise Refusal(503, "this run serves no pictures")
        width = whole_number(request.query_params, "width", WIDTH, 16, 1920)
        try:
            with _index(self._data) as index:
                place = _place(request, index)
                jpeg = self._pictures.jpeg(index.folder, place, width)
        except Refusal as refusal:
            kept = None
            if refusal.status == 404 and "of" in request.query_params:
                owner = request.query_params["of"]
                check_seen(caller_of(request), [source_of_id(owner)])
                kept = self._pictures.kept(owner)
            if kept is None:
                raise
            jpeg = kept
        return Response(jpeg, 200, _IMMUTABLE, "image/jpeg")

    def segment(self, request: Request) -> Response:
        """A segment of a playlist."""
        path = request.path_params
        name = f"{path['source']}/{path['epoch']}/{path['day']}/{path['name']}.mp4"
        with _index(self._data) as index:
            segment = index.segment(name)
            if segment is None:
                raise Refusal(404, "no such segment, or it was removed")
            return Response(_read(index, segment, segment.head, -1), 200, _IMMUTABLE, _MP4)

    def init(self, request: Request) -> Response:
        """An init part of a playlist."""
        with _index(self._data) as index:
            path = request.path_params
            segment = index.with_init(path["source"], path["digest"])
            if segment is None:
                raise Refusal(404, "no such init part, or it was removed")
            return Response(_read(index, segment, 0, segment.head), 200, _IMMUTABLE, _MP4)

    async def clip(self, request: Request) -> Response:
        """A range as an MP4; `?from=`, `?to=`, an hour at most. If the camera changed its format in
        the range, there are several clips: the header Framegate-Parts has their number, and
        `?part=2` selects the second.
        """
        try:
            with contextlib.ExitStack() as held:
                held.enter_context(self._clips.at_once.taken())
                path, n_parts = await run_in_threadpool(self._clips.write, request, held)
                kept = held.pop_all()
        except Refusal as refusal:
            return await self._elsewhere.answer(request, refusal)
        except FramegateError as error:
            return refused(error)
        name = _clip_name(request)
        return _ClipAnswer(path, name, {**_NO_STORE, "Framegate-Parts": str(n_parts)}, kept)


def _clip_name(request: Request) -> str:
    """Return the name under which a browser saves a clip, as `framegate recordings export` does."""
    since = time_in(request.query_params, "from") or 0.0
    name = (
        f"{request.path_params['source']}-{time.strftime('%Y%m%dT%H%M%S', time.localtime(since))}"
    )
    part = request.query_params.get("part", "1")
    if part != "1":
        name += f"-{part}"
    return f"{name}.mp4"


class _ClipAnswer(FileResponse):
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
        with _index(self._data) as index:
            source, since, until = _source_and_span(request, index)
            if "from" not in request.query_params or until - since > LONGEST_CLIP_S:
                raise Refusal(400, "a clip needs `from`, and a `to` at most an hour later")
            made = parts(_between(index, source, since, until))
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


@contextmanager
def _index(data: Path) -> Iterator[Index]:
    if not (data / FOLDER).is_dir():
        raise Refusal(404, "nothing is recorded; [record] sources = true records all cameras")
    with closing(Index(data)) as index:
        yield index


def _source_and_span(request: Request, index: Index) -> tuple[str, float, float]:
    """Return the source of a request, `from` and `to`; by default all of its recordings."""
    source = _source(request, index)
    first = next(each.since for each in index.recorded() if each.source == source)
    since = time_in(request.query_params, "from")
    if since is None:
        since = first
    until = time_in(request.query_params, "to")
    if until is None:
        until = math.inf
    if since >= until:
        raise Refusal(400, "from, to: the span ends before it begins")
    return source, since, until


def _source(request: Request, index: Index) -> str:
    """Return the source of a request. Refusal if it has no recordings."""
    source: str = request.path_params["source"]
    recorded = [each.source for each in index.recorded()]
    if source not in recorded:
        near = did_you_mean(source[:32], caller_of(request).seen(recorded))
        raise Refusal(404, f"nothing is recorded of {source[:32]!r}{near}")
    return source


def _place(request: Request, index: Index) -> RecordedPlace:
    """Return the place of the requested picture in the recordings, by its frame or by its time."""
    source = _source(request, index)
    query = request.query_params
    if "epoch" in query and "pts" in query:
        epoch = whole_number(query, "epoch", 0, 0, MAX_EPOCH)
        try:
            place = index.place(source, epoch, float(query["pts"]))
        except ValueError:
            raise Refusal(400, f"pts: {query['pts'][:20]!r}; allowed is a number") from None
        if place is not None:
            return place
    at = time_in(query, "at")
    if at is None and "pts" in query:
        raise Refusal(404, "that frame was not recorded")
    if at is None:
        raise Refusal(400, "a picture needs `at`, a time, or `epoch` and `pts` of a result")
    near = _between(index, source, at - _NEAR_S, at + _NEAR_S)
    segment = next((each for each in reversed(near) if each.captured <= at), near[0])
    share = (at - segment.captured) / max(segment.captured_end - segment.captured, 1e-3)
    return RecordedPlace(segment, segment.seconds * min(max(share, 0.0), 1.0))


def _between(index: Index, source: str, since: float, until: float) -> Sequence[Segment]:
    segments = index.between(source, since, until)
    if not segments:
        raise Refusal(404, "nothing was recorded in this time")
    return segments


def _read(index: Index, segment: Segment, begin: int, size: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), open(index.folder / segment.path, "rb") as file:
        file.seek(begin)
        return file.read(size)
    raise Refusal(404, "the recording was removed just now")


def _init_name(segment: Segment) -> str:
    return f"init/{segment.init}.mp4"


def _media_name(segment: Segment) -> str:
    return segment.path.partition("/")[2].removesuffix(".mp4") + ".m4s"


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), 200, _NO_STORE, "application/json")
