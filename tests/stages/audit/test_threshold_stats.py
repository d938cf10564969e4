"""Thresholds of doubt, judged by audited frames; and the token bucket."""

from __future__ import annotations

from framegate.stages.audit.open_audits import PATH, ThresholdStats, safer
from framegate.stages.escalate.policy import Budget, Tokens


def told(*frames: tuple[float, bool], times: int = 1) -> ThresholdStats:
    thresholds = ThresholdStats()
    for _ in range(times):
        for doubt, wrong in frames:
            thresholds = thresholds.after(doubt, wrong)
    return thresholds


def test_a_frame_tells_of_every_threshold_at_once() -> None:
    thresholds = told((0.05, True))
    assert [least for least, n in zip(PATH, thresholds.asked, strict=True) if n] == [
        least for least in PATH if least <= 0.05
    ]
    assert [least for least, n in zip(PATH, thresholds.wrong, strict=True) if n] == [
        least for least in PATH if least > 0.05
    ]


def test_the_cheapest_threshold_that_is_shown_to_be_good_is_certified() -> None:
    # 299 frames without an error show 1 % with 95 % confidence, 298 do not: .99 ** 299 < .05.
    assert told((0.0, False), times=298).certified(0.01, 0.05) is None
    assert told((0.0, False), times=299).certified(0.01, 0.05) == PATH[-1]
    mixed = told((0.15, True), *[(0.0, False)] * 29, times=20)
    assert mixed.certified(0.01, 0.05) == 0.1  # the next one, .2, would not ask where it is wrong


def test_the_next_threshold_is_at_most_one_step_cheaper() -> None:
    good, few = (told((0.15, False), times=n) for n in (400, 10))
    bad = told((0.15, True), times=400)
    assert good.next_after(0.02, 0.01, 0.05) == 0.05
    assert good.next_after(0.7, 0.01, 0.05) == 0.7
    assert bad.next_after(0.7, 0.01, 0.05) == 0.1
    assert few.next_after(0.3, 0.01, 0.05) == 0.3
    assert (safer(0.3), safer(0.2), safer(0.0)) == (0.2, 0.1, 0.0)


def test_what_is_forgotten_makes_nothing_look_better() -> None:
    thresholds = ThresholdStats(8000, (0, *[1] * (len(PATH) - 1)), (8000, *[1] * (len(PATH) - 1)))
    after = thresholds.after(1.0, False)
    assert after.frames == 4001
    assert after.wrong == thresholds.wrong


def test_tokens_come_back_with_media_time_up_to_the_burst() -> None:
    budget = Budget(per_s=2.0, burst=3.0)
    tokens = Tokens()
    assert tokens.now(100.0, budget) == 3.0
    tokens = tokens.spent(100.0, budget)
    assert tokens.now(100.0, budget) == 2.0
    assert tokens.now(100.25, budget) == 2.5
    assert tokens.now(500.0, budget) == 3.0
    assert tokens.now(99.0, budget) == 2.0  # a clock that went back gives none
    for _ in range(9):
        tokens = tokens.spent(100.0, budget)
    assert tokens.now(100.5, budget) == 1.0  # what was asked all the same is no debt
