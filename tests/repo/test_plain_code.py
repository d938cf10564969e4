"""The code is plain: simple expressions, short functions, named encodings."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("framegate/cli", "pipeline", "stages", "models")
ALL = (*PACKAGES, "benchmarks", "deploy", "tests", "tools")
PER_1000_LINES = 10
LONGEST = 60  # lines of a function
LONGEST_FILE = 520  # lines; a file is one deep module, usually of 150 to 450
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass
class CodeFile:
    """A file and the places in it that the tests below are about, FILE:LINE each."""

    path: Path
    lines: int
    conditionals: list[str] = field(default_factory=list)
    nested_loops: list[str] = field(default_factory=list)
    long_functions: list[str] = field(default_factory=list)
    default_texts: list[str] = field(default_factory=list)

    def place(self, node: Any) -> str:
        return f"{self.path}:{node.lineno}"


@functools.cache
def _read(path: Path) -> CodeFile:
    """Parse a file and look at its nodes once, for all tests: that takes 2 s of CPU time."""
    text = path.read_text(encoding="utf-8")
    file = CodeFile(path.relative_to(ROOT), len(text.splitlines()))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.IfExp):
            file.conditionals.append(file.place(node))
        elif isinstance(node, COMPREHENSIONS) and len(node.generators) > 1:
            file.nested_loops.append(file.place(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > LONGEST:
                file.long_functions.append(f"{file.place(node)} {node.name}: {lines} lines")
        elif _is_default_text(node):
            file.default_texts.append(file.place(node))
    return file


def _files(packages: Sequence[str] = PACKAGES) -> Iterator[CodeFile]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield _read(path)


def test_conditional_expressions_are_rare() -> None:
    lines = 0
    places = []
    for file in _files():
        lines += file.lines
        places += file.conditionals
    assert places, "the search finds those that are there"
    assert len(places) <= PER_1000_LINES * lines / 1000, "\n".join(places)


def test_a_comprehension_has_one_for() -> None:
    places = []
    for file in _files():
        places += file.nested_loops
    assert places == []


def test_no_file_is_long() -> None:
    long = [
        f"{file.path}: {file.lines} lines"
        for file in _files((*PACKAGES, "benchmarks", "deploy", "tools"))
        if file.lines > LONGEST_FILE
    ]
    assert long == []


def test_no_function_is_long() -> None:
    long = []
    for file in _files(ALL):
        long += file.long_functions
    assert long == []


def test_text_names_its_encoding() -> None:
    """While a network is compiled, OpenVINO sets the locale to C; then ASCII is the default.

    The linter's rule PLW1514 sees only calls on values whose type it can infer.
    """
    places = []
    for file in _files(ALL):
        places += file.default_texts
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
