"""Read pictures for the check of a new model from photographs and videos, and draw its boxes."""

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
from framegate.models.picture import Picture, read_photograph, to_bgr
from framegate.pipeline.contracts.errors import ConfigFaults, SourceFault
from framegate.pipeline.contracts.results import Object
from framegate.pipeline.system.outputs import write_whole
from framegate.stages.decode.file import FileSource
from framegate.stages.draw.gate_overlay import draw
from framegate.stages.model_adapters import picture_of

MAX_PICTURES: Final = 8
_EVERY: Final = 50  # frames of a video from one picture to the next


def pictures_of(files: Sequence[Path], max_pictures: int = MAX_PICTURES) -> list[Picture]:
    """Return photographs and frames of videos, `max_pictures` at most. ConfigFaults."""
    pictures: list[Picture] = []
    for file in files:
        if not file.is_file():
            raise ConfigFaults([f"--picture {file}: no such file"])
        try:
            pictures.append(read_photograph(file))
        except PictureUnreadable:
            pictures += _frames(file)
    return pictures[:max_pictures]


def write_drawn(
    file: Path,
    pictures: Sequence[Picture],
    boxes: Sequence[Boxes],
    classes: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Write all pictures with their boxes into one file, one below the other. ConfigFaults."""
    rows: list[Any] = []
    for picture, detected in zip(pictures, boxes, strict=True):
        drawn = draw(picture, _objects(detected, classes))
        rows.append(to_bgr(drawn, (drawn.width, drawn.height)))
    wide = max(row.shape[1] for row in rows)
    rows = [
        cv2.copyMakeBorder(row, 0, 4, 0, wide - row.shape[1], cv2.BORDER_CONSTANT) for row in rows
    ]
    try:
        _, encoded = cv2.imencode(file.suffix, np.concatenate(rows))
    except cv2.error as error:
        raise ConfigFaults([f"--drawn {file}: allowed are .jpg and .png"]) from error
    write_whole("--drawn", file, encoded.tobytes(), overwrite)


def _objects(boxes: Boxes, classes: Sequence[str]) -> list[Object]:
    objects = []
    for row, score, class_id in zip(boxes.xyxy, boxes.scores, boxes.class_ids, strict=True):
        x1, y1, x2, y2 = row.tolist()
        label = classes[class_id]
        objects.append(
            Object(None, label, int(class_id), float(score), (x1, y1, x2, y2), "detected")
        )
    return objects


def _frames(file: Path) -> list[Picture]:
    try:
        with closing(FileSource(str(file))) as source:
            pictures = []
            for frame in itertools.islice(source.frames(), 0, MAX_PICTURES * _EVERY, _EVERY):
                pictures.append(picture_of(frame))
            return pictures
    except SourceFault as fault:
        raise ConfigFaults([f"--picture {file}: neither photograph nor video: {fault}"]) from fault
