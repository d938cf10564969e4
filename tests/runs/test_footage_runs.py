"""`[learn] collect` in a run: nothing that is served changes, and a kill costs no kept frame."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from framegate.stages.footage import read_footage
from framegate.stages.footage.kept import kept_frames
from tests.support import footage
from tests.support.asked import Asked, workers
from tests.support.commands import Command, framegate
from tests.support.runs import published_in, said, wait_until

DONE, USAGE = 0, 2
DETECT = '[stages.detect]\ndetector = "nanodet-128"\n'
COLLECT = DETECT + "[learn]\ncollect = true\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "user"
    made.mkdir()
    footage.write_scene(made / "gate.mkv", footage.steady(600))
    return made


def test_results_are_the_same_and_the_accounts_close(folder: Path) -> None:
    results = []
    for name, config in (("off", DETECT), ("on", COLLECT)):
        (folder / "pipeline.toml").write_text(config)
        ended = framegate(folder, "run", "gate.mkv", "-d", name)
        assert ended.code == DONE, ended.err
        results.append(said(published_in(folder / name, ["gate"])["gate"].results))
    assert len(results[0]) == 600
    assert results[0] == results[1]
    assert not (folder / "off" / "footage").exists()
    kept = kept_frames(folder / "on")["gate"]
    assert kept.files
    assert not kept.unreadable
    read = list(read_footage([f"{folder / 'on'}:gate"]))
    assert [one.moment_s for one in read] == [file.record.moment_s for file in kept.files]


def test_who_keeps_footage_is_killed_and_another_goes_on(folder: Path) -> None:
    (folder / "pipeline.toml").write_text(COLLECT)
    asked, data = Asked(folder), folder / "data"

    def files() -> int:
        found = kept_frames(data).get("gate")
        return 0 if found is None else len(found.files)

    with Command(folder, "run", "gate.mkv", "-d", "data", "--pace", "realtime") as run:
        wait_until("a frame is kept", lambda: files() >= 2)
        collector = workers(run.process.pid)["collect"]
        usual, behind = (
            os.getpriority(os.PRIO_PROCESS, pid) for pid in (run.process.pid, collector)
        )
        assert behind == min(usual + 10, 19)
        os.kill(collector, signal.SIGKILL)
        at = files()
        wait_until("another goes on", lambda: files() > at)
        asked.until("gate", 300)
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    published_in(data, ["gate"])
    assert kept_frames(data)["gate"].unreadable == ()
    resumed = framegate(folder, "run", "-d", "data", "--resume")
    assert resumed.code == DONE, resumed.err
    kept = kept_frames(data)["gate"].files
    assert len({file.path for file in kept}) == len(kept) > at


def test_what_is_wrong_with_the_table_is_told(folder: Path) -> None:
    for told, fault in (
        ("collect = 3", "learn.collect = 3: allowed is true, false or a list of texts"),
        ('collect = ["Gate 1"]', "learn.collect: 'Gate 1' cannot name a source"),
        ("days = 0", "learn.days = 0: allowed is a number from 0.01 to 3650.0"),
        ("colect = true", "did you mean collect?"),
    ):
        (folder / "pipeline.toml").write_text(f"[learn]\n{told}\n")
        ended = framegate(folder, "run", "gate.mkv", "-d", "data")
        assert ended.code == USAGE
        assert fault in ended.err
    (folder / "pipeline.toml").write_text(
        '[stages.collect]\nuse = "framegate.stages.window:Window"\n'
    )
    ended = framegate(folder, "run", "gate.mkv", "-d", "data")
    assert "this name is kept for the table [learn]" in ended.err
