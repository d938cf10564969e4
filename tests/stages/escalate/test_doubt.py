"""Doubt: the facts it goes by, its weights, and how a source's answers set it right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framegate.models.boxes import Boxes, empty
from framegate.models.detector import policy
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.results import Object
from framegate.stages.audit.open_audits import Doubt
from framegate.stages.detections import ChangedParts, Detections
from framegate.stages.escalate import doubt as doubt_module
from framegate.stages.escalate.corrections import Corrections, Unrest, learned, served
from framegate.stages.escalate.doubt import (
    LEARNED,
    WEIGHTS,
    Evidence,
    LearnedWeights,
    Weights,
    doubt,
    doubt_of,
    evidence,
    trained,
)

HEAVY_MIN_SCORE = policy.load("heavy").min_score
LIGHT_MIN_SCORE = policy.load("light").min_score
PERSON = Object(1, "person", 0, 0.5, (100.0, 100.0, 200.0, 200.0), "detected")
SAME = Boxes(
    np.array([PERSON.box], np.float32), np.array([PERSON.score], np.float32), np.zeros(1, np.int32)
)
QUARTER = ChangedParts(27, 23, bytes([0xFF] * 12) + bytes(36))


def found(*objects: Object, changes: ChangedParts | None = None) -> Detections:
    return Detections("detected", "part", "changed", objects, ("light@1",), changes=changes)


def facts(known: Corrections, frame: Detections, now_s: float) -> Evidence:
    return evidence(served(known, frame, now_s)[1], frame, now_s)


def test_its_least_scores_are_the_policys() -> None:
    least = tuple(policy.load(name).min_score for name in ("heavy", "light"))
    assert least == (doubt_module._HEAVY_MIN_SCORE, doubt_module._LIGHT_MIN_SCORE)


def test_before_the_first_answer_all_is_new() -> None:
    told = facts(Corrections(), found(PERSON, changes=QUARTER), 5.0)
    assert (told.never, told.new) == (1.0, math.log(2))
    assert told.new_least == pytest.approx(0.5)
    assert (told.changed, told.stirred) == (0.5, pytest.approx(math.log(3.5)))
    assert told.age == math.log(101)
    assert told.near_new == pytest.approx(math.exp(-(0.5 - LIGHT_MIN_SCORE) / 0.08))


def test_what_an_answer_spoke_of_is_not_new() -> None:
    known, _ = learned(Corrections(), found(PERSON), SAME, 5.0)
    told = facts(known, found(PERSON), 6.0)
    assert (told.never, told.new, told.new_least, told.alone) == (0.0, 0.0, 1.0, 0.0)
    assert (told.stirred, told.flips, told.grown) == (0.0, 0.0, 0.0)
    assert told.age == math.log(11)
    assert told.surprise == pytest.approx(2 / 3, abs=1e-3)  # from 1, a third nearer to none
    assert told.near_known == pytest.approx(math.exp(-(0.5 - HEAVY_MIN_SCORE) / 0.08))


def test_what_light_lost_and_found_has_flipped() -> None:
    known, _ = learned(Corrections(), found(PERSON), SAME, 5.0)
    _, known = served(known, found(), 6.0)
    assert evidence(known, found(), 6.0).alone == math.log(2)
    assert known.unrest.flips == 1
    _, known = served(known, found(PERSON), 7.0)
    assert known.unrest.flips == 2
    assert facts(known, found(PERSON), 8.0).flips == pytest.approx(math.log(3))


def test_how_much_a_known_thing_has_grown() -> None:
    known, _ = learned(Corrections(), found(PERSON), SAME, 5.0)
    grown = Object(1, "person", 0, 0.5, (100.0, 100.0, 200.0, 220.0), "detected")
    assert facts(known, found(grown), 6.0).grown == pytest.approx(math.log(1.2))


def test_unrest_starts_anew_at_an_answer_but_for_surprise() -> None:
    unrest = Unrest(surprise=0.0).after(0.25, True).after(0.5, False)
    assert unrest == Unrest(0.75, 1, 0.0)
    assert unrest.answered(9) == Unrest(0.0, 0, 1.0)  # three at most count, a third of them


def test_a_logistic_model() -> None:
    one = Evidence(*[1.0] * len(Evidence._fields))
    weights = Weights(-1.0, Evidence(*[0.25] * len(Evidence._fields)))
    slopes = 0.25 * len(Evidence._fields)
    assert doubt(one, weights).chance == pytest.approx(1 / (1 + math.exp(1 - slopes)))
    offsets = LearnedWeights((1 - slopes, *[0.0] * len(LEARNED)))
    assert doubt(one, weights, offsets).chance == pytest.approx(0.5)


def test_the_weights_know_what_is_in_doubt() -> None:
    """The first frame of a source, and something new, more than what heavy just saw."""
    known, _ = learned(Corrections(), found(PERSON), SAME, 5.0)
    stands = found(PERSON)
    hardly = Object(2, "dog", 16, LIGHT_MIN_SCORE + 0.04, (300.0, 100.0, 400.0, 200.0), "detected")
    news = found(PERSON, hardly, changes=QUARTER)

    def of(known: Corrections, frame: Detections) -> float:
        return doubt_of(served(known, frame, 5.1)[1], frame, 5.1, LearnedWeights()).chance

    assert of(known, stands) < 0.2 < 0.6 < of(known, news)
    assert of(Corrections(), stands) > of(known, stands)


def test_weights_for_other_facts_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "doubt.toml"
    other.write_text(
        WEIGHTS.read_text(encoding="utf-8").replace("near_new", "near_now"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="near_now"):
        trained(other)


def test_a_picture_that_stands_still_has_the_answer_that_it_had() -> None:
    known, _ = learned(Corrections(), found(PERSON, changes=QUARTER), SAME, 5.0)
    told = facts(known, found(PERSON), 6.0)
    assert (told.still, told.same, told.settled) == (1.0, 1.0, 1.0)
    known, _ = learned(known, found(PERSON), SAME, 6.0)
    told = facts(known, found(PERSON), 7.0)
    assert (told.still, told.same, told.settled) == (1.0, 1.0, 0.0)
    changed = facts(known, found(PERSON, changes=QUARTER), 7.0)
    assert (changed.still, changed.same, changed.settled) == (0.0, 1.0, 0.0)
    assert facts(known, found(), 7.0).same == 1.0  # it stays where light lost it: the answer stands
    other = Object(2, "dog", 16, 0.9, (300.0, 100.0, 400.0, 200.0), "detected")
    assert facts(known, found(PERSON, other), 7.0).same == 0.0
    assert facts(Corrections(), found(), 7.0)[-3:] == (0.0, 0.0, 0.0)


def by_definition(seen: list[tuple[Doubt, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and covariance of the extended Kalman filter, as matrices."""
    n = len(seen[0][0].facts)
    mean, spread = np.zeros(n), np.eye(n)
    for said, was_wrong in seen:
        x = np.array(said.facts)
        noise = 1 / (said.chance * (1 - said.chance))
        gain = spread @ x / (x @ spread @ x + noise)
        mean = mean + gain * noise * (was_wrong - said.chance)
        spread = spread - np.outer(gain, x @ spread) + 1e-4 * np.eye(n)
        scale = np.sqrt(np.minimum(1, 1 / np.diag(spread)))
        spread = scale[:, None] * spread * scale
    return mean, spread


def test_the_weights_are_those_of_a_kalman_filter() -> None:
    rng = np.random.default_rng(0)
    weights = LearnedWeights()
    seen = []
    for _ in range(40):
        said = Doubt(float(rng.uniform(0.01, 0.99)), (1.0, *rng.uniform(0, 2, 3).tolist()))
        seen.append((said, bool(rng.random() < 0.3)))
        weights = weights.after(*seen[-1])
    mean, spread = by_definition(seen)
    assert weights.offsets == pytest.approx(mean, abs=1e-3)
    assert weights.covariance == pytest.approx(spread[np.triu_indices(4)], abs=1e-4)


def test_a_source_learns_that_its_still_pictures_are_right() -> None:
    """A tenth of the changing frames is wrong, and no still one; doubt says so after 300 frames."""
    still = Evidence(*[0.0] * len(Evidence._fields))._replace(still=1.0, new_least=1.0)
    changing = still._replace(still=0.0, changed=0.5)
    flat = Weights(0.0, Evidence(*[0.0] * len(Evidence._fields)))
    weights = LearnedWeights()
    said: dict[bool, list[float]] = {False: [], True: []}
    for number in range(600):
        is_still = number % 2 == 0
        told = doubt(still if is_still else changing, flat, weights)
        said[is_still].append(told.chance)
        weights = weights.after(told, not is_still and number % 20 == 1)
    assert np.mean(said[True][150:]) < 0.03
    assert np.mean(said[False][150:]) == pytest.approx(0.1, abs=0.05)


def test_a_frame_without_facts_teaches_nothing() -> None:
    weights = LearnedWeights((0.5,), (0.2,))
    assert weights.after(Doubt(0.5), True) == weights


@given(st.lists(st.tuples(st.floats(0, 1), st.lists(st.floats(0, 5), min_size=3, max_size=3))))
def test_weights_stay_finite_and_are_stored_as_they_are(
    steps: list[tuple[float, list[float]]],
) -> None:
    weights = LearnedWeights()
    for said, facts in steps:
        weights = weights.after(Doubt(said, (1.0, *facts)), said < 0.5)
    assert all(abs(offset) <= 50 for offset in weights.offsets)
    assert records.decode(records.encode(weights), LearnedWeights) == weights


boxes = st.builds(
    lambda x, y, w, h: (float(x), float(y), float(x + w), float(y + h)),
    st.integers(0, 600),
    st.integers(0, 300),
    st.integers(1, 200),
    st.integers(1, 200),
)
things = st.builds(
    lambda box, score: Object(None, "person", 0, score / 100, box, "detected"),
    boxes,
    st.integers(1, 100),
)
frames = st.builds(
    lambda objects, parts: found(*objects, changes=ChangedParts(27, 23, parts)),
    st.lists(things, max_size=30),
    st.binary(min_size=48, max_size=48),
)


@given(st.lists(st.tuples(frames, st.booleans()), max_size=8))
def test_doubt_is_a_probability_of_whatever_happens(steps: list[tuple[Detections, bool]]) -> None:
    known = Corrections()
    for number, (frame, asks) in enumerate(steps):
        now_s = number * 3.0
        _, after = served(known, frame, now_s)
        assert 0 < doubt_of(after, frame, now_s, LearnedWeights()).chance < 1
        assert len(records.encode(after)) <= 4096
        known = learned(known, frame, empty(), now_s)[0] if asks else after
