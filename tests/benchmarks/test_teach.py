"""What verdicts can set, by hand: the rivals, the frames without muted tracks, and the bars."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.teach import bars, draw_verdicts
from benchmarks.teach.footage import JudgedEpisode, ScoredFrame
from benchmarks.teach.rivals import SIDES
from framegate.pipeline.contracts.traits import Traits


def episode(track: int, score: float, x: float, label: str, is_true: bool) -> JudgedEpisode:
    traits = Traits(score, 0.2, 2.0, x, 0.5, 0.0, 1.0, 0.0, 0.0)
    return JudgedEpisode(track, traits, label, frozenset({track}), is_true)


def some() -> tuple[list[JudgedEpisode], list[JudgedEpisode]]:
    """True cars on the right with scores from .5; false people on the left, and one strong car."""
    true = [episode(n, 0.5 + n / 100, 0.7 + n / 100, "car", True) for n in range(12)]
    false = [episode(20 + n, 0.3 + n / 100, 0.1 + n / 100, "person", False) for n in range(11)]
    return true, [*false, episode(40, 0.8, 0.2, "car", False)]


def test_each_side_keeps_what_was_judged_true() -> None:
    true, false = some()
    muted = {
        side: [each.began for each in (*true, *false) if rival(true, false)(each)]
        for side, rival in SIDES.items()
    }
    weak = list(range(20, 31))
    assert muted["default"] == []
    assert muted["least score"] == weak, "the strong car stays"
    assert muted["score of each class"] == weak
    assert muted["mask"] == [*weak, 40]
    assert set(muted["learned"]) >= set(weak)
    assert not set(muted["learned"]) & set(range(12))


def test_a_class_that_was_never_true_is_off() -> None:
    true, false = some()
    mutes = SIDES["score of each class"](true, false)
    assert mutes(episode(50, 0.99, 0.9, "person", True))
    assert not mutes(episode(51, 0.1, 0.9, "bus", True)), "nothing is known of a bus"


def test_a_frame_without_a_muted_track() -> None:
    overlaps = np.array([[0.8, 0.0], [0.6, 0.0], [0.0, 0.5]], np.float32)
    frame = ScoredFrame((1, 2, None), np.array([0.9, 0.8, 0.7], np.float32), overlaps)
    assert frame.without(frozenset()) == (2, 3, 2)
    assert frame.without(frozenset({2})) == (2, 2, 2)
    assert frame.without(frozenset({1, 2})) == (1, 1, 2)
    assert frame.without(frozenset()).is_miscounted
    assert not frame.without(frozenset({2})).is_miscounted


def test_verdicts_are_drawn_the_same_way_each_time() -> None:
    true, false = some()
    drawn = draw_verdicts([*true, *false], 10, 3)
    assert drawn == draw_verdicts([*true, *false], 10, 3)
    assert drawn is not None
    assert [len(kind) for kind in drawn] == [10, 10]
    assert draw_verdicts([*true, *false], 13, 3) is None


def test_the_bars_take_the_worst_draw() -> None:
    def row(side: str, draw: int, f1: float, lost: float) -> dict[str, Any]:
        return {"verdicts": 20, "draw": draw, "side": side, "f1": f1, "lost": lost}

    draws = [row("learned", 0, 0.9, 0.0), row("learned", 1, 0.8, 0.05), row("mask", 0, 0.7, 0.0)]
    clip = {"default": {"f1": 0.75}, "draws": draws, "cpu_ratio": 1.01}
    worst = {"20": draws[1]}
    found = bars({"clips": {"a": clip}, "worst": {"a": worst}, "composed": {"mendable": 0.1}})
    assert [round(bar.measured or 0, 4) for bar in found] == [0.05, 0.1, 0.05, 1.01, 0.1]
    assert [bar.held for bar in found] == [True, True, False, True, False]
