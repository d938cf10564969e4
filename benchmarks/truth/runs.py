"""Whole runs of the engine on a clip, and a camera's own detector from its footage."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import framegate
from benchmarks.harness import configuration
from benchmarks.harness.configuration import Tables
from benchmarks.harness.engine_run import REPOSITORY, START_S, EngineRun
from benchmarks.truth import labels
from benchmarks.truth.clips import Footage, Lesson
from benchmarks.truth.configurations import LearnCommand
from framegate.pipeline.contracts.results import Result

OWN: Final = "own"  # name of a camera's own detector
_SOURCE: Final = "clip"
_WARM_UP: Final = 4  # the first quarter of the frames is not in the CPU time
_END_S: Final = 0.5  # neither is this time before the end, after which processes leave
_SLOW_S: Final = 2.0  # a frame on a busy machine
_LEARN_S: Final = 4 * 3600.0
_ASKED: Final = re.compile(r"those of --classes '?([^']+?)'? that are really there")


@dataclass(frozen=True, slots=True)
class Run:
    """The results of a run, by frame of the clip, and its CPU time.

    cpu_ms  CPU milliseconds per frame of all processes, the store included
    """

    results: dict[int, Result]
    cpu_ms: float


def run(footage: Footage, changes: Tables) -> Run:
    """Run Framegate on footage at the speed of its time stamps. Raises RunFailed."""
    tables: dict[str, Mapping[str, Any]] = {
        f"sources.{_SOURCE}": {"url": str(footage.path), "pace": "realtime"},
        "http": {"listen": "off"},
        "log": {"level": "WARNING"},
    }
    if footage.passes > 1:
        # The cache would answer the second pass from memory. It changes no answer.
        tables["cache"] = {"exact": False}
    patience_s = START_S + _SLOW_S * footage.frames
    text = configuration.packaged({**tables, **changes})
    with EngineRun(text, [_SOURCE]) as engine:
        engine.wait_for(footage.frames // _WARM_UP, patience_s)
        before = engine.sample()
        engine.wait_for(footage.frames - int(_END_S * footage.fps) - 1, patience_s)
        after = engine.sample()
        engine.wait_for_end(patience_s)
        with framegate.subscribe(engine.data, start="earliest", until_end=True) as stored:
            results = {result.seq: result for result in stored}
    frames = after.published - before.published
    return Run(results, 1e3 * after.usage.since(before.usage) / frames)


@dataclass(frozen=True, slots=True)
class Learned:
    """A detector from a clip's own footage.

    changes  configuration that uses it; None: the command did not add it, see `reason`
    """

    changes: Tables | None
    reason: str = ""


def learn(
    command: LearnCommand, lesson: Lesson, confirmed: Collection[str], folder: Path
) -> Learned:
    """Run `framegate tune` or `train` as a user does, on the lesson.

    confirmed  groups of classes that are really there. The command first ends with the classes that
               its teacher saw; those of these groups are confirmed
    """
    registry = folder / command
    words = ["--from", str(lesson.footage.path), "--registry", str(registry)]
    if command == "train":
        words += ["-d", str(folder / "training")]
    shutil.rmtree(registry, ignore_errors=True)
    try:
        done = _run(command, words)
        asked = _ASKED.search(done.stderr)
        if asked is not None:
            seen = asked[1].split(",")
            there = [label for label in seen if labels.group(label) in confirmed]
            if not there:
                return Learned(None, f"framegate {command}: saw {asked[1]}, none of them labelled")
            done = _run(command, [*words, "--classes", ",".join(there)])
    except subprocess.TimeoutExpired:
        return Learned(None, f"framegate {command} took more than {_LEARN_S:.0f} s")
    finally:
        shutil.rmtree(folder / "training", ignore_errors=True)
    if done.returncode:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        refusals = [line for line in lines if line.startswith("not added")] or lines[-1:]
        return Learned(None, f"framegate {command}: {' '.join(refusals)}")
    return Learned({
        "models": {"registry": str(registry)},
        "stages.detect": {"detector": OWN},
    })  # fmt: skip


def _run(command: LearnCommand, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "framegate", command, OWN, *words],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LEARN_S,
        check=False,
        encoding="utf-8",
    )
