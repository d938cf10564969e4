"""benchmarks.curves: which points, what is told without torch, and the figure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import curves


def test_from_one_point_each_of_the_three_is_changed_alone() -> None:
    given = curves.BENCHMARK.given([])
    points = curves._points(given)
    usual = points[0]
    assert usual == (600, 800, 320)
    changed = [sum(a != b for a, b in zip(one, usual, strict=True)) for one in points]
    assert changed == [0] + [1] * (len(points) - 1)
    assert len(points) == len(given.footage) + len(given.steps) + len(given.sides) - 2


@pytest.mark.long  # `make bench-quick` does so without torch
def test_without_torch_tuning_alone_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = os.environ.get("FRAMEGATE_DATA")
    if not data:
        pytest.skip("FRAMEGATE_DATA names no folder with the clips")
    monkeypatch.setattr(curves, "find_spec", lambda _: None)
    result = curves.whole(curves.BENCHMARK.given(["--quick", "--data", data]))
    assert "left out: networks" in capsys.readouterr().out
    [clip] = result["clips"]
    assert clip["points"] is None
    [tuned] = clip["tuned"]
    assert tuned["frames"] == 20
    assert tuned["f1"] > 0.5


def test_the_figure_is_drawn_from_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (bench extra)")
    from benchmarks.curves import figure

    def point(frames: int, steps: int, side: int, f1: float) -> dict[str, float]:
        return {"frames": frames, "steps": steps, "side": side, "f1": f1, "train_cpu_s": steps / 10}

    points = [point(200, 800, 320, 0.9), point(20, 800, 320, 0.7), point(200, 100, 320, 0.8)]
    tuned = [{"frames": 20, "f1": 0.6}, {"frames": 200, "f1": 0.65}]
    rows = [{"clip": "gate", "tuned": tuned, "points": points}]
    rows += [{"clip": "yard", "tuned": tuned, "points": None}]
    assert figure._curves(rows[0]) == [
        ([20, 200], [0.7, 0.9]),
        ([100 / 600, 800 / 600], [0.8, 0.9]),
        ([320], [0.9]),
    ]
    drawn = figure.draw({"clips": rows}, tmp_path / "curves.png")
    assert drawn.read_bytes().startswith(b"\x89PNG")
