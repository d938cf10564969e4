"""What `--help` says: commands by group, examples that are right, nothing wider than a terminal."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from framegate.cli.help import COMMANDS
from framegate.cli.main import parser

DOCS = Path(__file__).parents[2] / "docs"


def leaves(of: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield of
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from leaves(child)


HELPS = {one.prog: one for one in leaves(parser())}


@pytest.mark.parametrize("name", HELPS)
def test_every_command_has_examples_that_are_understood_and_a_page(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = HELPS[name].format_help()
    [examples] = re.findall(r"^examples:\n((?:  .*\n)+)", text, re.MULTILINE)
    for line in examples.splitlines():
        if "COMMAND" not in line:
            assert line.strip().startswith(name.partition(" ")[0])
            assert parser().parse_args(shlex.split(line.partition(" > ")[0])[1:]).command
    [page] = re.findall(r"^documents: docs/(\S+)$", text, re.MULTILINE)
    assert (DOCS / page).is_file()
    assert max(map(len, text.splitlines())) < 80


def test_commands_stand_in_groups_the_first_needs_first() -> None:
    text = HELPS["framegate"].format_help()
    listed = text.partition("\nbegin:")[2].partition("\nexamples:")[0]
    found = re.findall(r"^  ([\w-]+) ", listed, re.MULTILINE)
    commands = {name.split()[1] for name in HELPS if name.count(" ") == 1}
    assert set(found) == commands
    assert len(found) == len(commands)
    assert found.index("run") < found.index("watch") < found.index("verify")
    assert found.index("verify") < found.index("worker")


def test_a_command_loads_its_own_module_alone_and_has_the_same_help() -> None:
    assert set(COMMANDS) == {name.split()[1] for name in HELPS if name.count(" ") == 1}
    for command in COMMANDS:
        alone = {each.prog: each.format_help() for each in leaves(parser(command))}
        assert alone[f"framegate {command}"] == HELPS[f"framegate {command}"].format_help()


@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        (["--help"], 0, "watch and read a run:"),
        (["--version"], 0, "framegate "),
        ([], 2, "the following arguments are required: COMMAND"),
        (["rnu", "a.mp4"], 2, "did you mean run?"),
        (["--", "run"], 2, "the command must be the first argument"),
    ],
)
def test_without_a_command_none_is_loaded(words: list[str], code: int, printed: str) -> None:
    program = (
        "import sys; from framegate.cli.main import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert ended.returncode == code
    assert printed in ended.stdout + ended.stderr
    loaded = set(ended.stderr.splitlines()[-1].split())
    assert loaded.isdisjoint(
        {"framegate.cli.run", "framegate.cli.console.arguments", "redis", "rich"}
    )


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("--size", "wide"), "'wide': allowed is WIDTHxHEIGHT"),
        (("--scale", "1/0"), "'1/0': allowed is a number, such as 0.5 or 1/255"),
        (("--mean", "1,2"), "'1,2': allowed is three numbers"),
        (("--std", "1,x,3"), "'1,x,3': allowed is three numbers"),
    ],
)
def test_what_a_model_takes_is_refused_with_what_is_allowed(
    words: tuple[str, ...], allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser("models").parse_args(["models", "add", "a.onnx", *words])
    assert allowed in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("run a.mp4 --sav videos", "unrecognized arguments: --sav; did you mean --save?"),
        (
            "run a.mp4 --classes car --classes person",
            "argument --classes: is given twice; give it once as A,B",
        ),
        ("run a.mp4 --frames every=2 --frames every=2", "argument --frames: is given twice"),
        ("run a.mp4 --live --no-live", "argument --live/--no-live: is given twice"),
        ("models add a.onnx --name a --name b", "argument --name: is given twice"),
    ],
)
def test_no_option_is_guessed_or_replaced(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parser().parse_args(words.split())
    assert refused.value.code == 2
    assert told in capsys.readouterr().err


def test_options_that_collect_and_switches_may_be_given_again() -> None:
    words = "tune gate --from a.mp4 --from b.mp4 --merge truck=car --merge bus=car"
    tune = parser().parse_args(words.split())
    assert tune.sources == ["a.mp4", "b.mp4"]
    assert len(tune.merge) == 2
    assert parser().parse_args(["run", "a.mp4", "--json", "--json"]).json
    both = parser()
    for classes in ("car", "person"):  # one parser, used twice
        assert both.parse_args(["run", "a.mp4", "--classes", classes]).classes == classes
