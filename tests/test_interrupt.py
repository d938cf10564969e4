"""Ctrl-C, twice, at any time; a reader that goes away; and what --resume makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import footage
from tests.bad.case import DONE, STOPPED_TWICE
from tests.bad.folders import held_up, open_gate, workers
from tests.commands import Ended, framegate, user_folder
from tests.runs import children, environment, wait_until

FRAMES = 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "good.mp4", footage.steady(FRAMES))
    return folder


def resumed(folder: Path) -> Ended:
    ended = framegate(folder, "run", "-d", "data", "--resume", "--json")
    assert ended.code == DONE, ended.err
    return ended


def printed(*parts: Ended) -> list[tuple[int, int]]:
    return [(r["epoch"], r["seq"]) for part in parts for r in part.results("good")]


def test_ctrl_c_finishes_what_is_decoded_and_resume_goes_on_after_it(folder: Path) -> None:
    with held_up(folder, "good.mp4", "-d", "data", "--json") as run:
        wait_until("half a credit is printed", lambda: (folder / "out.txt").stat().st_size)
        run.interrupt()
        run.says("once more stops at once")
        open_gate(folder)
        first = run.wait()
    assert first.code == DONE
    assert 0 < len(printed(first)) < FRAMES
    assert printed(first, resumed(folder)) == [(1, seq) for seq in range(FRAMES)]


def test_ctrl_c_at_the_very_start(folder: Path) -> None:
    with held_up(folder, "good.mp4", "-d", "data", "--json") as run:
        open_gate(folder)
        wait_until("a worker starts", lambda: workers(run.process.pid))
        run.interrupt()
        first = run.wait()
    assert first.code == DONE
    assert len(printed(first)) < FRAMES


def test_a_second_ctrl_c_stops_at_once(folder: Path) -> None:
    with held_up(folder, "good.mp4", "-d", "data", "--json") as run:
        wait_until("something is printed", lambda: (folder / "out.txt").stat().st_size)
        started = children(run.process.pid)
        run.interrupt()
        run.says("once more stops at once")
        run.interrupt()
        first = run.wait()
    assert first.code == STOPPED_TWICE
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    open_gate(folder)
    assert printed(first, resumed(folder)) == [(1, seq) for seq in range(FRAMES)]


def test_a_reader_that_goes_away_ends_the_run_in_peace(folder: Path) -> None:
    """As `framegate run ... --json | head -3` does."""
    command = [sys.executable, "-m", "pipeline.cli", "run", "good.mp4", "-d", "data", "--json"]
    env = {**environment(), "XDG_STATE_HOME": os.fspath(folder / "state")}
    run = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert run.stdout is not None
        assert run.stdout.readline().startswith('{"v":1,')
        run.stdout.close()
        assert run.stderr is not None
        err = run.stderr.read()
        assert run.wait(60) == DONE, err
        assert "Traceback" not in err
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            run.wait()
