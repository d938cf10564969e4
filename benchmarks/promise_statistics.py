"""Count right and wrong certificates of the promise, over simulated periods.

    python -m benchmarks.promise_statistics [--periods N] [--write]

No pixels and no models: which frames are wrong is simulated (benchmarks.promise.periods), the
rules are the promise's own. A period of 9,000 frames in which 91, 135 or 450 are wrong breaks a
promise of 1 %, by 1.01, 1.5 and 5 %. The last line is the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from scipy.stats import binom

from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.promise.alarm import audits_to_alarm
from benchmarks.promise.periods import (
    SCENARIOS,
    BoolArray,
    Scenario,
    certified,
    first_frames,
    first_good_look,
    throw,
)
from framegate.pipeline.promise.period import Promise
from framegate.pipeline.promise.statistics import k_max

Row = dict[str, Any]

PERIODS: Final = 20_000
AT_ONCE: Final = 1000
ERRORS: Final = {"1.01 %": 91, "1.5 %": 135, "5 %": 450}
PROMISE: Final = Promise(alpha=0.01, frames=9000)
MOST: Final = k_max(PROMISE.frames, PROMISE.alpha, PROMISE.share, PROMISE.delta)
AUDITED_FIRST: Final = 747  # as many as the promise audits of 9,000
HOUR: Final = 36_000
HOUR_SHARE: Final = 1000 / HOUR
KEPT: Final = {"0.2 %": 72, "0.3 %": 108, "0.5 %": 180}
ALARMS: Final = {"3 %": 0.03, "5 %": 0.05, "10 %": 0.1, "30 %": 0.3}


def most_false(periods: int) -> float:
    """Delta and two standard errors."""
    delta = PROMISE.delta
    return delta + 2 * math.sqrt(delta * (1 - delta) / periods)


def chunks(periods: int, seed: int) -> Iterator[tuple[np.random.Generator, int]]:
    """Seeded generators, each for so many periods."""
    for number, begin in enumerate(range(0, periods, AT_ONCE)):
        yield np.random.default_rng([seed, number]), min(AT_ONCE, periods - begin)


def share_of(
    periods: int, seed: int, rule: Callable[[np.random.Generator, int], BoolArray]
) -> float:
    """Of periods that the rule certifies, 0..1."""
    told = [rule(rng, count).sum() for rng, count in chunks(periods, seed)]
    return round(float(np.sum(told)) / periods, 5)


def of_counts(scenario: Scenario, errors: int, frames: int, share: float) -> Any:
    """The promise's rule for counts."""
    most = k_max(frames, PROMISE.alpha, share, PROMISE.delta)

    def rule(rng: np.random.Generator, count: int) -> BoolArray:
        coins = throw(rng, count, frames, share)
        return certified(scenario(rng, coins, errors, most), coins, most)

    return rule


def naive(scenario: Scenario, errors: int, looks: bool) -> Any:
    """To audit the first frames; or, with `looks`, to end the period when it looks good."""
    alpha, delta = PROMISE.alpha, PROMISE.delta

    def rule(rng: np.random.Generator, count: int) -> BoolArray:
        coins = throw(rng, count, PROMISE.frames, PROMISE.share)
        wrong = scenario(rng, coins, errors, MOST)
        if looks:
            return first_good_look(wrong, coins, alpha, delta)
        return first_frames(wrong, AUDITED_FIRST, alpha, delta)

    return rule


def false_rows(periods: int) -> list[Row]:
    """Broken promises that are certified, by scenario and by how much they are broken."""
    rows = []
    for name, scenario in SCENARIOS.items():
        for rate, errors in ERRORS.items():
            counts = of_counts(scenario, errors, PROMISE.frames, PROMISE.share)
            row = {
                "scenario": name,
                "wrong": rate,
                "counts": share_of(periods, errors, counts),
                "exact": round(float(binom.cdf(MOST, errors, PROMISE.share)), 5),
                "first_frames": share_of(periods, errors + 2, naive(scenario, errors, False)),
                "first_good_look": share_of(periods, errors + 3, naive(scenario, errors, True)),
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def power_rows(periods: int) -> list[Row]:
    """Kept promises that are certified: an hour, 1,000 expected audits, four errors forgiven."""
    rows = []
    for name in ("independent", "bursts", "one_burst"):
        for rate, errors in KEPT.items():
            rule = of_counts(SCENARIOS[name], errors, HOUR, HOUR_SHARE)
            exact = float(binom.cdf(4, errors, HOUR_SHARE))
            found = share_of(periods, errors, rule)
            rows.append(
                {"scenario": name, "wrong": rate, "certified": found, "exact": round(exact, 5)}
            )
            print(rows[-1], flush=True)
    return rows


def alarm_row(periods: int) -> Row:
    """Audits until the alarm: false ones in the mean (cut at 20,000), after changes the median."""
    rng = np.random.default_rng(7)
    medians = {
        rate: int(np.median(audits_to_alarm(rng, share, periods, 1000, before=(0.003, 300))))
        for rate, share in ALARMS.items()
    }
    false = audits_to_alarm(rng, PROMISE.alpha, min(periods, 2000), 20_000)
    return {"median_after_change_to": medians, "mean_to_false": round(float(false.mean()))}


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    began = time.monotonic()
    false = false_rows(given.periods)
    return {
        "false_limit": round(most_false(given.periods), 5),
        "worst_false_counts": max(row["counts"] for row in false),
        "worst_first_frames": max(row["first_frames"] for row in false),
        "worst_first_good_look": max(row["first_good_look"] for row in false),
        "alarm": alarm_row(given.periods),
        "false": false,
        "power": power_rows(given.periods),
        "conditions": conditions(
            ("numpy", "scipy"),
            periods=given.periods,
            frames=PROMISE.frames,
            alpha=PROMISE.alpha,
            delta=PROMISE.delta,
            share=PROMISE.share,
            seconds=round(time.monotonic() - began),
        ),
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """How often a broken promise is certified."""
    return [Bar("false certificates", result["worst_false_counts"], "<=", result["false_limit"])]


BENCHMARK = Benchmark(
    name="promise_statistics",
    measure=whole,
    options={"periods": Option(PERIODS, 20)},
    bars=bars,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
