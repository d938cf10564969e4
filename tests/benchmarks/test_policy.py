"""The benchmark of policies: an hour of eight frames by hand, and that each policy can be built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.policy import chance, chosen, interval, tries_of
from benchmarks.policy.footage import Hour, Look
from benchmarks.policy.rivals import FixedDoubt, HandRule, LearnedDoubt, Rival, rivals, taught_by
from benchmarks.policy.walk import AuditedPeriod, Walk, walk
from benchmarks.promise.scores import tally
from framegate.models.boxes import Boxes, empty
from framegate.pipeline.promise.certificate import verify
from framegate.pipeline.promise.period import Promise
from framegate.stages.detections import ChangedParts, Detections
from framegate.stages.escalate.doubt import Evidence, LearnedWeights

PERSON = Boxes(
    np.array([[100, 100, 200, 200]], np.float32),
    np.array([0.8], np.float32),
    np.zeros(1, np.int32),
)
EVERYWHERE = ChangedParts(27, 23, bytes([0xFF] * 48))


class AsksAt:
    """Asks about these frames, and keeps what it is taught."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers
        self._number = -1
        self.taught: list[tuple[int, bool]] = []

    def asks(self, facts: Evidence) -> bool:  # noqa: ARG002
        self._number += 1
        return self._number in self._numbers

    def learns(self, facts: Evidence, was_wrong: bool) -> None:  # noqa: ARG002
        self.taught.append((self._number, was_wrong))


def hour(heavy: Sequence[Boxes], changing: Sequence[int]) -> list[Look]:
    """Detect sees nothing; five frames per second."""
    looks = []
    for number, boxes in enumerate(heavy):
        found = Detections("carried", "no", "unchanged", (), ())
        if number in changing:
            found = Detections("detected", "part", "changed", (), (), changes=EVERYWHERE)
        looks.append(Look(found, number / 5, boxes, tally(boxes)))
    return looks


def test_an_answer_lasts_until_the_picture_changes() -> None:
    """The heavy model sees a person in frames 2 to 7; everything changes in frame 6."""
    looks = hour([empty()] * 2 + [PERSON] * 6, changing=[6])
    promise = Promise(alpha=0.5, confidence=0.5, frames=8, audited=0.3)
    policy = AsksAt(3)
    done = walk(looks, policy, promise, bytes(32))
    assert done.asked.tolist() == [False] * 3 + [True] + [False] * 4
    assert done.wrong.tolist() == [False, False, True, False, False, False, True, True]
    assert [moment.is_wrong for moment in done.moments][2:4] == [True, True]
    assert [moment.facts.still for moment in done.moments] == [0, 0, 0, 0, 1, 1, 0, 0]
    assert (3, True) in policy.taught
    assert verify(done.certificate) == []
    assert (done.certificate.served, done.certificate.drawn) == (8, len(policy.taught) - 1)


def test_after_an_alarm_every_frame_is_asked_about() -> None:
    looks = hour([PERSON] * 200, changing=range(200))
    promise = Promise(alpha=0.01, frames=200, audited=0.9)
    done = walk(looks, AsksAt(), promise, bytes(32))
    assert done.certificate.verdict == "alarm"
    first = int(done.asked.argmax())
    assert 0 < first < 20
    assert done.asked[first:].all()
    assert not done.wrong[first:].any()
    assert done.alarmed.tolist() == [False] * first + [True] * (200 - first)


def test_a_setting_with_an_alarm_is_not_chosen_because_of_its_few_wrong_frames() -> None:
    """0: asks about every frame. 1: never, until the alarm asks about all that follow."""
    promise = Promise(alpha=0.05, frames=200, audited=0.9)
    looks = hour([PERSON] * 200, changing=range(200))
    rival = Rival(
        "asks always or never",
        (0.0, 1.0),
        lambda setting: AsksAt(*range(200)[: int(200 * (1 - setting))]),
    )
    always, never = tries_of(rival, Hour(1, looks, [empty()] * 200), promise)
    assert (always["asked"], always["calm"], always["wrong"], always["chance"]) == (1, 1, 0, 1)
    assert (never["calm"], never["chance"]) == (0, 0)
    assert never["asked"] < 1
    assert never["wrong"] == round(200 * (1 - never["asked"]))
    assert chosen([always, never]) == 0
    assert chosen([never]) == 1
    assert chosen([always, {**never, "chance": 1.0}]) == 1


def walk_with(wrong: int, promise: Promise) -> Walk:
    done = walk(hour([empty()] * promise.frames, changing=[]), AsksAt(), promise, bytes(32))
    return replace(done, wrong=np.arange(promise.frames) < wrong)


def test_the_chance_of_a_certificate_is_the_share_of_keys_that_give_one() -> None:
    promise = Promise(alpha=0.1, frames=60, audited=0.5)
    certified = 0
    for seed in range(400):
        audits = AuditedPeriod(promise, seed.to_bytes(8, "little"))
        for number in range(60):
            audits.draws(number, number % 15 == 0)
        certified += audits.closed().verdict == "certified"
    assert chance(walk_with(4, promise), promise) == pytest.approx(certified / 400, abs=0.08)
    assert chance(walk_with(0, promise), promise) == 1.0


def test_the_interval_of_equal_blocks_is_a_point() -> None:
    assert interval([np.tile([0.0, 1.0], 300)] * 2) == [0.5, 0.5]


def test_policies_differ_where_nothing_changes() -> None:
    """An answer was about this still picture: only the fixed doubt asks again, at its threshold."""
    still = Evidence(*[0.0] * len(Evidence._fields))
    still = still._replace(new_least=1.0, still=1.0, same=1.0)
    assert FixedDoubt(0.05).asks(still)
    assert not HandRule(0.0).asks(still)
    assert not LearnedDoubt(0.05).asks(still)
    for rival in rivals(LearnedWeights()):
        for setting in rival.settings:
            rival.make(setting).asks(still)


def test_weights_of_an_hour_without_frames_are_the_trained_ones() -> None:
    assert taught_by([]) == LearnedWeights()
