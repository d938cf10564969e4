"""What the gate saw in a frame, as results tell it to whoever draws it."""

from __future__ import annotations

import numpy as np

from framegate.models.gate import crops, gate
from framegate.pipeline.records import GateView
from framegate.pipeline.source import Form
from framegate.stages.detect.attention import Attention


def view_of(attention: Attention, form: Form, long_side: int) -> GateView | None:
    """None where no gate looked."""
    if attention.change is None:
        return None
    state = attention.change.state
    grid, size = state.grid, (form.width, form.height)
    areas = [crops.looked_at(look, size, long_side) for look in attention.looks]
    levels = np.clip(np.round(gate.sensitivity(state) * 10), 0, 255).astype(np.uint8)
    return GateView(
        columns=grid.tile_columns,
        rows=grid.tile_rows,
        tile=grid.tile_px,
        hot=np.packbits(attention.change.hot).tobytes(),
        looked=tuple((round(a), round(b), round(c), round(d)) for a, b, c, d in np.array(areas)),
        sensitivity=levels.tobytes(),
    )
