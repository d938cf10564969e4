"""The parts of composed footage: empty scenes, and things cut from photographs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.harness.clips import NoClip
from framegate.models import coco
from framegate.models.picture import ByteArray
from tools.compose_footage import soft_edges

SIZE: Final = (640, 360)

# Still cameras. A scene is what stays of its clip's first frames: their median.
SCENES: Final = (
    "clips/highway-cdnet-part1.avi",
    "clips/derived/idle-room.mp4",
    "clips/car-detection.mp4",
)
_MEDIAN_OF: Final = 31  # frames, evenly spaced over
_FIRST: Final = 300

# Annotations of coco128 with nothing else in their boxes, whose class the heavy pass names with .4
# or more on all three scenes, 150 pixels high, and whose count it seldom changes while one of them
# passes alone (it takes buses for buses with people). Chosen once, by that.
CLEAR: Final = (
    *(502475, 1723247, 533096, 1260127, 514322, 2150702, 432227, 487048),
    *(589229, 590410, 590623, 593205, 151304),
)
# The heavy pass is in doubt about these, too: a giraffe from afar, a plant, a dog.
DOUBTFUL: Final = (599491, 2128182, 1774)
_RIM: Final = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """A cut-out: uint8 (H, W, 3) in the order B, G, R, and its opacity, float32 (H, W) 0..1."""

    class_id: int
    bgr: ByteArray
    alpha: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """scenes: uint8 (H, W, 3), all of one size; doubtful things come rarely, clear ones mostly."""

    scenes: Sequence[ByteArray]
    clear: Sequence[Thing]
    doubtful: Sequence[Thing]


def read_parts(data: Path) -> Parts:
    """From the data folder. NoClip where one of its files is missing."""
    for path in (data / scene for scene in SCENES):
        if not path.is_file():
            raise NoClip(f"{path} is not there")
    scenes = [emptied(data / scene, SIZE) for scene in SCENES]
    return Parts(scenes, read_things(data, CLEAR), read_things(data, DOUBTFUL))


def read_things(data: Path, ids: Sequence[int]) -> list[Thing]:
    """Cut the things of these annotation ids from coco128. NoClip if a file is missing."""
    labels = data / "gt" / "coco128.json"
    if not labels.is_file():
        raise NoClip(f"{labels} is not there")
    return things(json.loads(labels.read_text(encoding="utf-8")), data / "images" / "coco128", ids)


def things(listed: dict[str, Any], folder: Path, ids: Sequence[int]) -> list[Thing]:
    """What COCO labels list under these annotation ids, cut from the photographs in `folder`."""
    photographs = {one["id"]: str(one["file_name"]) for one in listed["images"]}
    labels = {one["id"]: one["name"] for one in listed["categories"]}
    annotations = {one["id"]: one for one in listed["annotations"]}
    found = []
    for each in (annotations[one] for one in ids):
        bgr = cv2.imread(str(folder / photographs[each["image_id"]]), cv2.IMREAD_COLOR)
        if bgr is None:
            raise NoClip(f"{folder / photographs[each['image_id']]} is not there")
        x, y, w, h = (round(edge) for edge in each["bbox"])
        cut = np.ascontiguousarray(bgr[max(y, 0) : y + h, max(x, 0) : x + w]).astype(np.uint8)
        class_id = coco.LABELS.index(labels[each["category_id"]])
        found.append(Thing(class_id, cut, soft_edges(cut, _RIM)))
    return found


def emptied(clip: Path, size: tuple[int, int]) -> ByteArray:
    """Return what stays of a clip, cut to the shape of `size` around its middle, in that size.

    size: width and height in pixels.
    """
    with av.open(str(clip)) as container:
        frames = [
            frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)
            for frame in islice(container.decode(video=0), 0, _FIRST, max(1, _FIRST // _MEDIAN_OF))
        ]
    middle = np.median(np.stack(frames), axis=0).astype(np.uint8)
    height, width = middle.shape[:2]
    rows = min(height, round(width * size[1] / size[0]))
    columns = min(width, round(height * size[0] / size[1]))
    top, left = (height - rows) // 2, (width - columns) // 2
    part = middle[top : top + rows, left : left + columns]
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_CUBIC), np.uint8)
