"""`framegate diff`: two runs over the same clip, as a user compares them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import footage
from tests.support.commands import Ended, framegate, user_folder

pytestmark = pytest.mark.whole_run

RULES = '[stages.events]\nuse = "user_stages:Visits"\ninput = "cache"\non_lag = "wait"\n'
FRAMES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a clip of 12 frames: two alike, one with every second frame, one with other boxes."""
    made = user_folder(tmp_path_factory.mktemp("user"), more=RULES)
    footage.write_scene(made / "door.mp4", footage.steady(FRAMES))
    text = (made / "pipeline.toml").read_text(encoding="utf-8")
    (made / "other.toml").write_text(text.replace("Crowd", "Quarter"), encoding="utf-8")
    for name, words in {
        "first": [],
        "again": [],
        "half": ["--frames", "every=2"],
        "other": ["-c", "other.toml"],
    }.items():
        ended = framegate(made, "run", "door.mp4", "-d", name, "--http", "off", *words)
        assert ended.code == 0, ended.err
    return made


def diff(folder: Path, *words: str, code: int) -> Ended:
    ended = framegate(folder, "diff", *words)
    assert ended.code == code, ended.err
    return ended


def test_equal_runs(folder: Path) -> None:
    said = diff(folder, "first", "again", code=0).out
    assert said == (
        "door  12 frames in both runs. Different: 0 frames, 0 of them with other objects; "
        "0 tracks; 0 episodes\n"
    )
    assert diff(folder, "first", "again", "--json", code=0).out == ""


def test_frames_that_one_run_left_out(folder: Path) -> None:
    """Visits begin at every fourth frame of a run: here at 0.16 s in one run only."""
    said = diff(folder, "first", "half", code=1).out
    assert "door  6 frames in both runs, 6 only in first. Different: " in said
    assert "door  frame 1-1 (0.04 s) only in first\n" in said
    assert "door  visitor at 0.16 s only in first\n" in said
    told = diff(folder, "first", "half", "--json", code=1).out
    lines = [json.loads(line) for line in told.splitlines()]
    alone = [line["before"] for line in lines if line["kind"] == "frame" and not line["after"]]
    assert alone == [f"1-{n}" for n in range(1, FRAMES, 2)]
    [visit] = [line for line in lines if line["kind"] == "episode"]
    assert (visit["before"]["began"]["media_s"], visit["after"]) == (0.16, None)


def test_objects_that_only_one_run_has(folder: Path) -> None:
    said = diff(folder, "first", "other", "--source", "door", code=1).out
    assert "door  frame 1-1 (0.04 s): only in first: " in said
    assert "person #1 0.90" in said
    assert "; only in other: car #1 0.90\n" in said
    assert "door  car #7000000 only in first\n" in said
    assert "door  car #1 only in other\n" in said


def test_a_folder_or_source_that_is_not_there(folder: Path) -> None:
    said = diff(folder, "first", "nowhere", code=2).err
    assert "nowhere" in said
    said = diff(folder, "first", "again", "--source", "dor", code=2).err
    assert said == "framegate: --source dor: neither run has this source; did you mean door?\n"
