"""A source whose detector finds what a test says is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from framegate.models.boxes import Boxes, suppress
from framegate.models.detector import policy
from framegate.models.gate import crops
from framegate.models.picture import Picture
from framegate.models.tracking.track_state import TrackState, no_tracks
from framegate.stages.detect.estimate import Estimate, carry_out, settings_for
from framegate.stages.detect.look_plan import LookPlan, plan_looks
from framegate.stages.detect.memory import CurrentFrame, SourceMemory
from framegate.stages.detect.options import GateOptions

SIZE = (640, 360)
FPS = 25
THING = (300.0, 100.0, 400.0, 200.0)
rng = np.random.default_rng(3)
SCENE = rng.integers(60, 180, (SIZE[1] // 8, SIZE[0] // 8)).repeat(8, 0).repeat(8, 1)


def picture(*patches: tuple[int, int, int, int], light: int = 60) -> Picture:
    """The scene, lighter inside the patches."""
    y = SCENE.copy()
    for left, top, right, bottom in patches:
        y[top:bottom, left:right] += light
    half = np.full((SIZE[1] // 2, SIZE[0] // 2), 128, np.uint8)
    return Picture(y.clip(0, 255).astype(np.uint8), half, half)


def boxes(*rows: tuple[float, float, float, float], score: float = 0.8) -> Boxes:
    n = len(rows)
    xyxy = np.array(rows, np.float32).reshape(n, 4)
    return Boxes(xyxy, np.full(n, score, np.float32), np.zeros(n, np.int32))


class Source:
    """Frames of one source, with a detector that finds what the test says is there.

    names  classes of the things, in their order; those without one are people
    """

    def __init__(self, **options: object) -> None:
        self.settings = settings_for(GateOptions(**options), policy.load("light"))  # type: ignore[arg-type]
        self.memory, self.tracks = SourceMemory(), no_tracks()
        self.frame = 0
        self.score = 0.8
        self.names: tuple[int, ...] = ()

    def see(self, shown: Picture, *there: tuple[float, float, float, float], key: bool = False,
            step: int = 1) -> tuple[LookPlan, Estimate]:  # fmt: skip
        """One frame further, or several; a look finds the boxes that lie in it."""
        self.frame += step
        pts = self.frame / FPS
        frame = self.hold(pts, key)
        plan = plan_looks(frame, shown, self.settings.plan)
        names = np.array([*self.names, *[0] * len(there)][: len(there)], np.int32)
        all_there = replace(boxes(*there, score=self.score), class_ids=names)

        def run(plan: LookPlan) -> list[Boxes]:
            return [self._inside(look, all_there) for look in plan.looks]

        plan, told = carry_out(frame, plan, run, self.settings)
        self.memory = SourceMemory.from_bytes(told.memory.to_bytes())
        self.tracks = TrackState.from_bytes(told.tracks.to_bytes())
        return plan, told

    def hold(self, pts: float, key: bool = False) -> CurrentFrame:
        """The next frame, beside its pixels."""
        return CurrentFrame(self.memory, self.tracks, SIZE, pts, key, b"test")

    @staticmethod
    def _inside(look: crops.Crop, there: Boxes) -> Boxes:
        area = crops.looked_at(look, SIZE, 416)
        inside = (there.xyxy[:, :2] >= area[:2]).all(1) & (there.xyxy[:, 2:] <= area[2:]).all(1)
        seen = there.take(np.flatnonzero(inside))
        return seen.take(suppress(seen.xyxy, seen.scores))

    def settle(self, *there: tuple[float, float, float, float]) -> None:
        """Ten frames in which nothing changes."""
        for _ in range(10):
            self.see(picture(), *there)


def areas(plan: LookPlan) -> npt.NDArray[np.float32]:
    return np.array([crops.looked_at(look, SIZE, 416) for look in plan.looks])
