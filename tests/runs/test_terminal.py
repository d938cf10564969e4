"""What a person at a terminal sees of a run: its table, what is said meanwhile, and its end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import footage
from tests.support.commands import framegate, user_folder
from tests.support.terminals import Terminal

pytestmark = pytest.mark.whole_run

FAILS = 'use = "user_stages:Raises"\nevery = 20\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose graph has a stage that fails, and says so, once in 20 frames."""
    folder = user_folder(tmp_path / "user", main=FAILS, apart=True)
    footage.write_scene(folder / "entrance.mp4", footage.steady(100))
    return folder


def tables(lines: list[str]) -> Iterator[list[str]]:
    """What stands below each head of a table, up to what is no row of it."""
    for number, line in enumerate(lines):
        if line.startswith("source  "):
            assert set(lines[number + 1]) == {"─"}, lines
            yield list(itertools.takewhile(lambda row: "  " in row, lines[number + 2 :]))


def closing_of(lines: list[str]) -> str:
    """What a run says last, as one line; where that would be cut, it is one for each part."""
    end = next(n for n, line in enumerate(lines) if line.startswith("ended with "))
    begin = max(n for n, line in enumerate(lines[:end]) if line.startswith("framegate: "))
    return "; ".join(line.strip() for line in lines[begin:end])


@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.long)])
def test_what_workers_say_stands_above_the_table(folder: Path, columns: int) -> None:
    """An error each .8 s by a worker, beside a table that is drawn each second."""
    with Terminal(folder, columns) as terminal:
        terminal.type("framegate run entrance.mp4 --pace realtime -d data --http off")
        lines = terminal.until("ended with 0")
    errors = [line for line in lines if "ERROR   extra: " in line]
    assert len(errors) == 5, lines
    [table] = tables(lines)
    [row] = table
    assert row.split()[:3] == ["entrance", "finished", "100"], lines
    assert len([line for line in lines if "finished" in line]) == 1, lines
    closing = closing_of(lines)
    assert closing.startswith("framegate: 100 frames in "), lines
    assert closing.endswith("; results with: framegate results -d data"), lines


def test_a_camera_that_is_away_is_told_below_the_table_and_ctrl_c_says_how_to_go_on(
    folder: Path,
) -> None:
    cameras = "door=rtsp://127.0.0.1:1/cam gate=entrance.mp4"
    with Terminal(folder) as terminal:
        terminal.type(f"framegate run {cameras} -d data --http off")
        terminal.until("door    connecting       0")
        terminal.until("gate    finished       100")
        lines = terminal.until("door: unreachable: rtsp://127.0.0.1:1/***")
        assert len(list(tables(lines))) == 1, lines
        terminal.interrupt()
        lines = terminal.until("ended with 0")
        assert "continue with: framegate run --resume -d data" in " ".join(lines), lines
        assert len(list(tables(lines))) == 1, lines


def test_what_is_said_last_where_there_is_no_terminal(tmp_path: Path) -> None:
    """No latency is told of a file at full speed: its frames wait in line, and that is no delay
    that anybody would notice.
    """
    slow = '[sources.slow]\nurl = "entrance.mp4"\npace = "realtime"\n'
    folder = user_folder(tmp_path / "user", more=slow)
    footage.write_scene(folder / "entrance.mp4", footage.steady(100))
    ended = framegate(folder, "run", "entrance.mp4", "-d", "my data", "--save", "videos")
    assert ended.code == 0
    said = ended.err.splitlines()
    of_fast, of_slow = (
        [line for line in said if f"{source}: finished" in line][-1]
        for source in ("entrance", "slow")
    )
    assert "p50" not in of_fast
    assert "p50" in of_slow
    assert said[-1].startswith("framegate: 200 frames of 2 sources in ")
    ends = "; results with: framegate results -d 'my data'; videos in videos"
    assert said[-1].endswith(ends), said[-1]


def test_files_that_are_not_there_are_told_once_and_nothing_starts(folder: Path) -> None:
    ended = framegate(folder, "run", "away.mp4")
    assert ended.code == 2
    told = [line for line in ended.err.splitlines() if "away.mp4" in line]
    assert len(told) == 1, ended.err
    assert not (folder / "state" / "framegate").exists() or not any(
        (folder / "state" / "framegate").iterdir()
    )
