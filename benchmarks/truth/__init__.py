"""Accuracy by labels, of data sets and by eye, for every configuration that a user can choose.

    python -m benchmarks.truth --data FOLDER [--clips NAME ...] [--configurations NAME ...]

Each row is a whole `framegate run` of a labelled clip at its recorded speed. Configurations take
turns on each clip. `tuned` and `trained` learn from footage of the clip without labels, or from its
first half; then only the second half judges them. LABELS.md is the protocol of the labels by eye.

side                   longer side of the picture, pixels
precision, recall, f1  published objects against labels, IoU .5, by group of classes (`groups`)
f1_low, f1_high        95 % interval, from blocks of 10 labelled frames that are drawn with
                       replacement; null with fewer than two blocks
f1_gain                F1 less that of `default` in the same frames, with its interval
ap                     average precision of what is published; hota, idf1 and id_switches as in
                       trackeval, where tracks are labelled
models                 models of the results. Their names contain the precision, which a trial
                       chooses at the start of a run, and which changes F1
jumps                  how often a number is further away than its object could have moved
cpu_ms                 CPU milliseconds per frame of all processes, from the second quarter on
looked                 share of frames that the network got, whole or in part; on the other frames
                       all boxes are carried. f1_looked, f1_carried, false_looked, ...: the same
                       figures and the number of false boxes for both kinds of frames
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import tracking
from benchmarks.harness.agreement import Tracked
from benchmarks.harness.engine_run import RunFailed
from benchmarks.harness.report import (
    Bar,
    Benchmark,
    BenchmarkResult,
    Option,
    conditions,
    in_turn,
)
from benchmarks.truth import labels, runs, scores
from benchmarks.truth.clips import (
    ROLES,
    Footage,
    LabelledClip,
    NotLabelled,
    at_recorded_speed,
    find_clips,
    lesson,
)
from benchmarks.truth.configurations import (
    DEFAULT,
    ESCALATE,
    GATE_OFF,
    HEAVY,
    Configuration,
    UnknownConfiguration,
    configurations,
    for_groups,
)
from benchmarks.truth.runs import Run
from benchmarks.truth.scores import JudgedFrame
from framegate.pipeline.contracts.results import Result

Row = dict[str, Any]
PETS: Final = "pets09-s2l1-view001-part1"
NIGHT: Final = "mot16-04-night-1080p"
ROAD: Final = "car-detection"


@dataclass(frozen=True, slots=True, eq=False)
class JudgedRun:
    """A run and its frames that have labels, by number."""

    configuration: str
    run: Run
    frames: Mapping[int, JudgedFrame]

    def __str__(self) -> str:
        rates = scores.rates(scores.counts_of(list(self.frames.values())))
        figures = ", ".join(f"{name} {_cell(value)}" for name, value in rates.items())
        return f"{self.configuration}: {figures}, {self.run.cpu_ms:.2f} CPU ms"

    def _models(self) -> str:
        """Return the names of all models of the results."""
        names: set[str] = set()
        for result in self.run.results.values():
            names.update(result.models)
        return " ".join(sorted(names))

    def row(self, clip: LabelledClip, default: JudgedRun | None) -> Row:
        """Return the row of the table. default: the run of the default configuration."""
        frames = list(self.frames.values())
        is_looked = [self.run.results[number].looked != "no" for number in self.frames]
        gains: Row = dict.fromkeys(("f1_gain", "f1_gain_low", "f1_gain_high"))
        if default is not None and default is not self:
            same = [default.frames[number] for number in self.frames]
            gain = scores.gain(scores.counts_of(frames), scores.counts_of(same))
            gains = dict(zip(gains, (gain.mean, gain.low, gain.high), strict=True))
        return {
            "clip": clip.name,
            "role": clip.role,
            "configuration": self.configuration,
            "models": self._models(),
            "side": clip.side,
            **scores.row(clip, frames, np.array(is_looked, np.bool_)),
            **scores.rounded(gains),
            "jumps": tracking.jumps(_published(clip, self.run)),
            "cpu_ms": round(self.run.cpu_ms, 3),
        }


def _published(clip: LabelledClip, run: Run) -> list[Tracked]:
    """Return the objects of the judged groups in all frames, also in those without labels."""
    results = [run.results[number] for number in sorted(run.results)]
    return [clip.objects(_rows(result), result.pts or 0.0) for result in results]


class LeftOut(Exception):
    """A configuration that cannot be measured on a clip, and the reason."""


def rows_of(
    clip: LabelledClip, chosen: Sequence[Configuration], folder: Path, most: int
) -> tuple[list[Row], list[dict[str, str]]]:
    """Return the rows of a clip in the order of the configurations, and what is left out.

    chosen  configurations in the order in which they run
    most    frames of the clip; 0: all
    """
    footage = at_recorded_speed(clip, folder, most or None)
    runs_by_name: dict[str, JudgedRun] = {}
    left_out = []
    for configuration in chosen:
        try:
            judged = _judged(clip, footage, configuration, folder)
        except LeftOut as reason:
            left_out.append({
                "clip": clip.name,
                "configuration": configuration.name,
                "reason": str(reason),
            })  # fmt: skip
            print(f"left out: {clip.name}, {configuration.name}: {reason}", flush=True)
            continue
        runs_by_name[configuration.name] = judged
        print(f"{clip.name}, {judged}", flush=True)
    default = runs_by_name.get(DEFAULT)
    rows = [judged.row(clip, default) for judged in runs_by_name.values()]
    return rows, left_out


def _judged(
    clip: LabelledClip, footage: Footage, configuration: Configuration, folder: Path
) -> JudgedRun:
    changes = configuration.changes
    judges_from = 0
    if configuration.side > clip.side:
        raise LeftOut(f"its input is larger than the picture of {clip.side} pixels")
    if configuration.learns is not None:
        try:
            given = lesson(clip, folder)
        except NotLabelled as reason:
            raise LeftOut(str(reason)) from reason
        learned = runs.learn(configuration.learns, given, clip.groups_there, folder)
        if learned.changes is None:
            raise LeftOut(learned.reason)
        changes = learned.changes
        judges_from = given.judges_from
    else:
        fitting = for_groups(changes, clip.groups)
        if fitting is None:
            raise LeftOut(f"its detector does not know all of {', '.join(clip.groups)}")
        changes = fitting
    run = runs.run(footage, changes)
    labelled = [frame for frame in clip.frames if judges_from <= frame.number < footage.frames]
    missing = [frame.number for frame in labelled if frame.number not in run.results]
    if missing:
        raise RunFailed(f"{clip.name}, {configuration.name}: no result of frames {missing[:5]}")
    frames = {
        frame.number: scores.judge(clip.objects(_rows(run.results[frame.number]), 0.0), frame)
        for frame in labelled
    }
    return JudgedRun(configuration.name, run, frames)


def _rows(result: Result) -> Iterator[tuple[str, labels.Edges, float, int]]:
    for item in result.objects:
        yield item.label, item.box, item.score, item.track or 0


def measurable(chosen: Sequence[Configuration]) -> Iterator[Configuration]:
    """Yield the configurations that this environment can run; print the others."""
    for configuration in chosen:
        needs_training = configuration.learns == "train"
        if needs_training and (find_spec("torch") is None or find_spec("nncf") is None):
            print(f"left out: {configuration.name}: the extra `train` is not installed")
            continue
        yield configuration


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def as_text(rows: Sequence[Row]) -> Table:
    """Return the rows as text."""
    text = Table("clip", "configuration")
    headings = (
        "precision", "recall", "F1", "95 %", "to default", "AP", "HOTA", "switches", "CPU ms",
        "looked", "F1 looked", "carried", "false looked", "carried",
    )  # fmt: skip
    for heading in headings:
        text.add_column(heading, justify="right")
    for row in rows:
        bounds = "-"
        if row["f1_low"] is not None:
            bounds = f"{_cell(row['f1_low'])} - {_cell(row['f1_high'])}"
        gain = "-"
        if row["f1_gain"] is not None:
            gain = f"{row['f1_gain']:+.3f}"
        first = [_cell(row[key]) for key in ("precision", "recall", "f1")]
        keys = (
            "ap", "hota", "id_switches", "cpu_ms", "looked", "f1_looked", "f1_carried",
            "false_looked", "false_carried",
        )  # fmt: skip
        rest = [_cell(row[key]) for key in keys]
        text.add_row(row["clip"], row["configuration"], *first, bounds, gain, *rest)
    return text


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    try:
        chosen = configurations(given.configurations)
        clips = find_clips(given.data, given.clips)
    except (NotLabelled, UnknownConfiguration) as fault:
        sys.exit(f"truth: {fault}")
    chosen = list(measurable(chosen))
    for role in ("chooses", "reports"):
        names = [clip.name for clip in clips if clip.role == role]
        print(f"{role}: {', '.join(names) or 'no clip'}", flush=True)
    order = [configuration.name for configuration in chosen]
    rows: list[Row] = []
    left_out: list[dict[str, str]] = []
    turns = [in_turn(chosen, number) for number in range(len(clips))]
    with ThreadPoolExecutor(given.at_once) as clips_at_once:
        measured = clips_at_once.map(_measured, clips, turns, [given.frames] * len(clips))
        for rows_of_clip, missing in measured:
            rows += sorted(rows_of_clip, key=lambda row: order.index(row["configuration"]))
            left_out += missing
    Console(width=220).print(as_text(rows))
    stated = conditions(
        ["numpy", "openvino", "trackeval"],
        block=scores.BLOCK,
        resamples=scores.RESAMPLES,
        groups=labels.GROUPS,
        roles=ROLES,
        at_once=given.at_once,
    )
    return {"rows": rows, "left_out": left_out, "conditions": stated}


def _measured(
    clip: LabelledClip, chosen: Sequence[Configuration], most: int
) -> tuple[list[Row], list[dict[str, str]]]:
    """Return what `rows_of` returns, with a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="framegate-truth-") as folder:
        return rows_of(clip, chosen, Path(folder), most)


def bars(result: BenchmarkResult) -> Iterator[Bar]:
    """Yield the targets: of clips that choose nothing, and of the only road from above."""
    rows = {(row["clip"], row["configuration"]): row for row in result["rows"]}
    pets, night, road = (rows.get((clip, DEFAULT)) for clip in (PETS, NIGHT, ROAD))
    if pets is not None:
        yield Bar("people of PETS 2009, default: F1", pets["f1"], ">=", 0.88)
    if night is not None:
        yield Bar("people at night, default: recall", night["recall"], ">=", 0.75)
        yield Bar("people at night, default: precision", night["precision"], ">=", 0.85)
    if road is not None:
        recall = road["groups"]["vehicle"]["recall"]
        yield Bar("cars from above, default: recall", recall, ">=", 0.9)
    for (clip, name), row in rows.items():
        if row["role"] == "chooses":
            continue
        if name == GATE_OFF:
            yield Bar(f"{clip}: F1 lost by the gate", row["f1_gain"], "<=", 0.01)
        if name in (ESCALATE, HEAVY):
            yield Bar(f"{clip}: F1 of {name} less that of default", row["f1_gain"], ">=", 0.0)


BENCHMARK = Benchmark(
    name="truth",
    measure=whole,
    needs=("clips", "bench"),
    bars=bars,
    keyed=("groups", "roles"),
    absent=("left_out",),
    options={
        "clips": Option((), (PETS,), "names of some labelled clips (default: all)"),
        "configurations": Option(
            (),
            (DEFAULT, GATE_OFF, "nanodet-plus-320"),
            "names of some configurations (default: all)",
        ),
        "frames": Option(0, 30, "of each clip, from its first; 0: all"),
        "at_once": Option(1, 1, "clips that are measured at the same time"),
    },
)
