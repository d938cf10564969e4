"""Decide which boxes of a picture the object filters drop. Pure functions.

The filter of a place drops an object that does not move there. A moving object may have the same
box for a few frames, so a box that continues a moving object is kept. An object that is always
there never gets a track, because its boxes are dropped before the tracker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from framegate.models import boxes as nms
from framegate.models import coco
from framegate.models.boxes import BoolArray, Boxes, FloatArray
from framegate.models.geometry import Areas
from framegate.models.tracking.bytetrack import TrackState
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.queries import Predictions
from framegate.stages.detections import as_boxes

_CONTINUES: Final = 0.5  # IoU of a box and a moving object from which they are the same object
_MOVED: Final = 0.8  # IoU of an object's boxes now and _AHEAD_S later below which it moves
_AHEAD_S: Final = 3.0
_EDGE: Final = 1e-6  # a foot on the lower edge of the picture is inside an area that ends there
_NOWHERE: Final = np.empty((0, 4), np.float32)


def moving_boxes(tracks: TrackState, period_s: float) -> FloatArray:
    """Return the expected boxes, float32 (N, 4) in source pixels, of the tracks that move.

    A track counts if it has an id, was matched in the frame before, and its speed would carry its
    box away from its place within _AHEAD_S. The speed of an object at rest is noise around
    zero, so such an object is dropped in one of the next frames, and then for good.

    period_s  seconds since the frame before
    """
    rows = (tracks.ids > 0) & (tracks.lost_s == 0)
    speeds = tracks.mean[rows, 4:]
    now = tracks.mean[rows, :4] + speeds
    later = now + speeds * np.float32(_AHEAD_S / max(period_s, 1e-3))
    return now[nms.row_iou(now, later) < np.float32(_MOVED)]


class SourceFilters:
    """The object filters of a source, for pictures of one size and the labels of one model."""

    def __init__(
        self, filters: Sequence[ObjectFilter], size: tuple[int, int], labels: Sequence[str]
    ) -> None:
        """size: (width, height) in pixels; labels: by class id."""
        self._filters = [_SizedFilter(each, size, labels) for each in filters]

    def __bool__(self) -> bool:
        return bool(self._filters)

    def kept(self, boxes: Boxes, is_new: BoolArray, moving: FloatArray = _NOWHERE) -> BoolArray:
        """Return a mask of the boxes that no filter drops for its area, size or place.

        moving  float32 (T, 4)  boxes of objects that move, source pixels
        is_new  bool (N,)  boxes that were detected in this frame; the others were judged before,
                and are only judged again by where they are now
        """
        kept = np.ones(len(boxes), np.bool_)
        for each in self._filters:
            kept &= ~each.drops(boxes, is_new, moving)
        return kept

    def least_scores(self, boxes: Boxes) -> FloatArray | None:
        """Return the lowest score of each box, float32 (N,), 0 without one; None: no filter has
        one.
        """
        scored = [each for each in self._filters if each.min_score is not None]
        if not scored:
            return None
        least = np.zeros(len(boxes), np.float32)
        for each in scored:
            concerned = each.concerns(boxes)
            least[concerned] = np.maximum(least[concerned], np.float32(each.min_score))
        return least


class _SizedFilter:
    """A filter in pixels of the picture."""

    def __init__(self, options: ObjectFilter, size: tuple[int, int], labels: Sequence[str]) -> None:
        self.min_score = options.min_score
        self._options = options
        self._size = size
        ids = [number for number, label in enumerate(labels) if label in options.labels]
        self._class_ids = np.array(ids, np.int32)
        self._area: Areas | None = None
        if options.area:
            self._area = Areas([options.area])
        self._place: FloatArray | None = None
        if options.box:
            self._place = (np.array(options.box) * [*size, *size]).astype(np.float32)[None]

    def concerns(self, boxes: Boxes) -> BoolArray:
        """Return a mask of the boxes that the filter looks at."""
        concerned = np.ones(len(boxes), np.bool_)
        if self._options.labels:
            concerned &= np.isin(boxes.class_ids, self._class_ids)
        if self._place is not None:
            overlap = nms.iou(boxes.xyxy, self._place)[:, 0]
            concerned &= overlap >= np.float32(self._options.min_iou)
        if self._area is not None:
            for row in np.flatnonzero(concerned):
                concerned[row] = self._area.inside(*self._point(boxes.xyxy[row]))[0]
        return concerned

    def drops(self, boxes: Boxes, is_new: BoolArray, moving: FloatArray) -> BoolArray:
        """Return a mask of the boxes that the filter drops."""
        dropped = self.concerns(boxes)
        if self._place is not None:
            is_passing = (nms.iou(boxes.xyxy, moving) >= np.float32(_CONTINUES)).any(axis=1)
            dropped &= is_new & ~is_passing
        if self._options.has_limits:
            dropped &= self._exceeds(boxes)
        return dropped

    def _point(self, box: FloatArray) -> tuple[float, float]:
        """Return the point of a box that must be in the area, in shares of the picture."""
        width, height = self._size
        left, top, right, bottom = box.tolist()
        y = bottom
        if self._options.at == "center":
            y = (top + bottom) / 2
        x = (left + right) / 2
        return _inside(x / width), _inside(y / height)

    def _exceeds(self, boxes: Boxes) -> BoolArray:
        """Return a mask of the boxes beyond a limit of their size. Scores are judged elsewhere."""
        sides = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
        widths, heights = sides[:, 0], sides[:, 1]
        limits = self._options
        values = (
            (widths / self._size[0], limits.min_width, limits.max_width),
            (heights / self._size[1], limits.min_height, limits.max_height),
            (heights / np.maximum(widths, np.float32(1e-3)), limits.min_aspect, limits.max_aspect),
        )
        beyond = np.zeros(len(boxes), np.bool_)
        for value, least, most in values:
            if least is not None:
                beyond |= value < least
            if most is not None:
                beyond |= value > most
        return beyond


def _inside(share: float) -> float:
    return min(max(share, 0.0), 1 - _EDGE)


def filtered(
    heavy: Predictions,
    filters: Mapping[str, ObjectFilter],
    size: tuple[int, int],
    light: Predictions,
) -> Predictions:
    """Return the predictions of a heavy pass that no filter drops.

    size   (width, height) of the picture in pixels
    light  objects of the frame that detect has kept: a prediction in a filtered place is kept if it
           is one of these
    """
    if not filters or not heavy.boxes:
        return heavy
    judge = SourceFilters(tuple(filters.values()), size, coco.LABELS)
    boxes = as_boxes(heavy)
    is_new = np.ones(len(boxes), np.bool_)
    kept = judge.kept(boxes, is_new, as_boxes(light).xyxy)
    least = judge.least_scores(boxes)
    if least is not None:
        kept &= boxes.scores >= least
    rows = np.flatnonzero(kept).tolist()
    return Predictions(
        tuple(heavy.boxes[row] for row in rows),
        tuple(heavy.scores[row] for row in rows),
        tuple(heavy.class_ids[row] for row in rows),
        heavy.models,
    )


class FilterPool:
    """The object filters of a worker's sources. They change between two calls only. One thread."""

    def __init__(self, filters_of: Callable[[str], Mapping[str, ObjectFilter]]) -> None:
        """filters_of: returns the filters of a source, as Context.filters."""
        self._filters_of = filters_of
        self._used: dict[str, _Used] = {}

    def names(self, source: str) -> tuple[str, ...]:
        """Return the names of a source's filters, as of the last call of `digest`."""
        return tuple(self._used[source].filters)

    def digest(self, source: str) -> str:
        """Return a digest of the source's filters from now on; "" without one."""
        filters = self._filters_of(source)
        used = self._used.get(source)
        if used is None or used.filters is not filters:
            self._used[source] = used = _Used(filters, _digest(filters), {})
        return used.digest

    def judge(self, source: str, size: tuple[int, int], labels: Sequence[str]) -> SourceFilters:
        """Return the filters of a source for pictures of this size, as of the last `digest`.

        labels  of the model, by class id
        """
        used = self._used[source]
        key = size, tuple(labels)
        if key not in used.sized:
            used.sized[key] = SourceFilters(tuple(used.filters.values()), size, labels)
        return used.sized[key]

    def forget(self, source: str) -> None:
        """Forget a source that this worker no longer serves."""
        self._used.pop(source, None)


class _Used(NamedTuple):
    """The filters of a source, by name, their digest, and the forms made from them."""

    filters: Mapping[str, ObjectFilter]
    digest: str
    sized: dict[tuple[tuple[int, int], tuple[str, ...]], SourceFilters]


def _digest(filters: Mapping[str, ObjectFilter]) -> str:
    if not filters:
        return ""
    content = msgspec.json.encode(filters, order="sorted")
    return hashlib.sha256(content).hexdigest()[:16]
