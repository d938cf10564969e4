"""Objects, their traces and what the gate saw, drawn into pictures and videos."""

from __future__ import annotations

from collections.abc import Sequence

from framegate.models.picture import Picture
from framegate.pipeline.contracts.results import Object
from framegate.stages.draw.canvas import Canvas
from framegate.stages.draw.gate_overlay import GateOverlay, draw_gate
from framegate.stages.draw.objects import Trails, draw_objects


def draw(
    picture: Picture,
    objects: Sequence[Object],
    look: GateOverlay | None = None,
    trails: Trails | None = None,
) -> Picture:
    """Return a copy of `picture`, of any size, with `objects` drawn; with the gate's view, if told.

    It draws into the planes: what is not under ink keeps its bytes. Boxes and the points of
    `trails` are in the picture's pixels.
    """
    canvas = Canvas.of(picture)
    if look is None:
        draw_objects(canvas, objects, trails)
    else:
        draw_gate(canvas, objects, look, trails)
    return canvas.picture()
