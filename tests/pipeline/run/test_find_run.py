"""Which run a command without -d reads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.run.rpc import NoRun, announced, find_run, runs_going_on

ANNOUNCE = """
import sys
from pathlib import Path
from framegate.pipeline.run.rpc import announced
with announced(Path(sys.argv[1])):
    print("announced", flush=True)
    sys.stdin.read()
"""

Begin = Callable[[Path], None]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Announce a run in a folder until the test ends, each in a process of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with ExitStack() as stack:

        def begin(folder: Path) -> None:
            folder.mkdir(parents=True)
            command = [sys.executable, "-c", ANNOUNCE, str(folder)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(process.communicate)
            assert process.stdout is not None
            assert process.stdout.readline() == b"announced\n"

        yield begin


def test_of_several_runs_the_one_of_the_current_directory_is_read(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = tmp_path / "shop" / "data", tmp_path / "yard" / "data"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoRun):
        find_run(None)
    begin(other)
    begin(mine)
    for inside in (mine, mine.parent):
        monkeypatch.chdir(inside)
        assert find_run(None).folder == str(mine)
    assert find_run(other).folder == str(other)
    (tmp_path / "link").symlink_to(other)
    for also in (mine / ".." / ".." / "yard" / "data", tmp_path / "link"):
        assert find_run(also).folder == str(other)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigFaults, match=r"several runs are active; choose one with -d:\n  -d "):
        find_run(None)
    begin(mine.parent / "second")
    monkeypatch.chdir(mine.parent)
    with pytest.raises(ConfigFaults, match="several runs") as several:
        find_run(None)
    assert str(other) not in str(several.value)


def test_two_runs_with_the_same_process_id_are_both_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two containers have that share a home folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with announced(tmp_path / "a"), announced(tmp_path / "b"):
        folders = {run.folder for run in runs_going_on()}
    assert folders == {str(tmp_path / "a"), str(tmp_path / "b")}
    assert runs_going_on() == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_home_folder_that_cannot_be_read_has_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runuser` keeps the home folder of root. A name that is too long is refused to root, too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("x" * 300)))
    with pytest.raises(NoRun):
        find_run(tmp_path)
