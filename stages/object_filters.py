"""Decide which boxes of a picture the object filters drop. Pure functions.

The filter of a place drops an object that is there and does not come from elsewhere. A passing
object may have the same box for some frames, so a box that continues its track is kept. An object
that is always there never gets a track, because its boxes are dropped before the tracker.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import numpy as np

from framegate.models import boxes as nms
from framegate.models import coco
from framegate.models.boxes import BoolArray, Boxes, FloatArray, read_only
from framegate.models.geometry import Areas
from framegate.models.tracking.resting import is_resting
from framegate.models.tracking.track_state import TrackState
from framegate.pipeline.contracts.object_filters import ObjectFilter, dropping
from framegate.pipeline.contracts.queries import Predictions
from framegate.stages.model_adapters import as_boxes

_CONTINUES: Final = 0.5  # IoU of a box and a passing object from which they are the same object
_RESTS: Final = 0.8  # the same for an object that has rested elsewhere: its box hardly changes
_STAY_S: Final = 5.0  # an object that has come to a place is seen there for this long
_EDGE: Final = 1e-6  # a foot on the lower edge of the picture is inside an area that ends there
_ROW: Final = np.dtype([("id", "<i4"), ("seen_s", "<f8")])


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The tracks of a source that were away from all filtered places not long ago.

    seen_s  track -> time at which it was last away, on the source's clock, seconds
    """

    seen_s: Mapping[int, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return 12 bytes for each track, the same on every machine."""
        return np.array(list(self.seen_s.items()), _ROW).tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> Elsewhere:
        """Return what `to_bytes` wrote."""
        return Elsewhere(dict(np.frombuffer(data, _ROW).tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class PassingObjects:
    """Objects that may pass a filtered place in this picture.

    boxes  float32 (T, 4)  where they are expected, source pixels
    least  float32 (T,)    IoU with its expected box from which a box is the same object
    """

    boxes: FloatArray
    least: FloatArray

    def __post_init__(self) -> None:
        for name, tail in (("boxes", (4,)), ("least", ())):
            checked = read_only(name, getattr(self, name), np.float32, (len(self.boxes), *tail))
            object.__setattr__(self, name, checked)

    @staticmethod
    def at(boxes: FloatArray) -> PassingObjects:
        """Return objects that move."""
        return PassingObjects(boxes, np.full(len(boxes), _CONTINUES, np.float32))

    def continued_by(self, boxes: Boxes) -> BoolArray:
        """Return a mask of the boxes that may be one of these objects."""
        return np.asarray((nms.iou(boxes.xyxy, self.boxes) >= self.least).any(axis=1))


NONE_PASSES: Final = PassingObjects.at(np.empty((0, 4), np.float32))


def passing_objects(
    filters: SourceFilters, tracks: TrackState, before: Elsewhere, now_s: float
) -> tuple[Elsewhere, PassingObjects]:
    """Return the tracks that are or were away not long ago, and where they are expected.

    tracks  after the frame before
    now_s   the source's clock

    Such a track may continue with a box at a filtered place: it passes, or has just come. A track
    that began at a place is none of them, as long as it stays there. The box of the filtered
    object must not continue a neighbour at rest, so such a neighbour needs a greater overlap.
    """
    named = np.flatnonzero(tracks.ids > 0)
    if not filters.have_places or not len(named):
        return Elsewhere(), NONE_PASSES
    is_away = ~filters.at_places(tracks)[named]
    seen_s: dict[int, float] = {}
    rows: list[int] = []
    for row, away in zip(named.tolist(), is_away.tolist(), strict=True):
        track = int(tracks.ids[row])
        last_s = now_s
        if not away:
            last_s = before.seen_s.get(track, -math.inf)
        if now_s - last_s <= _STAY_S:
            seen_s[track] = last_s
            rows.append(row)
    resting = is_resting(tracks.rest_from, tracks.lost_s.astype(np.float64), tracks.pts, _STAY_S)[
        rows
    ]
    expected = tracks.mean[rows, :4] + tracks.mean[rows, 4:]
    least = np.where(resting, np.float32(_RESTS), np.float32(_CONTINUES))
    return Elsewhere(seen_s), PassingObjects(expected, least)


class SourceFilters:
    """The object filters of a source, for pictures of one size and the labels of one model."""

    def __init__(
        self, filters: Sequence[ObjectFilter], size: tuple[int, int], labels: Sequence[str]
    ) -> None:
        """size: (width, height) in pixels; labels: by class id."""
        self._filters = [_SizedFilter(each, size, labels) for each in filters]

    def __bool__(self) -> bool:
        return bool(self._filters)

    def kept(
        self, boxes: Boxes, is_new: BoolArray, passing: PassingObjects = NONE_PASSES
    ) -> BoolArray:
        """Return a mask of the boxes that no filter drops for its area, size or place.

        passing  objects that may pass a place
        is_new  bool (N,)  boxes that were detected in this frame; the others were judged before,
                and are only judged again by where they are now
        """
        kept = np.ones(len(boxes), np.bool_)
        for each in self._filters:
            kept &= ~each.drops(boxes, is_new, passing)
        return kept

    @property
    def have_places(self) -> bool:
        """Return whether a filter has the place of an object."""
        return any(each.has_place for each in self._filters)

    def at_places(self, tracks: TrackState) -> BoolArray:
        """Return a mask of the tracks with a box at a place that is filtered for their class."""
        scores = np.ones(len(tracks), np.float32)
        class_ids = tracks.class_ids[:, 0].astype(np.int32)
        boxes = Boxes(np.ascontiguousarray(tracks.mean[:, :4]), scores, class_ids)
        at_places = np.zeros(len(tracks), np.bool_)
        for each in self._filters:
            if each.has_place:
                at_places |= each.concerns(boxes)
        return at_places

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

    @property
    def has_place(self) -> bool:
        """Return whether the filter has the place of an object."""
        return self._place is not None

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

    def drops(self, boxes: Boxes, is_new: BoolArray, passing: PassingObjects) -> BoolArray:
        """Return a mask of the boxes that the filter drops."""
        dropped = self.concerns(boxes)
        if self._place is not None:
            dropped &= is_new & ~passing.continued_by(boxes)
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
    own = tuple(dropping(filters).values())
    if not own or not heavy.boxes:
        return heavy
    judge = SourceFilters(own, size, coco.LABELS)
    boxes = as_boxes(heavy)
    is_new = np.ones(len(boxes), np.bool_)
    kept = judge.kept(boxes, is_new, PassingObjects.at(as_boxes(light).xyxy))
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


def digest_of(filters: Mapping[str, ObjectFilter]) -> str:
    """Return a digest of filters by their names; "" without one."""
    if not filters:
        return ""
    content = msgspec.json.encode(filters, order="sorted")
    return hashlib.sha256(content).hexdigest()[:16]


class FilterPool:
    """The object filters of a worker's sources. They change between two calls only. One thread."""

    def __init__(self, filters_of: Callable[[str], Mapping[str, ObjectFilter]]) -> None:
        """filters_of: returns the filters of a source, as Context.filters."""
        self._filters_of = filters_of
        self._used: dict[str, _Used] = {}

    def names(self, source: str) -> tuple[str, ...]:
        """Return the names of a source's filters, as of the last call of `digest`."""
        return tuple(self._used[source].dropping)

    def digest(self, source: str) -> str:
        """Return a digest of the source's filters from now on; "" without one."""
        filters = self._filters_of(source)
        used = self._used.get(source)
        if used is None or used.filters is not filters:
            own = dropping(filters)
            self._used[source] = used = _Used(filters, own, digest_of(own), {})
        return used.digest

    def judge(self, source: str, size: tuple[int, int], labels: Sequence[str]) -> SourceFilters:
        """Return the filters of a source for pictures of this size, as of the last `digest`.

        labels  of the model, by class id
        """
        used = self._used[source]
        key = size, tuple(labels)
        if key not in used.sized:
            used.sized[key] = SourceFilters(tuple(used.dropping.values()), size, labels)
        return used.sized[key]

    def forget(self, source: str) -> None:
        """Forget a source that this worker no longer serves."""
        self._used.pop(source, None)


class _Used(NamedTuple):
    """The filters of a source, by name, and the forms made from them.

    filters   all filters of the source
    dropping  those that drop objects
    digest    digest of `dropping`
    """

    filters: Mapping[str, ObjectFilter]
    dropping: Mapping[str, ObjectFilter]
    digest: str
    sized: dict[tuple[tuple[int, int], tuple[str, ...]], SourceFilters]
