"""The output of detect and escalate for a frame: objects, changed parts, heavy-pass boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.keys import LISTEN
from framegate.pipeline.contracts.queries import Predictions
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.results import (
    DegradedReason,
    Escalation,
    GateView,
    Looked,
    Object,
    Outcome,
    PromiseNews,
    Reason,
)
from framegate.pipeline.contracts.source import CHANGE_COLUMNS as COLUMNS
from framegate.pipeline.contracts.source import CHANGE_ROWS as ROWS
from framegate.pipeline.contracts.visits import Visit

Box = tuple[float, float, float, float]  # left, top, right, bottom


class Detections(msgspec.Struct, frozen=True, omit_defaults=True):
    """The objects of a frame and how they were determined; see results.Result for more fields.

    promise  news for the promise that became known with this frame
    changes  parts that differ from the last look; None: none, or no gate
    looks    rectangles in source pixels that the network got, if it got parts of the frame
    heard    predictions of the heavy pass, if footage is kept
    filters  names of the object filters, if they differ from those of the frame before
    visits   visits that ended
    seen     colours and features of the tracked objects that were looked at
    feature_model  model of detect that computed these features
    candidates  tracked objects whose scores are too low to be published
    refuted  tracked objects of detect that the last answer of the heavy model does not contain
    confirmed  tracks of the objects that it contains
    least    for the labels of its candidates, the score above which one may appear; to stay
             published, it needs less
    sure     for the labels of its objects and candidates, the score from which one look is enough
             to publish an object; 0 or none: unknown, or there is no gate, or the user has set the
             lowest score
    """

    outcome: Outcome
    looked: Looked
    reason: Reason
    objects: tuple[Object, ...]
    models: tuple[str, ...]
    age_s: float = 0.0
    scene: int = 0
    escalation: Escalation = "none"
    gate: GateView | None = None
    degraded: DegradedReason | None = None
    promise: PromiseNews | None = None
    changes: ChangedParts | None = None
    heard: Heard | None = None
    backdrop: bytes | None = None
    looks: tuple[tuple[int, int, int, int], ...] = ()
    filters: tuple[str, ...] | None = None
    visits: tuple[Visit, ...] = ()
    seen: tuple[SeenObject, ...] = ()
    feature_model: str = ""
    candidates: tuple[Object, ...] = ()
    refuted: tuple[Object, ...] = ()
    confirmed: tuple[int, ...] = ()
    least: Mapping[str, float] = {}
    sure: Mapping[str, float] = {}

    def share_looked_at(self, box: Box) -> float:
        """Return the share of a box in source pixels that one look of the network covers, 0..1."""
        if self.looked == "whole":
            return 1.0
        return max((_share_inside(box, look) for look in self.looks), default=0.0)


class SeenObject(msgspec.Struct, frozen=True, array_like=True):
    """The colours and the feature of an object in a look.

    track    number of the object
    colours  pixels of each colour of models.colours.NAMES in its box
    feature  int8 values that the network computed of it; empty: unknown
    """

    track: int
    colours: tuple[int, ...]
    feature: bytes = b""


def _share_inside(box: Box, area: Box) -> float:
    """Return the share of a box's area inside another rectangle, 0..1."""
    width = min(box[2], area[2]) - max(box[0], area[0])
    height = min(box[3], area[3]) - max(box[1], area[1])
    whole = (box[2] - box[0]) * (box[3] - box[1])
    if width <= 0 or height <= 0 or whole <= 0:
        return 0.0
    return width * height / whole


def last_detections(record: Record) -> Detections:
    """Return the detections of a frame from the last stage that had an output for it.

    A stage between detect and cache returns Detections, or None to leave them unchanged. Raises
    KeyError if no stage had an output.
    """
    for name in reversed(record.said):
        if name != LISTEN:  # its output is Sounds
            return records.decode(record.said[name], Detections)
    raise KeyError("no detections; no stage before had an output for this frame")


def scaled(objects: Sequence[Object], across: float, down: float) -> tuple[Object, ...]:
    """Return the objects with their boxes in the pixels of a picture of another size."""
    resized = []
    for each in objects:
        x1, y1, x2, y2 = each.box
        box = (x1 * across, y1 * down, x2 * across, y2 * down)
        resized.append(msgspec.structs.replace(each, box=box))
    return tuple(resized)


Polygons = Sequence[Sequence[Sequence[float]]]  # points (x, y) in pixels


def in_pixels_of(record: Record, polygons: Polygons) -> Polygons:
    """Return polygons that are in the pixels of results in those of the frame's own picture."""
    if record.shown is None:
        return polygons
    across = record.form.width / record.shown[0]
    down = record.form.height / record.shown[1]
    scaled = []
    for polygon in polygons:
        scaled.append([(x * across, y * down) for x, y in polygon])
    return scaled


class Heard(msgspec.Struct, frozen=True, omit_defaults=True):
    """Replies of the heavy pass that arrived with a frame, for stages that keep footage.

    own       predictions on this frame, if it was sent
    is_drawn  this frame is drawn for the audit
    audited   predictions on earlier frames that were drawn
    """

    own: Predictions | None = None
    is_drawn: bool = False
    audited: tuple[tuple[Position, Predictions], ...] = ()


# -- The changed parts of a frame, in few bytes, for the stages after detect.


# Factors that repeat the bits of a row, in so many rows.
_REPEATED: Final = tuple(((1 << COLUMNS * n) - 1) // ((1 << COLUMNS) - 1) for n in range(ROWS + 1))


class ChangedParts(msgspec.Struct, frozen=True, array_like=True):
    """The parts of a picture that have changed since the network's last look at them.

    width, height  size of a part in source pixels, >= 1
    parts          one bit for each of ROWS x COLUMNS parts, row by row, highest bit first
    """

    width: int
    height: int
    parts: bytes

    @property
    def share(self) -> float:
        """Return the changed share of all parts, 0..1."""
        return int.from_bytes(self.parts).bit_count() / (ROWS * COLUMNS)

    def share_of(self, box: Box) -> float:
        """Return the changed share of the parts that a box touches, 0..1.

        box  left, top, right, bottom in source pixels
        """
        left, right = _span(box[0], box[2], self.width, COLUMNS)
        top, bottom = _span(box[1], box[3], self.height, ROWS)
        row = (1 << (COLUMNS - left)) - (1 << (COLUMNS - right))
        rows = int.from_bytes(self.parts) >> (ROWS - bottom) * COLUMNS
        changed = rows & row * _REPEATED[bottom - top]
        return changed.bit_count() / ((right - left) * (bottom - top))


def _span(low: float, high: float, size: int, count: int) -> tuple[int, int]:
    """Return the range of parts from `low` to `high` in pixels, at least one, inside the grid."""
    start = int(low // size)
    if start < 0:
        start = 0
    elif start >= count:
        start = count - 1
    end = int(-(-high // size))
    if end <= start:
        end = start + 1
    elif end > count:
        end = count
    return start, end
