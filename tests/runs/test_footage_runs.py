"""`[learn] collect` in a run: nothing that is served changes, and a kill costs no kept frame."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from framegate.pipeline.config.config import read_config
from framegate.pipeline.config.graph import stage_specs
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.run.plan import with_footage
from framegate.stages.footage.footage import read_footage
from framegate.stages.footage.kept_pictures import kept_frames
from tests.support import footage
from tests.support.asked import workers
from tests.support.cameras.background import Background
from tests.support.cameras.pictures import Clips
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import url
from tests.support.commands import Command, framegate
from tests.support.runs import published_in, said, wait_until

pytestmark = pytest.mark.whole_run

DONE = 0
DETECT = '[stages.detect]\ndetector = "nanodet-plus-128"\n'
COLLECT = DETECT + "[learn]\ncollect = true\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "user"
    made.mkdir()
    footage.write_scene(made / "gate.mkv", footage.steady(300))
    return made


def test_results_are_the_same_and_the_accounts_close(folder: Path) -> None:
    results = []
    for name, config in (("off", DETECT), ("on", COLLECT)):
        (folder / "pipeline.toml").write_text(config, encoding="utf-8")
        ended = framegate(folder, "run", "gate.mkv", "-d", name)
        assert ended.code == DONE, ended.err
        results.append(said(published_in(folder / name, ["gate"])["gate"].results))
    assert len(results[0]) == 300
    assert results[0] == results[1]
    assert not (folder / "off" / "footage").exists()
    kept = kept_frames(folder / "on")["gate"]
    assert kept.files
    assert not kept.unreadable
    read = list(read_footage([f"{folder / 'on'}:gate"]))
    assert [one.moment_s for one in read] == [file.record.moment_s for file in kept.files]


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[str]:
    """The URL of a camera."""
    background = Background()
    clips = Clips(tmp_path / "clips")
    clip = clips.clip(seconds=20)
    kit = ToolkitCamera(background, clips.folder)
    try:
        yield url(kit.port, kit.path(clip.name))
    finally:
        kit.close()
        background.close()


def test_who_keeps_a_cameras_footage_is_killed_and_another_goes_on(
    folder: Path, camera: str
) -> None:
    (folder / "pipeline.toml").write_text(
        f'{DETECT}[learn]\ncollect = ["gate", "dor"]\n', encoding="utf-8"
    )
    data, began = folder / "data", time.time()

    def files() -> int:
        found = kept_frames(data).get("gate")
        return 0 if found is None else len(found.files)

    with Command(folder, "run", f"gate={camera}", "-d", "data") as run:
        run.says("learn.collect: 'dor' is no source of this run yet")
        wait_until("a frame is kept", lambda: files() >= 2)
        collector = workers(run.process.pid)["collect"]
        usual, behind = (
            os.getpriority(os.PRIO_PROCESS, pid) for pid in (run.process.pid, collector)
        )
        assert behind == min(usual + 10, 19)
        os.kill(collector, signal.SIGKILL)
        at = files()
        wait_until("another goes on", lambda: files() > at)
        run.interrupt()
        ended = run.wait()
    assert ended.code == DONE, ended.err
    published_in(data, ["gate"])
    kept = kept_frames(data)["gate"]
    assert kept.unreadable == ()
    moments = [file.record.moment_s for file in kept.files]
    assert began - 60 < moments[0] < moments[-1] < time.time()
    assert {path.suffix for path in (data / "footage" / "gate").iterdir()} == {".jpg"}


def test_who_keeps_footage_is_told_of_masks_and_escalate_that_somebody_learns() -> None:
    masks = "[gate.masks]\ngate = [[[0, 0], [9, 0], [9, 9]]]\n"
    off = read_config("pipeline.toml", masks)
    assert with_footage(off) is off
    config = with_footage(read_config("pipeline.toml", masks + '[learn]\ncollect = ["gate"]\n'))
    collect = config.stages[-1]
    assert (collect.name, collect.input, collect.on_lag) == ("collect", "windows", "drop")
    assert collect.options == {
        "sources": ["gate"],
        "bytes": 1 << 30,
        "days": 30.0,
        "masks": {"gate": [[[0, 0], [9, 0], [9, 9]]]},
    }
    [escalate] = [stage for stage in config.stages if stage.name == "escalate"]
    assert escalate.options["tells"] is True
    assert stage_specs(config.stages)[-1].reliable is False


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ("[learn]\ncollect = 3", "learn.collect = 3: must be true or false, or a list of strings"),
        ('[learn]\ncollect = ["Gate 1"]', "learn.collect: 'Gate 1': not the name of a source"),
        ("[learn]\ndays = 0", "learn.days = 0: must be a number, 0.01 to 3650"),
        ("[learn]\ncolect = true", "did you mean collect?"),
        (
            '[stages.collect]\nuse = "framegate.stages.windows:Windows"',
            "is reserved for the table [learn]",
        ),
    ],
)
def test_what_is_wrong_with_the_table_is_told(told: str, fault: str) -> None:
    with pytest.raises(ConfigFaults, match=re.escape(fault)):
        read_config("pipeline.toml", told)
