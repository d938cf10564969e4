"""What the window head learns from: frames, the light detector's boxes, the heavy pass's verdict.

A lesson is a clip as the light detector sees it, frame by frame, and for each of its boxes whether
the heavy pass has an object there. The verdict is the heavy pass's own, not a person's. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from framegate.models.boxes import AnyArray, Boxes, FloatArray, iou
from framegate.models.detector import policy
from framegate.models.detector.detector import Detector
from framegate.models.gate import crops
from framegate.models.picture import Picture
from framegate.models.tracking import bytetrack, thresholds
from framegate.models.tracking.bytetrack import no_tracks
from framegate.models.window import features as region_features
from framegate.models.window.rows import MOST

SAME: Final = 0.5  # overlap from which two boxes are of one object
CANDIDATE: Final = 0.1
HEAVY_LEAST: Final = 0.05
LONG_SIDE: Final = 416
_LEAST_WEIGHT: Final = 0.2  # of a verdict that is close to the heavy pass's threshold
_TWIN_WEIGHT: Final = 0.4  # of a second box on an object


@dataclass(frozen=True, slots=True, eq=False)
class ClipLesson:
    """A clip's boxes, frame after frame, the best 32 of each.

    start      int (F + 1,)      rows of frame i: start[i] to start[i + 1]
    boxes      float32 (R, 4)    in units of the picture's longer side
    scores, class_ids, ids       (R,), of the light detector and its tracks
    features   float16 (R, 256)
    is_object, is_right          float32 (R,), 0 or 1: whether the heavy pass has an object there,
                                 and one of this class for which this is the best box
    object_weight, right_weight  float32 (R,), how much that verdict counts
    """

    name: str
    start: AnyArray
    boxes: FloatArray
    scores: FloatArray
    class_ids: AnyArray
    ids: AnyArray
    features: AnyArray
    is_object: FloatArray
    is_right: FloatArray
    object_weight: FloatArray
    right_weight: FloatArray

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.start) - 1


def seen(
    name: str, pictures: Sequence[Picture], light: Detector, heavy: Detector, fps: float
) -> ClipLesson:
    """The lesson of a clip.

    light  loaded with features and CANDIDATE as its least score; heavy  with HEAVY_LEAST
    """
    size = (pictures[0].width, pictures[0].height)
    _, settings = thresholds.settings_for(policy.load("light").min_score)
    least = policy.load("heavy").min_score
    whole = (crops.whole(*size, LONG_SIDE),)
    tracks = no_tracks()
    columns: list[tuple[AnyArray, ...]] = []
    for number, picture in enumerate(pictures):
        ((boxes, shown),) = light.look_with_features(picture, whole, region_features.read)
        tracks, ids = bytetrack.step(tracks, boxes, number / fps, settings)
        best = boxes.take(np.arange(min(MOST, len(boxes))))
        n = len(best)
        verdict = judged(best, heavy.detect([picture])[0], least)
        place = best.xyxy / np.float32(max(size))
        columns.append((place, best.scores, best.class_ids, ids[:n], shown.boxes[:n], *verdict))
    start = np.concatenate([[0], np.cumsum([len(row[0]) for row in columns])])
    return ClipLesson(name, start, *(np.concatenate(part) for part in zip(*columns, strict=True)))


def judged(boxes: Boxes, heavy: Boxes, least: float) -> tuple[FloatArray, ...]:
    """is_object, is_right and their weights for `boxes`, by the heavy pass (above HEAVY_LEAST).

    least: the heavy pass's own threshold. A verdict weighs less the closer a heavy score is to it.
    """
    n = len(boxes)
    objects, right = np.zeros(n, np.float32), np.zeros(n, np.float32)
    object_weight, right_weight = np.ones(n, np.float32), np.ones(n, np.float32)
    overlap = iou(boxes.xyxy, heavy.xyxy)
    order = np.argsort(heavy.scores, kind="stable")  # the surest last: theirs is the last word
    for column in order:
        score = float(heavy.scores[column])
        near = np.flatnonzero(overlap[:, column] >= SAME)
        same = near[boxes.class_ids[near] == heavy.class_ids[column]]
        if score <= least:
            weight = max(_LEAST_WEIGHT, min(1.0, (least - score) / (least - HEAVY_LEAST)))
            object_weight[near], right_weight[same] = weight, weight
            continue
        weight = max(_LEAST_WEIGHT, min(1.0, (score - least) / 0.2))
        objects[near], object_weight[near] = 1, weight
        twins = same[right[same] == 0]
        right_weight[twins] = _TWIN_WEIGHT
        if len(same):
            best = same[np.argmax(boxes.scores[same])]
            right[best], right_weight[best] = 1, weight
    return objects, right, object_weight, right_weight


def kept(path: Path) -> ClipLesson:
    """The lesson that `keep` wrote."""
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    return ClipLesson(path.stem, **columns)


def keep(lesson: ClipLesson, path: Path) -> None:
    """Writes a lesson."""
    names = [name for name in ClipLesson.__dataclass_fields__ if name != "name"]
    np.savez(path, **{name: getattr(lesson, name) for name in names})
