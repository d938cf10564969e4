"""What test processes share is made by one of them, completely, however many want it at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.made_once import made_once
from tests.support.runs import environment

_MAKE = """
import os, sys
from pathlib import Path
from tests.support.made_once import made_once

def make(folder):
    with Path(sys.argv[1], "makers").open("a") as makers:
        makers.write(f"{os.getpid()}\\n")
    for n in range(200):
        (folder / str(n)).write_text("made")

folder = made_once(Path(sys.argv[1], "shared"), make)
assert sum(path.read_text() == "made" for path in folder.iterdir()) == 200
"""


def test_one_of_several_processes_makes_it_and_all_find_it_complete(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MAKE, str(tmp_path)]
    running = [subprocess.Popen(command, env=environment()) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert len((tmp_path / "makers").read_text(encoding="utf-8").splitlines()) == 1


def test_what_a_failed_maker_left_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("the disk is full")

    def make(folder: Path) -> None:
        (folder / "whole").touch()

    with pytest.raises(OSError, match="the disk is full"):
        made_once(tmp_path / "shared", fail)
    folder = made_once(tmp_path / "shared", make)
    assert (folder / "whole").exists()
    assert not (folder / "half").exists()
