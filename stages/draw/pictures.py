"""Pictures: what was seen last, as JPEG; the part of the live page that knows pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import msgspec
import numpy as np
from starlette.routing import Route

from framegate.models.picture import Picture, from_bgr
from framegate.models.preprocess import shrunk, to_bgr
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.recording.index import RecordedPlace
from framegate.pipeline.web.frames import GetFrameStore, LastFrame, LastFrames
from framegate.pipeline.web.limits import AtOnce
from framegate.pipeline.web.pictures import picture_routes, sensitivity_routes
from framegate.stages.decode.clip import recorded_frame
from framegate.stages.draw.faces import FaceBlur
from framegate.stages.draw.gate_overlay import draw, draw_sensitivity, overlay_of
from framegate.stages.planes import as_picture

QUALITY = 80  # of 100
MAP_WIDTH = 1280
GREY = 100  # where a map has no picture behind it


class Pictures:
    """What `pipeline.web` loads by its dotted path; see picture_routes for what it serves."""

    def __init__(
        self,
        frame_store: GetFrameStore,
        store_url: str,
        sources: Callable[[], Mapping[str, str]],
        blur_faces: bool = False,
    ) -> None:
        """sources: the run's, each with why there may be no picture of it yet, or nothing."""
        self._frames = LastFrames(store_url, frame_store)
        self._sources = sources
        self._faces = FaceBlur() if blur_faces else None

    def routes(self, streams: AtOnce | None = None) -> list[Route]:
        """The page, snapshots, streams and sensitivity maps. streams: the places of streams."""
        draw_frame = partial(as_jpeg, faces=self._faces)
        return [
            *picture_routes(self._frames, draw_frame, self._sources, streams),
            *sensitivity_routes(self._frames, partial(as_map, faces=self._faces), self._sources),
        ]

    def recorded(self, folder: Path, place: RecordedPlace, width: int) -> bytes:
        """See recorded_jpeg; faces are blurred as in all pictures."""
        return recorded_jpeg(folder, place, width, self._faces)


def as_jpeg(
    frame: LastFrame,
    boxes: bool = True,
    width: int | None = None,
    faces: FaceBlur | None = None,
) -> bytes:
    """The frame as a JPEG at most `width` pixels wide, with its objects drawn unless not wanted.

    faces  what blurs them; None: they are shown

    Boxes and labels are drawn after shrinking: they stay sharp and can be read. Any thread.
    """
    whole = as_picture(memoryview(frame.pixels), frame.form)
    picture = whole if width is None else shrunk(whole, width)
    if faces is not None:
        picture = faces.blurred(picture)
    if boxes:
        objects = _moved(frame.result.objects, whole, picture)
        picture = draw(picture, objects, overlay_of(frame.result, whole, frame.before))
    return _jpeg(picture)


def _jpeg(picture: Picture) -> bytes:
    bgr = to_bgr(picture, (picture.width, picture.height))
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return jpeg.tobytes()


def recorded_jpeg(
    folder: Path, place: RecordedPlace, width: int, faces: FaceBlur | None = None
) -> bytes:
    """A JPEG, at most `width` pixels wide, of what is shown at a place of a recording.

    folder  of the recordings

    Any thread. ClipFailed.
    """
    frame = recorded_frame(folder, place)
    pixels = bytearray(frame.nbytes)
    frame.write(memoryview(pixels))
    picture = shrunk(as_picture(memoryview(pixels), frame.form), width)
    return _jpeg(picture if faces is None else faces.blurred(picture))


def as_map(result: Result, frame: LastFrame | None, faces: FaceBlur | None = None) -> bytes:
    """The sensitivity map of a result over its frame, or over grey, as a PNG. Any thread.

    It is at most MAP_WIDTH pixels wide. ValueError if the result has no map.
    """
    if result.gate is None:
        raise ValueError(f"result {result.position} of {result.source} has no sensitivity map")
    if frame is not None:
        whole = as_picture(memoryview(frame.pixels), frame.form)
    else:
        whole = from_bgr(np.full((result.height, result.width, 3), GREY, np.uint8))
    size = whole.width, whole.height
    behind = shrunk(whole, MAP_WIDTH)
    if faces is not None:
        behind = faces.blurred(behind)
    drawn = draw_sensitivity(behind, result.gate, size)
    _, png = cv2.imencode(".png", to_bgr(drawn, (drawn.width, drawn.height)))
    return png.tobytes()


def _moved(objects: Sequence[Object], whole: Picture, small: Picture) -> list[Object]:
    """The objects in the pixels of a smaller picture."""
    across, down = small.width / whole.width, small.height / whole.height
    return [
        msgspec.structs.replace(
            thing,
            box=tuple(edge * by for edge, by in zip(thing.box, (across, down) * 2, strict=True)),
        )
        for thing in objects
    ]
