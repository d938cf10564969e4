"""Lessons of a few numbers that cameras could learn from each other, and an order by them.

An order gives each episode log odds that it is true. The shipped one is the score. A lesson is a
step from it: the slope of the likelihood of a camera's verdicts at the shipped order. Place and
height are left out, because they are facts about one camera.

The unit is a visit: the episodes that have a track in common add one vector. The features are
scaled by constants. If the episodes of the camera scaled them, each visit would change the vectors
of all others, and the noise would hide only a part of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.federated.privacy import DELTA, Numbers, leakage_of, noisy_sum
from benchmarks.teach.footage import JudgedEpisode
from framegate.pipeline.review.logistic import regression

# Places in `Traits.features`: score, shape, speed, age, time of standing, share of frames unseen.
SHARED: Final = (0, 2, 5, 6, 7, 8)
# Their usual mean and spread, in round numbers that no camera's file depends on.
MEANS: Final = np.array([-1.0, 0.3, 0.3, 0.8, 0.3, 0.4])
SPREADS: Final = np.array([0.6, 0.5, 0.3, 0.2, 0.4, 0.2])
FEATURES: Final = 9
LENGTH: Final = 2.0  # of a visit's vector; longer ones are shortened
CURVATURE: Final = 0.2  # mean of p * (1 - p) of an episode at the shipped order
# As the product's filter, `pipeline/review/teach.py`: the score itself, and little doubt about it.
PRIOR_MEAN: Final = np.array([0.0, 1.0] + [0.0] * (FEATURES - 1))
PRIOR_SPREAD: Final = np.array([2.0] + [0.35] * FEATURES)
SHARED_SPREAD: Final = np.array(
    [2.0] + [0.35 if place in SHARED else 1e-3 for place in range(FEATURES)]
)
POOLED_SPREAD: Final = 1.0  # of a weight of scaled numbers

Truths = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """The judged episodes of a camera.

    features  float64 (N, 9), see `Traits.features`
    truths    bool (N,)
    visits    int (N,), number of each episode's visit
    """

    features: Numbers
    truths: Truths
    visits: npt.NDArray[np.int64]


class Share(msgspec.Struct, frozen=True):
    """The file that a camera gives others: numbers with noise, and how private they are.

    numbers  sum over visits: slope of the constant and of the SHARED features, number of episodes
    """

    v: int
    unit: str
    numbers: tuple[float, ...]
    epsilon: float
    delta: float


def camera_of(episodes: Sequence[JudgedEpisode]) -> Camera:
    """Return the camera of judged episodes, in order."""
    features = [each.traits.features() for each in episodes]
    return Camera(
        np.array(features, np.float64).reshape(-1, FEATURES),
        np.array([each.is_true for each in episodes], np.bool_),
        np.array(visits_of([each.tracks for each in episodes]), np.int64),
    )


def visits_of(tracks: Sequence[frozenset[int]]) -> list[int]:
    """Return the number of each episode's visit: those with a track in common are of one visit."""
    visits: list[int] = []
    for number, mine in enumerate(tracks):
        same = {visits[before] for before in range(number) if tracks[before] & mine}
        visit = min(same, default=number)
        visits = [visit if each in same else each for each in visits]
        visits.append(visit)
    return visits


def scaled(camera: Camera) -> Numbers:
    """Return a constant and the scaled SHARED features of each episode, (N, 7)."""
    rows = (camera.features[:, SHARED] - MEANS) / SPREADS
    return np.column_stack([np.ones(len(rows)), rows])


def vectors(camera: Camera) -> Numbers:
    """Return the vector of each visit, (V, 8), before it is clipped: a sum over its episodes."""
    shipped = 1 / (1 + np.exp(-camera.features[:, 0]))
    slopes = (camera.truths - shipped)[:, None] * scaled(camera)
    rows = np.column_stack([slopes, np.ones(len(slopes))])
    visits = np.unique(camera.visits)
    sums = [rows[camera.visits == each].sum(axis=0) for each in visits]
    return np.array(sums).reshape(-1, rows.shape[1])


def share(camera: Camera, epsilon: float, chance: np.random.Generator) -> Share:
    """Return the file of a camera, (epsilon, DELTA)-private for each of its visits."""
    total = LENGTH * noisy_sum(vectors(camera) / LENGTH, leakage_of(epsilon), chance)
    return Share(1, "visit", tuple(total.tolist()), epsilon, DELTA)


def step_of(shares: Sequence[Share]) -> Numbers:
    """Return the step from the shipped order that shares teach, (7,), for scaled features."""
    total = np.sum([each.numbers for each in shares], axis=0)
    episodes = max(float(total[-1]), 0.0)
    step: Numbers = total[:-1] / (CURVATURE * episodes + 1 / POOLED_SPREAD**2)
    return step


def pooled_step(cameras: Sequence[Camera]) -> Numbers:
    """Return the step that all verdicts of the cameras teach, without privacy, (7,)."""
    rows = np.concatenate([scaled(each) for each in cameras])
    # The score's own log odds are a column of weight 1.
    shipped = np.concatenate([each.features[:, 0] for each in cameras])
    columns = np.column_stack([rows, shipped])
    truths = np.concatenate([each.truths for each in cameras])
    mean = np.array([0.0] * (1 + len(SHARED)) + [1.0])
    spread = np.array([POOLED_SPREAD] * (1 + len(SHARED)) + [1e-3])
    return regression(columns, truths, mean, 1 / spread**2)[:-1]


def weights_of(step: Numbers) -> Numbers:
    """Return the ten weights of a filter, for features as they are."""
    weights = PRIOR_MEAN.copy()
    slopes = step[1:] / SPREADS
    weights[1 + np.array(SHARED)] += slopes
    weights[0] += step[0] - float(slopes @ MEANS)
    return weights


def order(camera: Camera, weights: Numbers) -> Numbers:
    """Return the log odds of each episode that it is true, (N,)."""
    odds: Numbers = weights[0] + camera.features @ weights[1:]
    return odds


def taught(
    camera: Camera, own: npt.NDArray[np.int64], prior: Numbers, spread: Numbers = PRIOR_SPREAD
) -> Numbers:
    """Return the weights that own verdicts teach, starting from a prior, as the product learns.

    own     numbers of the episodes with a verdict
    spread  of the prior of each weight
    """
    rows = np.column_stack([np.ones(len(own)), camera.features[own]])
    return regression(rows, camera.truths[own], prior, 1 / spread**2)


def loss_without_itself(camera: Camera, own: npt.NDArray[np.int64], prior: Numbers) -> float:
    """Return the mean log loss of own verdicts, each judged by weights learned without it."""
    losses = []
    for place, number in enumerate(own):
        weights = taught(camera, np.delete(own, place), prior)
        odds = float(order(camera, weights)[number])
        sign = 1.0 if camera.truths[number] else -1.0
        losses.append(float(np.logaddexp(0, -sign * odds)))
    return float(np.mean(losses))
