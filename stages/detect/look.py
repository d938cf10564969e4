"""One frame through gate and network: what the stage detect does, and benchmarks too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from framegate.models.boxes import BoolArray, Boxes
from framegate.models.detector.answer_cache import Recall
from framegate.models.detector.detector import Detector
from framegate.models.gate import crops, gate
from framegate.models.picture import Picture
from framegate.pipeline.contracts.results import GateView
from framegate.pipeline.contracts.source import Form
from framegate.stages.detect.estimate import Estimate, EstimateSettings, conclude
from framegate.stages.detect.look_plan import LookPlan, plan_looks
from framegate.stages.detect.memory import CurrentFrame


def look_at(
    detector: Detector,
    frame: CurrentFrame,
    picture: Picture,
    settings: EstimateSettings,
    ignored: BoolArray | None = None,
    recall: Recall | None = None,
) -> tuple[LookPlan, Estimate]:
    """Return what was computed anew of a frame, and what is to be seen in it; a pure function.

    ignored  tiles whose changes do not count, bool (tile_rows, tile_columns)
    recall   where answers of the network are looked up

    The detector's own threshold must be the calm rule's `candidate`.
    """
    plan = plan_looks(frame, picture, settings.plan, ignored)
    found = run_looks(detector, picture, plan, recall)
    return plan, conclude(frame, plan, found, settings)


def run_looks(
    detector: Detector, picture: Picture, plan: LookPlan, recall: Recall | None
) -> Sequence[Boxes]:
    """Return what the detector finds at each of the looks."""
    if plan.looked == "whole":
        return detector.detect([picture], [recall])
    return detector.look(picture, plan.looks, recall) if plan.looks else ()


def view_of(plan: LookPlan, form: Form, long_side: int) -> GateView | None:
    """Return what the gate saw, for whoever draws it; None where no gate looked."""
    if plan.change is None:
        return None
    state = plan.change.state
    grid, size = state.grid, (form.width, form.height)
    areas = [crops.looked_at(look, size, long_side) for look in plan.looks]
    levels = np.clip(np.round(gate.sensitivity(state) * 10), 0, 255).astype(np.uint8)
    return GateView(
        columns=grid.tile_columns,
        rows=grid.tile_rows,
        tile=grid.tile_px,
        hot=np.packbits(plan.change.hot).tobytes(),
        looked=tuple((round(a), round(b), round(c), round(d)) for a, b, c, d in np.array(areas)),
        sensitivity=levels.tobytes(),
    )
