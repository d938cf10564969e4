"""Measure what a new camera gains from verdicts of other cameras, with differential privacy.

    python -m benchmarks.federated --data FOLDER [--clips NAME ...] [--write]

Each labelled clip is a camera with the rule of `benchmarks.teach`: a person or vehicle is in the
picture for a second, with the least score LOW. A camera with five true and five false episodes is
left out in turn. The others give a file of eight numbers each, about all their episodes, and the
camera orders its own episodes with no verdict, and with five. Episodes of visits with a verdict
are not judged.

score    the order of the score: what ships
local    what own verdicts teach, without privacy. The bars compare with it
shared   the same, beginning with the files of the others
pooled   the same, beginning with all verdicts of the others, without privacy
decided  shared if it lowers the log loss of own verdicts, each judged without itself; else local
ap       average precision of the order, mean over draws of verdicts and noise
gain     difference in it to `local`: mean, and 95 % interval by a bootstrap over visits
own_all  gain over the score of what all verdicts of the camera teach, in five parts; a visit is
         in one part. With its 95 % interval
own_shared  the same, without place and height, which are not in the files
joins    share of the draws in which `decided` is shared
bytes    of the longest file
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.federated.lessons import (
    PRIOR_MEAN,
    PRIOR_SPREAD,
    SHARED_SPREAD,
    Camera,
    camera_of,
    loss_without_itself,
    order,
    pooled_step,
    share,
    step_of,
    taught,
    weights_of,
)
from benchmarks.federated.privacy import DELTA, Numbers
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.teach import LOW, watch
from benchmarks.teach.footage import judged_episodes
from benchmarks.truth.clips import ROLES

CLIPS: Final = (
    "one-by-one-person-detection",
    "bottle-detection",
    "pets2001-campus",
    "highway-cdnet-part1",
    "kitchen-pancake",
    "escalator-cctv",
    "pets09-s2l1-view001-part1",
    "cctv-highway-overlay",
)
EPSILON: Final = 4.0
SIZES: Final = (0, 5)
SIDES: Final = ("score", "local", "shared", "pooled", "decided")
DRAWS: Final = 10
_PARTS: Final = 5
_RESAMPLES: Final = 400

Row = dict[str, Any]
Places = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """One draw of verdicts and noise: how each side orders the episodes, and which are judged."""

    orders: Mapping[str, Numbers]
    judged: npt.NDArray[np.bool_]
    joins: bool


def drawn_verdicts(camera: Camera, size: int, seed: int) -> Places:
    """Draw the episodes that get a verdict."""
    chance = np.random.default_rng([seed, size])
    return np.sort(chance.choice(len(camera.truths), size, replace=False))


def draw(camera: Camera, others: Sequence[Camera], size: int, seed: int) -> Draw:
    """Return the orders of a camera that was left out, with `size` own verdicts."""
    chance = np.random.default_rng([seed, 1])
    shares = [share(each, EPSILON, chance) for each in others]
    own = drawn_verdicts(camera, size, seed)
    priors = {
        "local": PRIOR_MEAN,
        "shared": weights_of(step_of(shares)),
        "pooled": weights_of(pooled_step(others)),
    }
    orders = {side: order(camera, taught(camera, own, each)) for side, each in priors.items()}
    orders["score"] = order(camera, PRIOR_MEAN)
    # Without a verdict nothing shows that others are alike, so the camera stays alone.
    joins = bool(size) and (
        loss_without_itself(camera, own, priors["shared"])
        < loss_without_itself(camera, own, priors["local"])
    )
    orders["decided"] = orders["local"]
    if joins:
        orders["decided"] = orders["shared"]
    judged = ~np.isin(camera.visits, camera.visits[own])
    return Draw(orders, judged, joins)


def precisions(truths: npt.NDArray[np.bool_], odds: Numbers, weights: Numbers) -> Numbers:
    """Return the average precision of an order for each row of weights of episodes, (R,).

    weights  (R, N), how often each episode counts; a row without a true episode gives nan
    """
    places = np.argsort(-odds, kind="stable")
    ordered = weights[:, places]
    true = ordered * truths[places]
    precision = np.cumsum(true, axis=1) / np.maximum(np.cumsum(ordered, axis=1), 1e-9)
    totals = true.sum(axis=1)
    totals[totals == 0] = np.nan
    means: Numbers = (true * precision).sum(axis=1) / totals
    return means


def resampled(camera: Camera, seed: int) -> Numbers:
    """Return how often each episode counts: once in the first row, then by resampled visits."""
    chance = np.random.default_rng(seed)
    visits, places = np.unique(camera.visits, return_inverse=True)
    counts = chance.multinomial(len(visits), np.full(len(visits), 1 / len(visits)), _RESAMPLES)
    once = np.ones((1, len(visits)), np.int64)
    return np.concatenate([once, counts])[:, places].astype(np.float64)


def gain_of_own(camera: Camera, spread: Numbers) -> list[float]:
    """Return the gain in average precision that all own verdicts bring, and its 95 % interval.

    The visits are divided into five parts, and each part is judged by what the others teach.

    spread  of the prior of each weight
    """
    visits = np.random.default_rng(0).permutation(np.unique(camera.visits))
    odds = np.empty(len(camera.truths))
    for part in range(_PARTS):
        is_judged = np.isin(camera.visits, visits[part::_PARTS])
        own = np.flatnonzero(~is_judged)
        odds[is_judged] = order(camera, taught(camera, own, PRIOR_MEAN, spread))[is_judged]
    weights = resampled(camera, 0)
    score = precisions(camera.truths, order(camera, PRIOR_MEAN), weights)
    return _gain(precisions(camera.truths, odds, weights) - score)


def judged_sides(camera: Camera, others: Sequence[Camera], size: int) -> tuple[Row, float]:
    """Return the average precisions of each side, (1 + resamples,), and how often it joins."""
    weights = resampled(camera, 0)
    draws = [draw(camera, others, size, seed) for seed in range(DRAWS)]
    sides = {}
    for side in SIDES:
        rows = [
            precisions(camera.truths, each.orders[side], weights * each.judged) for each in draws
        ]
        sides[side] = np.mean(rows, axis=0)
    return sides, float(np.mean([each.joins for each in draws]))


def _gain(differences: Numbers) -> list[float]:
    """Return the first difference, and the 95 % interval of the others, by resampled visits."""
    low, high = np.nanquantile(differences[1:], (0.025, 0.975)).tolist()
    return [round(each, 4) for each in (float(differences[0]), low, high)]


def _figures(sides: Mapping[str, Numbers]) -> Row:
    figures = {}
    for side, values in sides.items():
        figures[side] = {
            "ap": round(float(values[0]), 4),
            "gain": _gain(values - sides["local"]),
        }
    return figures


def figures_of(cameras: Mapping[str, Camera], least: int) -> Row:
    """Return the figures of each camera that is left out, and their means.

    least  episodes of each kind that it needs; ten in all, so that some are left to judge
    """
    rows: Row = {}
    curves: dict[int, list[Mapping[str, Numbers]]] = {size: [] for size in SIZES}
    for name, camera in cameras.items():
        n_true = int(camera.truths.sum())
        kinds = [n_true, len(camera.truths) - n_true]
        if min(kinds) < least or sum(kinds) < 2 * max(SIZES):
            continue
        others = [each for other, each in cameras.items() if other != name]
        row: Row = {
            "role": ROLES[name],
            "episodes": kinds,
            "own_all": gain_of_own(camera, PRIOR_SPREAD),
            "own_shared": gain_of_own(camera, SHARED_SPREAD),
        }
        for size in SIZES:
            sides, joins = judged_sides(camera, others, size)
            curves[size].append(sides)
            row[f"{size}_verdicts"] = {**_figures(sides), "joins": joins}
        rows[name] = row
    means = {
        f"{size}_verdicts": _figures(
            {side: np.mean([each[side] for each in found], axis=0) for side in SIDES}
        )
        for size, found in curves.items()
        if found
    }
    return {"cameras": rows, "mean": means}


def longest_share(cameras: Sequence[Camera]) -> int:
    """Return the bytes of the longest file."""
    chance = np.random.default_rng(0)
    return max(len(msgspec.json.encode(share(each, EPSILON, chance))) for each in cameras)


def whole(given: argparse.Namespace) -> BenchmarkResult:
    """The whole result."""
    cameras = {}
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as folder:
        for clip in given.clips:
            watched = watch(given.data, Path(folder), clip, given.most, LOW)
            camera = camera_of(judged_episodes(watched))
            print(f"{clip}: {len(camera.truths)} episodes", flush=True)
            if len(camera.truths):
                cameras[clip] = camera
    return {
        **figures_of(cameras, given.least),
        "epsilon": EPSILON,
        "delta": DELTA,
        "unit": "visit",
        "bytes": longest_share(list(cameras.values())),
        "conditions": conditions(("numpy", "scipy", "openvino"), clips=list(given.clips)),
    }


def bars(result: BenchmarkResult) -> list[Bar]:
    """What is wanted of the mean over the cameras that were left out."""
    found = []
    for size in SIZES:
        gain = result["mean"][f"{size}_verdicts"]["shared"]["gain"][0]
        found.append(Bar(f"AP above own verdicts alone, {size} of them", gain, ">=", 0.03))
    found.append(Bar("bytes of a share", result["bytes"], "<=", 1024))
    return found


BENCHMARK = Benchmark(
    name="federated",
    measure=whole,
    needs=("clips",),
    options={
        "clips": Option(CLIPS, ("highway-cdnet-part1", "cctv-highway-overlay"), "names of some"),
        "most": Option(10**6, 100, "frames of each clip"),
        "least": Option(5, 1, "episodes of each kind of a camera that is left out"),
    },
    bars=bars,
    keyed=("cameras",),
)
