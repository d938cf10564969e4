"""Commands whose reader has seen enough, as `| head` has: they end, and say nothing of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import footage
from tests.support.runs import DEADLINE_S, environment


@pytest.mark.parametrize(
    "words",
    [
        ("check", "a.mp4"),
        ("doctor",),
        ("doctor", "--json"),
        ("models", "list"),
        ("config",),
        ("config", "--default"),
        ("verify", "none.json", "a.mp4"),
        ("--help",),
        ("run", "--help"),
    ],
    ids=" ".join,
)
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, words: tuple[str, ...]) -> None:
    footage.write_scene(tmp_path / "a.mp4", footage.steady(5), (64, 48))
    env = {**environment(), "XDG_DATA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "framegate", *words],
        cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # a reader that wants nothing at all
    said = process.stderr.read().decode()
    process.stderr.close()
    process.wait(DEADLINE_S)
    for word in ("Traceback", "BrokenPipe", "CRITICAL", "FAULT"):
        assert word not in said, said
