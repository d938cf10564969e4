"""Which classes are tuned, and how it is told: words, tables, and a person at a terminal."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from framegate.cli import tune
from framegate.cli.main import parser
from framegate.cli.terminal import Person
from framegate.cli.tune import (
    choice_of,
    class_table,
    gain_in_words,
    next_steps,
    size_table,
)
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.stages.learning.camera_tuning import ClassRow, SizeRow, Tuned
from framegate.stages.learning.choices import ClassChoice, ClassSeen

SEEN = [ClassSeen("car", 90, 60), ClassSeen("cell phone", 40, 30), ClassSeen("tv", 9, 9)]


@pytest.mark.parametrize(
    ("only", "strike", "merge", "kept", "merged"),
    [
        ((), (), {}, ("car", "cell phone", "tv"), {}),
        ((), ("tv",), {}, ("car", "cell phone"), {}),
        (("car",), (), {}, ("car",), {}),
        ((), ("tv",), {"cell phone": "car"}, ("car",), {"cell phone": "car"}),
        (("truck",), (), {"cell phone": "truck"}, ("truck",), {"cell phone": "truck"}),
    ],
)
def test_which_classes_are_left(only, strike, merge, kept, merged) -> None:
    assert choice_of(SEEN, only, strike, merge) == ClassChoice(kept, merged)


@pytest.mark.parametrize(
    ("only", "strike", "merge", "words"),
    [
        (
            ("cars",),
            (),
            {},
            "--classes cars: the teacher did not see it; it saw car, cell phone, tv",
        ),
        ((), ("tvs",), {}, "did you mean tv"),
        ((), (), {"bus": "car"}, "--merge bus: the teacher did not see it"),
        ((), (), {"car": "tv", "tv": "car"}, "is itself merged into another class"),
        ((), ("tv",), {"tv": "car"}, "--strike tv: this class is also merged"),
        ((), ("car", "cell phone", "tv"), {}, "no class is left"),
    ],
)
def test_names_that_were_not_seen_are_refused(only, strike, merge, words) -> None:
    with pytest.raises(ConfigFaults) as caught:
        choice_of(SEEN, only, strike, merge)
    assert words in str(caught.value)


def test_a_person_is_asked_until_it_makes_sense(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("tvv\n\ntv\ncell phone=car\n"))
    choice = tune.chosen(SEEN, None, Person(is_there=True), (), (), {})
    assert choice == ClassChoice(("car",), {"cell phone": "car"})
    printed = capsys.readouterr().out
    assert "seen: car 90 (60 pictures), cell phone 40 (30 pictures), tv 9" in printed
    assert "did you mean tv" in printed


def test_tables_fit_eighty_columns() -> None:
    sizes = (
        SizeRow("416, as it comes", None, (0.6, 0.55, 0.65), 123.4, is_chosen=False),
        SizeRow("224, tuned", 0.98, (0.97, 0.95, 0.99), 12.3, is_chosen=True),
    )
    classes = (
        ClassRow("baseball glove", 12345, 0.5, 0.9, 0.37),
        ClassRow("tv", 0, None, None, None),
    )
    found = Tuned(sizes, classes, (0.3, 0.2, 0.4), 240, 140, 900, "heavy", "", "gate@1")
    text = io.StringIO()
    console = Console(file=text, width=80)
    console.print(size_table(found))
    console.print(class_table(found))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("chosen" in line and "224" in line for line in lines)
    assert any("tv" in line and "off" in line for line in lines)


def test_a_gain_that_chance_explains_is_not_called_better() -> None:
    doubtful = gain_in_words((0.073, -0.028, 0.172), "the other")
    assert doubtful.startswith("F1 +0.073 (-0.028 to +0.172) against the other; ")
    assert "does not show that it is better" in doubtful
    for clear in ((0.07, 0.01, 0.17), (-0.1, -0.2, 0.1)):
        assert "better" not in gain_in_words(clear, "the other")


def test_the_next_commands_name_options_that_the_commands_have() -> None:
    told = next_steps("gate", Path("my models"))
    for command in re.findall(r"framegate ((?:run|models) [^,;]+?)(?:;|,|$)", told):
        assert parser().parse_args(shlex.split(command)).registry == Path("my models")
    assert "--registry" not in next_steps("gate", None)
