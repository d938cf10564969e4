"""What a look teaches about looking: the gate's thresholds, how long changes may wait, how far
parts can be trusted.

It is learned from how the boxes that a look found differ from those known before, so it comes
after both were merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from framegate.models import boxes as nms
from framegate.models.boxes import BoolArray, Boxes, FloatArray
from framegate.models.gate import crops, gate
from framegate.models.gate.cells import Grid, tiles_inside, tiles_of
from framegate.models.gate.merge import Merged
from framegate.models.gate.state import GateState
from framegate.stages.detect.look_plan import LookPlan, PlanSettings
from framegate.stages.detect.memory import SAME_PLACE, CurrentFrame, SourceMemory


@dataclass(frozen=True, slots=True, eq=False)
class MemoryUpdate:
    """As SourceMemory has them."""

    gate: GateState | None
    patience: float
    trust: float


def learn(
    frame: CurrentFrame, plan: LookPlan, merged: Merged, means: FloatArray, settings: PlanSettings
) -> MemoryUpdate:
    """Return what the looks of `plan` taught.

    merged  what holds after them; means  float32 (N,), as in KnownBoxes
    """
    return MemoryUpdate(
        gate=_gate_after(frame, plan, merged, settings),
        patience=patience_after(frame.memory, merged, means),
        trust=_trust_after(frame.memory, plan, merged, settings.shown),
    )


def _gate_after(
    frame: CurrentFrame, plan: LookPlan, merged: Merged, using: PlanSettings
) -> GateState | None:
    """Return the gate's state after the looks: what they saw where, and whether it was worth it."""
    if plan.change is None or plan.cells is None:
        return None
    state, known = plan.change.state, frame.memory.known.boxes
    inside: BoolArray = np.ones(state.grid.tiles, np.bool_)
    if plan.looked != "whole":
        areas = [crops.looked_at(look, frame.size, using.long_side) for look in plan.looks]
        inside = tiles_inside(np.array(areas), state.grid)
    found = _found_tiles(known, merged, inside, state.grid, using.shown)
    boxes = np.concatenate([known.xyxy, merged.boxes.xyxy])
    occupied = tiles_of(boxes, state.grid, grow_px=state.grid.tile_px)
    return gate.inferred(state, plan.cells, inside, found, using.gate, occupied)


def _found_tiles(
    known: Boxes, merged: Merged, inside: BoolArray, grid: Grid, shown: float
) -> BoolArray:
    """Return the tiles in which the look changed what is known: a box is new, gone, elsewhere."""
    before = known.scores > np.float32(shown)
    after = np.flatnonzero(merged.boxes.scores > np.float32(shown))
    rows = merged.known_row[after]
    stayed = rows >= 0
    stayed[stayed] = (
        nms.row_iou(known.xyxy[rows[stayed]], merged.boxes.xyxy[after[stayed]]) >= SAME_PLACE
    )
    before[rows[stayed]] = False
    changed = np.concatenate([known.xyxy[before], merged.boxes.xyxy[after[~stayed]]])
    found: BoolArray = tiles_of(changed, grid, grow_px=grid.tile_px) & inside
    return found


# How much of what is shown a look must find as it was held, for changes to wait a frame longer than
# they just did, and below which they wait half as long.
_GOOD: Final = 0.92
_BAD: Final = 0.87


def patience_after(memory: SourceMemory, merged: Merged, means: FloatArray) -> float:
    """Return the frames for which changes may wait from now on: by how well what held meanwhile
    was found.

    memory  before the look

    Rises by a frame at a time, and only over what was tried; halves.
    """
    waited, known = memory.waited, memory.known
    if not waited:
        return memory.patience
    before = known.means > 0
    before[merged.known_row[~merged.is_new]] = False  # not looked at
    after = merged.is_new & (means > 0)
    rows = merged.known_row[after]
    found = np.count_nonzero(known.means[rows[rows >= 0]] > 0)
    total = np.count_nonzero(before) + np.count_nonzero(after)
    agreement = 2 * found / total if total else 1.0
    if agreement >= _GOOD:
        return max(memory.patience, waited + 1.0)
    return max(min(memory.patience, waited / 2), 1.0) if agreement < _BAD else memory.patience


_GAIN, _LOSS, _FORGIVES = 0.25, 0.25, 0.003


def _trust_after(memory: SourceMemory, plan: LookPlan, merged: Merged, shown: float) -> float:
    """Return how far parts of this source's frames can be trusted to show what is in them.

    A whole look after a doubted part tells.
    """
    if plan.looked != "whole":
        return memory.trust
    if not len(memory.doubted):
        return memory.trust + _FORGIVES * (1 - memory.trust)
    there = merged.boxes.xyxy[merged.boxes.scores > np.float32(shown)]
    wrong = crops.touch(there, memory.doubted).any()
    return memory.trust * (1 - _LOSS) if wrong else memory.trust + _GAIN * (1 - memory.trust)
