"""See and hear together: an encoder that is trained without labels, against what is simpler.

    python -m benchmarks.together [--data FOLDER --sounds FOLDER] [--quick] [--write]

Windows of ten seconds are composed of a path, looks of the detector at real cut-outs, YAMNet's
values of real sounds, and words (`scenes`). Each question is about sight and sound together, so
that neither answers it alone. The encoder is trained on windows without labels; logistic regression
on its output answers a question from 40 and from 400 labelled windows. The rivals get the same:

frozen        logistic regression on the inputs of the encoder, averaged over the window
aligned       the same, and on what was heard while the object was at the gate, on the road, or
              stood: the product of place and sound in each step
like          the same on the numbers that `when = "like"` learns from; `like_without_sounds`: on
              those that it had before
nearest       nearest neighbours on the inputs
late_fusion   the sum of one logistic regression for each of path, looks, sound and words
picture_only, sound_only  logistic regression on a part
rule          a hand-written rule with `after` for each question; it needs no labels

`untrained` is the encoder with the weights that it begins with; `shuffled` gives the encoder the
sound of other windows, `no_sound` none. Cut-outs, backgrounds and sounds of judged windows never
teach. Each seed composes other windows and trains another encoder; intervals are of a bootstrap
over seeds and judged windows, paired. They do not contain the choice of the cut-outs and sounds.

`--data` and `--sounds` (a checkout of ESC-10, CC BY 3.0, github.com/karolpiczak/ESC-10 at 553c8f1)
compute `library.json` again. Without `--sounds` the committed library is read: numbers only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.alike import average_precision
from benchmarks.harness.report import Bar, Benchmark, BenchmarkResult, Option, conditions
from benchmarks.together import library, rivals
from benchmarks.together.library import Library
from benchmarks.together.scenes import QUESTIONS, Composer, Question, Windows

FEW: Final = 0.1  # share of the labels
_BOOTSTRAPS: Final = 1000
_CONTROLS: Final = ("untrained", "shuffled", "no_sound")
_SIDES: Final = ("ours", *rivals.RIVALS, "rule")

Scores = npt.NDArray[np.float64]


@dataclass
class Answers:
    """The scores of all sides for a question in one seed.

    truth  bool (N,) of the judged windows
    all    scores by side, from all labels; with the controls
    few    scores by side, from a tenth of the labels
    """

    truth: npt.NDArray[np.bool_]
    all: dict[str, Scores] = field(default_factory=dict)
    few: dict[str, Scores] = field(default_factory=dict)


def few_rows(truth: npt.NDArray[np.bool_]) -> list[int]:
    """Return the rows of a tenth of the labels, with the same share of true ones, at least 3."""
    rows: list[int] = []
    for side in (True, False):
        members = np.flatnonzero(truth == side)
        rows += members[: max(3, round(FEW * members.size))].tolist()
    return sorted(rows)


def answer(
    question: Question, taught: Windows, judged: Windows, encoder: Any, seed: int
) -> Answers:
    """Answer a question with all sides."""
    from benchmarks.together.encoder import encoded, fresh

    answers = Answers(judged.truth)
    few = few_rows(taught.truth)
    for name, rival in rivals.RIVALS.items():
        answers.all[name] = rival(taught, judged)
        answers.few[name] = rival(taught.rows(few), judged)
    answers.all["rule"] = answers.few["rule"] = rivals.by_rule(question, judged)
    rows = encoded(encoder, taught)
    order = np.random.default_rng(seed).permutation(len(judged))
    shuffled = judged.with_sound_of(order)
    values = encoded(encoder, judged)
    ours = rivals.logistic(rows, taught.truth)
    answers.all["ours"] = ours(values)
    answers.all["shuffled"] = ours(encoded(encoder, shuffled))
    answers.all["no_sound"] = ours(encoded(encoder, judged, without="sound"))
    answers.few["ours"] = rivals.logistic(rows[few], taught.truth[few])(values)
    untrained = fresh(seed)
    by_untrained = rivals.logistic(encoded(untrained, taught), taught.truth)
    answers.all["untrained"] = by_untrained(encoded(untrained, judged))
    return answers


def mean_ap(answers: Sequence[Answers], share: str, side: str) -> float:
    """Return the mean average precision of a side over seeds; share: `all` or `few`."""
    found = [average_precision(each.truth, getattr(each, share)[side]) for each in answers]
    return float(np.mean(found))


def intervals(
    by_question: Mapping[str, Sequence[Answers]], share: str
) -> dict[str, tuple[float, float, float]]:
    """Return for each rival how far ours is ahead in mean AP, with the edges of 95 %.

    A draw takes seeds with replacement, and in each the judged windows with replacement.
    """
    random = np.random.default_rng(0)
    questions = list(by_question.values())
    draws = np.zeros((_BOOTSTRAPS, len(_SIDES)))
    for draw in range(_BOOTSTRAPS):
        seeds = random.integers(len(questions[0]), size=len(questions[0]))
        drawn: list[list[float]] = []
        for answers in questions:
            for seed in seeds:
                one = answers[seed]
                rows = random.integers(len(one.truth), size=len(one.truth))
                if not one.truth[rows].any():
                    continue
                scores = getattr(one, share)
                drawn.append(
                    [average_precision(one.truth[rows], scores[side][rows]) for side in _SIDES]
                )
        draws[draw] = np.mean(drawn, axis=0)
    ahead = draws[:, :1] - draws[:, 1:]
    low, high = np.quantile(ahead, (0.025, 0.975), axis=0)
    result = {}
    for column, side in enumerate(_SIDES[1:]):
        ours = np.mean([mean_ap(each, share, "ours") for each in questions])
        theirs = np.mean([mean_ap(each, share, side) for each in questions])
        result[side] = (
            round(float(ours - theirs), 3), round(float(low[column]), 3),
            round(float(high[column]), 3),
        )  # fmt: skip
    return result


def encoding_ms(encoder: Any, windows: Windows, times: int) -> float:
    """Return the least milliseconds of encoding one window, on one thread."""
    from benchmarks.together.encoder import encoded

    took = []
    for number in range(times):
        one = windows.rows([number % len(windows)])
        start = time.perf_counter()
        encoded(encoder, one)
        took.append(1e3 * (time.perf_counter() - start))
    return round(min(took), 3)


def material(given: argparse.Namespace) -> Library:
    """Return the library: the committed one, or that of other material."""
    if not given.sounds:
        return library.read()
    computed = library.compute(given.data, Path(given.sounds))
    if given.write:
        library.write(computed)
    return computed


def measure(given: argparse.Namespace) -> BenchmarkResult:
    """Return the whole result."""
    import torch

    from benchmarks.together.encoder import pretrain

    torch.set_num_threads(1)
    known = material(given)
    by_question: dict[str, list[Answers]] = {question.name: [] for question in QUESTIONS}
    minutes, took = [], []
    for seed in range(given.seeds):
        teaching = Composer(known, "teaches", seed)
        judging = Composer(known, "judges", seed)
        encoder, trained_min = pretrain(teaching.unlabelled(given.scenes), given.steps, seed)
        minutes.append(trained_min)
        for question in QUESTIONS:
            taught = teaching.asked(question, given.labels)
            judged = judging.asked(question, given.judged)
            by_question[question.name].append(answer(question, taught, judged, encoder, seed))
        took.append(encoding_ms(encoder, judged, given.times))
    rows = [row(name, answers, given.labels) for name, answers in by_question.items()]
    return {
        "questions": rows,
        "mean": {side: _mean(rows, side) for side in (*_SIDES, *_CONTROLS)},
        "ahead": intervals(by_question, "all"),
        "at_10_percent": {
            side: {
                "ap": _mean([each["at_10_percent"] for each in rows], side),
                "of_all": round(
                    _mean([each["at_10_percent"] for each in rows], side) / _mean(rows, side), 3
                ),
            }
            for side in _SIDES
        },
        "ahead_at_10_percent": intervals(by_question, "few"),
        "train_minutes": round(max(minutes), 2),
        "ms_per_window": min(took),
        "weights": sum(each.numel() for each in encoder.parameters()),
        "conditions": conditions(
            ("torch", "numpy", "openvino"),
            seeds=given.seeds,
            steps=given.steps,
            scenes=given.scenes,
            judged=given.judged,
            cutouts=len(known.cutouts),
            sounds=len(known.sounds),
        ),
    }


def row(name: str, answers: Sequence[Answers], labels: int) -> dict[str, Any]:
    """Return the row of a question: the mean AP of each side over seeds."""
    few = {side: round(mean_ap(answers, "few", side), 3) for side in _SIDES}
    return {
        "question": name,
        "labels": labels,
        "true": round(float(np.mean([each.truth.mean() for each in answers])), 3),
        **{side: round(mean_ap(answers, "all", side), 3) for side in (*_SIDES, *_CONTROLS)},
        "at_10_percent": few,
    }


def _mean(rows: Sequence[Mapping[str, Any]], side: str) -> float:
    return round(float(np.mean([each[side] for each in rows])), 3)


def like_gain(result: BenchmarkResult) -> float:
    """Return how much the sounds of visits add to the mean AP of `when = "like"`."""
    gain: float = result["mean"]["like"] - result["mean"]["like_without_sounds"]
    return round(gain, 3)


def bars(result: BenchmarkResult) -> list[Bar]:
    """Return what is wanted."""
    few = result["at_10_percent"]["ours"]
    low = {side: edges[1] for side, edges in result["ahead"].items()}
    return [
        *(
            Bar(f"encoder above {side}, lower edge of 95 %", edge, ">=", 0.0)
            for side, edge in low.items()
            if not side.startswith("like")
        ),
        Bar("like with sounds above like without", like_gain(result), ">=", 0.05),
        Bar("AP with 10 % of the labels", few["ap"], ">=", 0.85),
        Bar("AP with 10 % of the labels / with all", few["of_all"], ">=", 0.92),
        Bar("encoding a window, ms", result["ms_per_window"], "<=", 1.0),
    ]


BENCHMARK = Benchmark(
    name="together",
    measure=measure,
    options={
        "sounds": Option("", explanation="checkout of ESC-10, to compute the library again"),
        "seeds": Option(3, 1),
        "scenes": Option(4000, 64),
        "steps": Option(1000, 2),
        "labels": Option(400, 60),
        "judged": Option(400, 60),
        "times": Option(200, 3),
    },
    needs=("train",),
    bars=bars,
)
