"""What is changed together is there as a whole, or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from framegate.pipeline.recording.durable import transaction


def fail_within(database: sqlite3.Connection, taken_back_already: bool) -> None:
    with transaction(database):
        database.execute("INSERT INTO t VALUES (2)")
        if taken_back_already:
            database.execute("ROLLBACK")
        raise OSError("full")


@pytest.mark.parametrize("taken_back_already", [False, True], ids=["here", "by_sqlite"])
def test_nothing_is_left_of_what_failed_and_its_own_error_is_told(
    tmp_path: Path, taken_back_already: bool
) -> None:
    """Of a full disk SQLite takes all back by itself: that must not hide what happened."""
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE t (n)")
        with transaction(database):
            database.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(OSError, match="full"):
            fail_within(database, taken_back_already)
        assert database.execute("SELECT n FROM t").fetchall() == [(1,)]
        assert not database.in_transaction
