"""`[gate]` of pipeline.toml: how detect decides where to look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["off", "frames", "crops"]


def masks_fault(masks: Any) -> str | None:
    """What is wrong with `[gate.masks]`, None if nothing is."""
    for source, polygons in masks.items():
        if not isinstance(polygons, list | tuple) or not all(map(_is_polygon, polygons)):
            return (
                f"{source}: allowed is a list of polygons, each of three or more points [x, y] in "
                "pixels of the source, as [[[0, 0], [640, 0], [640, 48], [0, 48]]]"
            )
    return None


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list | tuple)
        and len(points) >= 3
        and all(isinstance(p, list | tuple) and len(p) == 2 for p in points)
        and all(
            isinstance(edge, int | float) and not isinstance(edge, bool) and abs(edge) < 1e6
            for point in points
            for edge in point
        )
    )


@dataclass(frozen=True)
class GateOptions:
    """The table `[gate]`.

    mode          off: every frame, whole. frames: whole frames in which something changed. crops:
                  of those, the parts that changed
    object_age_s  an object is looked at again when it was not for so long, in media time;
    still_age_s   one that every look found where it is, when it was not for as long as it has been
                  there, or for so long
    frame_age_s   so is the whole frame
    wait_frames   frames, and
    wait_s        seconds of media time, for which a change may wait at most where known objects
                  move; something new waits only beside what changed at the last look, 0.1 s at most
    least, most   grey levels between which each tile's threshold is learned; both 0: as mode off
    masks         source -> polygons in its pixels; what changes inside them does not trigger
    view          results tell what the gate saw, for drawing (`--draw gate`)
    """

    mode: Mode = "crops"
    object_age_s: float = field(default=1.0, metadata={"least": 0.05, "most": 60.0})
    still_age_s: float = field(default=10.0, metadata={"least": 0.05, "most": 3600.0})
    frame_age_s: float = field(default=10.0, metadata={"least": 0.05, "most": 3600.0})
    wait_frames: int = field(default=8, metadata={"least": 0, "most": 30})
    wait_s: float = field(default=0.8, metadata={"least": 0.0, "most": 10.0})
    least: float = field(default=10.0, metadata={"least": 0.0, "most": 255.0})
    most: float = field(default=24.0, metadata={"least": 0.0, "most": 255.0})
    masks: dict[str, Any] = field(default_factory=dict, metadata={"check": masks_fault})
    view: bool = False
