"""A rule is added to a configuration file and removed again, and nothing else in it changes."""

from __future__ import annotations

import os
import stat
import tomllib
from functools import partial
from pathlib import Path

import pytest

from framegate.pipeline.config.rule_file import (
    FileChanged,
    change_rules,
    read_rule_file,
    with_rule,
    without_rule,
)
from framegate.pipeline.contracts.errors import ConfigFaults

LOST = '[events.rules.dark]\n# a comment of the rule\nwhen = "state"\nstate = "lost"\n'
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


def test_a_rule_of_the_same_name_is_replaced_with_its_tables() -> None:
    text = f'{LOST}[events.rules.dark.clip]\nafter_s = 1.0\n\n[gate]\nmode = "off"\n'
    other = LOST.replace('"lost"', '"moved"')
    after = with_rule(text, "dark", other)
    assert after == f'\n[gate]\nmode = "off"\n\n{other}'
    assert with_rule(after, "dark", other) == after


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


def test_a_file_is_changed_once_for_each_look(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(FILE, encoding="utf-8")
    real.chmod(0o640)
    link = tmp_path / "pipeline.toml"
    link.symlink_to(real)
    seen = read_rule_file(link)
    add = partial(with_rule, rule="dark", lines=LOST)
    after = change_rules(link, seen.digest, add)
    assert link.is_symlink()
    assert stat.S_IMODE(os.stat(real).st_mode) == 0o640
    assert read_rule_file(link) == after
    assert after.events.rules["dark"].state == "lost"
    with pytest.raises(FileChanged, match="it was changed meanwhile"):
        change_rules(link, seen.digest, add)
    change_rules(link, after.digest, partial(without_rule, rule="dark"))
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
        change_rules(file, digest, partial(without_rule, rule="visitor"))
    wrong = '[events.rules.dark]\nwhen = "sometimes"\n'
    with pytest.raises(ConfigFaults, match="sometimes"):
        change_rules(file, digest, partial(with_rule, rule="dark", lines=wrong))
    assert file.read_text(encoding="utf-8") == text
