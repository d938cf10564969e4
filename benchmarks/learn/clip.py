"""One clip of the benchmark: what was said of it, and what tuning made of that."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.harness.code_behind import digest_of
from benchmarks.harness.kept_parts import KeptPart, KeptParts
from benchmarks.learn.protocol import (
    CHOSE,
    LABELLED,
    Chosen,
    chosen,
    labelled_people,
    looks,
)
from benchmarks.learn.scores import Sums, agreement, people
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.learning import thresholds, tuning
from framegate.models.learning.tuning import Look, Tuning
from framegate.models.registry.registry import Registry
from framegate.stages.footage.footage import Footage, FootageFrame
from framegate.stages.learning.camera_tuning import general, times
from framegate.stages.learning.choices import HEAVY
from framegate.stages.learning.teaching import Teacher

OF_THE_RESEARCH = 0.31  # least score that the research held things against
CLASSES = range(len(coco.LABELS))  # which are off is for the thresholds to say


class Clip:
    """A clip for a camera. Parts that are done are in its folder, and read where they are.

    code  of which benchmark they are parts
    """

    def __init__(
        self, path: Path, folder: Path, given: argparse.Namespace, code: str = "benchmarks.learn"
    ) -> None:
        self.path, self.given = path, given
        self.parts = KeptParts(folder / path.stem, digest_of(code))
        self._answers = self.parts.folder / "teacher"
        settings = {name: getattr(given, name) for name in ("frames", "judging", "sides", "steps")}
        settings |= {name: [*of] for name, of in settings.items() if isinstance(of, tuple)}
        if self.parts.of("settings", lambda: settings) != settings:
            raise SystemExit(f"--kept {folder}: its parts are of other options")

    @cached_property
    def taken(self) -> Chosen:
        """Its frames."""
        return chosen(self.path, self.given.frames, self.given.judging)

    @property
    def footage(self) -> Footage:
        """Their pictures."""
        return Footage([self.taken], self.taken.count)

    @cached_property
    def seen(self) -> tuple[list[Look], Tuning]:
        """What teacher and light detector say of them, and what tuning makes of it."""
        with Teacher(HEAVY, Registry(), threads=1, answers=self._answers) as told:
            found = looks(self.footage, told, self.given.sides)
        return found, tuning.tune(found, CLASSES, {}, general(), len(CLASSES))

    @cached_property
    def first(self) -> FootageFrame:
        """Whose picture times are measured with."""
        return next(iter(self.footage))

    def tuned(self) -> KeptPart:
        """The light detector, tuned."""
        return self.parts.of("tuned", self._tuned)

    def _tuned(self) -> KeptPart:
        # Nothing that was answered before: the CPU time is that of a new camera.
        shutil.rmtree(self._answers, ignore_errors=True)
        began = time.process_time()
        _, found = self.seen
        ms = times([side.side for side in found.sides], self.first.picture, CLASSES)
        best = found.best(ms)
        verdict = found.judged(best, coco.LABELS)
        cpu_s = time.process_time() - began
        sums: dict[str, Sums] = {str(one.side): agreement(found, one.shown) for one in found.sides}
        sums["usual"] = agreement(found, self._at(OF_THE_RESEARCH))
        sums["shipped"] = agreement(found, found.general)
        return {
            "chose": self.path.name in CHOSE,
            "frames": len(found.earlier),
            "judged": verdict.decides.frames,
            "boxes": verdict.decides.boxes,
            "side": best.side,
            "ms": {str(side): round(one, 3) for side, one in ms.items()},
            "cpu_s": round(cpu_s, 2),
            "min_scores": {coco.LABELS[i]: score for i, score in best.least.items()},
            "refused": verdict.refused,
            "sums": sums,
            "labels": self._by_people(best.side, best.least),
        }

    def _at(self, least: float) -> list[Boxes]:
        """The light detector with this least score, on what judges."""
        seen, found = self.seen
        own = {look.moment_s: look.raw[general().side] for look in seen}
        every = dict.fromkeys(CLASSES, least)
        return [
            thresholds.shown(own[each.moment_s], every, general().nms_iou) for each in found.later
        ]

    def _by_people(self, side: int, least: dict[int, float]) -> dict[str, dict[str, float]]:
        """What the labels of people say of the light detector, tuned or not, and the teacher."""
        seen, _ = self.seen
        usual = {look.moment_s: look.raw[general().side] for look in seen}
        best = {look.moment_s: look.raw[side] for look in seen}
        said = {look.moment_s: look.said.sure for look in seen}
        every = dict.fromkeys(CLASSES, float(thresholds.GRID[0]))
        found = self.by_people(
            {
                "general": (usual, dict.fromkeys(CLASSES, OF_THE_RESEARCH)),
                "shipped": (usual, dict.fromkeys(CLASSES, general().min_score)),
                "tuned": (best, least),
                "teacher": (said, every),
            }
        )
        if found:
            del found["teacher"]["ap"]  # of a part of its boxes: no curve
        return found

    def by_people(self, who: dict[str, Any]) -> dict[str, dict[str, float]]:
        """Of each: boxes by moment, and least scores. Nothing where nobody labelled the clip."""
        if self.path.stem != LABELLED:
            return {}
        labelled = labelled_people(self.given.data)
        moments = [float(number) for number in self.taken.numbers if number in labelled]
        there = [labelled[int(moment)] for moment in moments]
        one: Callable[..., dict[str, float]] = people
        return {
            name: one([raw[moment] for moment in moments], there, least, general().nms_iou)
            for name, (raw, least) in who.items()
        }
