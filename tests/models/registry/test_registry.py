"""The registry: what is put is found, whole or not at all."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from framegate.models.errors import AmbiguousModel, ModelRefused, ModelUnreadable, UnknownModel
from framegate.models.registry.registry import STALE_AFTER_S, Registry, default_root
from tests.support.made_models import folder_of


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "models")


def test_the_name_means_the_version_added_last(registry, tmp_path):
    for version in ("3", "1", "2"):
        registry.put(folder_of(tmp_path / version, version=version))
    assert [model.manifest.version for model in registry.models()] == ["2", "1", "3"]
    assert registry.find("yard").manifest.version == "2"
    assert registry.find("yard@3").manifest.version == "3"
    sha = registry.find("yard@1").manifest.sha256
    assert registry.find(f"yard@{sha[:8]}").manifest.version == "1"
    assert registry.find(f"yard@{sha}").path.name == sha


def test_the_same_twice_is_one_and_the_newest(registry, tmp_path):
    first = folder_of(tmp_path / "a", version="1")
    registry.put(first)
    registry.put(folder_of(tmp_path / "b", version="2"))
    registry.put(first)
    assert [model.manifest.version for model in registry.models()] == ["1", "2"]
    # Neither its own folder is in the way.
    registry.put(registry.find("yard@1"))
    assert len(registry.models()) == 2


def test_unknown_and_ambiguous(registry, tmp_path):
    with pytest.raises(UnknownModel, match="'yard': not in the registry, which has no model"):
        registry.find("yard")
    registry.put(folder_of(tmp_path / "a", "one"))
    registry.put(folder_of(tmp_path / "b", "two"))
    for ref in ("garden", "yard@9", "yard@abcdef", "yard@00000000", "", "@1"):
        with pytest.raises(UnknownModel, match="which has yard@1"):
            registry.find(ref)
    choices = r"'yard@1' is ambiguous; choose one of yard@\w{8}, yard@\w{8}"
    with pytest.raises(AmbiguousModel, match=choices):
        registry.find("yard@1")


def test_removed_is_gone(registry, tmp_path):
    registry.put(folder_of(tmp_path / "a"))
    registry.remove("yard@1")
    assert registry.models() == []
    assert list(registry.root.iterdir()) == []


def test_a_damaged_folder_is_not_put(registry, tmp_path):
    folder = folder_of(tmp_path / "a")
    (folder.path / "model.bin").write_text("other", encoding="utf-8")
    with pytest.raises(ModelUnreadable, match=r"model\.bin"):
        registry.put(folder)
    assert list(registry.root.iterdir()) == []


def test_a_broken_one_is_told_and_mended_by_putting_it_again(registry, tmp_path):
    folder = folder_of(tmp_path / "a")
    kept = registry.put(folder)
    registry.put(folder_of(tmp_path / "b", version="2"))
    (kept.path / "manifest.json").write_text("{", encoding="utf-8")
    (registry.root / "notes.txt").write_text("no model", encoding="utf-8")
    assert [model.manifest.version for model in registry.models()] == ["2"]
    _, (broken,) = registry.all_models()
    assert broken.path == kept.path
    assert "manifest: the file" in broken.why
    registry.put(folder)
    assert registry.all_models()[1] == []
    (kept.path / "model.bin").write_text("bit rot", encoding="utf-8")
    registry.put(folder).verified()


def test_a_manifest_under_another_digest_is_broken(registry, tmp_path):
    kept = registry.put(folder_of(tmp_path / "a"))
    shutil.copytree(kept.path, registry.root / ("0" * 64))
    assert [one.path.name for one in registry.all_models()[1]] == ["0" * 64]


PUT = """\
import sys
from pathlib import Path
from framegate.models.registry.model_folder import open_folder
from framegate.models.registry.registry import Registry
for _ in range(20):
    Registry(Path(sys.argv[1])).put(open_folder(Path(sys.argv[2])))
"""


def test_two_processes_put_the_same(registry, tmp_path):
    folder = folder_of(tmp_path / "a")
    command = [sys.executable, "-c", PUT, str(registry.root), str(folder.path)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert len(registry.models()) == 1
    registry.find("yard").verified()


def test_figures_that_cannot_be_written_leave_no_file(registry, tmp_path):
    manifest = registry.put(folder_of(tmp_path / "a")).manifest
    judged = registry.root / "judged"
    (judged / f"{manifest.sha256}.json").mkdir(parents=True)
    with pytest.raises(ModelRefused, match="cannot be written"):
        registry.keep_judgement(manifest, {})
    assert [path.name for path in judged.iterdir()] == [f"{manifest.sha256}.json"]


def test_where_models_are(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert str(default_root()) == "/data/framegate/models"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert str(default_root()) == "/home/user/.local/share/framegate/models"


def test_what_a_killed_process_left_goes_a_day_later(registry, tmp_path):
    registry.put(folder_of(tmp_path / "1", version="1"))
    for name, age_s in (("old", 2 * STALE_AFTER_S), ("new", 60.0)):
        (registry.root / f".new-{name}").mkdir()
        at = time.time() - age_s
        os.utime(registry.root / f".new-{name}", (at, at))
    registry.put(folder_of(tmp_path / "2", version="2"))
    assert [path.name for path in registry.root.glob(".new-*")] == [".new-new"]
