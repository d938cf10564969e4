"""Train a likeness from marked visits. Pure functions of arrays.

It is logistic regression with a normal prior of the weights. The marked visits are on one side, and
all other visits on the other: a user marks what he looks for, and most visits are something else.
Both sides have the same weight, so a likeness of 0.5 is in the middle between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.likeness import MIN_MARKS, NUMBERS, Likeness
from framegate.pipeline.review.logistic import FitArray, regression
from framegate.pipeline.review.visit_search import VisitTable

_PRIOR: Final = 1.0  # precision of each weight, for numbers in units of their standard deviation
_SAMPLE: Final = 2000  # of the visits without a mark
_CONSTANT: Final = 1e-6  # a number with a smaller standard deviation says nothing
_BIAS_PRIOR: Final = 1e-6  # precision of the bias, which is free


def fit(table: VisitTable, alike: Sequence[int], others: Sequence[int] = ()) -> Likeness:
    """Return the likeness to marked visits.

    alike   rows of the visits that are alike, at least MIN_MARKS
    others  rows of visits that are marked as not alike

    ConfigFaults if there are too few marks.
    """
    if len(alike) < MIN_MARKS:
        raise ConfigFaults(
            [
                f"{len(alike)} visits are marked as alike, and a likeness needs {MIN_MARKS}; mark "
                f"{MIN_MARKS - len(alike)} more"
            ]
        )
    is_unmarked = np.ones(len(table), np.bool_)
    is_unmarked[[*alike, *others]] = False
    unmarked = np.flatnonzero(is_unmarked)
    step = max(1, -(-unmarked.size // _SAMPLE))
    rows = [*alike, *others, *unmarked[::step].tolist()]
    numbers = table.numbers[:, rows].astype(np.float64)
    middle = numbers.mean(1)
    scale = numbers.std(1)
    scale[scale < _CONSTANT] = np.inf
    inputs = np.vstack([(numbers - middle[:, None]) / scale[:, None], np.ones(len(rows))])
    is_alike = np.arange(len(rows)) < len(alike)
    importance = _importance(len(alike), len(others), len(rows))
    precision = np.array([_PRIOR] * NUMBERS + [_BIAS_PRIOR])
    weights = regression(inputs.T, is_alike, np.zeros(len(precision)), precision, importance)
    plain = weights[:-1] / scale
    bias = weights[-1] - plain @ middle
    values = np.array([*plain, bias], np.float32).tolist()
    return Likeness(tuple(values[:NUMBERS]), values[-1], (len(alike), len(others)))


def _importance(alike: int, others: int, rows: int) -> FitArray:
    """Return the weight of each visit: 1 for all that are alike together, and 1 for the rest.

    Half of the rest is that of the visits that are marked as not alike, if there are any.
    """
    importance = np.zeros(rows)
    importance[:alike] = 1 / alike
    unmarked = rows - alike - others
    share = 1.0
    if others and unmarked:
        share = 0.5
    if others:
        importance[alike : alike + others] = share / others
    if unmarked:
        importance[alike + others :] = share / unmarked
    return importance
