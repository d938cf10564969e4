"""Bad input through the real command line: what the user sees, how it ends, and what it harms.

One table. A case plays something bad and gives how the command ended; its message says what is
wrong, where, and what is allowed. What a case harms and does not harm, it asserts itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import footage
from tests.bad import cameras, configuration, disks, folders, poison, sources, stores
from tests.bad.case import GOOD_FRAMES, Case
from tests.commands import user_folder

TABLE = [
    *sources.CASES,
    *cameras.CASES,
    *configuration.CASES,
    *folders.CASES,
    *stores.CASES,
    *disks.CASES,
    *poison.CASES,
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name.replace(" ", "_"))
def test_bad_input(case: Case, tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "good.mp4", footage.steady(GOOD_FRAMES))

    ended = case.play(folder)

    missing = [part for part in case.says if part not in ended.err]
    assert not missing, ended.err
    assert ended.code == case.code, ended.err
    assert "Traceback" not in ended.err or "stage_error" in case.name
    assert list((folder / "state").glob("framegate/running/*")) == []
