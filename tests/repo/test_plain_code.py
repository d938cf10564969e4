"""The code is plain: few conditional expressions, and one `for` in a comprehension."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("framegate/cli", "pipeline", "stages", "models")
PER_1000_LINES = 10


def _modules() -> Iterator[tuple[Path, str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            yield path.relative_to(ROOT), text, ast.parse(text)


def test_conditional_expressions_are_rare() -> None:
    lines = 0
    places = []
    for path, text, tree in _modules():
        lines += len(text.splitlines())
        places += [
            f"{path}:{node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.IfExp)
        ]
    assert len(places) <= PER_1000_LINES * lines / 1000, "\n".join(places)


def test_a_comprehension_has_one_for() -> None:
    kinds = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    places = []
    for path, _, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, kinds) and len(node.generators) > 1:
                places.append(f"{path}:{node.lineno}")
    assert places == []
