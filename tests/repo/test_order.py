"""The order in which files of tests begin."""

from __future__ import annotations

from tests.conftest import LONGEST, TESTS


def test_each_file_that_begins_early_exists_and_is_named_once() -> None:
    assert [name for name in LONGEST if not (TESTS / name).exists()] == []
    assert len(set(LONGEST)) == len(LONGEST)
