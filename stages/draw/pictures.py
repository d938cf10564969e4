"""Encode pictures for the HTTP port: last frames and recorded frames as JPEG, maps as PNG."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from starlette.routing import Route

from framegate.models.picture import Picture, as_picture, from_bgr, shrunk, to_bgr
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.recording.adopt_files import growing_segments
from framegate.pipeline.recording.index import Index, RecordedPlace, Segment
from framegate.pipeline.recording.index_tables import RecordingLost
from framegate.pipeline.web.fleet.other_slots import OtherSlots
from framegate.pipeline.web.limits import AtOnce
from framegate.pipeline.web.pictures.frames import GetFrameStore, LastFrame, LastFrames
from framegate.pipeline.web.pictures.picture_routes import picture_routes, sensitivity_routes
from framegate.stages.decode.clip import ClipFailed, recorded_frame
from framegate.stages.detections import scaled
from framegate.stages.draw.faces import FaceBlur
from framegate.stages.draw.gate_overlay import draw, draw_sensitivity, overlay_of
from framegate.stages.model_adapters import picture_of

QUALITY = 80  # of 100
MAP_WIDTH = 1280
GREY = 100  # background of a map without a frame
RECORDED_S = 3.0  # age of a recorded picture that still is a snapshot
RECORDED_WITHIN = 128  # newest results among which one with a recorded picture is searched

log = logging.getLogger(__name__)


class Pictures:
    """The pictures of a run. `pipeline.web` loads this class by its dotted path."""

    def __init__(
        self,
        frame_store: GetFrameStore,
        store_url: str,
        sources: Callable[[], Mapping[str, str]],
        blur_faces: bool = False,
        data: Path | None = None,
    ) -> None:
        """sources: see picture_routes; data: the folder with recordings, if there are any."""
        self._frames = LastFrames(store_url, frame_store)
        self._data = data
        self._sources = sources
        self._faces = None
        if blur_faces:
            self._faces = FaceBlur()

    def routes(
        self, streams: AtOnce | None = None, elsewhere: OtherSlots | None = None
    ) -> list[Route]:
        """Return the routes of the page, snapshots, streams and maps. See picture_routes."""
        draw_frame = partial(as_jpeg, faces=self._faces)
        return [
            *picture_routes(
                self._frames, draw_frame, self._sources, streams, self.newest, elsewhere
            ),
            *sensitivity_routes(
                self._frames, partial(as_map, faces=self._faces), self._sources, elsewhere
            ),
        ]

    def newest(self, source: str) -> LastFrame | None:
        """Return the newest published frame, as `LastFrames.newest` does. Of a source with two
        streams, return the newest one whose large picture is recorded, if that was just now.
        """
        newest = self._frames.newest(source)
        if newest is None or newest.result.looked_at is None or self._data is None:
            return newest
        try:
            with closing(Index(self._data, makes=False)) as index:
                return self._newest_large(index, newest) or newest
        except (ConfigFaults, RecordingLost, ClipFailed) as error:
            log.debug("source %s: its snapshot is of the small stream: %s", source, error)
            return newest

    def _newest_large(self, index: Index, newest: LastFrame) -> LastFrame | None:
        source = newest.result.source
        growing = growing_segments(index, source)  # once: it reads whole files
        for result in self._frames.results(source, RECORDED_WITHIN):
            if newest.result.captured - result.captured > RECORDED_S:
                break
            if result.pts is None or result.looked_at is None:
                continue
            place = _place_in(growing, result.epoch, result.pts)
            place = place or index.place(source, result.epoch, result.pts)
            if place is not None:
                decoded = recorded_frame(index.folder, place)
                pixels = bytearray(decoded.nbytes)
                decoded.write(memoryview(pixels))
                return LastFrame(result, decoded.form, bytes(pixels))
        return None

    def recorded(self, folder: Path, place: RecordedPlace, width: int) -> bytes:
        """Return a recorded frame as recorded_jpeg does, with faces blurred if configured."""
        return recorded_jpeg(folder, place, width, self._faces)

    def thumbnail(self, folder: Path, segment: Segment, width: int) -> bytes:
        """Return the first key frame of a segment as recorded_jpeg does, with faces blurred if
        configured.
        """
        return thumbnail_jpeg(folder, segment, width, self._faces)


def _place_in(segments: Sequence[Segment], epoch: int, pts: float) -> RecordedPlace | None:
    """Return the place of a result's picture in one of these segments; None if it is in none."""
    for segment in segments:
        if segment.epoch == epoch and segment.pts <= pts < segment.pts_end:
            return RecordedPlace(segment, pts - segment.pts)
    return None


def as_jpeg(
    frame: LastFrame,
    boxes: bool = True,
    width: int | None = None,
    faces: FaceBlur | None = None,
) -> bytes:
    """Return a frame as a JPEG. Any thread.

    boxes  whether its objects are drawn, after shrinking, so that labels stay sharp
    width  maximum width in pixels; None: that of the frame
    faces  blurs faces; None: they are shown
    """
    whole = as_picture(memoryview(frame.pixels), frame.form)
    picture = whole
    if width is not None:
        picture = shrunk(whole, width)
    if faces is not None:
        picture = faces.blurred(picture)
    if boxes:
        result = frame.result
        across, down = picture.width / result.width, picture.height / result.height
        objects = scaled(result.objects, across, down)
        picture = draw(picture, objects, overlay_of(result, result.look_size, frame.before))
    return _jpeg(picture)


def _jpeg(picture: Picture) -> bytes:
    bgr = to_bgr(picture, (picture.width, picture.height))
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return jpeg.tobytes()


def recorded_jpeg(
    folder: Path,
    place: RecordedPlace,
    width: int,
    faces: FaceBlur | None = None,
    *,
    key_only: bool = False,
) -> bytes:
    """Return the frame at a place of a recording as a JPEG. Any thread. ClipFailed.

    folder    folder of the recordings
    width     maximum width in pixels
    faces     blurs faces; None: they are shown
    key_only  return the key frame before the place, and decode no other picture
    """
    decoded = recorded_frame(folder, place, key_only=key_only)
    picture = shrunk(picture_of(decoded), width)
    if faces is not None:
        picture = faces.blurred(picture)
    return _jpeg(picture)


def thumbnail_jpeg(
    folder: Path, segment: Segment, width: int, faces: FaceBlur | None = None
) -> bytes:
    """Return the first key frame of a segment as a JPEG, as recorded_jpeg does. No other picture is
    decoded.
    """
    return recorded_jpeg(folder, RecordedPlace(segment, 0.0), width, faces, key_only=True)


def as_map(result: Result, frame: LastFrame | None, faces: FaceBlur | None = None) -> bytes:
    """Return the sensitivity map of a result as a PNG at most MAP_WIDTH pixels wide. Any thread.

    frame  background of the map; None: grey
    faces  blurs faces; None: they are shown

    ValueError if the result has no map.
    """
    if result.gate is None:
        raise ValueError(f"result {result.position} of {result.source} has no sensitivity map")
    size = across, down = result.look_size
    if frame is not None:
        whole = as_picture(memoryview(frame.pixels), frame.form)
    else:
        whole = from_bgr(np.full((down, across, 3), GREY, np.uint8))
    background = shrunk(whole, MAP_WIDTH)
    if faces is not None:
        background = faces.blurred(background)
    drawn = draw_sensitivity(background, result.gate, size)
    _, png = cv2.imencode(".png", to_bgr(drawn, (drawn.width, drawn.height)))
    return png.tobytes()
