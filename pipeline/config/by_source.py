"""Tables that select sources: `[learn]`, `[record]`, `[sound]`, `[privacy]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from framegate.pipeline.config.read_events import crosses_itself, surface
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.source import SOUND_RATE
from framegate.pipeline.contracts.spec import Polygon, RecordSpec


@dataclass(frozen=True)
class LearnConfig:
    """`[learn]`: frames that are kept for training, in the data folder of the run.

    collect  true: of all sources. false: of none. Or a list of source names. Framegate keeps frames
             with motion, evenly spaced over the days, frames in doubt, and frames that the heavy
             model was asked about
    bytes    limit of disk space for the footage of all sources. The source and the day with the
             most footage lose the least useful frames first
    days     days for which footage is kept
    """

    collect: bool | tuple[str, ...] = False
    bytes: int = field(default=1 << 30, metadata={"least": 1 << 20})
    days: float = field(default=30.0, metadata={"least": 0.01, "most": 3650.0})

    def faults(self) -> list[str]:
        """Return the faults of the table."""
        return _not_names("collect", self.collect)


@dataclass(frozen=True)
class RecordConfig:
    """`[record]`: video and sound of sources, stored unchanged as MP4 files in the data folder.

    sources     true: all cameras. false: none. Or a list of source names, which can include files
    bytes       limit of disk space for all recordings. The source with the most data loses its
                oldest files first: those without a clip, then clips of detections, then clips of
                alerts
    days        days for which recordings are kept
    clip_days   days for which the clip of an episode is kept
    free_bytes  disk space that stays free for others. Below it the oldest recordings are removed
    """

    sources: bool | tuple[str, ...] = False
    bytes: int = field(default=50 << 30, metadata={"least": 64 << 20})
    days: float = field(default=7.0, metadata={"least": 0.01, "most": 3650.0})
    clip_days: float = field(default=30.0, metadata={"least": 0.01, "most": 3650.0})
    free_bytes: int = field(default=1 << 30, metadata={"least": 16 << 20})

    def faults(self) -> list[str]:
        """Return the faults of the table."""
        return _not_names("sources", self.sources)

    def of(self, source: str, live: bool) -> RecordSpec | None:
        """Return the limits of a source's recording; None if it is not recorded."""
        if isinstance(self.sources, bool):
            is_recorded = live and self.sources
        else:
            is_recorded = source in self.sources
        if not is_recorded:
            return None
        return RecordSpec(self.bytes, self.days, self.clip_days, self.free_bytes)


@dataclass(frozen=True)
class SoundConfig:
    """`[sound]`: sound labels of AudioSet, for windows of 0.975 s.

    sources      true: all sources with a sound track. false: none. Or a list of source names
    hop_s        seconds from the start of one window to the start of the next
    least_score  lowest score of a label that is reported, 0 to 1
    labels       labels that are reported, such as "Smoke detector, smoke alarm". Default: all
    quiet_db     the network skips a window if its loudest tenth of a second is below this level, in
                 decibels of full scale
    most_age_s   seconds for which labels stay valid while the sound does not change. Then the
                 network runs again. 0: it runs for every window
    """

    sources: bool | tuple[str, ...] = False
    hop_s: float = field(default=0.4875, metadata={"least": 0.1, "most": 10.0})
    least_score: float = field(default=0.3, metadata={"least": 0.01, "most": 1.0})
    labels: tuple[str, ...] = ()
    quiet_db: float = field(default=-55.0, metadata={"least": -120.0, "most": 0.0})
    most_age_s: float = field(default=10.0, metadata={"least": 0.0, "most": 3600.0})

    @property
    def block(self) -> int:
        """Return the samples of a hop."""
        return round(self.hop_s * SOUND_RATE)

    def block_of(self, source: str) -> int:
        """Return the samples of a hop of this source; 0 if its sound is not used."""
        if isinstance(self.sources, bool):
            is_used = self.sources
        else:
            is_used = source in self.sources
        if not is_used:
            return 0
        return self.block

    def faults(self) -> list[str]:
        """Return the faults of the table."""
        return _not_names("sources", self.sources)


def _not_names(key: str, sources: bool | tuple[str, ...]) -> list[str]:
    if isinstance(sources, bool):
        return []
    return [
        f"{key}: {name!r}: not the name of a source; a name is {NAME_RULE}"
        for name in sources
        if not is_name(name)
    ]


def _masks_fault(masks: Any) -> str | None:
    """Return the fault of `[privacy.masks]`; None if there is none."""
    for source, polygons in masks.items():
        if not is_name(source):
            return f"{source!r}: not the name of a source; a name is {NAME_RULE}"
        if not isinstance(polygons, list) or not polygons or not all(map(_is_polygon, polygons)):
            return (
                f"{source}: must be a list of polygons, each of three or more points [x, y], "
                "0 to 1 of the picture's width and height, such as [[[0, 0], [0.5, 0], [0.5, 0.2]]]"
            )
        for number, polygon in enumerate(polygons, 1):
            if fault := _shape_fault(polygon):
                return f"{source}: polygon {number}: {fault}"
    return None


def _shape_fault(polygon: list[list[float]]) -> str | None:
    """Return why a polygon would not hide the area that its corners surround; None: it does."""
    ends = [*polygon[1:], polygon[0]]
    corners = [(x, y) for (x, y), end in zip(polygon, ends, strict=True) if [x, y] != end]
    if crosses_itself(corners, closed=True):
        return "two edges cross, so a part would stay visible; give the corners in order around it"
    if len(corners) < 3 or abs(surface(corners)) <= 1e-9:
        return "it is empty, because its corners are on one line"
    return None


def _is_polygon(points: Any) -> bool:
    return isinstance(points, list) and len(points) >= 3 and all(map(_is_point, points))


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(map(_is_share, point))


def _is_share(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= 1


_PART: Final = {"type": "number", "minimum": 0, "maximum": 1}
_POINT: Final = {"type": "array", "items": _PART, "minItems": 2, "maxItems": 2}
_POLYGONS: Final = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "array", "minItems": 3, "items": _POINT},
}


@dataclass(frozen=True)
class PrivacyConfig:
    """`[privacy]`: hidden areas and faces. A source with masks cannot be recorded, because a
    recording has the original video.

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
        """Return the polygons of a source; empty if it has no masks."""
        polygons = []
        for polygon in self.masks.get(source, ()):
            polygons.append(tuple((float(x), float(y)) for x, y in polygon))
        return tuple(polygons)


def recording_faults(privacy: PrivacyConfig, recorded: bool | tuple[str, ...]) -> list[str]:
    """Return the faults of `record.sources`: a recording would show the masked areas.

    A recording stores the packets of the camera, which cannot be masked without encoding them
    again. This is also true for sources that are added later.
    """
    if recorded is True:
        masked = sorted(privacy.masks)
        remedy = "list the cameras to record, without these"
    else:
        masked = [name for name in recorded or () if name in privacy.masks]
        remedy = "remove these"
    if not masked:
        return []
    return [
        f"record.sources: a recording would show the areas that [privacy.masks] hides of "
        f"{', '.join(masked)}; {remedy}"
    ]
