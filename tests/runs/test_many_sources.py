"""Many sources in one run: all of them whole, with few descriptors each, or refused at once."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from framegate.pipeline.system.machine import files_needed
from tests.support import footage
from tests.support.commands import Command, Reader, user_folder
from tests.support.runs import environment
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

DONE, USAGE = 0, 2
FRAMES = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "tiny.mp4", footage.steady(FRAMES, fps=1), size=(32, 32))
    return folder


def words(count: int) -> list[str]:
    return [f"s{n}=tiny.mp4" for n in range(count)]


def limited(folder: Path, hard: int, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of ours with at most so many open files, the usual soft limit below that."""
    framegate = (sys.executable, "-m", "framegate.cli", *command)
    return subprocess.run(
        ("bash", "-c", f'ulimit -Sn 64; ulimit -Hn {hard}; exec "$@"', "bash", *framegate),
        cwd=folder,
        env=environment() | {"XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        encoding="utf-8",
    )


def check_whole(folder: Path, count: int) -> None:
    with server(folder / "data" / "store") as store:
        reader = Reader(store.url)
        for n in range(count):
            assert len(reader.whole(f"s{n}", FRAMES)) == FRAMES


def test_all_of_120_sources_are_served_with_the_files_that_they_are_said_to_need(
    folder: Path,
) -> None:
    count = 120
    ended = limited(
        folder, files_needed(count), "run", "--http", "off", "-d", "data", *words(count)
    )
    assert ended.returncode == DONE, ended.stderr[-3000:]
    assert "WARNING" not in ended.stderr
    check_whole(folder, count)


@pytest.mark.parametrize("command", ["run", "check"])
def test_too_few_open_files_for_the_sources_are_told_before_anything_starts(
    folder: Path, command: str
) -> None:
    more = ("--http", "off", "-d", "data") if command == "run" else ()
    ended = limited(folder, files_needed(20) - 1, command, *more, *words(20))
    assert ended.returncode == USAGE
    told = ended.stderr + ended.stdout
    assert f"20 sources need about {files_needed(20)} open files" in told
    assert f"ulimit -n {files_needed(20)}" in told
    assert not (folder / "data" / "run.json").exists()


@pytest.mark.long
def test_a_thousand_sources_in_one_run(folder: Path) -> None:
    count = 1000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < files_needed(count):
        pytest.skip(f"needs ulimit -Hn {files_needed(count)}")
    with Command(folder, "run", "--http", "off", "-d", "data", *words(count)) as run:
        ended = run.wait(500)
    assert ended.code == DONE, ended.err[-3000:]
    check_whole(folder, count)


def test_no_thread_and_no_descriptor_for_a_moment_cost_a_source_that_moment(folder: Path) -> None:
    toml = folder / "pipeline.toml"
    toml.write_text(
        toml.read_text(encoding="utf-8").replace("user_stages:Sized", "user_stages:ShortOfMeans"),
        encoding="utf-8",
    )
    with Command(folder, "run", "--http", "off", "-d", "data", *words(2)) as run:
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert "cannot be decoded now" in ended.err
    assert "this process cannot open a connection" in ended.err
    assert "starting another" not in ended.err  # no worker died of it
    check_whole(folder, 2)
