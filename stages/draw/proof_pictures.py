"""Pictures on which a new model is proved: photographs and frames of videos, and boxes on them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from framegate.models.boxes import Boxes
from framegate.models.errors import PictureUnreadable
from framegate.models.picture import Picture, read_photograph
from framegate.models.preprocess import to_bgr
from framegate.pipeline.contracts.errors import ConfigFaults, SourceFault
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.system.outputs import write_whole
from framegate.stages.decode.file import FileSource
from framegate.stages.draw.gate_overlay import draw
from framegate.stages.planes import as_picture

MOST: Final = 8
_EVERY: Final = 50  # frames of a video between two pictures


def pictures_of(files: Sequence[Path], most: int = MOST) -> list[Picture]:
    """Return at most `most` pictures: each photograph, and frames of each video. ConfigFaults."""
    found: list[Picture] = []
    for file in files:
        if not file.is_file():
            raise ConfigFaults([f"--picture {file}: there is no such file"])
        try:
            found.append(read_photograph(file))
        except PictureUnreadable:
            found += _frames(file)
    return found[:most]


def write_drawn(
    file: Path,
    pictures: Sequence[Picture],
    boxes: Sequence[Boxes],
    classes: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Write all pictures with their boxes, one below the other. ConfigFaults if that fails."""
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
