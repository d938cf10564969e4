"""Simple answers to questions about windows: what the encoder has to beat.

Each rival gets the same labelled windows and returns a score for each judged window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.together.library import HEARD, SOUNDS
from benchmarks.together.scenes import (
    KINDS,
    STEP_S,
    STEPS,
    Question,
    Windows,
    at_gate,
    on_road,
    standing,
)
from framegate.pipeline.contracts.likeness import numbers_of
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.visits import PathPoint, Visit
from framegate.pipeline.review.logistic import regression

Scores = npt.NDArray[np.float64]
Answerer = Callable[[npt.NDArray[Any]], Scores]
_PRIORS: Final = (3.0, 30.0, 300.0)  # precisions of a weight, of which the best by folds is taken
_FOLDS: Final = 3
_NEIGHBOURS: Final = 5
_FREE: Final = 1e-3  # precision of the bias
_LEAST_SCORE: Final = 0.3  # of a reported label, as `[sound]` has it
_NAMES: Final = tuple(names[0] for _, names in SOUNDS.values())
_LABELS: Final = ("person", "car", "dog", "chair")  # of a visit, for each of KINDS
_PARTS: Final = ("path", "looks", "sound", "words")


def logistic(rows: npt.NDArray[Any], truth: npt.NDArray[np.bool_]) -> Answerer:
    """Fit logistic regression, with the prior that folds choose.

    Return the function from rows, (N, K), to their sums, (N,).
    """
    middle, scale = rows.mean(0), rows.std(0)
    scale[scale < 1e-6] = np.inf
    inputs = _with_bias((rows - middle) / scale)
    best, least = _PRIORS[0], np.inf
    fold = np.empty(len(truth), int)
    for side in (True, False):  # each fold has its share of true windows
        members = np.flatnonzero(truth == side)
        fold[members] = np.arange(members.size) % _FOLDS
    for prior in _PRIORS:
        loss = 0.0
        for number in range(_FOLDS):
            is_left = fold == number
            weights = _weights(inputs[~is_left], truth[~is_left], prior)
            sums = inputs[is_left] @ weights
            loss += float(np.logaddexp(0, np.where(truth[is_left], -sums, sums)).sum())
        if loss < least:
            best, least = prior, loss
    final = _weights(inputs, truth, best)
    return lambda judged: _with_bias((judged - middle) / scale) @ final


def _with_bias(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.column_stack([rows, np.ones(len(rows))]).astype(np.float64)


def _weights(inputs: Scores, truth: npt.NDArray[np.bool_], prior: float) -> Scores:
    """Return the weights; with fewer rows than columns, in the space of the rows."""
    count, width = inputs.shape
    if count >= width:
        precision = np.full(width, prior)
        precision[-1] = _FREE
        return regression(inputs, truth, np.zeros(width), precision)
    # Weights outside the space that the rows span stay 0 under the prior.
    basis = np.linalg.qr(inputs[:, :-1].T)[0]
    inside = np.column_stack([inputs[:, :-1] @ basis, inputs[:, -1]])
    precision = np.full(inside.shape[1], prior)
    precision[-1] = _FREE
    weights = regression(inside, truth, np.zeros(inside.shape[1]), precision)
    return np.append(basis @ weights[:-1], weights[-1])


# -- Frozen features of a window.


def frozen(windows: Windows) -> dict[str, npt.NDArray[np.float32]]:
    """Return the features of each part of windows, (N, width) each, without any training."""
    path = windows.path
    steps = len(path[0])
    edges = path[:, (0, steps // 4, steps // 2, 3 * steps // 4, -1), :2].reshape(len(path), -1)
    moved = np.abs(np.diff(path[..., :2], axis=1)).sum(2)
    still = standing(path)
    shape = np.column_stack([
        edges, path[..., :2].mean(1), path[..., :2].std(1), moved.sum(1), moved.max(1),
        still.mean(1), path[..., 2].mean(1),
    ])  # fmt: skip
    there = windows.looks[..., -1:]
    mean = (windows.looks[..., :-1] * there).sum(1) / np.maximum(there.sum(1), 1)
    looks = np.column_stack([mean, there.mean(1), windows.score])
    sound = np.column_stack([windows.sound.mean(1), windows.sound[..., :-1].max(1)])
    return {"path": shape, "looks": looks, "sound": sound, "words": windows.words}


def joined(windows: Windows, parts: tuple[str, ...] = _PARTS) -> npt.NDArray[np.float32]:
    """Return the features of some parts side by side."""
    of_parts = frozen(windows)
    return np.column_stack([of_parts[part] for part in parts])


# -- The rivals.


def by_frozen(taught: Windows, judged: Windows) -> Scores:
    """Fit logistic regression on all frozen features."""
    return logistic(joined(taught), taught.truth)(joined(judged))


def aligned(windows: Windows) -> npt.NDArray[np.float32]:
    """Return the frozen features, and the greatest of each value of the sound at each place.

    Places are the whole picture, the gate, the road, and wherever the object stands.
    """
    path = windows.path
    is_there = path[..., 2] > 0
    places = np.stack([is_there, at_gate(path), on_road(path), standing(path)], 2)
    places &= is_there[..., None]
    heard = places[..., None] * windows.sound[:, :, None, :-1]
    return np.column_stack([joined(windows), heard.max(1).reshape(len(path), -1)])


def by_aligned(taught: Windows, judged: Windows) -> Scores:
    """Fit it on frozen features, and on what was heard at each place."""
    return logistic(aligned(taught), taught.truth)(aligned(judged))


def visits_of(windows: Windows, with_sounds: bool) -> list[Visit]:
    """Return windows as visits, as `when = "like"` reads them: with the labels that were heard."""
    visits = []
    for row in range(len(windows)):
        is_there = windows.path[row, :, 2] > 0
        label = "unknown"
        if is_there.any():
            label = _LABELS[int(windows.words[row, :4].argmax())]
        heard = windows.heard[row].max(0) >= _LEAST_SCORE
        sounds = tuple(name for name, is_heard in zip(_NAMES, heard, strict=True) if is_heard)
        path = [
            PathPoint(STEP_S * step, float(x), float(y))
            for step, (x, y, is_seen) in enumerate(windows.path[row])
            if is_seen
        ]
        still = standing(windows.path[row : row + 1])[0]
        moment = Moment(epoch=1, seq=row, media_s=0.0, captured=0.0)
        last = msgspec.structs.replace(moment, media_s=STEP_S * (STEPS - 1))
        visits.append(
            Visit(
                1, f"composed/1-{row}/1", "composed", 1, label, moment, last, tuple(path),
                (0.1, 0.2), dwell_s=STEP_S * float(still.sum()), stops=int(still.any()),
                scores=(float(windows.score[row]), 0.0), sounds=sounds * with_sounds,
            )
        )  # fmt: skip
    return visits


def by_like(taught: Windows, judged: Windows, with_sounds: bool = True) -> Scores:
    """Fit it on the numbers of visits that `when = "like"` learns from."""
    rows, others = (
        np.array([numbers_of(visit) for visit in visits_of(windows, with_sounds)])
        for windows in (taught, judged)
    )
    return logistic(rows, taught.truth)(others)


def by_picture(taught: Windows, judged: Windows) -> Scores:
    """Fit it on what is seen, with the words."""
    parts = ("path", "looks", "words")
    return logistic(joined(taught, parts), taught.truth)(joined(judged, parts))


def by_sound(taught: Windows, judged: Windows) -> Scores:
    """Fit it on what is heard."""
    return logistic(joined(taught, ("sound",)), taught.truth)(joined(judged, ("sound",)))


def by_late_fusion(taught: Windows, judged: Windows) -> Scores:
    """Fit it on each part alone, and add the sums."""
    total = np.zeros(len(judged))
    for part in _PARTS:
        total += logistic(frozen(taught)[part], taught.truth)(frozen(judged)[part])
    return total


def by_nearest(taught: Windows, judged: Windows) -> Scores:
    """Return how much nearer the nearest true windows are than the nearest others, by cosine.

    Each part has the same weight.
    """
    near = np.zeros((len(judged), len(taught)))
    for part in _PARTS:
        rows, others = frozen(taught)[part], frozen(judged)[part]
        middle, scale = rows.mean(0), np.maximum(rows.std(0), 1e-6)
        near += _unit((others - middle) / scale) @ _unit((rows - middle) / scale).T
    count = min(_NEIGHBOURS, int(taught.truth.sum()), int((~taught.truth).sum()))
    of_true = np.sort(near[:, taught.truth], axis=1)[:, -count:].mean(1)
    of_others = np.sort(near[:, ~taught.truth], axis=1)[:, -count:].mean(1)
    return np.asarray(of_true - of_others)


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


def by_rule(question: Question, judged: Windows) -> Scores:
    """Answer as a rule with `after` that was written for the question. It learns nothing.

    It reads the class that the detector gives, whether the track is in the area or stands, and the
    score of the sound's labels at the same step. Scores instead of thresholds give it an order.
    """
    there = at_gate(judged.path)
    if question.place == "stands":
        there = standing(judged.path)
    is_kind = judged.words[:, KINDS.index(question.kind)] > 0
    there = there & is_kind[:, None]
    if question.night:
        there = there & (judged.words[:, 7, None] > 0)
    heard = judged.heard[:, :, HEARD.index(question.sound)]
    both = (there * np.minimum(heard, 1.0) * judged.score[:, None]).max(1)
    seen = there.any(1) * judged.score
    if question.want == "both":
        order = both + 1e-3 * seen  # of equal ones, those with the object come first
    elif question.want == "sound only":
        order = heard.max(1) * (1 - (there * heard).max(1))
    else:
        order = seen * (1 - (there * heard).max(1))
    return np.asarray(order, np.float64)


RIVALS: Final[Mapping[str, Callable[[Windows, Windows], Scores]]] = {
    "frozen": by_frozen,
    "aligned": by_aligned,
    "like": by_like,
    "like_without_sounds": partial(by_like, with_sounds=False),
    "nearest": by_nearest,
    "late_fusion": by_late_fusion,
    "picture_only": by_picture,
    "sound_only": by_sound,
}
