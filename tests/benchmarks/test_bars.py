"""Targets that a bad result misses."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks import boxes, events, many, picture_coding, promise, truth
from benchmarks.harness.report import Bar
from benchmarks.truth import clips


def the_bar(bars: list[Bar], words: str) -> Bar:
    """Return the only bar that begins with these words."""
    (found,) = (bar for bar in bars if bar.what.startswith(words))
    return found


def test_always_asking_asks_more_than_an_oracle_whose_answers_last() -> None:
    result = {
        "realised_error": 0.0,
        "alpha": 0.01,
        "certified": True,
        "escalated_share": 1.0,
        "oracle_share": 0.53,
        "lasting_oracle": {"asked_share": 0.03},
    }
    assert the_bar(promise.bars(result), "asked").held is False


def of_many(*points: tuple[int, float, float]) -> dict[str, Any]:
    """A result with points of (sources, CPU-ms a frame, MB of the run)."""
    return {
        "points": [
            {"sources": n, "cpu_ms_per_frame": ms, "mb_per_source": mb / n, "lost": 0}
            for n, ms, mb in points
        ]
    }


def test_a_frame_among_many_costs_as_much_as_at_the_worst_number() -> None:
    bars = many.bars(of_many((100, 1.0, 300), (300, 1.5, 400), (1000, 1.0, 750)))
    assert the_bar(bars, "CPU a frame").measured == 1.5
    too_short = many.bars(of_many((2, 0.0, 9), (4, 0.1, 9)))
    assert the_bar(too_short, "CPU a frame").measured is None


@pytest.mark.parametrize(("last_mb", "measured"), [(750, 1.0), (1450, 3.0)])
def test_the_memory_of_a_run_without_sources_hides_no_growth(
    last_mb: float, measured: float
) -> None:
    bars = many.bars(of_many((100, 1.0, 300), (300, 1.0, 400), (1000, 1.0, last_mb)))
    assert the_bar(bars, "memory of a further source").measured == pytest.approx(measured)
    assert the_bar(many.bars(of_many((2, 1.0, 9), (4, 1.0, 9))), "memory").measured is None


@pytest.mark.parametrize(
    ("error", "rival", "measured"),
    [(0.2, 0.4, 0.5), (0.4, 0.0, math.inf), (0.0, 0.0, 0.0), (None, None, None)],
)
def test_an_error_beside_a_rival_without_one_is_a_miss(
    error: float | None, rival: float | None, measured: float | None
) -> None:
    result = {
        "count_error": error,
        "rival_count_error": rival,
        "episode_f1": 1.0,
        "gate_on_off": {"clip": 1.0},
        "cpu_ms_per_frame": {"clip": 0.0},
    }
    assert the_bar(events.bars(result), "count error by").measured == measured


def test_what_the_gate_costs_is_judged_by_clips_that_choose_nothing() -> None:
    rows = [
        {"clip": clip, "configuration": "gate-off", "role": role, "f1_gain": 0.1}
        for clip, role in (("street", "reports"), ("hall", "chooses"))
    ]
    assert [bar.what for bar in truth.bars({"rows": rows})] == ["street: F1 lost by the gate"]


def test_clips_in_whose_view_settings_were_chosen_do_not_report() -> None:
    in_view = {*boxes.MAY_TUNE, *picture_coding.CLIPS}
    assert {clips.ROLES[name] for name in in_view} == {"chooses"}
