"""Which policy asks the heavy model least for a certified promise of 1 %.

    python -m benchmarks.policy --data FOLDER [--frames N] [--seeds N ...] [--noise S]
                                [--periods N] [--cache FOLDER] [--write]

Composed hours (benchmarks.promise.composed_hour), one for each seed, and one more that chooses:
there each policy gets the setting that asks least of those without an alarm with which its
certificate is at least 95 % probable. Detect and the heavy model run once; then each policy goes
through each hour with the functions of the stage and of the promise. All figures are agreement with
the heavy model.

asked      share of frames that the heavy model was asked about; 95 % interval by blocks of 30 s
calm       the same, of the frames without an alarm. An alarm asks about each frame until the end
           of the hour
tries      what each setting does in the hour that chooses; `wrong` is a number of frames
lead       what the fixed doubt asked more, with its interval
wrong      share of published frames with another number of objects of some class
chance     probability of the certificate with so many wrong frames, over the coin's keys; 0 after
           an alarm, which asked about frames that would have been wrong
oracle     knows which frames would be wrong: asks at the first of each stretch in which the heavy
           model's counts stay, and its answers last as long; as many wrong frames as the shipped
           policy has
false      simulated periods that broke the promise and are certified (false_certificates.py)
The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy

from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.policy import false_certificates
from benchmarks.policy.footage import Hour, record
from benchmarks.policy.rivals import FIXED, SHIPPED, LearnedDoubt, Rival, rivals, taught_by
from benchmarks.policy.walk import Walk, walk
from benchmarks.promise import cache_folder, scores
from benchmarks.promise.composed_hour import FPS, HOUR
from benchmarks.promise.composed_parts import read_parts
from benchmarks.promise_statistics import most_false
from framegate.models.detector import detector
from framegate.pipeline.promise.period import Promise
from framegate.pipeline.promise.statistics import k_max

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]

_CHOOSING: Final = 1  # the seed of the hour that chooses
_PROBABLE: Final = 0.95  # least chance of a certificate in that hour
_BLOCK: Final = 30 * FPS  # frames
_DRAWS: Final = 2000  # of the bootstrap
_ALPHA: Final = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A policy with its setting, and its walks through the hours that report.

    tries  each setting in the hour that chooses
    """

    rival: Rival
    setting: float
    tries: list[Row]
    walks: list[Walk]

    @property
    def asked(self) -> list[Floats]:
        """Return 0 or 1 for each frame of each hour."""
        return [each.asked.astype(np.float64) for each in self.walks]


def secret_of(seed: int) -> bytes:
    """Return the secret of an hour's coin."""
    return seed.to_bytes(32, "little")


def chance(walked: Walk, promise: Promise) -> float:
    """Return the probability that a period with the wrong frames of a walk is certified.

    It is 0 after an alarm: no other key would have had its questions.
    """
    wrong = int(walked.wrong.sum())
    if walked.alarmed.any():
        return 0.0
    most = k_max(promise.frames, promise.alpha, promise.share, promise.delta)
    if wrong <= most:
        return 1.0
    return float(scipy.special.bdtr(most, wrong, promise.share))


def tries_of(rival: Rival, hour: Hour, promise: Promise) -> list[Row]:
    """Return what each setting of a policy does in the hour that chooses."""
    tries = []
    for setting in rival.settings:
        walked = walk(hour.looks, rival.make(setting), promise, secret_of(hour.seed))
        tries.append(
            {
                "setting": setting,
                "asked": round(float(walked.asked.mean()), 4),
                "calm": round(float(walked.asked[~walked.alarmed].mean()), 4),
                "wrong": int(walked.wrong.sum()),
                "chance": round(chance(walked, promise), 4),
            }
        )
        print(f"choosing: {rival.name}: {tries[-1]}", flush=True)
    return tries


def chosen(tries: Sequence[Row]) -> float:
    """Return the setting that asks least of those that are probable to be certified.

    If none is, it is the first, which asks most.
    """
    probable = [each for each in tries if each["chance"] >= _PROBABLE]
    setting: float = min(probable, key=lambda each: each["asked"], default=tries[0])["setting"]
    return setting


def interval(values: Sequence[Floats]) -> list[float]:
    """Return the 95 % interval of the mean of all frames, by a bootstrap of blocks."""
    blocks = np.array(
        [
            each[begin : begin + _BLOCK].mean()
            for each in values
            for begin in range(0, max(1, len(each) - _BLOCK + 1), _BLOCK)
        ]
    )
    drawn = np.random.default_rng(0).integers(len(blocks), size=(_DRAWS, len(blocks)))
    low, high = np.quantile(blocks[drawn].mean(axis=1), [0.025, 0.975])
    return [round(float(low), 4), round(float(high), 4)]


def row(outcome: Outcome, fixed: Outcome, hours: Sequence[Hour], promise: Promise) -> Row:
    """Return the figures of a policy."""
    pairs = zip(fixed.asked, outcome.asked, strict=True)
    leads = [theirs - ours for theirs, ours in pairs]
    calm = [each.asked[~each.alarmed] for each in outcome.walks]
    each: list[Row] = []
    for hour, walked in zip(hours, outcome.walks, strict=True):
        closed = walked.certificate
        each.append(
            {
                "seed": hour.seed,
                "asked": round(float(walked.asked.mean()), 4),
                "alarmed": round(float(walked.alarmed.mean()), 4),
                "wrong": round(float(walked.wrong.mean()), 5),
                "verdict": closed.verdict,
                "drawn": closed.drawn,
                "caught": closed.caught,
                "k_max": closed.k_max,
                "chance": round(chance(walked, promise), 4),
            }
        )
    return {
        "policy": outcome.rival.name,
        "setting": outcome.setting,
        "asked": round(statistics.fmean(one["asked"] for one in each), 4),
        "asked_interval": interval(outcome.asked),
        "calm": round(float(np.concatenate(calm).mean()), 4),
        "lead": round(float(np.concatenate(leads).mean()), 4),
        "lead_interval": interval(leads),
        "wrong": round(statistics.fmean(one["wrong"] for one in each), 5),
        "certified": statistics.fmean(one["verdict"] == "certified" for one in each),
        "hours": each,
        "tries": outcome.tries,
    }


def oracle(hours: Sequence[Hour], shipped: Outcome) -> Row:
    """Return what an oracle asks for as few wrong frames as the policy that ships had."""
    each = []
    for hour, walked in zip(hours, shipped.walks, strict=True):
        heavy = [look.heavy for look in hour.looks]
        never_wrong = scores.wrong(hour.shown, heavy)
        asking = scores.lasting_oracle(never_wrong, heavy, int(walked.wrong.sum()))
        each.append({"seed": hour.seed, "light_wrong": round(float(never_wrong.mean()), 4)})
        each[-1] |= scores.told(asking)
    return {
        "asked": round(statistics.fmean(one["asked_share"] for one in each), 4),
        "hours": each,
    }


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    heavy = detector.load("heavy", threads=1)
    parts = read_parts(given.data)
    promise = Promise(alpha=_ALPHA, frames=given.frames)
    seeds = (_CHOOSING, *given.seeds)
    choosing, *hours = (
        record(parts, seed, given.frames, given.noise, heavy, given.cache) for seed in seeds
    )
    answered = walk(choosing.looks, LearnedDoubt(0.0), promise, secret_of(_CHOOSING))
    before = taught_by(answered.moments)
    outcomes = []
    for rival in rivals(before):
        tries = tries_of(rival, choosing, promise)
        setting = chosen(tries)
        walks = [
            walk(hour.looks, rival.make(setting), promise, secret_of(hour.seed)) for hour in hours
        ]
        outcomes.append(Outcome(rival, setting, tries, walks))
    by_name = {outcome.rival.name: outcome for outcome in outcomes}
    fixed, shipped = by_name[FIXED], by_name[SHIPPED]
    ours = walk(choosing.looks, LearnedDoubt(shipped.setting), promise, secret_of(_CHOOSING))
    return {
        "alpha": promise.alpha,
        "delta": promise.delta,
        "share": promise.share,
        "rivals": [row(outcome, fixed, hours, promise) for outcome in outcomes],
        "oracle": oracle(hours, shipped),
        "false_limit": round(most_false(given.periods), 5),
        "false": false_certificates.rows(ours.moments, given.periods, shipped.setting),
        "conditions": conditions(
            ("av", "numpy", "openvino", "opencv-python-headless", "scipy"),
            fps=FPS,
            frames=given.frames,
            seeds=list(given.seeds),
            chooses=_CHOOSING,
            noise_levels=given.noise,
            truth=heavy.policy_id,
            precision=heavy.precision,
        ),
    }


def bars(result: BenchmarkResult) -> Iterator[Bar]:
    """Yield what was wanted of the policy that ships."""
    shipped = next(each for each in result["rivals"] if each["policy"] == SHIPPED)
    yield Bar("asked", shipped["asked"], "<=", 0.2)
    yield Bar("certified hours", shipped["certified"], ">=", 1.0)
    worst = max(each["false"] for each in result["false"])
    yield Bar("false certificates", worst, "<=", result["false_limit"])


BENCHMARK = Benchmark(
    name="policy",
    measure=whole,
    needs=("clips",),
    options={
        "frames": Option(HOUR, 150),
        "seeds": Option((11, 12, 13), (11,), explanation="hours that report"),
        "noise": Option(0.0, explanation="grey levels of a sensor's noise"),
        "periods": Option(2000, 3, explanation="simulated periods in each world"),
        "cache": Option(cache_folder(), explanation="where answers of the heavy model are kept"),
    },
    bars=bars,
)
