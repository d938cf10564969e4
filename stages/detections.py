"""What detect and escalate say about a frame: objects, what changed, what a heavy pass found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from framegate.models.boxes import BoolArray, Boxes
from framegate.models.gate.cells import Grid
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


class Detections(msgspec.Struct, frozen=True, omit_defaults=True):
    """A frame's objects and how they came about; see results.Result for the fields.

    promise  what became known with this frame of what is promised
    changes  where it differs from what was looked at; None: nowhere, or no gate tells
    heard    what the heavy pass said, where somebody learns from it
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


def last_detections(record: Record) -> Detections:
    """Return the detections of a frame, as the last stage that said anything left them.

    Stages between detect and cache say Detections, or None to leave things as they are. KeyError
    if no stage said anything.
    """
    for name in reversed(record.said):
        if name != LISTEN:  # which says what was heard
            return records.decode(record.said[name], Detections)
    raise KeyError("no detections; no stage before had an output for this frame")


class Heard(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became known with a frame of what the heavy pass says, for who keeps footage.

    own       of this frame's own pixels, if it was asked about it
    is_drawn  this frame is audited
    audited   of earlier frames that were
    """

    own: Predictions | None = None
    is_drawn: bool = False
    audited: tuple[tuple[Position, Predictions], ...] = ()


# -- Where a frame changed, in few bytes: what detect tells the stages after it.


COLUMNS: Final = 24
ROWS: Final = 16
_ROW_BYTES: Final = COLUMNS // 8


class ChangedParts(msgspec.Struct, frozen=True, array_like=True):
    """Parts of a picture that differ from what the network last saw there.

    width, height  of a part in source pixels, >= 1
    parts          a bit a part, ROWS x COLUMNS, row by row, highest first
    """

    width: int
    height: int
    parts: bytes

    @property
    def share(self) -> float:
        """0..1, of the whole grid."""
        return int.from_bytes(self.parts).bit_count() / (ROWS * COLUMNS)

    def share_of(self, box: tuple[float, float, float, float]) -> float:
        """0..1, of the parts that a box (left, top, right, bottom in source pixels) touches."""
        left, right = _span(box[0], box[2], self.width, COLUMNS)
        top, bottom = _span(box[1], box[3], self.height, ROWS)
        mask = (1 << (COLUMNS - left)) - (1 << (COLUMNS - right))
        rows = (
            int.from_bytes(self.parts[row * _ROW_BYTES : (row + 1) * _ROW_BYTES])
            for row in range(top, bottom)
        )
        changed = sum((row & mask).bit_count() for row in rows)
        return changed / ((right - left) * (bottom - top))


def changes_of(hot: BoolArray, grid: Grid) -> ChangedParts | None:
    """Of the tiles that changed, bool (tile_rows, tile_columns); None if none did."""
    if not np.count_nonzero(hot):
        return None
    rows, columns = _spread(grid)
    parts = (rows @ hot.astype(np.float32) @ columns) > 0
    width, height = _part(grid)
    return ChangedParts(width, height, np.packbits(parts).tobytes())


def _span(low: float, high: float, size: int, most: int) -> tuple[int, int]:
    """First part that is touched, and the one after the last; one at least, inside the grid."""
    first = min(max(int(low // size), 0), most - 1)
    return first, min(max(int(-(-high // size)), first + 1), most)


def _part(grid: Grid) -> tuple[int, int]:
    return -(-grid.width // COLUMNS), -(-grid.height // ROWS)


@lru_cache(64)
def _spread(grid: Grid) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the parts that each row (ROWS, tile_rows) and column (tile_columns, COLUMNS) has."""
    width, height = _part(grid)
    down = _overlap(grid.tile_rows, grid.tile_px, grid.height, height, ROWS)
    across = _overlap(grid.tile_columns, grid.tile_px, grid.width, width, COLUMNS)
    return down, across.T


def _overlap(
    tiles: int, tile_px: int, length: int, part: int, parts: int
) -> npt.NDArray[np.float32]:
    begins = np.arange(tiles) * tile_px
    ends = np.minimum(begins + tile_px, length)
    edges = np.arange(parts)[:, None] * part
    return ((begins < edges + part) & (ends > edges)).astype(np.float32)


# -- What a heavy pass found, as it travels and as boxes.


def as_seen(boxes: Boxes, models: Sequence[str]) -> Predictions:
    """Return boxes as they travel, exact: a float32 has one float64 and back."""
    rows = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.xyxy.tolist()]
    scores, class_ids = tuple(boxes.scores.tolist()), tuple(boxes.class_ids.tolist())
    return Predictions(tuple(rows), scores, class_ids, tuple(models))


def as_boxes(seen: Predictions) -> Boxes:
    """Return predictions as boxes. Raises ArrayMismatch if they are none."""
    xyxy = np.array(seen.boxes, np.float32).reshape(-1, 4)
    return Boxes(xyxy, np.array(seen.scores, np.float32), np.array(seen.class_ids, np.int32))
