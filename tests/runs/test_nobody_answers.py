"""A run whose heavy workers are not there says so; one that is started by its folder mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import Command, framegate, user_folder
from tests.support.footage import steady, write_scene

pytestmark = pytest.mark.whole_run

ESCALATE = """
[escalate]
place = "workers"
doubt = 0.0
patience_s = {patience_s}
"""


def folder_of(path: Path, patience_s: float) -> Path:
    folder = user_folder(path, more=ESCALATE.format(patience_s=patience_s))
    write_scene(folder / "clip.mp4", steady(40), (64, 48))
    return folder


def test_degraded_frames_are_told_and_a_place_that_is_away_once(tmp_path: Path) -> None:
    ended = framegate(folder_of(tmp_path / "run", 0.1), "run", "clip.mp4")
    assert ended.code == 0
    # A slow machine tells of it while the run goes on, too.
    *_, last = [line for line in ended.err.splitlines() if "clip: finished, 40 frames" in line]
    assert " 40 degraded (" in last
    [told] = [line for line in ended.err.splitlines() if "no heavy worker is at" in line]
    assert "framegate worker --heavy -d DATA" in told
    assert "valkey.sock" not in ended.err


def test_a_worker_is_started_with_the_folder_of_a_run(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", 60.0)
    data = str(tmp_path / "data")
    with Command(folder, "run", "clip.mp4", "-d", data) as run:
        run.says("no heavy worker is at")
        (tmp_path / "worker").mkdir()
        words = ("worker", "--heavy", "-d", data, "--threads", "1")
        with Command(tmp_path / "worker", *words) as worker:
            ended = run.wait()
            worker.says("answering questions")
    assert ended.code == 0
    assert "the heavy model answers again" in ended.err
    assert "unanswered" not in ended.err
    assert "breaker_open" not in ended.err
