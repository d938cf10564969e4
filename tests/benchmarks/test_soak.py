"""The soak's judgement: what is flat, and whose latency counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak.guests import Span
from benchmarks.soak.watch import (
    LOG_MB,
    SHAKEN_S,
    Drops,
    Shown,
    Watch,
    dropped_share,
    p99_by_span,
)
from framegate.pipeline.contracts.results import Result
from tests.support.runs import Run


def result(seq: int, pts: float | None, epoch: int = 1) -> Result:
    return Result(
        v=1, source="camera", epoch=epoch, seq=seq, pts=pts, captured=0.0, captured_from="rtcp",
        published=0.0, width=64, height=48, outcome="detected", looked="whole", escalation="none",
        reason="age", objects=(), models=(), age_s=0.0, scene=0,
    )  # fmt: skip


def test_a_frame_under_two_ids_and_an_id_with_two_frames_came_twice() -> None:
    shown = Shown()
    assert not shown.has("1-0", result(0, 0.0))
    assert not shown.has("1-1", result(1, 0.2))
    assert not shown.has("2-0", result(0, 0.2, epoch=2))
    assert shown.has("1-1", result(1, 0.2))  # read again
    assert shown.twice == 0
    assert not shown.has("1-2", result(2, 0.2))
    assert not shown.has("1-0", result(0, 0.1))
    assert shown.twice == 2
    assert not shown.has("3-0", result(0, None, epoch=3))
    assert not shown.has("3-1", result(1, None, epoch=3))
    assert shown.twice == 2


def watch(**series: list[float]) -> Watch:
    made = Watch.__new__(Watch)
    names, columns = series.keys(), series.values()
    made.samples = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return made


def saw(most: float, count: int = 200, teeth: int = 25) -> list[float]:
    return [most * (n % teeth) / teeth for n in range(count)]


def test_a_saw_that_does_not_grow_is_flat_wherever_its_teeth_stand() -> None:
    for teeth in (7, 20, 33):
        assert watch(memory_mb=saw(300.0, teeth=teeth)).slope("memory_mb")["flat"]


def test_peaks_that_grow_are_not_flat() -> None:
    growing = [value * (1 + n / 400) for n, value in enumerate(saw(300.0))]
    told = watch(memory_mb=growing).slope("memory_mb")
    assert not told["flat"]
    assert told["grown_share"] == pytest.approx(0.2, abs=0.08)


def test_a_log_is_flat_below_its_bound_however_it_saws() -> None:
    filling = [LOG_MB * n / 200 for n in range(200)]
    assert watch(log_mb=filling).slope("log_mb")["flat"]
    assert not watch(log_mb=[*filling, LOG_MB + 1]).slope("log_mb")["flat"]


def test_what_a_kill_delays_is_no_matter_of_the_neighbours() -> None:
    spans = [Span(0.0, 100.0, False), Span(100.0, 200.0, True)]
    calm = [(float(n), 0.1 if n < 100 else 0.15) for n in range(200)]
    killed = [50.0, 150.0]
    shaken = [(at + after, 5.0) for at in killed for after in (-0.5, 0.5, SHAKEN_S - 0.5)]
    before = [(49.0 - 0.5, 0.1)]
    found = p99_by_span([*calm, *shaken, *before], spans, killed)
    assert found == {False: 0.1, True: 0.15}
    assert p99_by_span([*calm, *shaken], spans, []) == {False: 5.0, True: 5.0}
    assert p99_by_span(calm, spans[:1], killed) == {False: 0.1}


def test_a_sample_of_a_store_that_is_away_is_none(tmp_path: Path) -> None:
    class Gone(Run):
        def __init__(self) -> None:
            self.folder = tmp_path

    made = Watch(Gone(), ["camera"])
    made.sample(1.0, ["guest"])
    assert (made.unread, made.samples) == (1, [])


def test_drops_after_a_shake_do_not_count() -> None:
    drops = [Drops(float(at), 10 * at, 0 if at < 51 else 7) for at in range(100)]
    assert dropped_share(drops, []) == pytest.approx(7 / 990, abs=1e-4)
    assert dropped_share(drops, [20.0, 50.5]) == 0.0
    assert dropped_share(drops, [float(at) for at in range(100)]) is None
