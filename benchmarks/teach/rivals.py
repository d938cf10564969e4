"""The filter that verdicts teach, and what else the same verdicts can set, each as a mute.

Every rival keeps all episodes that were judged true, as the filter does, and mutes as many false
ones as it can so. The mask stands for one that is drawn by hand: it is the convex hull of the feet
of the false episodes, if no true one has its foot there; the hull of the half of them that are
next to each other otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np

from benchmarks.teach.footage import JudgedEpisode
from framegate.pipeline.contracts.traits import log_odds
from framegate.pipeline.review.teach import Verdicts, learn

Mute = Callable[[JudgedEpisode], bool]
Judged = Sequence[JudgedEpisode]


def learned(true: Judged, false: Judged) -> Mute:
    """Return the filter of the product."""
    taught = learn(Verdicts([each.traits for each in true], [each.traits for each in false]))
    return lambda each: log_odds(taught.weights, each.traits) < 0


def least_score(true: Judged, false: Judged) -> Mute:  # noqa: ARG001
    """Return one least score: that of the weakest true episode."""
    least = min(each.traits.score for each in true)
    return lambda each: each.traits.score < least


def class_scores(true: Judged, false: Judged) -> Mute:
    """Return a least score for each class. A class without a true verdict is off."""
    least: dict[str, float] = {}
    for each in true:
        least[each.label] = min(least.get(each.label, 1.0), each.traits.score)
    never_true = {each.label for each in false} - least.keys()

    def mutes(each: JudgedEpisode) -> bool:
        return each.label in never_true or each.traits.score < least.get(each.label, 0.0)

    return mutes


def mask(true: Judged, false: Judged) -> Mute:
    """Return an area of the picture in which everything is muted."""
    points = np.array([(each.traits.x, each.traits.y) for each in false], np.float32)
    middle = np.median(points, axis=0)
    near = points[np.argsort(np.abs(points - middle).sum(axis=1), kind="stable")]
    for corners in (points, near[: max(len(near) // 2, 1)]):
        hull = cv2.convexHull(corners)
        if not any(_is_in(hull, each) for each in true):
            return functools.partial(_is_in, hull)
    return lambda each: False  # noqa: ARG005


def _is_in(hull: np.ndarray[Any, Any], each: JudgedEpisode) -> bool:
    return cv2.pointPolygonTest(hull, (each.traits.x, each.traits.y), False) >= 0


def none(true: Judged, false: Judged) -> Mute:  # noqa: ARG001
    """Return the default: nothing is muted."""
    return lambda each: False  # noqa: ARG005


SIDES: Final[Mapping[str, Callable[[Judged, Judged], Mute]]] = {
    "default": none,
    "learned": learned,
    "least score": least_score,
    "score of each class": class_scores,
    "mask": mask,
}
