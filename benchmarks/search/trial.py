"""One clip of the benchmark: lessons, times, and for each seed student, search and chance.

Needs torch.
"""

from __future__ import annotations

import argparse
import copy
import functools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import torch
from torch import nn

from benchmarks.harness.code_behind import digest_of
from benchmarks.harness.kept_parts import KeptParts
from framegate.models import coco, matching
from framegate.models.boxes import Boxes, empty
from framegate.models.detector import detector
from framegate.models.detector.network import supported
from framegate.models.formats.nanodet import decode
from framegate.models.learning import teacher
from framegate.models.learning.examples import Example, ExampleSet, earlier_and_later
from framegate.models.learning.judgement import counted
from framegate.models.learning.teacher import Said
from framegate.models.learning.thresholds import GRID, shown, tuned
from framegate.models.training.lessons import LESSONS, Lesson, Lessons, input_size, lesson, plain
from framegate.models.training.narrowing import narrowed
from framegate.models.training.part_times import PartTimes, measured, network_ms
from framegate.models.training.search import Search, SearchSchedule
from framegate.models.training.shared_network import Shared, Space, shared_from
from framegate.models.training.student import (
    SHARE,
    Architecture,
    Student,
    as_input,
    folded,
    general,
)
from framegate.models.training.train_student import Course, Training
from framegate.stages.footage import read_footage

NMS_IOU = 0.6
_UNSEEN = 20  # nets that the table did not meet
_FIRST = 16  # pictures for first weights
_SHARES = (0.375, 0.25)  # of the general net's channels: what no search is needed for


class Trial:
    """One clip. What is done is kept in the folder, and read where it is there already."""

    def __init__(self, data: Path, clip: str, given: argparse.Namespace) -> None:
        self._stack = ExitStack()
        self.clip, self.given = clip, given
        [self._video] = (data / "clips").glob(f"{clip}.*")
        kept = given.kept or self._stack.enter_context(tempfile.TemporaryDirectory())
        self._parts = KeptParts(Path(kept) / clip, digest_of("benchmarks.search"))
        self.folder = self._parts.folder
        torch.set_num_threads(1)

    def __enter__(self) -> Self:
        if not (self.folder / LESSONS).exists():
            self._lessons().write(self.folder)
        found = Lessons.read(self.folder)
        self.lessons, self.size = found, found.size
        self.earlier, self.later = found.earlier, found.later
        classes = [coco.LABELS.index(label) for label in found.labels]
        chosen = np.linspace(0, len(self.earlier) - 1, min(_FIRST, len(self.earlier))).astype(int)
        bgr = np.stack([plain(self.earlier[i], found.size).bgr for i in chosen])
        self.pictures = as_input(bgr)
        self._classes = classes
        self.narrow = self._narrowed(SHARE)
        self.space = Space(self._narrower(SHARE))
        self.times = self._table(self.folder / "times.json")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _lessons(self) -> Lessons:
        """What the heavy pass says of the clip's pictures."""
        heavy = detector.load("heavy", threads=1)
        looked = [
            (frame, Said(heavy.detect([frame.picture])[0], empty()))
            for frame in read_footage([f"clip={self._video}"], self.given.frames)
        ]
        ids = sorted(one.class_id for one in teacher.seen([said for _, said in looked]))
        new = {class_id: i for i, class_id in enumerate(ids)}
        whole = ExampleSet(
            tuple(coco.LABELS[i] for i in ids),
            tuple(
                Example(
                    frame.picture,
                    teacher.renamed(said.sure.take(np.isin(said.sure.class_ids, ids)), new),
                    empty(),
                    frame.source,
                    frame.moment_s,
                )
                for frame, said in looked
            ),
        )
        side = self.given.side
        size = input_size([(one.picture.width, one.picture.height) for one in whole.examples], side)
        earlier, later = (
            [lesson(one, side) for one in part.examples] for part in earlier_and_later(whole)
        )
        return Lessons(whole.labels, size, earlier, later)

    # Parts of a seed.

    def row(self, seed: int) -> dict[str, Any]:
        """All figures of a seed."""
        given = self.given
        student = self._trained(f"{seed}-student", lambda: self.narrow, given.steps, seed)
        found = self._searched(seed)
        searched = self._trained(
            f"{seed}-searched", lambda: self._of_shared(seed, found), given.steps, seed
        )
        short = self._trained(
            f"{seed}-searched-short", lambda: self._of_shared(seed, found), given.short, seed
        )
        allowed = given.share * self.times.of(self.space.largest)
        share, plain_one = min(
            ((share, self._narrower(share)) for share in _SHARES),
            key=lambda pair: abs(self.times.of(pair[1]) - allowed),
        )
        narrowed_f1 = self._trained(
            f"{seed}-narrowed", lambda: self._narrowed(share), given.steps, seed
        )
        draw, tried = random.Random(1000 + seed), []
        for k in range(given.random):
            one = self.space.drawn_within(draw, self.times, allowed)
            first = functools.partial(self._of_shared, seed, one)
            f1 = self._trained(f"{seed}-random-{k}", first, given.short, seed)
            tried.append((f1, one))
        _, best = max(tried, key=lambda pair: pair[0]["earlier"])
        random_best = self._trained(
            f"{seed}-random-best", lambda: self._of_shared(seed, best), given.steps, seed
        )
        ms = self._parts.of(f"{seed}-ms", lambda: self._ms(found, best, plain_one, seed))
        row = {
            "clip": self.clip,
            "seed": seed,
            "ms_ratio": ms["searched"] / ms["student"],
            "random_ms_ratio": ms["random_best"] / ms["student"],
            "narrowed_ms_ratio": ms["narrowed"] / ms["student"],
            "f1_ratio": searched["later"] / max(1e-9, student["later"]),
            "student_f1": student["later"],
            "searched_f1": searched["later"],
            "random_best_f1": random_best["later"],
            "narrowed_f1": narrowed_f1["later"],
            "narrowed_share": share,
            "searched_short_f1": short["later"],
            "random_short_f1": statistics.fmean(f1["later"] for f1, _ in tried),
            "random_short_best_f1": max(f1["later"] for f1, _ in tried),
            "latency_error": ms["worst_error"],
            "latency_error_mean": ms["mean_error"],
            "search_cpu_s": self._parts.of(f"{seed}-found", dict)["cpu_s"],
            "ms": ms,
            "frames": [len(self.earlier), len(self.later)],
            "architecture": asdict(found),
        }
        print({k: v for k, v in row.items() if k not in ("architecture", "ms")}, flush=True)
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}

    def _table(self, cache: Path | None = None) -> PartTimes:
        """Times of all parts of the space."""
        covering = self.space.covering(self.size, times=1 if self.given.quick else 3)
        return measured(covering, self.size, "f32", self.given.rounds, cache)

    def _narrowed(self, share: float) -> Student:
        """The general net with that share of its channels, by least squares."""
        narrow = Student(self._narrower(share)).eval()
        return narrowed(general(), narrow, self.pictures, self._classes)

    def _narrower(self, share: float) -> Architecture:
        return Architecture().times(share, len(self._classes))

    def _searched(self, seed: int) -> Architecture:
        """The architecture that the search finds; the shared weights are kept beside."""

        def search() -> dict[str, Any]:
            start = time.process_time()
            on = self._search(seed)
            on.learn_shared()
            torch.save(on.net.state_dict(), self.folder / f"{seed}-shared.pt")
            found = on.choose()
            return {"architecture": asdict(found), "cpu_s": round(time.process_time() - start, 1)}

        told = self._parts.of(f"{seed}-found", search)["architecture"]
        return msgspec.convert(told, Architecture)

    def _search(self, seed: int) -> Search:
        given = self.given
        schedule = SearchSchedule(
            seed=seed, shared_steps=given.shared, gate_steps=given.gates, share=given.share
        )
        shared = shared_from(self.space, self.narrow, self.pictures, steps=min(40, given.shared))
        return Search(shared, self.earlier, self.size, self.times, schedule, print)

    def _of_shared(self, seed: int, architecture: Architecture) -> Student:
        shared = Shared(self.space)
        shared.net.load_state_dict(torch.load(self.folder / f"{seed}-shared.pt"))
        return shared.network(architecture, self.pictures)

    def _trained(
        self, name: str, first: Callable[[], Student], steps: int, seed: int
    ) -> dict[str, float]:
        """F1 of a net after so many steps, earlier and later."""

        def train() -> dict[str, float]:
            course = Course(steps, seed=seed, arithmetic="bf16" if "bf16" in supported() else "f32")
            training = Training(copy.deepcopy(first()), self.lessons, course)
            for _ in range(steps):
                training.step()
            return self._judged(folded(training.student()))

        return self._parts.of(name, train)

    def _judged(self, net: nn.Module) -> dict[str, float]:
        """F1 with least scores tuned on (at most 100) earlier pictures, on these and later."""
        every = -(-len(self.earlier) // 100)
        earlier = self.earlier[::every]
        raw = [self._raw(net, one) for one in earlier]
        sure, unsure = _boxes(earlier)
        least = tuned(raw, sure, unsure, NMS_IOU)
        found = {"earlier": self._f1(least, raw, earlier)}
        return found | {
            "later": self._f1(least, [self._raw(net, one) for one in self.later], self.later)
        }

    def _f1(self, least: Mapping[int, float], raw: Sequence[Boxes], of: Sequence[Lesson]) -> float:
        ours = [shown(one, least, NMS_IOU) for one in raw]
        counts = counted(ours, *_boxes(of), len(self._classes))
        return float(matching.f1(counts.sum(axis=1)))

    def _raw(self, net: nn.Module, one: Lesson) -> Boxes:
        with torch.inference_mode():
            heads = net(as_input(plain(one, self.size).bgr[None]))[:3]
        maps = [head[0].contiguous().numpy() for head in heads]
        return decode(maps, float(GRID[0]), n_classes=len(self._classes))

    def _ms(
        self, found: Architecture, best: Architecture, plain_one: Architecture, seed: int
    ) -> dict[str, float]:
        """Times by name, and how far off the table is on nets that it did not meet.

        Both as shares of the student's, which runs beside them: on a machine that others use, only
        ratios hold. The table is measured anew, in the same minutes.
        """
        table = self._table()
        draw = random.Random(2000 + seed)
        unseen = [self.space.architecture(self.space.drawn(draw)) for _ in range(_UNSEEN)]
        whole = replace(Architecture(), n_classes=len(self._classes))
        named = [self.space.largest, found, best, plain_one, whole]
        taken = network_ms([*named, *unseen], self.size, "f32", self.given.rounds)
        student, told_student = taken[0], table.of(self.space.largest)
        errors = [
            abs(table.of(one) / told_student / (ms / student) - 1)
            for one, ms in zip(unseen, taken[len(named) :], strict=True)
        ]
        names = ("student", "searched", "random_best", "narrowed", "general")
        return dict(zip(names, taken, strict=False)) | {
            "worst_error": max(errors),
            "mean_error": statistics.fmean(errors),
        }


def _boxes(lessons: Sequence[Lesson]) -> tuple[list[Boxes], list[Boxes]]:
    """Sure and unsure, in pixels of the input."""
    return (
        [Boxes.from_bytes(one.sure) for one in lessons],
        [Boxes.from_bytes(one.unsure) for one in lessons],
    )
