"""Which classes are tuned, and how it is told: words, tables, and a person at a terminal."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from framegate.cli.console.terminal import Person
from framegate.cli.learning import tune
from framegate.cli.learning.tune import (
    choice_of,
    class_table,
    gain_in_words,
    next_steps,
    say_outcome,
    size_table,
)
from framegate.cli.main import parser
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.stages.learning.camera_tuning import ClassRow, Gain, SizeRow, Tuned
from framegate.stages.learning.choices import ClassChoice, ClassSeen

SEEN = [ClassSeen("car", 90, 60), ClassSeen("cell phone", 40, 30), ClassSeen("tv", 9, 9)]
AGREEMENT = Gain("teacher", (0.3, 0.2, 0.4), 140, 900)


@pytest.mark.parametrize(
    ("confirmed", "merge", "kept", "merged"),
    [
        (("car", "cell phone", "tv"), {}, ("car", "cell phone", "tv"), {}),
        (("car",), {}, ("car",), {}),
        (("car",), {"cell phone": "car"}, ("car",), {"cell phone": "car"}),
        (("truck",), {"cell phone": "truck"}, ("truck",), {"cell phone": "truck"}),
    ],
)
def test_which_classes_are_left(confirmed, merge, kept, merged) -> None:
    assert choice_of(SEEN, confirmed, merge) == ClassChoice(kept, merged)


@pytest.mark.parametrize(
    ("confirmed", "merge", "words"),
    [
        (("cars",), {}, "--classes cars: not seen in the footage, which has car, cell phone, tv"),
        (("tvs",), {}, "did you mean tv"),
        (("car",), {"bus": "car"}, "--merge bus: not seen in the footage"),
        (("car",), {"car": "tv", "tv": "car"}, "is itself merged into another class"),
        ((), {}, "no class is left; confirm at least one"),
    ],
)
def test_names_that_were_not_seen_are_refused(confirmed, merge, words) -> None:
    with pytest.raises(ConfigFaults) as caught:
        choice_of(SEEN, confirmed, merge)
    assert words in str(caught.value)


def test_a_person_is_asked_until_it_makes_sense(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("carr\n\ncar\ncell phone=car\n"))
    choice = tune.chosen(SEEN, None, Person(is_there=True), (), {})
    assert choice == ClassChoice(("car",), {"cell phone": "car"})
    printed = capsys.readouterr().out
    assert "seen: car 90 (60 pictures), cell phone 40 (30 pictures), tv 9" in printed
    assert "did you mean car" in printed


def test_without_a_person_only_classes_that_one_confirmed_earlier_count() -> None:
    nobody = Person(is_there=False)
    with pytest.raises(ConfigFaults) as caught:
        tune.chosen(SEEN, Path("seen.png"), nobody, (), {})
    words = str(caught.value)
    assert "no person confirmed a class" in words
    assert "look at seen.png" in words
    assert "--classes 'car,cell phone,tv'" in words
    known = [replace(SEEN[0], is_confirmed=True), *SEEN[1:]]
    assert tune.chosen(known, None, nobody, (), {}) == ClassChoice(("car",), {})


def test_tables_fit_eighty_columns() -> None:
    sizes = (
        SizeRow("416, as shipped", None, (0.6, 0.55, 0.65), 123.4, is_chosen=False),
        SizeRow("224, tuned", 0.98, (0.97, 0.95, 0.99), 12.3, is_chosen=True),
    )
    classes = (
        ClassRow("baseball glove", 12345, 0.5, 0.9, 0.37),
        ClassRow("tv", 0, None, None, None),
    )
    found = Tuned(sizes, classes, (AGREEMENT,), 240, "heavy", "", "gate@1")
    text = io.StringIO()
    console = Console(file=text, width=80)
    console.print(size_table(found))
    console.print(class_table(found))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("chosen" in line and "224" in line for line in lines)
    assert any("tv" in line and "off" in line for line in lines)


def test_a_gain_names_its_truth_and_one_that_chance_explains_is_not_called_better(
    capsys: pytest.CaptureFixture[str],
) -> None:
    doubtful = gain_in_words(Gain("labels", (0.073, -0.028, 0.172), 40, 90), "the other")
    assert doubtful.startswith(
        "by people's labels, F1 +0.073 (-0.028 to +0.172) against the other; "
    )
    assert "does not show that it is better" in doubtful
    say_outcome((AGREEMENT, replace(AGREEMENT, evidence="labels")), "the other", "gate@1", "")
    added, beside = capsys.readouterr().out.splitlines()
    assert added == (
        "added: gate@1: by agreement with the teacher, F1 +0.300 (+0.200 to +0.400) against the "
        "other"
    )
    assert beside.startswith("beside: by people's labels, F1 +0.300")
    assert beside.endswith(", on 140 pictures")


def test_the_next_commands_name_options_that_the_commands_have() -> None:
    told = next_steps("gate", Path("my models"))
    for command in re.findall(r"framegate ((?:run|models) [^,;]+?)(?:;|,|$)", told):
        assert parser().parse_args(shlex.split(command)).registry == Path("my models")
    assert "--registry" not in next_steps("gate", None)
