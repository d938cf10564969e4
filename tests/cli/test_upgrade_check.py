"""`framegate upgrade-check`: what is refused, all at once; looking changes nothing."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import pytest

from framegate.pipeline.run.folder import VERSION
from framegate.stages.footage.kept import Keeper, Limits
from tests.stages.footage.test_kept import frame, keep
from tests.support.commands import framegate, user_folder
from tests.support.footage import steady, write_scene

OLD = """
[ladder]
sizes = [320]
[stages.detect]
use = "stages.detect:Detect"
[gate]
native = true
[cache]
near = true
[promise]
measure = "boxes"
most_boxes = 3
[models.sources.yard]
rungs = [1]
"""
SEEN = """
import msgspec
from framegate import Stage

class Seen(msgspec.Struct):
    {field}

class People(Stage[Seen]):
    State = Seen

    def each(self, item, state):
        return None, state
"""
STAGE = '[stages.people]\nuse = "mine:People"\ninput = "cache"\non_lag = "wait"\n'


def test_keys_of_older_versions_are_told_all_at_once_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(OLD)
    ended = framegate(tmp_path, "upgrade-check")
    assert ended.code == 2
    for fault in (
        "it is framegate.stages.detect:Detect now",
        "ladder: an older Framegate had this key; remove it: for one size, detector = ",
        "gate.native: an older Framegate had this key",
        "cache.near: an older Framegate had this key",
        "promise.most_boxes: an older Framegate had this key",
        'an older Framegate had this value: "counts" is the promise about frames',
        "yard.rungs: an older Framegate had this key",
    ):
        assert fault in ended.out, ended.out
    assert "unknown" not in ended.out
    assert ended.out.count("FAULT: ") == 7
    assert "7 faults" in ended.out


def test_a_configuration_of_today(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text('[sources.yard]\nurl = "yard.mp4"\n')
    ended = framegate(tmp_path, "upgrade-check", "-c", "pipeline.toml")
    assert (ended.code, ended.err) == (0, "")
    assert "configuration      pipeline.toml: read as it is" in ended.out
    assert "all is well" in ended.out


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run with a stage of one's own has ended."""
    folder = user_folder(tmp_path_factory.mktemp("ran"), STAGE)
    (folder / "mine.py").write_text(SEEN.format(field="people: int = 0"))
    write_scene(folder / "yard.mp4", steady(5))
    ended = framegate(folder, "run", "yard.mp4", "-d", "data")
    assert ended.code == 0, ended.err
    return folder


def sums(folder: Path) -> dict[str, str]:
    """Of all files of the run."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_that_ended_is_looked_at_and_left_as_it_is(ran: Path) -> None:
    before = sums(ran / "data")
    ended = framegate(ran, "upgrade-check", "-d", "data")
    assert ended.code == 0, ended.out
    assert f"data: of framegate {version('framegate')}, run.json of version {VERSION}" in ended.out
    assert "results and states of yard: read as they are" in ended.out
    assert sums(ran / "data") == before


def test_a_stage_that_cannot_read_what_it_has_stored(ran: Path) -> None:
    kept = (ran / "mine.py").read_text()
    (ran / "mine.py").write_text(SEEN.format(field="names: list[str]"))
    ended = framegate(ran, "upgrade-check", "-d", "data")
    (ran / "mine.py").write_text(kept)
    assert ended.code == 2
    assert "source yard: what stage people has stored does not fit it any more" in ended.out
    assert "missing required field `names`" in ended.out


def test_a_run_of_a_newer_version_is_refused(ran: Path) -> None:
    file = ran / "data" / "run.json"
    kept = file.read_text()
    file.write_text(json.dumps({**json.loads(kept), "v": VERSION + 1, "framegate": "9.1"}))
    ended = framegate(ran, "upgrade-check", "-d", "data")
    file.write_text(kept)
    assert ended.code == 2
    assert f"a newer Framegate 9.1 wrote it (version {VERSION + 1}; " in ended.out


def test_a_run_of_an_older_version_is_told(ran: Path) -> None:
    file = ran / "data" / "run.json"
    kept = file.read_text()
    old = json.loads(kept)
    del old["framegate"]
    file.write_text(json.dumps({**old, "v": VERSION - 1}))
    ended = framegate(ran, "upgrade-check", "-d", "data")
    file.write_text(kept)
    assert ended.code == 0, ended.out
    assert f"of framegate 0.1, run.json of version {VERSION - 1}" in ended.out
    assert f"the next start writes it as version {VERSION}" in ended.out


def test_kept_footage_is_counted(ran: Path) -> None:
    keep(Keeper(ran / "data", Limits(1 << 30, 30)), frame(1))
    (ran / "data" / "footage" / "gate" / "1-2.jpg").write_bytes(b"cut short")
    ended = framegate(ran, "upgrade-check", "-d", "data")
    assert ended.code == 0, ended.out
    assert "1 frames: read as they are; 1 files are not" in " ".join(ended.out.split())


def test_models_and_certificates_that_cannot_be_read(ran: Path) -> None:
    broken = ran / "data" / "models" / ("0" * 64)
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text('{"v": 2}')
    (ran / "data" / "certificates").mkdir()
    (ran / "data" / "certificates" / "a.json").write_text('{"v": 99}')
    ended = framegate(ran, "upgrade-check", "-d", "data")
    assert ended.code == 2
    assert "manifest: v = 2: allowed is 1: a newer Framegate wrote it" in ended.out
    assert "a.json: certificate of version 99; this Framegate reads up to version" in ended.out
