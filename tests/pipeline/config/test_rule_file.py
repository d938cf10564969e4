"""A rule is added to a configuration file and removed again, and nothing else in it changes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tomllib
from pathlib import Path

import pytest

from framegate.pipeline.config import rule_file
from framegate.pipeline.config.rule_file import (
    FileChanged,
    RuleFile,
    change_rules,
    read_rule_file,
    with_rule,
    without_rule,
)
from framegate.pipeline.contracts.errors import ConfigFaults

LOST = '[events.rules.dark]\n# a comment of the rule\nwhen = "state"\nstate = "lost"\n'


def add_dark(file: RuleFile) -> str:
    return with_rule(file.text, "dark", LOST)


FILE = """\
# my cameras
[sources.gate]
url = "gate.mp4"  # the front

[events.areas.door]
points = [
  [0.1, 0.1],
  [0.9, 0.1],
  [0.5, 0.9]
]

[events.rules.visitor]
when = "inside"
area = "door"

# the gate is off: it is dark there
[gate]
mode = "off"
"""


@pytest.mark.parametrize("text", [FILE, "", "# nothing\n", FILE.replace("\n", "\r\n")])
def test_adding_a_rule_and_removing_it_gives_the_same_text(text: str) -> None:
    after = with_rule(text, "dark", LOST)
    assert after.startswith(text)
    assert tomllib.loads(after)["events"]["rules"]["dark"] == {"when": "state", "state": "lost"}
    assert without_rule(after, "dark") == text
    assert "\n" not in after.replace("\r\n", "") or "\r\n" not in text


def test_a_file_without_a_last_line_end_gets_one() -> None:
    assert with_rule('[gate]\nmode = "off"', "dark", LOST) == f'[gate]\nmode = "off"\n\n{LOST}'


def test_comments_after_a_removed_rule_stay() -> None:
    after = without_rule(FILE, "visitor")
    assert after.endswith('\n]\n\n# the gate is off: it is dark there\n[gate]\nmode = "off"\n')
    assert "visitor" not in after


def test_a_rule_of_the_same_name_keeps_its_other_lines_and_tables() -> None:
    text = (
        "[events.rules.dark]\n# Like 5 marked visits.\n# ask Eva about 5 of them\n"
        'when = "state"\nseverity = "alert"\n state  =  \'lost\'  # a = "b"\n\n'
        "# for the police\n[events.rules.dark.clip]\nafter_s = 1.0\n\n"
        '[events.rules.dusk]\nwhen = "state"\nstate = "lost"\n'
    )
    lines = '[events.rules.dark]\n# Like 12 marked visits.\nwhen = "state"\nstate = "moved"\n'
    wanted = text.replace("Like 5", "Like 12").replace("'lost'", '"moved"')
    assert with_rule(text, "dark", lines) == wanted
    assert with_rule(wanted, "dark", lines) == wanted
    windows = text.replace("\n", "\r\n")
    assert with_rule(windows, "dark", lines) == wanted.replace("\n", "\r\n")


@pytest.mark.parametrize("other", ["\u2028", "\u0085"])
def test_only_a_newline_ends_a_line(other: str) -> None:
    """str.splitlines ends lines also at these characters, which a comment may contain."""
    text = f'# see{other}[events.rules.dark]\n[gate]\nmode = "off"\n'
    assert without_rule(with_rule(text, "dark", LOST), "dark") == text


@pytest.mark.parametrize(
    "text",
    [
        'events.rules.dark.when = "state"\nevents.rules.dark.state = "lost"\n',
        '[events]\nrules = {dark = {when = "state", state = "lost"}}\n',
        '[events.rules.dark]\nwhen = "state"\nstate = "lost"\nview = """\n[gate]\nx"""\n',
    ],
)
def test_what_cannot_be_separated_is_refused(text: str) -> None:
    with pytest.raises(ConfigFaults, match="dark: its lines cannot be changed here"):
        without_rule(text, "dark")


@pytest.mark.parametrize(
    "text",
    [
        'events.rules.dark.when = "state"\nevents.rules.dark.state = "lost"\n',
        '[events]\nrules = {dark = {when = "state", state = "lost"}}\n',
        '[events.rules.dark]\nwhen = "state"\nstate = """\nlost"""\n',
        '[events.rules.dark]\nwhen = "state"\nstate = "lost"\nview = """\nstate = "lost"\n"""\n',
    ],
)
def test_a_value_that_cannot_be_separated_is_refused(text: str) -> None:
    with pytest.raises(ConfigFaults, match="dark: its lines cannot be changed here"):
        with_rule(text, "dark", LOST.replace('"lost"', '"moved"'))


def test_a_file_is_changed_once_for_each_look(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(FILE, encoding="utf-8")
    real.chmod(0o640)
    link = tmp_path / "pipeline.toml"
    link.symlink_to(real)
    seen = read_rule_file(link)
    after = change_rules(link, seen.digest, add_dark)
    assert link.is_symlink()
    assert stat.S_IMODE(os.stat(real).st_mode) == 0o640
    assert read_rule_file(link) == after
    assert after.events.rules["dark"].state == "lost"
    with pytest.raises(FileChanged, match="it was changed meanwhile"):
        change_rules(link, seen.digest, add_dark)
    change_rules(link, after.digest, lambda file: without_rule(file.text, "dark"))
    assert real.read_text(encoding="utf-8") == FILE
    assert sorted(os.listdir(tmp_path)) == ["pipeline.toml", "real.toml"]


def test_a_change_with_a_fault_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    text = (
        FILE
        + '\n[sinks.hook]\nkind = "webhook"\nurl = "http://127.0.0.1:9/x"\nrules = ["visitor"]\n'
    )
    file.write_text(text, encoding="utf-8")
    digest = read_rule_file(file).digest
    with pytest.raises(ConfigFaults, match="no episode would be sent"):
        change_rules(file, digest, lambda file: without_rule(file.text, "visitor"))
    wrong = '[events.rules.dark]\nwhen = "sometimes"\n'
    with pytest.raises(ConfigFaults, match="sometimes"):
        change_rules(file, digest, lambda file: with_rule(file.text, "dark", wrong))
    assert file.read_text(encoding="utf-8") == text


@pytest.fixture
def file(tmp_path: Path) -> RuleFile:
    path = tmp_path / "pipeline.toml"
    path.write_text(FILE, encoding="utf-8")
    return read_rule_file(path)


def is_unchanged(file: RuleFile) -> bool:
    """Return whether the file has its text, and no other file is left beside it."""
    folder = [each.name for each in file.path.parent.iterdir()]
    return file.path.read_text(encoding="utf-8") == file.text and folder == [file.path.name]


def test_a_read_only_file_is_not_replaced(file: RuleFile) -> None:
    file.path.chmod(0o444)
    with pytest.raises(ConfigFaults, match="it is read-only; put the lines into it by hand"):
        change_rules(file.path, file.digest, add_dark)
    assert is_unchanged(file)


def test_a_hard_link_is_not_cut(file: RuleFile, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.hardlink_to(file.path)
    with pytest.raises(ConfigFaults, match="it has 2 names"):
        change_rules(file.path, file.digest, add_dark)
    assert other.samefile(file.path)
    other.unlink()
    assert is_unchanged(file)


def test_attributes_of_the_file_stay(file: RuleFile) -> None:
    try:
        os.setxattr(file.path, "user.framegate", b"mine")
    except OSError:
        pytest.skip("this file system has no attributes")
    change_rules(file.path, file.digest, add_dark)
    assert os.getxattr(file.path, "user.framegate") == b"mine"


def test_a_file_that_cannot_keep_its_owner_is_not_replaced(
    file: RuleFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a file of another user in a folder that both may write to."""

    def refuse(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(file.path, 1, 1)
    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(ConfigFaults, match="it cannot be written: Operation not permitted"):
        change_rules(file.path, file.digest, add_dark)
    assert is_unchanged(file)


def test_a_file_is_changed_though_its_folder_cannot_be_synchronised(
    file: RuleFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronise = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    after = change_rules(file.path, file.digest, add_dark)
    assert read_rule_file(file.path) == after
    assert "dark" in after.events.rules


def test_an_editor_that_saves_during_the_change_wins(file: RuleFile) -> None:
    def change(before: RuleFile) -> str:
        file.path.write_text("# saved by an editor\n", encoding="utf-8")
        return add_dark(before)

    with pytest.raises(FileChanged, match="it was changed meanwhile"):
        change_rules(file.path, file.digest, change)
    assert file.path.read_text(encoding="utf-8") == "# saved by an editor\n"
    assert len(list(file.path.parent.iterdir())) == 1


def test_what_a_killed_process_left_is_used_up(file: RuleFile) -> None:
    left = file.path.with_name(".pipeline.toml.framegate")
    left.write_text("half", encoding="utf-8")
    change_rules(file.path, file.digest, add_dark)
    assert [each.name for each in file.path.parent.iterdir()] == [file.path.name]


def test_a_file_that_stays_locked_is_refused(
    file: RuleFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_file, "_LOCK_S", 0.0)
    with file.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigFaults, match="another program has locked it"):
            change_rules(file.path, file.digest, add_dark)
    assert is_unchanged(file)
    change_rules(file.path, file.digest, add_dark)
