"""Compiled networks in the user's cache: bounded, apart by machine, used by one at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from framegate.models.detector import compiled_networks
from framegate.models.detector.compiled_networks import compiled_folder, locked


def written(path: Path, nbytes: int, used: float) -> Path:
    path.write_bytes(bytes(nbytes))
    os.utime(path, (used, used))
    return path


def test_each_machine_has_a_folder_of_its_own(tmp_path: Path) -> None:
    one, same, other = (compiled_folder(tmp_path, name) for name in ("a", "a", "b"))
    assert one is not None
    assert one.is_dir()
    assert one == same != other


def test_what_was_not_used_for_longest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_networks, "MOST_BYTES", 25)
    here, there = (compiled_folder(tmp_path, name) for name in ("a", "b"))
    assert here is not None
    assert there is not None
    old = written(there / "1.blob", 10, used=1.0)
    kept = written(there / "2.blob", 10, used=2.0), written(here / "3.blob", 10, used=3.0)
    compiled_folder(tmp_path, "a")
    assert not old.exists()
    assert all(path.exists() for path in kept)


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert compiled_folder(tmp_path / "cache", "a") is None


def test_who_is_locked_out_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    entered = []
    with locked(tmp_path):
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with locked(tmp_path, most_s=0.05):
            entered.append("without the lock")
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    assert entered == ["without the lock"]


def test_a_folder_that_cannot_be_opened_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with locked(tmp_path / "cache" / "folder"):
        pass
