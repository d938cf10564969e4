"""The output of detect for a frame, made from the plan and the estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from framegate.models import coco
from framegate.models.boxes import BoolArray, Boxes
from framegate.models.gate.cells import Grid
from framegate.pipeline.contracts.results import GateView, Object, Origin, Outcome, Untracked
from framegate.pipeline.contracts.source import CHANGE_COLUMNS as COLUMNS
from framegate.pipeline.contracts.source import CHANGE_ROWS as ROWS
from framegate.stages.detect.estimate import Estimate
from framegate.stages.detect.look_plan import LookPlan
from framegate.stages.detections import ChangedParts, Detections


def detections_of(
    plan: LookPlan,
    estimate: Estimate,
    models: tuple[str, ...],
    gate: GateView | None = None,
    labels: Sequence[str] = coco.LABELS,
    objects: tuple[Object, ...] | None = None,
    sure: Mapping[str, float] | None = None,
) -> Detections:
    """Return the output of detect for a frame.

    objects  as `as_objects` returns them for the estimate; None: make them
    sure     as in Detections; None: unknown
    """
    if objects is None:
        objects = as_objects(estimate.shown, estimate.ids, estimate.origins, labels)
    outcome: Outcome = "detected"
    if not plan.looks:
        outcome = "carried"
    changes: ChangedParts | None = None
    if plan.change is not None:
        changes = changes_of(plan.change.hot, plan.change.state.grid)
    return Detections(
        outcome=outcome,
        looked=plan.looked,
        reason=plan.reason,
        objects=objects,
        models=models,
        age_s=round(estimate.age_s, 3),
        changes=changes,
        gate=gate,
        looks=plan.areas,
        sure=sure or {},
    )


def as_objects(
    boxes: Boxes,
    ids: npt.NDArray[np.int32],
    origins: Sequence[Origin],
    labels: Sequence[str] = coco.LABELS,
) -> tuple[Object, ...]:
    """Return the objects of a frame, with boxes rounded to 0.1 pixels and scores to 0.0001.

    ids  int32 (N,)  track ids, 0 without a track
    """
    objects: list[Object] = []
    rows = zip(
        np.round(boxes.xyxy.astype(np.float64), 1).tolist(),
        np.round(boxes.scores.astype(np.float64), 4).tolist(),
        boxes.class_ids.tolist(),
        ids.tolist(),
        origins,
        strict=True,
    )
    for (left, top, right, bottom), score, class_id, track, origin in rows:
        untracked: Untracked | None = None
        if not track:
            untracked = "new"
        objects.append(
            Object(
                track=track or None,
                label=labels[class_id],
                class_id=class_id,
                score=score,
                box=(left, top, right, bottom),
                origin=origin,
                untracked=untracked,
            )
        )
    return tuple(objects)


# -- The changed parts of a frame, in few bytes, for the stages after detect.


def changes_of(hot: BoolArray, grid: Grid) -> ChangedParts | None:
    """Return the parts with a changed tile; None if no tile changed.

    hot  bool (tile_rows, tile_columns)  the changed tiles
    """
    if not np.count_nonzero(hot):
        return None
    rows, columns = _spread(grid)
    parts = (rows @ hot.astype(np.float32) @ columns) > 0
    width, height = _part(grid)
    return ChangedParts(width, height, np.packbits(parts).tobytes())


def _part(grid: Grid) -> tuple[int, int]:
    """Return the width and height of a part in source pixels."""
    return math.ceil(grid.width / COLUMNS), math.ceil(grid.height / ROWS)


@lru_cache(64)
def _spread(grid: Grid) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return 0/1 matrices: the tile rows in each row of parts, (ROWS, tile_rows), and the tile
    columns in each column of parts, (tile_columns, COLUMNS).
    """
    width, height = _part(grid)
    down = _overlap(grid.tile_rows, grid.tile_px, grid.height, height, ROWS)
    across = _overlap(grid.tile_columns, grid.tile_px, grid.width, width, COLUMNS)
    return down, across.T


def _overlap(
    tiles: int, tile_px: int, length: int, part: int, parts: int
) -> npt.NDArray[np.float32]:
    starts = np.arange(tiles) * tile_px
    ends = np.minimum(starts + tile_px, length)
    edges = np.arange(parts)[:, None] * part
    return ((starts < edges + part) & (ends > edges)).astype(np.float32)
