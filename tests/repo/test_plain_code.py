"""The code is plain: simple expressions, short functions, named encodings."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("framegate/cli", "pipeline", "stages", "models")
ALL = (*PACKAGES, "benchmarks", "deploy", "tests", "tools")
PER_1000_LINES = 10
LONGEST = 60  # lines of a function
LONGEST_FILE = 520  # lines; a file is one deep module, usually of 150 to 450


def _modules(packages: Sequence[str] = PACKAGES) -> Iterator[tuple[Path, str, ast.Module]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
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


def test_no_file_is_long() -> None:
    long = []
    for path, text, _ in _modules((*PACKAGES, "benchmarks", "deploy", "tools")):
        lines = len(text.splitlines())
        if lines > LONGEST_FILE:
            long.append(f"{path}: {lines} lines")
    assert long == []


def test_no_function_is_long() -> None:
    long = []
    for path, _, tree in _modules(ALL):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > LONGEST:
                    long.append(f"{path}:{node.lineno} {node.name}: {lines} lines")
    assert long == []


def test_text_names_its_encoding() -> None:
    """While a network is compiled, OpenVINO sets the locale to C; then ASCII is the default.

    The linter's rule PLW1514 sees only calls on values whose type it can infer.
    """
    places = []
    for path, _, tree in _modules(ALL):
        places += [f"{path}:{node.lineno}" for node in ast.walk(tree) if _is_default_text(node)]
    assert places == []


def _is_default_text(node: Any) -> bool:
    if not isinstance(node, ast.Call):
        return False
    keywords = {key.arg: getattr(key.value, "value", None) for key in node.keywords}
    if "encoding" in keywords:
        return False
    if keywords.get("text") is True:
        return True
    match node.func:
        case ast.Attribute(attr="read_text"):
            return not node.args
        case ast.Attribute(attr="write_text"):
            return len(node.args) == 1
    return False
