"""The file of a configuration is replaced at once or not at all, and its earlier texts are kept."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from framegate.pipeline.config import config_file
from framegate.pipeline.config.config_file import (
    ConfigFile,
    FileChanged,
    change_file,
    earlier_text,
    read_config_file,
    versions,
)
from framegate.pipeline.config.toml_edit import with_lines, with_value
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.system import replaced_file
from tests.support.edited_file import DARK, FILE, LOST

PATHS = ["events.rules.dark"]
HISTORY = ".pipeline.toml.history"


def add_dark(file: ConfigFile) -> str:
    return with_lines(file.text, DARK, LOST)


def test_a_file_is_changed_once_for_each_look(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(FILE, encoding="utf-8")
    real.chmod(0o640)
    link = tmp_path / "pipeline.toml"
    link.symlink_to(real)
    seen = read_config_file(link)
    after = change_file(link, seen.digest, add_dark, PATHS)
    assert link.is_symlink()
    assert stat.S_IMODE(os.stat(real).st_mode) == 0o640
    assert read_config_file(link) == after
    assert after.config.events.rules["dark"].state == "lost"
    with pytest.raises(FileChanged, match="it was changed meanwhile"):
        change_file(link, seen.digest, add_dark, PATHS)
    change_file(link, after.digest, lambda file: with_value(file.text, DARK, None), PATHS)
    assert real.read_text(encoding="utf-8") == FILE
    assert sorted(os.listdir(tmp_path)) == [".real.toml.history", "pipeline.toml", "real.toml"]


def test_a_change_with_a_fault_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    text = (
        FILE
        + '\n[sinks.hook]\nkind = "webhook"\nurl = "http://127.0.0.1:9/x"\nrules = ["visitor"]\n'
    )
    file.write_text(text, encoding="utf-8")
    visitor = ("events", "rules", "visitor")
    digest = read_config_file(file).digest
    with pytest.raises(ConfigFaults, match="no episode would be sent"):
        change_file(file, digest, lambda file: with_value(file.text, visitor, None), PATHS)
    wrong = '[events.rules.dark]\nwhen = "sometimes"\n'
    with pytest.raises(ConfigFaults, match="sometimes"):
        change_file(file, digest, lambda file: with_lines(file.text, DARK, wrong), PATHS)
    assert file.read_text(encoding="utf-8") == text


@pytest.fixture
def file(tmp_path: Path) -> ConfigFile:
    path = tmp_path / "pipeline.toml"
    path.write_text(FILE, encoding="utf-8")
    return read_config_file(path)


def is_unchanged(file: ConfigFile) -> bool:
    """Return whether the file has its text, and no other file is left beside it."""
    folder = [each.name for each in file.path.parent.iterdir()]
    return file.path.read_text(encoding="utf-8") == file.text and folder == [file.path.name]


def test_a_read_only_file_is_not_replaced(file: ConfigFile) -> None:
    file.path.chmod(0o444)
    with pytest.raises(ConfigFaults, match="it is read-only; put the lines into it by hand"):
        change_file(file.path, file.digest, add_dark, PATHS)
    assert is_unchanged(file)


def test_a_hard_link_is_not_cut(file: ConfigFile, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.hardlink_to(file.path)
    with pytest.raises(ConfigFaults, match="it has 2 names"):
        change_file(file.path, file.digest, add_dark, PATHS)
    assert other.samefile(file.path)
    other.unlink()
    assert is_unchanged(file)


def test_attributes_of_the_file_stay(file: ConfigFile) -> None:
    try:
        os.setxattr(file.path, "user.framegate", b"mine")
    except OSError:
        pytest.skip("this file system has no attributes")
    change_file(file.path, file.digest, add_dark, PATHS)
    assert os.getxattr(file.path, "user.framegate") == b"mine"


def test_a_file_that_cannot_keep_its_owner_is_not_replaced(
    file: ConfigFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a file of another user in a folder that both may write to."""

    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(file.path, 1, 1)
    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(ConfigFaults, match="it cannot be written: Operation not permitted"):
        change_file(file.path, file.digest, add_dark, PATHS)
    assert is_unchanged(file)


def test_a_file_is_changed_though_its_folder_cannot_be_synchronised(
    file: ConfigFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronise = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    after = change_file(file.path, file.digest, add_dark, PATHS)
    assert read_config_file(file.path) == after
    assert "dark" in after.config.events.rules


def test_an_editor_that_saves_during_the_change_wins(file: ConfigFile) -> None:
    def change(before: ConfigFile) -> str:
        file.path.write_text("# saved by an editor\n", encoding="utf-8")
        return add_dark(before)

    with pytest.raises(FileChanged, match="it was changed meanwhile"):
        change_file(file.path, file.digest, change, PATHS)
    assert file.path.read_text(encoding="utf-8") == "# saved by an editor\n"
    assert sorted(os.listdir(file.path.parent)) == [HISTORY, "pipeline.toml"]


def test_what_a_killed_process_left_is_used_up(file: ConfigFile) -> None:
    left = file.path.with_name(".pipeline.toml.framegate")
    left.write_text("half", encoding="utf-8")
    change_file(file.path, file.digest, add_dark, PATHS)
    assert sorted(os.listdir(file.path.parent)) == [HISTORY, "pipeline.toml"]


def test_a_file_that_stays_locked_is_refused(
    file: ConfigFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaced_file, "_LOCK_S", 0.0)
    with file.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigFaults, match="another program has locked it"):
            change_file(file.path, file.digest, add_dark, PATHS)
    assert is_unchanged(file)
    change_file(file.path, file.digest, add_dark, PATHS)


def test_a_change_can_be_undone_and_done_again(file: ConfigFile) -> None:
    after = change_file(file.path, file.digest, add_dark, PATHS)
    (kept,) = versions(file.path, after.digest)
    assert (kept.digest, list(kept.changes)) == (file.digest, PATHS)
    history = file.path.with_name(HISTORY)
    assert stat.S_IMODE(history.stat().st_mode) == stat.S_IMODE(file.path.stat().st_mode)

    def undo(now: ConfigFile) -> str:
        return earlier_text(file.path, now.digest, "")

    undone = change_file(file.path, after.digest, undo, ["undo"])
    assert undone.text == file.text
    assert change_file(file.path, undone.digest, undo, ["undo"]).text == after.text
    assert [each.digest for each in versions(file.path, after.digest)] == [file.digest]


def test_an_edit_by_hand_is_not_undone_with_a_change(file: ConfigFile) -> None:
    with pytest.raises(ConfigFaults, match="there is no change to undo"):
        earlier_text(file.path, file.digest, "")
    after = change_file(file.path, file.digest, add_dark, PATHS)
    file.path.write_text(f"{after.text}# by hand\n", encoding="utf-8")
    now = read_config_file(file.path)
    with pytest.raises(ConfigFaults, match="it was edited by hand, or its profile"):
        earlier_text(file.path, now.digest, "")
    assert earlier_text(file.path, now.digest, file.digest) == file.text
    with pytest.raises(ConfigFaults, match="no version 00 is kept"):
        earlier_text(file.path, now.digest, "00")


def test_the_history_is_bounded_and_may_be_broken(
    file: ConfigFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_file, "_VERSIONS", 2)
    now = file
    for number in range(4):
        now = change_file(
            file.path, now.digest, lambda now, n=number: f"{now.text}# {n}\n", ["events.view"]
        )
    assert len(versions(file.path, now.digest)) == 2
    file.path.with_name(HISTORY).write_text("[", encoding="utf-8")
    assert versions(file.path, now.digest) == []
    after = change_file(file.path, now.digest, add_dark, PATHS)
    assert len(versions(file.path, after.digest)) == 1
