"""Footage that changes for good in its midst: to another scene, or from day to night.

Composed as an hour of a quiet camera is (`composed_hour.py`): real things that pass through a real
scene. A seed decides everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from benchmarks.promise.composed_hour import Part, draw, encode, plan
from benchmarks.promise.composed_parts import Parts
from framegate.models.picture import ByteArray

Drift = Literal["none", "scene", "night"]
Start = Literal["road", "room"]
DUSK: Final = 50  # frames from day to night
_ROAD, _ROOM = 0, 1  # scenes: the light path sees what there is on the road, little in the room
_STREAMS: Final = 4  # of visitors where it is busy, each as many as a quiet scene has


@dataclass(frozen=True, slots=True)
class Night:
    """What a camera makes of darkness.

    gamma  of grey levels 0..1; gain  a factor of them after it; noise  of its sensor, grey levels
    """

    gamma: float = 1.8
    gain: float = 0.5
    noise: float = 8.0

    def of(self, picture: ByteArray, share: float, rng: np.random.Generator) -> ByteArray:
        """A picture with so much of the night: 0 is day, 1 is night."""
        gamma = 1 + share * (self.gamma - 1)
        gain = 1 + share * (self.gain - 1)
        dark = (gain * 255 * (np.arange(256) / 255) ** gamma).astype(np.float32)[picture]
        dark += share * self.noise * rng.standard_normal(picture.shape, np.float32)
        return np.clip(np.round(dark), 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Story:
    """What happens: `before` frames of a quiet scene, then `after` frames of what it drifts to.

    start  where it begins; things pass there now and then, none of which stops or is doubtful
    drift  none: it stays as it is; scene: the other scene, in which many are at once, some stop,
           and the heavy pass is in doubt about some; night: the same in the dark
    """

    start: Start
    drift: Drift
    before: int
    after: int
    seed: int = 0
    night: Night = Night()

    @property
    def frames(self) -> int:
        return self.before + self.after


def parts_of(story: Story, parts: Parts) -> list[Part]:
    """Both stretches; the first is the same whatever comes after it."""
    here, there = (_ROAD, _ROOM) if story.start == "road" else (_ROOM, _ROAD)
    first = _quiet(parts, here, story.before, story.seed)
    if story.drift != "scene":
        return [first, _quiet(parts, here, story.after, story.seed + 1000)]
    other = replace(parts, scenes=[parts.scenes[there]])
    streams = [plan(other, story.after, story.seed + 1000 + n)[0] for n in range(_STREAMS)]
    visits = tuple(visit for stream in streams for visit in stream.visits)
    return [first, replace(streams[0], visits=visits)]


def _quiet(parts: Parts, scene: int, frames: int, seed: int) -> Part:
    (planned,) = plan(replace(parts, scenes=[parts.scenes[scene]], doubtful=()), frames, seed)
    return replace(planned, visits=tuple(replace(visit, halts=0) for visit in planned.visits))


def pictures(story: Story, parts: Parts) -> Iterator[ByteArray]:
    """Each frame, uint8 (H, W, 3) in the order B, G, R."""
    rng = np.random.default_rng(story.seed)
    for number, (picture, _) in enumerate(draw(parts_of(story, parts))):
        share = min(1.0, max(0.0, (number - story.before + 1) / DUSK))
        is_dark = story.drift == "night" and share > 0
        yield story.night.of(picture, share, rng) if is_dark else picture


def compose(story: Story, parts: Parts, path: Path) -> None:
    """Write the footage to `path`."""
    encode(path, pictures(story, parts))
