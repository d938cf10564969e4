"""Composed hours as escalate gets them: detect's output and the heavy model's answer per frame."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.cascade.replay import ReplaySetting, replay
from benchmarks.harness.gate_clips import GateClip
from benchmarks.harness.heavy_truth import DetectorAnswers
from benchmarks.promise.composed_hour import FPS, compose
from benchmarks.promise.composed_parts import Parts
from benchmarks.promise.scores import Tally, tally
from framegate.models.boxes import Boxes
from framegate.models.detector.detector import Detector
from framegate.stages.detections import Detections

_NEVER: Final = ReplaySetting(doubt=1.0, per_s=0.0, burst=1.0)


class Look(NamedTuple):
    """A frame: detect's output, the source's clock, the heavy model's boxes and their counts."""

    found: Detections
    now_s: float
    heavy: Boxes
    counts: Tally


@dataclass(frozen=True, slots=True, eq=False)
class Hour:
    """A composed hour.

    seed   of its content
    looks  one for each frame
    shown  boxes of detect alone
    """

    seed: int
    looks: list[Look]
    shown: list[Boxes]


def record(
    parts: Parts, seed: int, frames: int, noise: float, heavy: Detector, cache: Path
) -> Hour:
    """Compose an hour, and run detect and the heavy model on it.

    noise  of the sensor, grey levels
    cache  folder with the heavy model's answers, which are kept
    """
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as name:
        folder = Path(name)
        path = folder / "hour.mp4"
        compose(parts, path, frames, seed, noise)
        clip = GateClip(f"hour {seed}", "quiet", path, frames, FPS)
        with DetectorAnswers(cache, heavy) as answers:
            replayed = replay(clip, [_NEVER], heavy, answers, folder)
    pairs = zip(replayed.sights, replayed.heavy, strict=True)
    looks = [Look(sight.found, sight.now_s, boxes, tally(boxes)) for sight, boxes in pairs]
    return Hour(seed, looks, replayed.light)
