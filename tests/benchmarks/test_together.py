"""benchmarks.together: its questions and labels; neither sight nor sound answers alone."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.together import few_rows, library, rivals
from benchmarks.together.scenes import (
    QUESTIONS,
    STEPS,
    Composer,
    Question,
    areas,
    at_gate,
    standing,
    truth_of,
)
from framegate.pipeline.review.logistic import regression


def steps(*which: int) -> np.ndarray:
    """Return bools, true at some steps."""
    found = np.zeros(STEPS, np.bool_)
    found[list(which)] = True
    return found


@pytest.mark.parametrize(
    ("want", "present", "sounds", "truth"),
    [
        ("both", (2, 3), (3,), True),
        ("both", (2, 3), (7,), False),  # not at the same time
        ("both", (), (3,), False),
        ("sound only", (2, 3), (3, 8), False),
        ("sound only", (2, 3), (8,), True),
        ("sound only", (2,), (), False),
        ("object only", (2, 3), (8,), True),
        ("object only", (2, 3), (2,), False),
        ("object only", (), (2,), False),
    ],
)
def test_what_is_true_by_hand(want, present, sounds, truth) -> None:  # type: ignore[no-untyped-def]
    question = Question("", "person", "gate", "bark", want)
    assert truth_of(question, steps(*present), steps(*sounds)) is truth


def test_places_by_hand() -> None:
    path = np.array([[0.1, 0.2], [0.5, 0.7], [0.9, 0.7]], np.float32)
    assert at_gate(path).tolist() == [False, True, False]
    assert areas(path) == (1, 1, 1)
    assert areas(path[:1]) == (0, 1, 0)
    still = np.ones((1, 4, 3), np.float32)
    still[0, :, 0] = (0.1, 0.3, 0.3, 0.6)
    assert standing(still)[0].tolist() == [False, True, True, False]
    still[0, :, 2] = 0  # nothing is there
    assert not standing(still).any()


def test_what_teaches_is_never_judged() -> None:
    known = library.read()
    features = {part: set() for part in ("teaches", "judges")}  # type: ignore[var-annotated]
    for cutout in known.cutouts:
        features[cutout.part] |= {look.feature for look in cutout.looks}
    for sound in known.sounds:
        features[sound.part] |= {window.values for window in sound.windows}
    assert not features["teaches"] & features["judges"]
    assert {each.kind for each in known.sounds} == {*library.HEARD, "noise"}


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_neither_sight_nor_sound_answers_alone(question: Question) -> None:
    windows = Composer(library.read(), "judges", 0).asked(question, 400)
    is_present = windows.present.any(1)
    is_heard = windows.sounds.any(1)
    assert 0.08 < windows.truth.mean() < 0.5
    for is_there in (is_present, is_heard):
        for side in (is_there, ~is_there):
            assert windows.truth[side].mean() < 0.75
    again = Composer(library.read(), "judges", 0).asked(question, 400)
    assert np.array_equal(again.sound, windows.sound)
    assert np.array_equal(again.truth, windows.truth)


def test_another_sound_leaves_the_rest() -> None:
    windows = Composer(library.read(), "judges", 0).asked(QUESTIONS[0], 8)
    other = windows.with_sound_of(np.arange(8)[::-1])
    assert np.array_equal(other.sound[0], windows.sound[7])
    assert np.array_equal(other.heard[0], windows.heard[7])
    assert other.truth is windows.truth
    assert other.path is windows.path


def test_a_tenth_of_the_labels_has_true_ones() -> None:
    truth = np.arange(200) % 10 == 0
    rows = few_rows(truth)
    assert len(rows) == 21  # 3 of 20 true ones, 18 of 180 others
    assert truth[rows].sum() == 3


def test_logistic_regression_with_more_numbers_than_rows_is_that_with_all_of_them() -> None:
    random = np.random.default_rng(0)
    inputs = np.column_stack([random.normal(size=(20, 30)), np.ones(20)])
    truth = inputs[:, 0] > 0
    precision = np.append(np.full(30, 3.0), 1e-3)
    whole = regression(inputs, truth, np.zeros(31), precision)
    assert rivals._weights(inputs, truth, 3.0) == pytest.approx(whole, abs=1e-6)


def test_the_rule_finds_what_it_names() -> None:
    question = QUESTIONS[0]
    windows = Composer(library.read(), "teaches", 0).asked(question, 200)
    scores = rivals.by_rule(question, windows)
    assert scores[windows.truth].mean() > 3 * scores[~windows.truth].mean()
