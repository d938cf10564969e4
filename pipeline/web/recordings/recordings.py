"""/api/v1/recordings: the recordings of the run's sources as HLS playlists, clips and pictures."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.fleet.recording_places import RecordingPlace
from framegate.pipeline.recording.index import Index, Pin, RecordedSource, Segment, Trim
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.playlist import RecordedStretch, playlist, stretches
from framegate.pipeline.recording.recorder_states import RecordingGap
from framegate.pipeline.review.kept_pictures import WIDTH
from framegate.pipeline.web.fleet.forward import Forwarder
from framegate.pipeline.web.limits import (
    JSON,
    LIMITS,
    NO_STORE,
    Refusal,
    WebLimits,
    refused,
    whole_number,
)
from framegate.pipeline.web.openapi import FROM, TO, Operation, media, parameter
from framegate.pipeline.web.pages.pages import page
from framegate.pipeline.web.recordings.asked import (
    asked_span,
    index_of,
    is_fixed,
    place_of,
    segments_between,
    source_and_span,
)
from framegate.pipeline.web.recordings.clips import ClipAnswer, Clips, WriteClip, clip_name
from framegate.pipeline.web.recordings.other_hosts import OtherHosts
from framegate.pipeline.web.recordings.recorded_pictures import RecordedPictures
from framegate.pipeline.web.route_table import caller_of, check_seen, source_of_id

log = logging.getLogger(__name__)

LONGEST_LIST_S: Final = 86400.0
_IMMUTABLE: Final = {"Cache-Control": "private, max-age=86400, immutable"}
_MP4: Final = "video/mp4"


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
        page("/recordings", "recordings/recordings.html", "The page to look through recordings."),
    ]


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
        with index_of(self._data) as index:
            source, since, until = source_and_span(request, index)
            return _json(
                RecordedTime(
                    source=source,
                    stretches=stretches(index.between(source, since, until)),
                    gaps=index.recorders.gaps(source, since, until),
                    pins=[p for p in index.pins(source) if p.since < until and p.until > since],
                    trimmed=[trim for trim in index.trims() if trim.source == source],
                    elsewhere=self._elsewhere.places(source, *asked_span(request.query_params)),
                )
            )

    def playlist(self, request: Request) -> Response:
        """An HLS playlist, of a day at most; `?from=` and `?to=`. It is a live playlist unless `to`
        is in the past.
        """
        with index_of(self._data) as index:
            source, since, until = source_and_span(request, index)
            now = time.time()
            since = max(since, min(until, now) - LONGEST_LIST_S)
            segments = segments_between(index, source, since, until)
            number = None
            if until >= now:
                number = index.number(segments[0])
        text = playlist(segments, _init_name, _media_name, number)
        return Response(text, 200, NO_STORE, _PLAYLIST)

    def picture(self, request: Request) -> Response:
        """The picture `?at=` a time, or of the frame with `?epoch=` and `?pts=`, as a JPEG that is
        at most `?width=` pixels wide (320). If it is not recorded any more: the one that was kept
        for the judged episode or marked visit `?of=`.
        """
        if self._pictures is None:
            raise Refusal(503, "this run serves no pictures")
        width = whole_number(request.query_params, "width", WIDTH, 16, 1920)
        try:
            with index_of(self._data) as index:
                place = place_of(request, index)
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
        headers = NO_STORE
        if is_fixed(request.query_params):
            headers = _IMMUTABLE
        return Response(jpeg, 200, headers, "image/jpeg")

    def segment(self, request: Request) -> Response:
        """A segment of a playlist."""
        path = request.path_params
        name = f"{path['source']}/{path['epoch']}/{path['day']}/{path['name']}.mp4"
        with index_of(self._data) as index:
            segment = index.segment(name)
            if segment is None:
                raise Refusal(404, "no such segment, or it was removed")
            return Response(_read(index, segment, segment.head, -1), 200, _IMMUTABLE, _MP4)

    def init(self, request: Request) -> Response:
        """An init part of a playlist."""
        with index_of(self._data) as index:
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
        name = clip_name(request)
        return ClipAnswer(path, name, {**NO_STORE, "Framegate-Parts": str(n_parts)}, kept)


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
    return Response(msgspec.json.encode(content), 200, NO_STORE, JSON)
