"""Bad input through the real command line: what the user sees, how it ends, and what it harms.

One table. A case plays something bad and gives how the command ended; its message says what is
wrong, where, and what is allowed. What a case harms and does not harm, it asserts itself.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.runs.bad import cameras, configuration, disks, folders, poison, sources, stores
from tests.runs.bad.case import DONE, GOOD_FRAMES, SOURCE_FAILED, Case
from tests.support import footage
from tests.support.commands import Ended, user_folder

pytestmark = pytest.mark.whole_run

TABLE = [
    pytest.param(case, id=case.name.replace(" ", "_"), marks=[pytest.mark.long] * case.long)
    for part in (sources, cameras, configuration, folders, stores, disks, poison)
    for case in part.CASES
]


@pytest.mark.parametrize("case", TABLE)
def test_bad_input(case: Case, tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "good.mp4", footage.steady(GOOD_FRAMES))

    ended = case.play(folder)

    missing = [part for part in case.says if part not in ended.err]
    assert not missing, ended.err
    assert ended.code == case.code, ended.err
    assert "Traceback" not in ended.err or "stage_error" in case.name
    assert list((folder / "state").glob("framegate/running/*")) == []


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = user_folder(tmp_path_factory.mktemp("files") / "user")
    footage.write_scene(folder / "good.mp4", footage.steady(GOOD_FRAMES))
    return sources.all_beside_a_good_one(folder)


def test_bad_files_harm_nobody(bad_files: Ended) -> None:
    assert bad_files.code == SOURCE_FAILED, bad_files.err
    assert [r["seq"] for r in bad_files.results("good")] == list(range(GOOD_FRAMES))
    assert "Traceback" not in bad_files.err


@pytest.mark.parametrize("bad", sources.BAD_FILES, ids=lambda bad: bad.name)
def test_a_bad_file_says_why(bad_files: Ended, bad: sources.BadFile) -> None:
    assert [part for part in bad.says if part not in bad_files.err] == [], bad_files.err
    assert bad_files.results(bad.name) == []


@pytest.fixture(scope="module")
def bad_cameras(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = user_folder(tmp_path_factory.mktemp("cameras") / "user")
    footage.write_scene(folder / "good.mp4", footage.steady(GOOD_FRAMES))
    return cameras.all_beside_a_good_one(folder)


def test_bad_cameras_harm_nobody_and_no_password_is_told(bad_cameras: Ended) -> None:
    assert bad_cameras.code == DONE, bad_cameras.err
    assert [r["seq"] for r in bad_cameras.results("good")] == list(range(GOOD_FRAMES))
    said = bad_cameras.err + bad_cameras.out
    assert cameras.SECRET not in said
    assert base64.b64encode(cameras.SECRET.encode()).decode() not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("bad", cameras.BAD_CAMERAS, ids=lambda bad: bad.name)
def test_a_bad_camera_says_why(bad_cameras: Ended, bad: cameras.BadCamera) -> None:
    assert [part for part in bad.told() if part not in bad_cameras.err] == [], bad_cameras.err
    assert bad_cameras.results(bad.name) == []
