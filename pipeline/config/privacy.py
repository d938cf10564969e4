"""`[privacy]` of pipeline.toml: what nobody is to see; ingest/masks.py blanks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.spec import Polygon


def _masks_fault(masks: Any) -> str | None:
    """What is wrong with `[privacy.masks]`, None if nothing is."""
    for source, polygons in masks.items():
        if not is_name(source):
            return f"{source!r} cannot name a source; a name is {NAME_RULE}"
        if not isinstance(polygons, list) or not polygons or not all(map(_is_polygon, polygons)):
            return (
                f"{source}: allowed is a list of polygons, each of three or more points [x, y], "
                "0 to 1 of the picture's width and height, as [[[0, 0], [0.5, 0], [0.5, 0.2]]]"
            )
    return None


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 3
        and all(isinstance(point, list) and len(point) == 2 for point in points)
        and all(
            isinstance(part, int | float) and not isinstance(part, bool) and 0 <= part <= 1
            for point in points
            for part in point
        )
    )


_PART: Final = {"type": "number", "minimum": 0, "maximum": 1}
_POINT: Final = {"type": "array", "items": _PART, "minItems": 2, "maxItems": 2}
_POLYGONS: Final = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "array", "minItems": 3, "items": _POINT},
}


@dataclass(frozen=True)
class PrivacyConfig:
    """`[privacy]`: areas and faces that are hidden. A source with masks cannot be recorded,
    because a recording has the original video.

    masks       source -> polygons, 0 to 1 of the width and height of its picture. Their area is
                black before any part of Framegate reads, shows or stores the picture
    blur_faces  blur the detected faces in pictures that are shown or sent and in videos of --save.
                Some faces are missed. Recordings and kept footage are not blurred. A picture takes
                about 40 ms more of one core
    """

    masks: dict[str, Any] = field(
        default_factory=dict,
        metadata={"check": _masks_fault, "schema": {"additionalProperties": _POLYGONS}},
    )
    blur_faces: bool = False

    def of(self, source: str) -> tuple[Polygon, ...]:
        """Return the polygons of a source, none if it has no masks."""
        return tuple(
            tuple((float(x), float(y)) for x, y in polygon)
            for polygon in self.masks.get(source, ())
        )


def recording_faults(privacy: PrivacyConfig, recorded: bool | tuple[str, ...]) -> list[str]:
    """Return what is wrong with `record.sources`: recordings would show what is masked, as packets
    cannot be blanked without encoding them again. That also holds for sources that are added later.
    """
    if isinstance(recorded, bool):
        shown = sorted(privacy.masks) if recorded else []
        instead = "in place of true name the cameras to record, without these"
    else:
        shown = [name for name in recorded if name in privacy.masks]
        instead = "leave these out"
    if not shown:
        return []
    return [
        f"record.sources: a recording is what the camera sent, and would show what [privacy.masks] "
        f"hides of {', '.join(shown)}; {instead}"
    ]
