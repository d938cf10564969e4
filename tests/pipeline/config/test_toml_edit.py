"""A table or a key of a TOML text is changed, and nothing else in the text changes."""

from __future__ import annotations

import tomllib

import pytest

from framegate.pipeline.config.toml_edit import with_lines, with_value
from framegate.pipeline.contracts.errors import ConfigFaults
from tests.support.edited_file import DARK, FILE, LOST


@pytest.mark.parametrize("text", [FILE, "", "# nothing\n", FILE.replace("\n", "\r\n")])
def test_adding_a_rule_and_removing_it_gives_the_same_text(text: str) -> None:
    after = with_lines(text, DARK, LOST)
    assert after.startswith(text)
    assert tomllib.loads(after)["events"]["rules"]["dark"] == {"when": "state", "state": "lost"}
    assert with_value(after, DARK, None) == text
    assert "\n" not in after.replace("\r\n", "") or "\r\n" not in text


def test_a_file_without_a_last_line_end_gets_one() -> None:
    assert with_lines('[gate]\nmode = "off"', DARK, LOST) == f'[gate]\nmode = "off"\n\n{LOST}'


def test_comments_after_a_removed_rule_stay() -> None:
    after = with_value(FILE, ("events", "rules", "visitor"), None)
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
    assert with_lines(text, DARK, lines) == wanted
    assert with_lines(wanted, DARK, lines) == wanted
    windows = text.replace("\n", "\r\n")
    assert with_lines(windows, DARK, lines) == wanted.replace("\n", "\r\n")


@pytest.mark.parametrize("other", ["\u2028", "\u0085"])
def test_only_a_newline_ends_a_line(other: str) -> None:
    """str.splitlines ends lines also at these characters, which a comment may contain."""
    text = f'# see{other}[events.rules.dark]\n[gate]\nmode = "off"\n'
    assert with_value(with_lines(text, DARK, LOST), DARK, None) == text


@pytest.mark.parametrize(
    "text",
    [
        'events.rules.dark.when = "state"\nevents.rules.dark.state = "lost"\n',
        '[events]\nrules = {dark = {when = "state", state = "lost"}}\n',
    ],
)
def test_what_cannot_be_separated_is_refused(text: str) -> None:
    with pytest.raises(ConfigFaults, match="dark: its lines cannot be changed here"):
        with_value(text, DARK, None)


@pytest.mark.parametrize(
    "text",
    [
        'events.rules.dark.when = "state"\nevents.rules.dark.state = "lost"\n',
        '[events]\nrules = {dark = {when = "state", state = "lost"}}\n',
    ],
)
def test_a_value_that_cannot_be_separated_is_refused(text: str) -> None:
    with pytest.raises(ConfigFaults, match="dark: its lines cannot be changed here"):
        with_lines(text, DARK, LOST.replace('"lost"', '"moved"'))


@pytest.mark.parametrize("comma", ["", ","])
@pytest.mark.parametrize(
    "rows", [("[0.1, 0.5]", "[0.9, 0.5]"), ('["person"]', '["car"]'), ("[1]", "[2]")]
)
def test_a_row_of_a_list_is_no_header(rows: tuple[str, str], comma: str) -> None:
    old = f"points = [\n  {rows[0]},\n  {rows[1]}{comma}\n]"
    text = f'[events.areas.yard]\n{old}\n\n[gate]\nmode = "off"\n'
    after = with_value(text, AREA, {"points": [[0, 1]]})
    assert after == text.replace(old, "points = [[0, 1]]")
    assert with_value(text, ("gate", "mode"), "on") == text.replace("off", "on")
    assert with_value(text, AREA, None) == '\n[gate]\nmode = "off"\n'


def test_a_line_of_a_text_is_no_header() -> None:
    text = '[events.rules.dark]\nwhen = "state"\nview = """\n[gate]\nx"""\n'
    assert with_value(f"{text}\n[gate]\n", DARK, None) == "\n[gate]\n"


@pytest.mark.parametrize("rest", ["", 'view = """\nstate = "lost"\n"""\n'])
def test_a_value_of_several_lines_is_replaced(rest: str) -> None:
    text = f'[events.rules.dark]\nwhen = "state"\nstate = """\nlost"""\n{rest}'
    after = with_lines(text, DARK, LOST.replace('"lost"', '"moved"'))
    assert after == f'[events.rules.dark]\nwhen = "state"\nstate = "moved"\n{rest}'


YARD = """\
# the yard
[events.areas.yard]  # behind the house
points = [
  [0.1, 0.1],  # by the tree
  [0.9, 0.1],
  [0.5, 0.9],
]  # clockwise
source = "gate"  # see above

# at night
[events.rules.prowler]
when = "inside"  # not crosses
area = "yard"
after.rule = "bell"
after.within_s = 5.0

[events.rules.prowler.clip]
after_s = 9.0

# the bell
[events.rules.bell]
when = "state"
state = "heard"
"""
AREA = ("events", "areas", "yard")
RULE = ("events", "rules", "prowler")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_the_keys_that_change_get_other_lines(newline: str) -> None:
    text = YARD.replace("\n", newline)
    points = [[0.2, 0.1], [0.9, 0.1], [0.5, 0.9]]
    after = with_value(text, AREA, {"source": "gate", "points": points})
    old = newline.join(YARD.split("\n")[2:7])
    assert after == text.replace(old, "points = [[0.2, 0.1], [0.9, 0.1], [0.5, 0.9]]  # clockwise")
    rule = tomllib.loads(YARD)["events"]["rules"]["prowler"]
    louder = with_value(text, RULE, {**rule, "severity": "alert"})
    last = f"after.within_s = 5.0{newline}"
    assert louder == text.replace(last, f'{last}severity = "alert"{newline}')
    assert with_value(louder, RULE, rule) == text
    alone = {key: value for key, value in rule.items() if key not in ("after", "clip")}
    after = with_value(text, RULE, alone)
    assert tomllib.loads(after)["events"]["rules"]["prowler"] == alone
    assert f"# the bell{newline}[events.rules.bell]" in after


def test_a_table_and_a_key_of_other_tables_can_be_new() -> None:
    after = with_value("", ("privacy", "masks", "yard"), [[[0, 0], [1, 0], [1, 0.5]]])
    assert after == "[privacy.masks]\nyard = [[[0, 0], [1, 0], [1, 0.5]]]\n"
    assert with_value(after, ("privacy", "masks", "yard"), None).strip() == "[privacy.masks]"
    text = with_value(YARD, ("events", "profile"), "night")
    assert text == f'{YARD}\n[events]\nprofile = "night"\n'
    away = with_value(text, ("events", "profile"), "away")
    assert away == text.replace('night"', 'away"')
    assert with_value(away, ("events", "profile"), None) == f"{YARD}\n[events]\n"
