"""The secret of a data folder: one for all who need it first, and complete."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.promise.secret import secret_of, share_secret


def test_threads_that_need_it_at_once_get_the_same_secret(tmp_path: Path) -> None:
    n_threads = 4
    barrier = threading.Barrier(n_threads)

    def read(folder: Path) -> bytes:
        barrier.wait()
        return secret_of(folder)

    with ThreadPoolExecutor(n_threads) as threads:
        for number in range(10):
            folder = tmp_path / str(number)
            folder.mkdir()
            secrets = set(threads.map(read, [folder] * n_threads))
            assert secrets == {(folder / "promise.secret").read_bytes()}
            assert [path.name for path in folder.iterdir()] == ["promise.secret"]


def test_only_its_owner_reads_it_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert len(secret_of(tmp_path)) == 32
    path = tmp_path / "promise.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(ConfigFaults, match=r"promise\.secret has 5 bytes; must be 32"):
        secret_of(tmp_path)


def test_all_hosts_of_a_fleet_derive_the_same_secret(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    secret_of(two)
    assert not share_secret(one, "a secret of the fleet")
    assert share_secret(two, "a secret of the fleet"), "it replaces the one that was there"
    assert not share_secret(two, "a secret of the fleet")
    assert secret_of(one) == secret_of(two)
    assert b"fleet" not in secret_of(one)
    assert share_secret(one, "another secret")
    assert secret_of(one) != secret_of(two)
