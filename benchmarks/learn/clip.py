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
    labels_of,
    looks,
)
from benchmarks.learn.scores import people, sums_by
from framegate.models import coco
from framegate.models.boxes import Boxes
from framegate.models.learning import judgement, thresholds, tuning
from framegate.models.learning.tuning import Look, Tuning
from framegate.models.registry.registry import Registry
from framegate.stages.footage.footage import Footage, FootageFrame, KnownObjects
from framegate.stages.learning.camera_tuning import general, times
from framegate.stages.learning.choices import HEAVY
from framegate.stages.learning.teaching import Teacher

OF_THE_RESEARCH = 0.31  # least score that the research held things against


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
        return chosen(self.path, self.labels, self.given.frames, self.given.judging)

    @cached_property
    def labels(self) -> dict[int, KnownObjects]:
        """People's labels, by number of the frame."""
        return labels_of(self.given.data, self.path.stem)

    @cached_property
    def confirmed(self) -> tuple[int, ...]:
        """Classes of which people labelled an object."""
        seen: set[int] = set()
        for known in self.labels.values():
            names = {known.labels[class_id] for class_id in known.sure.class_ids.tolist()}
            seen.update(coco.class_ids(sorted(names)))
        return tuple(sorted(seen))

    @property
    def footage(self) -> Footage:
        """Their pictures."""
        return Footage([self.taken], self.taken.count)

    @cached_property
    def seen(self) -> tuple[list[Look], Tuning]:
        """What teacher and light detector say of them, and what tuning makes of it."""
        with Teacher(HEAVY, Registry(), threads=1, answers=self._answers) as told:
            found = looks(self.footage, told, self.given.sides)
        return found, tuning.tune(found, self.confirmed, {}, general(), len(coco.LABELS))

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
        ms = times([side.side for side in found.sides], self.first.picture, self.confirmed)
        best = found.best(ms)
        verdict = found.judged(best, coco.LABELS)
        cpu_s = time.process_time() - began
        shown = {str(one.side): one.shown for one in found.sides}
        shown |= {"usual": self._at(OF_THE_RESEARCH), "shipped": found.general}
        return {
            "chose": self.path.name in CHOSE,
            "frames": len(found.earlier),
            "judged": len(judgement.rows_of("teacher", found.said)),
            "boxes": sum(len(each.sure) for each in found.said if each.people is None),
            "side": best.side,
            "ms": {str(side): round(one, 3) for side, one in ms.items()},
            "cpu_s": round(cpu_s, 2),
            "min_scores": {coco.LABELS[i]: score for i, score in best.least.items()},
            "decided_by": verdict.decides.evidence,
            "refused": verdict.refused,
            "sums": {name: sums_by("teacher", found, each) for name, each in shown.items()},
            "by_labels": {name: sums_by("labels", found, each) for name, each in shown.items()},
            "people": self._by_people(best.side, best.least),
        }

    def _at(self, least: float) -> tuple[Boxes, ...]:
        """The light detector with this least score, on what judges."""
        seen, found = self.seen
        own = {look.moment_s: look.raw[general().side] for look in seen}
        every = dict.fromkeys(self.confirmed, least)
        return tuple(
            thresholds.shown(own[each.moment_s], every, general().nms_iou) for each in found.later
        )

    def _by_people(self, side: int, least: dict[int, float]) -> dict[str, dict[str, float]]:
        """What the labels of people say of the light detector, tuned or not, and the teacher."""
        seen, _ = self.seen
        usual = {look.moment_s: look.raw[general().side] for look in seen}
        best = {look.moment_s: look.raw[side] for look in seen}
        said = {look.moment_s: look.said.sure for look in seen}
        every = dict.fromkeys(self.confirmed, float(thresholds.GRID[0]))
        found = self.by_people(
            {
                "general": (usual, dict.fromkeys(self.confirmed, OF_THE_RESEARCH)),
                "shipped": (usual, dict.fromkeys(self.confirmed, general().min_score)),
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
