"""Logistic regression with a normal prior of the weights. A pure function of arrays."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

STEPS: Final = 30  # of Newton's method, at most
_DONE: Final = 1e-9
_LONGEST: Final = 2.0  # step of a weight; a longer one can overshoot where examples are separable

FitArray = npt.NDArray[np.float64]


def regression(
    rows: FitArray,
    is_true: npt.NDArray[np.bool_],
    mean: FitArray,
    precision: FitArray,
    importance: FitArray | None = None,
    start: FitArray | None = None,
) -> FitArray:
    """Return the weights of greatest posterior probability, (K,), by Newton's method.

    rows        (N, K); the column of the bias is 1
    is_true     (N,)
    mean        of the prior of each weight, (K,)
    precision   of the prior of each weight, (K,), above 0
    importance  weight of each row in the sum, (N,); None: 1
    start       weights to start from; None: the mean. The result does not depend on them
    """
    if importance is None:
        importance = np.ones(len(rows))
    if start is None:
        start = mean
    weights = start.copy()
    for _ in range(STEPS):
        shares = 1 / (1 + np.exp(-np.clip(rows @ weights, -60, 60)))
        slope = rows.T @ (importance * (is_true - shares)) - precision * (weights - mean)
        curvature = rows.T @ (rows * (importance * shares * (1 - shares))[:, None])
        step = np.linalg.solve(curvature + np.diag(precision), slope)
        weights += np.clip(step, -_LONGEST, _LONGEST)
        if np.abs(step).max() < _DONE:
            break
    return weights
