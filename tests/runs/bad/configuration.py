"""What is wrong with pipeline.toml or the command line, and stages that refuse to start."""

from __future__ import annotations

import os
from pathlib import Path

import framegate as framegate_package
from tests.runs.bad.case import USAGE, Case, Play
from tests.support.commands import Ended, framegate, user_folder


def configured(more: str = "", words: tuple[str, ...] = (), change: str = "") -> Play:
    """Run with further tables, words, or a changed line `old -> new` of pipeline.toml."""

    def play(folder: Path) -> Ended:
        text = more + (folder / "pipeline.toml").read_text(encoding="utf-8")
        old, _, new = change.partition(" -> ")
        assert old in text
        (folder / "pipeline.toml").write_text(
            text.replace(old, new, 1) if change else text, encoding="utf-8"
        )
        ended = framegate(folder, "run", "good.mp4", "-d", "data", *words)
        assert not (folder / "data").exists()
        return ended

    return play


# What may be wrong with each key, tests/pipeline/config says.
_CONFIGURATION = [
    Case(
        "much that is wrong with a configuration",
        configured(
            "[store]\nulr = 'x'\n[nonsense]\n[credit]\nfile = 'many'\nlive = 1025\n"
            "[sources.good]\nurl = 'other.mp4'\n",
        ),
        USAGE,
        (
            "pipeline.toml: store.ulr: unknown key; known keys are cert",
            "pipeline.toml: nonsense: unknown table",
            "pipeline.toml: credit.file = 'many': must be a whole number, 1 to 1024",
            "pipeline.toml: credit.live = 1025: must be a whole",
            "sources.good: this name is in pipeline.toml and on the command line",
        ),
    ),
    Case(
        "an unknown class",
        configured(
            words=("--classes", "cat,unicorn"),
            change="user_stages:Crowd -> framegate.stages.detect:Detect",
        ),
        USAGE,
        ("command line: stages.detect.classes = ['cat', 'unicorn']: unicorn: unknown",),
    ),
]


def starting(use: str, options: str = "") -> Play:
    def play(folder: Path) -> Ended:
        user_folder(folder, main=f'use = "{use}"\n{options}')
        return framegate(folder, "run", "good.mp4", "-d", "data")

    return play


def unreadable_model(folder: Path) -> Ended:
    """One byte of the network's weights is another: the package is shadowed by such a copy."""
    package = Path(framegate_package.__file__).parent
    for file in (*package.glob("*.py"), *(f for p in package.iterdir() for f in p.rglob("*.*"))):
        if "__pycache__" not in file.parts and file.is_file():
            copy = folder / "framegate" / file.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(file)
    weights = folder / "framegate" / "models" / "weights"
    for name in ("nanodet-plus.bin", "nanodet-plus-int8.bin"):
        data = bytearray((weights / name).read_bytes())
        data[len(data) // 2] ^= 1
        (weights / name).unlink()
        (weights / name).write_bytes(data)
    graph = package / "pipeline" / "config" / "pipeline.toml"
    return framegate(folder, "run", "good.mp4", "-d", "data", "-c", os.fspath(graph))


def own_weights(folder: Path) -> Ended:
    (folder / "weights").mkdir()
    return starting("user_stages:OwnWeights", 'weights = "weights"')(folder)


_STARTS = [
    Case(
        "an unreadable model",
        unreadable_model,
        USAGE,
        (
            "stage detect (framegate.stages.detect:Detect) cannot start: ModelUnreadable: ",
            "expected sha256",
        ),
    ),
    Case(
        "a model that is not there",
        own_weights,
        USAGE,
        ("stage extra (user_stages:OwnWeights) cannot start: ModelUnreadable: weights/manifest",),
    ),
    Case(
        "a stage that cannot start",
        starting("user_stages:Unready"),
        USAGE,
        ("stage extra (user_stages:Unready) cannot start: OSError: the coffee is out",),
    ),
]

CASES = _CONFIGURATION + _STARTS
